"""Three parties and a driver as processes with keys of their own: right answers, nothing readable, nothing left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from privacy_pipeline.encrypted.model import model_format, shares
from privacy_pipeline.encrypted.model.layers import ONE
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.encrypted.serving import driving
from privacy_pipeline.encrypted.worker.parties import PORTS, SERVERS
from tests.encrypted.issuing import reissued
from tests.encrypted.processes import left_after, marked, running
from tests.encrypted.programs.networks import mlp
from tests.encrypted.real_parties import CLI, Deployment, expected

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # TensorFlow starts four times, on all cores
MODEL = mlp([4, 8, 1])
BUCKET = 4
# TLS records: change_cipher_spec, alert, handshake, application_data; a client starts with a handshake.
TLS_TYPES = {20, 21, 22, 23}
RECOGNISABLE = "a-batch-that-one-would-recognise"


@pytest.fixture(scope="module")
def deployed(encrypted_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("deployed"))
    try:
        for name in SERVERS:
            deployment.start_party(name)
        deployment.ready(*SERVERS)
        start_driver(deployment)
        yield deployment
    finally:
        deployment.close()


def start_driver(deployment: Deployment) -> None:
    """Leaves the weights with the servers, and a driver with a graph."""
    deployment.start_driver()
    load(deployment, MODEL)


def load(deployment: Deployment, model: PrivateModel) -> None:
    """Leaves the weights with the servers, and the architecture with the driver, which builds a graph."""
    folder = deployment.scratch / "model"
    digest = model_format.save(model, folder)
    (folder / model_format.WEIGHTS).unlink()
    for layer in model.layers:
        for role in layer.weights:
            three = shares.split(
                shares.encode(model.weights[f"{layer.name}/{role}"], scale=model.weight_scale(layer, role))
            )
            deployment.put(shares.weight_stem(layer.name, role), three)
    for request in ({"op": "load", "model": str(folder), "digest": digest}, {"op": "build", "bucket": BUCKET}):
        answer = deployment.ask(**request)
        assert answer["ok"], answer


def query(
    deployment: Deployment, batch: str, *, seed: int, rows: int = BUCKET
) -> tuple[tuple[shares.Ring, ...], list[shares.Held]]:
    """Shares of a batch's inputs and of its answer, which is right."""
    inputs = np.random.default_rng(seed).normal(size=(rows, 4)) * 4
    three = shares.split(shares.encode(inputs, scale=ONE))
    deployment.put(shares.input_stem(batch, "x"), three)
    answer = deployment.ask(op="run", bucket=rows, batch=batch)
    assert answer["ok"], answer
    held = deployment.answer(batch, (rows, 1))
    np.testing.assert_allclose(shares.decode(shares.join(held), scale=ONE), expected(MODEL, inputs), atol=1e-3)
    return three, held


def test_answers_are_right_and_each_call_has_masks_of_its_own(deployed: Deployment) -> None:
    for seed in range(4):
        query(deployed, f"batch-{seed}", seed=seed)
    first = deployed.answer("batch-0", (BUCKET, 1))
    assert deployed.ask(op="run", bucket=BUCKET, batch="batch-0")["ok"]
    second = deployed.answer("batch-0", (BUCKET, 1))
    for one, other in zip(first, second, strict=True):
        assert not any((a == b).any() for a, b in zip(one, other, strict=True))
    np.testing.assert_allclose(*(shares.decode(shares.join(held), scale=ONE) for held in (first, second)), atol=1e-3)


def test_the_links_carry_tls_and_nothing_that_can_be_read(deployed: Deployment) -> None:
    three, held = query(deployed, RECOGNISABLE, seed=5)
    # Plain in TensorFlow's messages: the name of the batch, of a device, of a method.
    secrets = [RECOGNISABLE.encode(), b"/job:tfe", b"tensorflow.WorkerService"]
    secrets += [share.tobytes() for share in three] + [share[:1].tobytes() for pair in held for share in pair]
    assert set(deployed.recorder.streams) >= {f"driver>{name}" for name in SERVERS} | {"server0>server1"}
    for link, streams in deployed.recorder.streams.items():
        for stream in streams:
            content = bytes(stream)
            assert not any(secret in content for secret in secrets), link
            types = record_types(content)
            assert types[:1] in ([22], []) and set(types) <= TLS_TYPES, link
    assert sum(len(stream) for stream in deployed.recorder.streams["driver>server0"]) > 10_000


def record_types(content: bytes) -> list[int]:
    """Types of all TLS records; the last may be cut off. Whatever is no TLS gives a type that is none, soon."""
    types, at = [], 0
    while at + 5 <= len(content):
        assert content[at + 1] == 3, "no TLS record"
        types.append(content[at])
        at += 5 + int.from_bytes(content[at + 3 : at + 5], "big")
    return types


def test_the_search_would_find_a_plaintext(deployed: Deployment) -> None:
    """The same content without TLS: how a driver's message to a server without a tunnel begins."""
    with pytest.raises(AssertionError):
        record_types(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))


def test_the_driver_gets_flags_and_no_shares(deployed: Deployment) -> None:
    """What passes between driver and servers in a call does not grow with the batch; what servers exchange does."""
    wide = BUCKET * 512
    assert deployed.ask(op="build", bucket=wide)["ok"]
    to_driver, among_servers = {}, {}
    for rows in (BUCKET, wide):
        query(deployed, f"first-{rows}", seed=rows, rows=rows)  # what is sent once
        before = recorded(deployed, "driver>"), recorded(deployed, "server")
        for seed in range(4):
            query(deployed, f"next-{rows}-{seed}", seed=seed, rows=rows)
        to_driver[rows] = recorded(deployed, "driver>") - before[0]
        among_servers[rows] = recorded(deployed, "server") - before[1]
    one_share = 8 * wide  # of the logits of one batch
    assert to_driver[BUCKET] > 0 and to_driver[wide] - to_driver[BUCKET] < one_share
    assert among_servers[wide] - among_servers[BUCKET] > 50 * one_share


def test_a_party_says_how_much_crossed_its_tunnels(deployed: Deployment) -> None:
    """Payload: what the recorder saw on the same links, less what TLS adds."""
    counted = deployed.carried("server0")
    assert set(counted) == {"server1", "server2"}
    for peer, sizes in counted.items():
        seen = recorded(deployed, f"server0>{peer}")
        assert 0 < sizes["in"] + sizes["out"] < seen < 2 * (sizes["in"] + sizes["out"]) + 10_000


def recorded(deployment: Deployment, link: str, *, answers_only: bool = False) -> int:
    """Bytes on all links whose names begin so, both ways or from those who were called."""
    beginnings = (f"answers on {link}",) if answers_only else (link, f"answers on {link}")
    streams = deployment.recorder.streams
    return sum(len(stream) for name, kept in streams.items() if name.startswith(beginnings) for stream in kept)


def test_tensorflow_sees_a_loopback_and_nobody_else_sees_tensorflow(deployed: Deployment) -> None:
    ours = os.readlink("/proc/self/ns/net")
    inner = {
        pid: line for pid, line in running(deployed.mark).items() if ".worker." in line and "sandbox.inside" not in line
    }
    assert len(inner) == 4
    networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in inner}
    assert len(networks) == 4 and ours not in networks
    for pid in inner:
        devices = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]
    # An outer process has no TensorFlow: it could not even map it.
    for pid in running(deployed.mark).keys() - inner.keys():
        assert "tensorflow" not in Path(f"/proc/{pid}/maps").read_text()


def test_an_outsiders_tensorflow_reaches_no_party(deployed: Deployment) -> None:
    """Neither where a party listens nor where TensorFlow does in its namespace."""
    addresses = [f"127.0.0.1:{port}" for port in (PORTS[0], deployed.addresses["server0"][1])]
    program = [str(environment.interpreter()), str(Path(__file__).parents[1] / "programs" / "outsider.py")]
    outsiders = [
        subprocess.Popen([*program, address], env=environment.variables(), stdout=subprocess.PIPE, text=True)
        for address in addresses
    ]
    for outsider in outsiders:
        with outsider:
            assert outsider.stdout is not None
            assert outsider.stdout.readline().endswith("computed 42\n")  # it can, where nothing is protected
            with contextlib.suppress(subprocess.TimeoutExpired):  # TensorFlow tries for ever
                outsider.wait(15)
            outsider.kill()
            assert "reached" not in outsider.stdout.read()


@pytest.mark.parametrize(
    ("role", "days", "why"),
    [
        ("driver", -0.5, r"driver: .*certificate.pem: expired"),
        (
            "prediction-client",
            90,
            r"driver: server0 at .* refuses: the certificate is of prediction-client, and is not of driver, server1",
        ),
    ],
)
def test_a_driver_whose_certificate_is_not_right_is_refused(
    deployed: Deployment, tmp_path: Path, role: str, days: float, why: str
) -> None:
    wrong = reissued(deployed.scratch / "all", tmp_path, "driver", role=role, days=days)
    (wrong / "parties.yaml").write_bytes((deployed.scratch / "host-driver" / "parties.yaml").read_bytes())
    done = subprocess.run(driving.command(wrong), env=deployed.environment, input="", capture_output=True, text=True)
    assert done.returncode != 0 and re.search(why, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_in_the_place_of_another_gets_no_graph(deployed: Deployment, tmp_path: Path) -> None:
    """Addresses exchanged: the certificate says who it is."""
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    (swapped / "driver").symlink_to(deployed.scratch / "host-driver" / "driver")
    text = (deployed.scratch / "host-driver" / "parties.yaml").read_text()
    exchanged = text.replace("server0:", "X:").replace("server1:", "server0:").replace("X:", "server1:")
    (swapped / "parties.yaml").write_text(exchanged)
    done = subprocess.run(driving.command(swapped), env=deployed.environment, input="", capture_output=True, text=True)
    assert done.returncode != 0 and "certificate is not of server0" in done.stderr


def test_no_share_of_a_weight_goes_to_the_driver(deployed: Deployment) -> None:
    """What the servers answer while they load and while the graph is built does not grow with the weights."""
    sizes = {}
    for width in (8, 4096, 8):
        before = recorded(deployed, "driver>", answers_only=True)
        load(deployed, mlp([4, width, 1]))
        sizes[width] = recorded(deployed, "driver>", answers_only=True) - before
    one_share = 8 * 4 * 4096
    assert sizes[8] > 0 and sizes[4096] - sizes[8] < one_share / 10, sizes


def test_a_party_that_dies_is_an_error_and_comes_back(deployed: Deployment) -> None:
    victim = deployed.parties["server1"]
    deployed.put(shares.input_stem("lost", "x"), shares.split(np.zeros((BUCKET, 4), np.int64)))
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    answer = deployed.ask(op="run", bucket=BUCKET, batch="lost")
    assert answer["ok"] is False and answer["error"].startswith("the servers could not evaluate the batch: ")
    assert time.monotonic() - began < 60
    assert deployed.driver is not None and deployed.driver.stdin is not None
    deployed.driver.stdin.close()
    assert deployed.driver.wait(60) == 0
    victim.communicate()
    deployed.start_party("server1")
    deployed.ready("server1")
    start_driver(deployed)
    query(deployed, "back", seed=7)


def test_sigterm_ends_a_party_and_leaves_nothing(deployed: Deployment) -> None:
    ended = deployed.parties["server2"]
    store = deployed.store("server2")
    ended.terminate()
    out, err = ended.communicate(timeout=60)
    assert ended.returncode == 0 and out.endswith("server2: ended\n") and "Traceback" not in err
    assert not store.exists()
    inner = [line for line in running(deployed.mark).values() if "party_server server2" in line]
    assert inner == []


@pytest.mark.parametrize("lost", ["native module", "environment"])
def test_a_party_without_secure_randomness_does_not_start(encrypted_python: Path, tmp_path: Path, lost: str) -> None:
    mark, variables = marked()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os.path\nfound = os.path.exists\n"
        "os.path.exists = lambda path: 'secure_random_module' not in str(path) and found(path)\n"
    )
    variables |= {"PYTHONPATH": str(tmp_path / "site")}
    if lost == "environment":
        variables[environment.VARIABLE] = str(tmp_path / "nothing")
    subprocess.run([*CLI, "encrypted", "init-parties", str(tmp_path / "p")], check=True, capture_output=True)
    done = subprocess.run(
        [*CLI, "encrypted", "party", "server0", "--folder", str(tmp_path / "p")],
        env=variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0 and "ready" not in done.stdout
    why = "no secure random-number module" if lost == "native module" else "there is no such file"
    assert f"error: {'its TensorFlow server does not start' if lost == 'native module' else ''}" in done.stderr
    assert why in done.stderr
    assert left_after(mark) == {}
