"""Service, share servers, provider and client in processes of their own; TensorFlow alone is faked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy_pipeline.encrypted.client.client import Client, Session
from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.serving import ready_cluster
from privacy_pipeline.encrypted.serving.coalescing import Pending
from privacy_pipeline.encrypted.serving.driver_process import DriverError
from privacy_pipeline.encrypted.serving.service import Service
from privacy_pipeline.encrypted.transport import clients, frames
from privacy_pipeline.encrypted.transport.certificates import client_context
from privacy_pipeline.encrypted.transport.dialing import (
    CONNECT_SECONDS,
    PartyError,
    SilentError,
    addresses,
    dial,
    listen,
)
from privacy_pipeline.encrypted.transport.identities import Peer
from privacy_pipeline.encrypted.transport.tunnel import SHARES
from privacy_pipeline.encrypted.worker.parties import CLIENT, PROVIDER, SERVERS
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.encrypted.deployment import BUCKETS, Deployment

TOLERANCE = 0.001


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def run(deployment: Deployment, body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with deployment.serving():
            await body()

    asyncio.run(main())
    assert not deployment.local.pids


async def predicted(deployment: Deployment, count: int, *, seed: int, client: Client | None = None) -> None:
    """Predicts, and holds the logits against the clear."""
    rows = deployment.rows(count, seed=seed)
    found = await (client or deployment.client()).predict(rows, progress=lambda rows: None)
    np.testing.assert_allclose(found, deployment.expected(rows), atol=TOLERANCE)


def test_predictions_are_right_in_every_bucket_and_come_together(deployment: Deployment) -> None:
    async def body() -> None:
        for count in (1, 3, 4, 16, 37):
            await predicted(deployment, count, seed=count)
        alone = deployment.buckets_run()
        assert alone[:4] == [1, 4, 4, 16] and sorted(alone[4:]) == [16, 16, 16]  # 37 rows: 16, 16 and 5
        await asyncio.gather(*(predicted(deployment, 1, seed=100 + number) for number in range(40)))
        together = deployment.buckets_run()[len(alone) :]
        assert len(together) < 40 and max(together) > 1
        assert sum(requests for _, requests in deployment.service.batches) >= 40

    run(deployment, body)
    left = [p for p in deployment.scratch.rglob("*") if "batches" in p.parts and p.is_file()]
    assert not left


def test_a_disagreement_of_two_servers_is_an_error(deployment: Deployment) -> None:
    async def body() -> None:
        (deployment.scratch / "say").write_text("corrupt")
        with pytest.raises(PipelineError, match="server0 and server1 disagree"):
            await predicted(deployment, 3, seed=0)
        (deployment.scratch / "say").unlink()
        await predicted(deployment, 3, seed=0)

    run(deployment, body)


def test_a_failing_driver_is_one_error_and_the_service_comes_back(deployment: Deployment) -> None:
    async def body() -> None:
        (deployment.scratch / "say").write_text("fail")
        with pytest.raises(PartyError, match=r"driver refuses: the driver reports: .*as they were told"):
            await predicted(deployment, 3, seed=0)
        (deployment.scratch / "say").unlink()
        await deployment.until_ready(2)
        await predicted(deployment, 3, seed=0)

    run(deployment, body)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_is_gone_or_hangs_is_named_in_time_and_comes_back(
    deployment: Deployment, sent: signal.Signals
) -> None:
    async def body() -> None:
        await predicted(deployment, 2, seed=1)
        await asyncio.sleep(5)  # it counts as started
        os.kill(deployment.local.pids["server1"], sent)
        began = time.monotonic()
        with pytest.raises(PartyError, match="server1"):
            await predicted(deployment, 2, seed=2, client=deployment.client(seconds=5))
        assert time.monotonic() - began < 15
        said = await refusal(deployment, "prediction-client", "driver", {"op": "run", "request": "0" * 32, "rows": 1})
        assert said.startswith("driver refuses: server1")  # at once: nobody waits for the recovery
        await deployment.until_ready(2)
        await predicted(deployment, 2, seed=3)

    run(deployment, body)


def test_a_stopped_server_is_named_where_the_driver_waits_for_it(deployment: Deployment) -> None:
    """The clients' shares are there by then, so nobody but the driver, which hangs, would notice."""

    class Waiting:
        alive = True

        async def call(self, message: object, *, seconds: float) -> dict[str, object]:
            raise DriverError("the driver does not answer to 'run'", hangs=True)

        async def close(self) -> None: ...

    async def body() -> None:
        setting = deployment._setting()
        context = client_context(folder=deployment.parties / "driver", protocol=SHARES)
        async with contextlib.AsyncExitStack() as stack:
            links = [
                await stack.enter_async_context(dial(context=context, address=setting.addresses[name], expected=name))
                for name in SERVERS
            ]

            async def drive() -> None:
                await ready_cluster._drive(Waiting(), {"op": "run"}, seconds=1, setting=setting, links=links)

            with pytest.raises(DriverError):  # all servers answer
                await drive()
            os.kill(deployment.local.pids["server1"], signal.SIGSTOP)
            with pytest.raises(SilentError, match="server1 does not answer within"):
                await drive()
            os.kill(deployment.local.pids["server1"], signal.SIGCONT)

    run(deployment, body)


@pytest.mark.parametrize(("stopped", "named"), [("server1", "server1"), (None, "driver")])
def test_a_client_that_hears_nothing_of_the_service_names_the_server_that_stopped(
    deployment: Deployment, stopped: str | None, named: str
) -> None:
    class Spoken:
        def __init__(self, party: str) -> None:
            self.party = party

        async def ask(self, header: dict[str, object], parts: object = (), *, seconds: float) -> tuple[dict, bytes]:
            if header["op"] == "run" or (header["op"] == "drop" and self.party == stopped):
                raise SilentError(self.party, f"does not answer within {seconds:g} s")
            return {}, b""

    links = {party: Spoken(party) for party in ("driver", *SERVERS)}
    session = Session(client=deployment.client(seconds=1), links=links, largest=16)  # type: ignore[arg-type]
    with pytest.raises(SilentError) as told:
        asyncio.run(session.evaluate(deployment.rows(2, seed=0), rows=2))
    assert told.value.party == named


def test_a_provider_of_another_model_is_found_before_a_share_leaves(deployment: Deployment) -> None:
    model_format.save(replace(deployment.model, logit_error=1.0), deployment.folder / "other")
    deployment.local._commands[PROVIDER][-1] = str(deployment.folder / "other")

    async def main() -> None:
        task = asyncio.ensure_future(deployment.service.run())
        try:
            limit = time.monotonic() + 60
            while not any("has another model than the service" in line for line in deployment.said):
                assert time.monotonic() < limit and not task.done(), deployment.said
                await asyncio.sleep(0.05)
            assert not list(deployment.scratch.rglob("weights"))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await deployment.local.close()

    asyncio.run(main())


@pytest.mark.slow
def test_an_idle_service_notices_a_server_that_started_anew(deployment: Deployment) -> None:
    async def body() -> None:
        os.kill(deployment.local.pids["server2"], signal.SIGKILL)
        await deployment.until_ready(2)
        await predicted(deployment, 2, seed=3)

    run(deployment, body)


@pytest.mark.slow
def test_on_hosts_of_their_own_the_service_waits_for_a_party_to_return(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, supervised=False)

    async def start() -> None:
        await asyncio.sleep(1)
        assert deployment.ready_times == 0
        await deployment.local.ensure()

    async def body() -> None:
        await predicted(deployment, 2, seed=0)
        for party in ("server0", "driver"):
            ready = deployment.ready_times
            process = deployment.driver.pid if party == "driver" and deployment.driver else deployment.local.pids[party]
            os.kill(process, signal.SIGKILL)
            with pytest.raises(PipelineError, match=party):
                await predicted(deployment, 2, seed=1)
            if party != "driver":
                await asyncio.sleep(1)
                assert deployment.ready_times == ready
                deployment.local.came_up()
                await deployment.local.ensure()
            await deployment.until_ready(ready + 1)
            await predicted(deployment, 2, seed=2)

    async def main() -> None:
        starting = asyncio.ensure_future(start())
        async with deployment.serving():
            await starting
            await body()

    asyncio.run(main())


async def refusal(deployment: Deployment, role: str, party: str, *messages: dict, payload: bytes = b"") -> str:
    with pytest.raises(PartyError) as caught:
        own = deployment.parties / role
        context = client_context(folder=own, protocol=SHARES)
        async with dial(context=context, address=addresses(deployment.parties)[party], expected=party) as link:
            for message in messages:
                await link.ask(message, [payload] if payload else [], seconds=5)
    return str(caught.value)


def test_a_role_gets_no_further_than_its_own_messages(deployment: Deployment) -> None:
    request = "0" * 32

    async def body() -> None:
        for role, op in (
            ("weights-provider", "put"),
            ("weights-provider", "fetch"),
            ("weights-provider", "batch"),
            ("prediction-client", "weights"),
            ("prediction-client", "status"),
            ("prediction-client", "batch"),
            ("prediction-client", "finish"),
            ("driver", "fetch"),
            ("driver", "put"),
            ("driver", "weights"),
        ):
            said = await refusal(deployment, role, "server0", {"op": op, "request": request})
            assert said == f"server0 refuses: '{op}' is not for {role}"
        said = await refusal(deployment, "server1", "server0", {"op": "status"})
        assert said.startswith(
            "server0 refuses: the certificate is of server1, and is not of driver, prediction-client"
        )
        said = await refusal(deployment, "prediction-client", "weights-provider", {"op": "provide"})
        assert said == "weights-provider refuses: the certificate is of prediction-client, and is not of driver"
        said = await refusal(deployment, "weights-provider", "driver", {"op": "hello"})
        assert said == "driver refuses: the certificate is of weights-provider, and is not of prediction-client"

    run(deployment, body)


def test_a_desk_lets_no_answer_out_for_a_driver_of_another_time(deployment: Deployment) -> None:
    finish = {"op": "finish", "batch": "0" * 32}

    async def body() -> None:
        context = client_context(folder=deployment.parties / "driver", protocol=SHARES)
        where = addresses(deployment.parties)["server1"]
        async with dial(context=context, address=where, expected="server1") as link:
            now, _ = await link.ask({"op": "status"}, seconds=5)
        right = {"boot": now["boot"], "sharing": now["sharing"]}
        for wrong in ({"boot": "1" * 32}, {"sharing": "2" * 32}):
            said = await refusal(deployment, "driver", "server1", {**finish, **right, **wrong})
            assert said == "server1 refuses: it was restarted, or got other weights"
        assert "was restarted" not in await refusal(deployment, "driver", "server1", {**finish, **right})

    run(deployment, body)


def test_a_client_that_is_alone_waits_for_nobody(deployment: Deployment) -> None:
    async def body() -> None:
        async with deployment.client().session():
            assert deployment.service._window() == 0.0
            async with deployment.client().session():
                assert deployment.service._window() > 0.0

    run(deployment, body)


def test_bad_messages_get_one_error(deployment: Deployment) -> None:
    request = {"request": "0" * 32}
    put = {"op": "put", "rows": 2, "model": deployment.digest, **request}

    async def body() -> None:
        ask = lambda *messages, payload=b"": refusal(  # noqa: E731
            deployment, "prediction-client", "server0", *messages, payload=payload
        )
        assert "no answer to such a request" in await ask({"op": "fetch", **request})
        assert "not an id of 32" in await ask({"op": "fetch", "request": "../../etc/passwd"})
        assert "has 5 bytes where 288 are due" in await ask(put, payload=b"short")
        assert "has 5 bytes where 0 are due" in await ask({"op": "fetch", **request}, payload=b"short")
        assert "'rows' is not an integer from 1" in await ask({**put, "rows": 10**9})
        assert "'rows' is not an integer from 1" in await ask({**put, "rows": True})
        assert f"and {max(BUCKETS)} are served at most" in await ask({**put, "rows": 65_536})
        assert "another model is served" in await ask({**put, "model": "f" * 64})
        assert "'op' is not a text" in await ask({"op": None})
        assert "such a request already" in await ask(put, put, payload=bytes(288))
        assert "exceeds" in await ask({"op": "fetch", "request": "0" * (1 << 19)})
        said = await refusal(deployment, "prediction-client", "driver", {"op": "run", "request": "1" * 32, "rows": 1})
        assert "the shares of the request are not at all servers" in said
        await predicted(deployment, 2, seed=4)
        assert deployment.ready_times == 1  # none of it disturbed the service

    run(deployment, body)


def test_requests_that_are_only_announced_shut_nobody_out(deployment: Deployment) -> None:
    put = {"op": "put", "rows": max(BUCKETS), "model": deployment.digest}
    due = 144 * max(BUCKETS)  # bytes

    async def body() -> None:
        context = client_context(folder=deployment.parties / CLIENT, protocol=SHARES)
        where = addresses(deployment.parties)["server0"]
        async with contextlib.AsyncExitStack() as stack:
            for number in range(20):
                link = await stack.enter_async_context(dial(context=context, address=where, expected="server0"))
                content = json.dumps({**put, "request": f"{number:032x}"}).encode()
                link.writer.write(struct.pack(">I", len(content)) + content + struct.pack(">Q", due))
            other = clients.add_client(folder=deployment.parties, name="other") / CLIENT
            await predicted(deployment, 2, seed=4, client=replace(deployment.client(), folder=other))

    run(deployment, body)


def test_a_client_gets_a_part_of_the_queue(deployment: Deployment) -> None:
    async def body() -> None:
        service, largest = deployment.service, max(BUCKETS)
        done = asyncio.get_running_loop().create_future()
        mine = Pending(identifier="0" * 32, rows=largest * 64, owner="one", done=done)
        service._queue._waiting.append(mine)
        message = {"op": "run", "request": "1" * 32, "rows": 1}
        with pytest.raises(PipelineError, match="too many requests wait"):
            await service._answer(message, owner="two")
        service._queue._waiting[0] = replace(mine, rows=largest * 16)
        with pytest.raises(PipelineError, match="too many requests of this client wait"):
            await service._answer(message, owner="one")
        service._queue.drain()

    run(deployment, body)


def test_a_revoked_client_is_refused_on_a_connection_that_is_open(deployment: Deployment) -> None:
    async def body() -> None:
        own = clients.add_client(folder=deployment.parties, name="anna") / CLIENT
        client = replace(deployment.client(), folder=own)
        async with client.session() as session:
            clients.revoke(folder=deployment.parties, name="anna")
            with pytest.raises(PartyError, match="the certificate of anna is revoked"):
                await session.links["driver"].ask({"op": "run", "request": "0" * 32, "rows": 1}, seconds=5)
        await predicted(deployment, 2, seed=4)

    run(deployment, body)


def test_a_request_whose_shares_are_missing_does_not_spoil_the_batch_of_others(deployment: Deployment) -> None:
    async def body() -> None:
        bad = [
            refusal(deployment, "prediction-client", "driver", {"op": "run", "request": f"{n:032x}", "rows": 1})
            for n in range(4)
        ]
        good = [predicted(deployment, 2, seed=n) for n in range(4)]
        await asyncio.gather(*bad, *good)
        assert deployment.ready_times == 1

    run(deployment, body)


def test_another_model_than_the_published_one_is_refused_before_a_share_leaves(deployment: Deployment) -> None:
    async def body() -> None:
        client = deployment.client()
        object.__setattr__(client.published, "digest", "0" * 64)
        with pytest.raises(BadInputError, match="serves another model"):
            await client.predict(deployment.rows(1, seed=0), progress=lambda rows: None)

    run(deployment, body)


def test_without_a_service_the_client_says_so_at_once(deployment: Deployment) -> None:
    with pytest.raises(PartyError, match="driver is not reached"):
        asyncio.run(predicted(deployment, 1, seed=0))


def test_the_trouble_of_the_service_is_told_at_once_while_a_server_hangs(deployment: Deployment) -> None:
    async def trouble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        await frames.read_header(reader)
        await frames.write(writer, {"model": deployment.digest, "trouble": "server1 hangs"})

    async def main() -> None:
        known = addresses(deployment.parties)
        allowed = frozenset({"prediction-client"})
        service = await listen(
            folder=deployment.parties / "driver", address=known["driver"], allowed=allowed, serve=trouble
        )
        with contextlib.ExitStack() as silent:
            for name in SERVERS:
                silent.enter_context(socket.create_server(known[name]))
            with pytest.raises(PipelineError, match="the service is not ready: server1 hangs"):
                await asyncio.wait_for(predicted(deployment, 1, seed=0), CONNECT_SECONDS / 2)
        service.close()

    asyncio.run(main())


def test_before_it_is_ready_the_service_says_so_at_once(deployment: Deployment) -> None:
    async def main() -> None:
        asked = deployment.service._answer({"op": "run", "request": "0" * 32, "rows": 1}, owner="one")
        with pytest.raises(PipelineError, match="the service is starting"):
            await asyncio.wait_for(asked, 5)

    asyncio.run(main())


def test_parties_of_one_machine_are_simulated(deployment: Deployment) -> None:
    async def body() -> None:
        assert await deployment.client().require_ready() == "simulated"

    run(deployment, body)


@pytest.mark.parametrize(
    ("hosts", "local", "found"),
    [
        (("a.example", "b.example", "c.example"), False, "encrypted"),
        (("127.0.0.1", "b.example", "c.example"), False, "encrypted"),
        (("a.example", "b.example", "c.example"), True, "simulated"),
        (("a.example", "B.example", "b.example"), False, "simulated"),
        (("127.0.0.1", "127.0.0.2", "c.example"), False, "simulated"),
        (("localhost", "::1", "c.example"), False, "simulated"),
    ],
)
def test_the_service_tells_what_it_is(
    deployment: Deployment, hosts: tuple[str, str, str], local: bool, found: str
) -> None:
    setting = replace(deployment._setting(), addresses=at(deployment, hosts))
    service = Service(setting, supervisor=deployment.local if local else None, report=print)
    assert asyncio.run(service._answer({"op": "hello"}, owner="one"))["inference_protection"] == found


def at(deployment: Deployment, hosts: tuple[str, str, str]) -> dict[str, tuple[str, int]]:
    """All addresses, the servers' at these hosts."""
    return {**addresses(deployment.parties), **{name: (host, 1) for name, host in zip(SERVERS, hosts, strict=True)}}


@pytest.mark.parametrize(
    ("said", "host", "found"),
    [
        ("encrypted", "b.example", "encrypted"),
        ("encrypted", "a.example", "simulated"),  # the client knows better
        ("simulated", "b.example", "simulated"),
        (None, "b.example", None),
        ("yes", "b.example", None),
    ],
)
def test_the_client_believes_no_more_than_it_sees(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, said: str | None, host: str, found: str | None
) -> None:
    async def hello(client: Client, service: object) -> dict:
        return {"largest": 1, "inference_protection": said}

    @contextlib.asynccontextmanager
    async def nobody(client: Client, context: object, party: str) -> AsyncIterator[None]:
        yield None

    monkeypatch.setattr(Client, "_hello", hello)
    monkeypatch.setattr(Client, "_link", nobody)
    client = replace(deployment.client(), addresses=at(deployment, ("a.example", host, "c.example")))
    if found is None:
        with pytest.raises(PartyError, match="does not state what protects the rows"):
            asyncio.run(client.require_ready())
    else:
        assert asyncio.run(client.require_ready()) == found


def test_a_session_keeps_its_connections(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    link = Client._link
    monkeypatch.setattr(Client, "_link", lambda *given: opened.append(given[-1]) or link(*given))

    async def body() -> None:
        async with deployment.client().session() as session:
            for count in (1, 37, 3):
                rows = deployment.rows(count, seed=count)
                np.testing.assert_allclose(await session.predict(rows), deployment.expected(rows), atol=TOLERANCE)
        assert sorted(opened) == ["driver", "server0", "server1", "server2"]

    run(deployment, body)


async def kills(deployment: Deployment, count: int, *, seed: int) -> list[str]:
    """Kills or stops a party at random while clients predict; what clients were told."""
    choice = random.Random(seed)
    errors: list[str] = []
    ending = asyncio.Event()

    async def load(number: int) -> None:
        answered = 0
        while not ending.is_set():
            began = time.monotonic()
            try:
                await predicted(deployment, choice.randint(1, 40), seed=number * 10_000 + answered)
            except PipelineError as error:
                errors.append(error.message)
                await asyncio.sleep(0.2)
            assert time.monotonic() - began < 40
            answered += 1

    clients = [asyncio.ensure_future(load(number)) for number in range(3)]
    for _ in range(count):
        ready = deployment.ready_times
        await asyncio.sleep(choice.uniform(0.0, 0.5))
        victim = choice.choice([*SERVERS, *SERVERS, "driver", "weights-provider"])
        pid = deployment.local.pids.get(victim)
        if victim == "driver" and deployment.driver is not None and deployment.driver.alive:
            pid = deployment.driver.pid
        if pid is not None:
            os.kill(pid, choice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))
        if victim != "weights-provider":
            await deployment.until_ready(ready + 1)
        if any(client.done() for client in clients):
            break
    ending.set()
    await asyncio.gather(*clients)
    return errors


@pytest.mark.slow  # it bounds the time of a request, which depends on what else the machine does
@pytest.mark.parametrize("count", [3, 50])
def test_no_kill_under_load_makes_a_wrong_answer(deployment: Deployment, count: int) -> None:
    """`predicted` holds every answer against the clear; the time of each request is bounded in `kills`."""
    seen: list[str] = []

    async def body() -> None:
        seen.extend(await kills(deployment, count, seed=count))
        await deployment.until_ready(1)
        await predicted(deployment, 5, seed=1)

    run(deployment, body)
    assert seen  # somebody was told
    assert deployment.driver is not None and not deployment.driver.alive
