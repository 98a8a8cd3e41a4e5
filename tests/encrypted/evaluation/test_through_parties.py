"""The eval split through parties whose TensorFlow alone is faked: what is measured, how it fails, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy_pipeline.encrypted.evaluation import deployment, own_parties, through_parties
from privacy_pipeline.encrypted.evaluation.measured import BatchTimes
from privacy_pipeline.encrypted.evaluation.own_parties import OwnParties
from privacy_pipeline.encrypted.model.threat_model import deployed, on_one_host
from privacy_pipeline.encrypted.serving.driver_process import DriverError
from privacy_pipeline.encrypted.serving.local_parties import LocalParties
from privacy_pipeline.encrypted.serving.provider import Provider
from privacy_pipeline.encrypted.worker.parties import PROVIDER, SERVERS
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.encrypted.deployment import APART, BUCKETS, Deployment, on_hosts

ROWS = 37


@pytest.fixture
def parties(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def servers_of(parties: Deployment, **commands: list[str]) -> LocalParties:
    given = {name: commands.get(name, parties.local._commands[name]) for name in SERVERS}
    return LocalParties(commands=given, environment=os.environ, logs=parties.scratch, grace_seconds=5.0)


def measured(
    parties: Deployment, servers: LocalParties | None, *, of: OwnParties | None = None
) -> tuple[list[BatchTimes], np.ndarray]:
    """As `through_parties.evaluate` does, with the fake driver."""
    found = of or own_parties.require_usable(parties.parties)
    setting = replace(parties._setting(), addresses=found.addresses)
    provider = Provider(
        folder=parties.parties / PROVIDER, addresses=found.addresses, private_model=parties.folder / "model"
    )
    own = deployment.Deployment(setting, provider=provider, servers=servers)
    client = replace(parties.client(seconds=10.0), addresses=found.addresses)
    return asyncio.run(
        through_parties.measure(own, client, model=parties.model, inputs=inputs_of(parties), batches=BUCKETS, of=found)
    )


def inputs_of(parties: Deployment) -> dict[str, np.ndarray]:
    rows = parties.rows(ROWS, seed=1)
    return {"x": rows["x"], "kind": rows["kind"].argmax(axis=1)}


@contextlib.asynccontextmanager
async def already_running(parties: Deployment, servers: LocalParties) -> AsyncIterator[None]:
    try:
        await servers.ensure()
        limit = time.monotonic() + 30
        while not all((parties.scratch / name / "pid").exists() for name in servers._commands):
            assert time.monotonic() < limit
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # until they listen
        yield
    finally:
        await servers.close()


@pytest.mark.slow
def test_local_servers_are_started_measured_and_ended(parties: Deployment) -> None:
    servers = servers_of(parties)
    times, logits = measured(parties, servers)
    np.testing.assert_allclose(logits, parties.expected(parties.rows(ROWS, seed=1)), atol=0.001)
    assert [one.batch for one in times] == list(BUCKETS) and {one.rounds for one in times} == {7}
    for one in times:
        assert (one.bytes_counted_by, one.bytes_per_call) == ("tunnels", 3 * (700 + 300))
        assert one.build_seconds > 0 and one.seconds > 0 and one.rows_per_second == one.batch / one.seconds
    # Each size in its own graph, six times; then the split, its last batch filled up.
    assert parties.buckets_run() == [1] * 6 + [4] * 6 + [16] * 6 + [16] * 3
    assert not servers.pids
    own = own_parties.read(parties.parties)
    assert own.local and own.threat_model == on_one_host()


def test_servers_of_other_hosts_must_run_and_go_on(parties: Deployment) -> None:
    on_hosts(parties.parties, APART)
    own = own_parties.require_usable(parties.parties)
    assert not own.local and own.threat_model.protection == "encrypted"
    assert own.threat_model.driver != deployed().driver  # the pipeline holds the weights
    servers = servers_of(parties)

    async def main() -> tuple[list[BatchTimes], np.ndarray]:
        async with already_running(parties, servers):
            found = await asyncio.to_thread(measured, parties, None)
            assert sorted(servers.pids) == list(SERVERS)
        return found

    times, logits = asyncio.run(main())
    np.testing.assert_allclose(logits, parties.expected(parties.rows(ROWS, seed=1)), atol=0.001)
    assert [(one.bytes_counted_by, one.bytes_per_call) for one in times] == [("graph", 100 * n) for n in BUCKETS]


def test_a_server_that_does_not_run_elsewhere_is_named_at_once(parties: Deployment) -> None:
    on_hosts(parties.parties, APART)
    servers = servers_of(parties)
    del servers._commands["server2"]

    async def main() -> None:
        async with already_running(parties, servers):
            began = time.monotonic()
            with pytest.raises(PipelineError, match="server2 is not reached"):
                await asyncio.to_thread(measured, parties, None)
            assert time.monotonic() - began < 10

    asyncio.run(main())


def test_a_server_that_does_not_start_is_named(parties: Deployment) -> None:
    servers = servers_of(parties, server1=[sys.executable, "-c", "import sys; sys.exit('error: no such thing')"])
    with pytest.raises(PipelineError, match="server1 does not start: no such thing"):
        measured(parties, servers)
    assert not servers.pids


def test_parties_that_never_come_up_are_an_error_in_time(parties: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "SERVERS_SECONDS", -38.0)
    monkeypatch.setattr(deployment, "PROVIDE_SECONDS", 0.0)
    servers = servers_of(parties, server1=[sys.executable, "-c", "import time; time.sleep(100)"])
    with pytest.raises(PipelineError, match=r"not ready within 2 s: server\d is not reached"):
        measured(parties, servers)
    assert not servers.pids


@pytest.mark.slow_but("Signals.SIGKILL-True")
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_fails_meanwhile_is_one_error(parties: Deployment, number: signal.Signals, remote: bool) -> None:
    if remote:
        on_hosts(parties.parties, APART)
    servers = servers_of(parties)

    async def fail() -> None:
        while not parties.buckets_run():
            await asyncio.sleep(0.01)
        os.kill(servers.pids["server1"], number)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if remote:
                await stack.enter_async_context(already_running(parties, servers))
            failing = asyncio.ensure_future(fail())
            began = time.monotonic()
            with pytest.raises(PipelineError) as told:
                # In a thread: `measure` has an event loop of its own.
                await asyncio.to_thread(measured, parties, None if remote else servers)
            assert time.monotonic() - began < 40
            assert "server1" in told.value.message
            await failing

    asyncio.run(main())
    assert not servers.pids


def test_the_service_s_own_reason_is_told_and_not_what_the_client_heard_of_it(parties: Deployment) -> None:
    servers = servers_of(parties)
    (parties.scratch / "say").write_text("fail")
    with pytest.raises(DriverError, match=r"^the driver reports: the servers failed: as they were told"):
        measured(parties, servers)
    assert not servers.pids


def test_a_service_that_says_otherwise_ends_it(parties: Deployment) -> None:
    servers = servers_of(parties)
    known = own_parties.read(parties.parties)
    elsewhere = {**known.addresses, **{name: (host, 1) for name, host in zip(SERVERS, "abc", strict=True)}}

    class Wrong(OwnParties):
        """Addresses that would protect more."""

        @property
        def hosts(self) -> dict[str, str]:
            return {name: elsewhere[name][0] for name in SERVERS}

    with pytest.raises(PipelineError, match=r"the service states simulated inference, .*parties.yaml encrypted"):
        measured(parties, servers, of=Wrong(folder=known.folder, addresses=known.addresses))
    assert not servers.pids


@pytest.mark.parametrize("missing", ["driver", "weights-provider", "prediction-client", "server2"])
def test_a_missing_folder_is_named(parties: Deployment, missing: str) -> None:
    (parties.parties / missing).rename(parties.folder / "elsewhere")
    with pytest.raises(BadInputError, match=f"training.encrypted.parties: .* has no folder {missing}"):
        own_parties.require_usable(parties.parties)


def test_servers_of_other_hosts_keep_their_folders(parties: Deployment) -> None:
    on_hosts(parties.parties, ("a.example", "b.example", "127.0.0.1"))
    (parties.parties / "server2").rename(parties.folder / "elsewhere")
    assert not own_parties.require_usable(parties.parties).local


def test_a_folder_that_is_none_and_a_broken_key_are_told(parties: Deployment, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"training.encrypted.parties: .*parties.yaml: no such file"):
        own_parties.require_usable(tmp_path / "nothing")
    (parties.parties / "driver" / "certificate.pem").unlink()
    with pytest.raises(BadInputError, match=r"training.encrypted.parties: .*driver/certificate.pem: not usable"):
        own_parties.require_usable(parties.parties)


@pytest.mark.parametrize(
    ("hosts", "local", "protection"),
    [
        (("127.0.0.1", "localhost", "::1"), True, "simulated"),
        (("a.example", "b.example", "c.example"), False, "encrypted"),
        (("127.0.0.1", "b.example", "c.example"), False, "encrypted"),
        (("a.example", "B.example", "b.example"), False, "simulated"),
        (("127.0.0.1", "localhost", "c.example"), False, "simulated"),
    ],
)
def test_hosts_say_who_starts_the_servers_and_what_protects(
    parties: Deployment, hosts: tuple[str, ...], local: bool, protection: str
) -> None:
    on_hosts(parties.parties, hosts)
    found = own_parties.read(parties.parties)
    assert (found.local, found.threat_model.protection) == (local, protection)
