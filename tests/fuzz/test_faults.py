"""What fuzzers found, each kind as the smallest inputs that showed it."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from federated.experiments.config import load_experiment
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.cli.output import errors_as_exit_codes
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.config.source import read_document
from privacy_pipeline.config.yaml_text import DEEPEST, LARGEST, MOST_VALUES
from privacy_pipeline.data.schema.schema_reader import parse_schema
from privacy_pipeline.dp.mechanism.mechanism import AdaptiveClipping, Clipping, Noise, UserBound
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.encrypted.server.share_server import ShareServer
from privacy_pipeline.encrypted.server.share_store import Store
from privacy_pipeline.encrypted.transport import frames
from privacy_pipeline.encrypted.transport.dialing import addresses
from privacy_pipeline.errors import BadInputError, PipelineError, brief
from privacy_pipeline.ledger.audit.receipts import read_receipts
from privacy_pipeline.ledger.state.policy import load_policy
from tests.fuzz.messages import Screen
from tests.fuzz.mutations import bomb, merges

CHAIN = b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (n, n, n - 1) for n in range(1, 900))


def refused(file: Path, content: bytes | str) -> str:
    """The message that a YAML file is refused with."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInputError) as caught:
        read_document(path=file)
    return caught.value.message


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("!!bool abc", "'abc' is not a valid bool"),
        ("!!int ''", "'' is not a valid int"),
        ("!!int x", "'x' is not a valid int"),
        ("!!float ''", "'' is not a valid float"),
        ("!!null x", "'x' is not a valid null"),
        ("!!timestamp x", "values of type tag:yaml.org,2002:timestamp are not supported"),
        ("!!binary '*'", "values of type tag:yaml.org,2002:binary are not supported"),
        ("!!python/object/apply:os.getcwd ''", "are not supported"),
        ("0x" + "f" * 5_000, "an integer has more than 64 bits"),
        ("1" * 5_000, "an integer has more than 64 bits"),
        ("-" + "1" * 400, "an integer has more than 64 bits"),
        (r'"\ud800"', "half of a surrogate pair"),
        (r'"a\0"', r"a text holds \0"),
        (r'"\U00110000"', "a number behind"),
        (r'"\UFFFFFFFF"', "a number behind"),
    ],
)
def test_a_scalar_that_its_tag_or_python_cannot_take(tmp_path: Path, value: str, why: str) -> None:
    message = refused(tmp_path / "x.yaml", f"a: 1\nb: {value}\n")
    assert message.startswith(f"{tmp_path}/x.yaml:2: ") and why in message


@pytest.mark.parametrize("version", ["1." + "1" * 5_000, "9" * 5_000 + ".1"])
def test_a_version_of_yaml_with_too_many_digits(tmp_path: Path, version: str) -> None:
    message = refused(tmp_path / "x.yaml", f"%YAML {version}\n---\na: 1\n")
    assert message.startswith(f"{tmp_path}/x.yaml:1: a number behind")


def test_a_tag_that_fits_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: !!float 1\nb: !!str 1\nc: !!int 0x10\nd: !!bool yes\ne: !!null ~\nf: -9223372036854775808\n")
    assert read_document(path=file).data == {"a": 1.0, "b": "1", "c": 16, "d": True, "e": None, "f": -(2**63)}


@pytest.mark.parametrize(
    "content",
    [bomb(), bomb(mapping=True), bomb(wide=2, deep=30), bomb(wide=50, deep=5), merges(), b"[" + b"1," * MOST_VALUES],
    ids=["lists", "mappings", "doubling", "wide", "merge keys", "written"],
)
def test_a_small_text_that_stands_for_much(tmp_path: Path, content: bytes) -> None:
    assert f"more than {MOST_VALUES:,} values" in refused(tmp_path / "x.yaml", content)


@pytest.mark.parametrize(
    "content",
    [
        b"a: " + b"[" * 3_000,
        b"a: " + b"{a: " * 3_000,
        b"- " * 3_000,
        CHAIN,
        b"a: " + b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
    ],
    ids=["lists", "mappings", "blocks", "aliases", "just too deep"],
)
def test_deep_nesting(tmp_path: Path, content: bytes) -> None:
    assert "is nested too deeply" in refused(tmp_path / "x.yaml", content)


def test_a_schema_nested_too_deeply(tmp_path: Path) -> None:
    file = tmp_path / "s.pbtxt"
    file.write_text("feature { struct_domain { " * 3_000 + "}}" * 3_000)
    with pytest.raises(BadInputError, match="is nested too deeply"):
        parse_schema(schema_path=file)


def test_an_override_is_held_to_the_same(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("pipeline: p\n")
    for override, why in (
        ("a=" + "[" * 3_000, "is nested too deeply"),
        ("a." * 3_000 + "b=1", "is nested too deeply"),
        ("a=!!bool abc", "'abc' is not a valid bool"),
        ('a="\\ud800"', "half of a surrogate pair"),
        ('a="\\U00110000"', "a number behind"),
        ("a=0x" + "f" * 5_000, "more than 64 bits"),
    ):
        with pytest.raises(BadInputError, match=why):
            load_config(file, overrides=[override])


def test_a_device_or_a_file_that_never_ends(tmp_path: Path) -> None:
    endless = Path("/dev/zero")
    (tmp_path / "parties.yaml").symlink_to(endless)
    for read in (
        lambda: load_config(endless),
        lambda: load_policy(endless),
        lambda: read_receipts([endless]),
        lambda: parse_schema(schema_path=endless),
        lambda: addresses(tmp_path),
    ):
        with pytest.raises(BadInputError, match=r"is larger than|other users may change it"):
            read()
    assert "is larger than 256 KiB" in refused(tmp_path / "x.yaml", b"a: 1\n#" + b"x" * LARGEST)


def test_messages_stay_short(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    many = "".join(f"wrong_{n}: 1\n" for n in range(2_000))
    for content in (
        "epsilon: " + "a" * 100_000,
        "ä" * 5_000 + ": 1\n",
        many,
        "shares: {" + "b" * 9_000 + ": 1}",
        "shares: [" + "1, " * 3_000 + "]",
    ):
        file.write_text(content)
        with pytest.raises(BadInputError) as caught:
            load_policy(file)
        assert caught.value.message.startswith(f"{file}:1: ")
        assert len(caught.value.message.encode()) + len(caught.value.fix.encode()) < 1_950
    file.write_text(many)
    with pytest.raises(BadInputError, match=r"more (problems|lines)"):
        load_policy(file)


def test_what_is_cut_keeps_its_start_and_end() -> None:
    assert brief("short", most=100) == "short"
    assert brief("é" * 50, most=100) == "é" * 50
    cut = brief("start" + "é" * 1_000 + "end", most=100)
    assert cut.startswith("start") and cut.endswith("end") and 80 < len(cut.encode()) <= 100
    lines = brief("\n".join(f"line {n}" for n in range(1_000)), most=200)
    assert lines.startswith("line 0\nline 1\n") and len(lines) <= 200
    shown = lines.split("\n")[:-1]
    assert lines.split("\n")[-1] == f"and {1_000 - len(shown)} more lines"
    assert len(PipelineError("x" * 9_000, fix="y" * 9_000).message) == len(brief("x" * 9_000, most=1_400))


@pytest.mark.parametrize(
    "address",
    [
        "h:" + "9" * 5_000,
        "h:１",
        "h:²",
        "h:1e3",
        "h" * 100 + ":80",
        "a..b:80",
        "a b:80",
        ":80",
        "80",
        "[80]",
        "{h: 80}",
    ],
)
def test_an_address_that_no_socket_takes(tmp_path: Path, address: str) -> None:
    names = ("server0", "server1", "server2", "weights-provider", "prediction-client", "driver")
    lines = {name: "127.0.0.1:8000" for name in names} | {"server1": address}
    (tmp_path / "parties.yaml").write_text("\n".join(f"{name}: {value}" for name, value in lines.items()))
    with pytest.raises(BadInputError, match="server1: no address"):
        addresses(tmp_path)


@pytest.mark.parametrize(
    "stamp",
    ["-Infinity", "1e999", "NaN", "-1", "9" * 30, "true", "1.5", '"1"', "[" * 100_000],
)
def test_a_receipt_with_a_number_that_is_none(tmp_path: Path, stamp: str) -> None:
    file = tmp_path / "privacy_record.json"
    file.write_text(f'{{"composition": {{"journal_seq": {stamp}, "journal_hash": "a", "key_id": "b"}}}}')
    with pytest.raises(BadInputError, match="no privacy record can be read"):
        read_receipts([file])


def test_a_first_line_that_is_no_role(tmp_path: Path) -> None:
    async def answered() -> dict[str, Any]:
        reader, screen, answers = asyncio.StreamReader(), Screen(), asyncio.StreamReader()
        reader.feed_data(b"a" * 100_000 + b"\n")
        reader.feed_eof()
        await ShareServer(Store(tmp_path)).attend(reader, screen)  # type: ignore[arg-type]
        answers.feed_data(bytes(screen.sent))
        answers.feed_eof()
        return (await frames.read_header(answers))[0]

    assert asyncio.run(answered()) == {"error": "the first line is not a role"}


PLAN = {
    "delta": 1e-5,
    "clipping_norm": 1.0,
    "units": 1000,
    "expected_batch_size": 50.0,
    "epochs": 2.0,
    "noise_multiplier": 1.0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 10**400},
        {"epochs": float("nan")},
        {"epochs": float("nan"), "sampling": "truncated_poisson"},
        {"epochs": float("inf"), "sampling": "shuffled"},
        {"clipping_norm": 10**400},
        {"clipping_norm": "1"},
        {"noise_multiplier": None, "epsilon": float("nan")},
        {"delta": None},
        {"delta": float("nan")},
        {"units": 10**400},
        {"hardened": "no"},
        {"per_layer": 1},
        {"users": "x"},
        {"relation": Relation.ADD_OR_REMOVE_ONE, "units": None, "sampling_probability": float("inf")},
    ],
)
def test_a_plan_of_numbers_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        PrivacyPlan.calibrated(**{**PLAN, **change})


@pytest.mark.parametrize("odd", [None, "x", [], {}, float("nan"), 10**400, np.array([1.0, 2.0])])
def test_parts_of_a_plan_of_what_is_no_number(odd: Any) -> None:
    for make in (
        lambda: Noise(multiplier=1.0, correlation=odd),
        lambda: PrivacyPlan.calibrated(**PLAN, sampling=odd),
        lambda: AdaptiveClipping(quantile=odd, count_noise=1.0),
        lambda: AdaptiveClipping(learning_rate=odd, count_noise=1.0),
        lambda: AdaptiveClipping(count_noise=odd),
        lambda: Clipping(norm=odd),
        lambda: Noise(multiplier=odd),
        lambda: UserBound(max_examples=odd),
        lambda: UserBound(max_examples=2, clip=odd),
    ):
        with pytest.raises(BadInputError):
            make()


def test_an_error_of_the_system_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), errors_as_exit_codes(as_json=False):
        Path("a" * 100_000).read_bytes()
    told = capsys.readouterr().err
    assert "File name too long" in told and len(told.encode()) < 2_000


@pytest.mark.parametrize(
    ("sweep", "why"),
    [
        ({"rounds": list(range(1, 600))}, "has more than 1,000 runs"),
        ({f"key{n}": list(range(900)) for n in range(9)}, "has more than 1,000 runs"),
        ({"a." * 3_000 + "b": [1]}, "nested too deeply"),
    ],
    ids=["values", "combinations", "key"],
)
def test_a_grid_that_nobody_runs(tmp_path: Path, sweep: dict[str, Any], why: str) -> None:
    tree = yaml.safe_load(Path("configs/federated/nlswork.yaml").read_text())
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({**tree, "seeds": [1, 2], "sweep": sweep}))
    with pytest.raises(BadInputError, match=why):
        load_experiment(file)


def test_no_point_of_a_grid_has_a_copy_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    monkeypatch.setattr(copy, "deepcopy", lambda tree, memo=None: copied.append(tree) or json.loads(json.dumps(tree)))
    tree = yaml.safe_load(Path("configs/federated/nlswork.yaml").read_text())
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({**tree, "seeds": [1], "sweep": {"rounds": list(range(1, 31))}}))
    _, points = load_experiment(file)
    assert [point.config.rounds for point in points] == list(range(1, 31)) == [p.settings["rounds"] for p in points]
    of_documents = [tree for tree in copied if isinstance(tree, dict) and "experiment" in tree]
    assert len(of_documents) == 30 and not any("sweep" in tree for tree in of_documents)
