"""Servers and driver made ready: the same weights at all three servers, and a graph for each bucket.

What was made ready is bound to the processes of the three share servers and to one sharing of the weights. When one of
them is another, nothing is run any more: shares of two sharings would give a wrong answer without a sign.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from privacy_pipeline.encrypted.serving.coalescing import Pending
from privacy_pipeline.encrypted.serving.driver_process import DriverError
from privacy_pipeline.encrypted.serving.provider import PROVIDE_SECONDS
from privacy_pipeline.encrypted.transport.certificates import client_context
from privacy_pipeline.encrypted.transport.dialing import Address, Link, PartyError, dial
from privacy_pipeline.encrypted.transport.frames import Header
from privacy_pipeline.encrypted.transport.tunnel import SHARES
from privacy_pipeline.encrypted.worker.parties import PROVIDER, SERVERS
from privacy_pipeline.errors import PipelineError

Report = Callable[[str], None]
# Of each server: which process it is, and which sharing of the weights it holds, "" for none of this model.
State = tuple[tuple[str, str], ...]


class Driver(Protocol):
    """What drives the servers: `driver_process.DriverProcess`."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        ...

    async def call(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Do one thing."""
        ...

    async def close(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds within which a thing is done, or has failed.

    Attributes:
        share_server: one message to a party's share server.
        load: the driver reaches the servers, which load the weights.
        build: one graph.
        run: one batch.
    """

    share_server: float = 10.0
    load: float = 180.0
    build: float = 300.0
    run: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a service is made of.

    Attributes:
        folder: the driver's own folder of `init_parties`.
        addresses: of all parties.
        published: the model's public side.
        digest: sha256 of its architecture file.
        buckets: rows for which a graph is built.
        start_driver: starts one.
        limits: of time.
    """

    folder: Path
    addresses: Mapping[str, Address]
    published: Path
    digest: str
    buckets: Sequence[int]
    start_driver: Callable[[], Awaitable[Driver]]
    limits: Limits = Limits()


class ReadyCluster:
    """Three servers and a driver that are ready for batches, until the first thing goes wrong. Made by `make_ready`.

    Args:
        setting: the service's.
        links: to the three share servers, kept open: a server that is restarted breaks its own.
        driver: with a graph for each bucket.
        state: of the servers when that was built.
        resources: what `close` ends.
    """

    def __init__(
        self,
        setting: Setting,
        links: Sequence[Link],
        *,
        driver: Driver,
        state: State,
        resources: contextlib.AsyncExitStack,
    ) -> None:
        self._setting, self._links, self._driver, self._state = setting, links, driver, state
        self._resources = resources

    async def run(self, requests: Sequence[Pending], *, bucket: int) -> list[str]:
        """Evaluate a batch; after that its requests' answers wait at the servers.

        Returns:
            Ids of requests that do not wait at all servers. Where there is one, nothing was evaluated.

        Raises:
            PartyError, DriverError: somebody failed; this object is of no use any more.
        """
        batch, limits = secrets.token_hex(16), self._setting.limits
        listed = [{"request": one.identifier, "rows": one.rows} for one in requests]
        message = {"op": "batch", "batch": batch, "bucket": bucket, "requests": listed}
        found = await _ask(self._links, message, seconds=limits.share_server)
        missing = sorted({str(name) for answer in found for name in answer["missing"]})
        if missing:
            await _ask(self._links, {"op": "discard", "batch": batch}, seconds=limits.share_server)
            return missing
        driven = {"op": "run", "bucket": bucket, "batch": batch}
        await _drive(self._driver, driven, seconds=limits.run, setting=self._setting, links=self._links)
        # Each lets its answers out only if it is the one that was made ready; the client waits for the word of all.
        finish = [{"op": "finish", "batch": batch, "boot": boot, "sharing": held} for boot, held in self._state]
        await _ask_each(self._links, finish, seconds=limits.share_server)
        return []

    async def check(self) -> None:
        """Make sure that all are the ones that were made ready.

        Raises:
            PartyError, DriverError: somebody does not answer, or is not.
        """
        if not self._driver.alive:
            raise DriverError("the driver ended")
        _require_same(self._state, await _state(self._setting, self._links))

    async def close(self) -> None:
        """End the driver and the connections."""
        await self._resources.aclose()


async def make_ready(setting: Setting, *, report: Report) -> ReadyCluster:
    """Make all parties ready.

    Args:
        setting: the service's.
        report: gets what is being done.

    Raises:
        PartyError, DriverError: somebody failed; nothing is left running.
    """
    async with contextlib.AsyncExitStack() as resources:
        report("reaching the servers")
        context = client_context(folder=setting.folder, protocol=SHARES)
        dialled = [dial(context=context, address=setting.addresses[name], expected=name) for name in SERVERS]
        links = [await resources.enter_async_context(one) for one in dialled]
        state = await _with_weights(setting, links, report)
        driver = await setting.start_driver()
        resources.push_async_callback(driver.close)
        report("the servers load the weights")
        load = {"op": "load", "model": str(setting.published), "digest": setting.digest}
        await _drive(driver, load, seconds=setting.limits.load, setting=setting, links=links)
        for number, bucket in enumerate(setting.buckets):
            report(f"building the graph for {bucket:,} rows ({number + 1} of {len(setting.buckets)})")
            build = {"op": "build", "bucket": bucket}
            await _drive(driver, build, seconds=setting.limits.build, setting=setting, links=links)
        _require_same(state, await _state(setting, links))
        await _ask(links, {"op": "reset", "rows": max(setting.buckets)}, seconds=setting.limits.share_server)
        return ReadyCluster(setting, links, driver=driver, state=state, resources=resources.pop_all())


async def _drive(
    driver: Driver, message: Mapping[str, Any], *, seconds: float, setting: Setting, links: Sequence[Link]
) -> None:
    """Let the driver do one thing. If it fails, a server that does not answer either is the one at fault.

    Raises:
        PartyError: a server stopped, or is gone.
        DriverError: all servers answer.
    """
    try:
        await driver.call(message, seconds=seconds)
    except DriverError:
        await _state(setting, links)
        raise


async def _with_weights(setting: Setting, links: Sequence[Link], report: Report) -> State:
    """Return the state of the servers once all hold one sharing of the weights."""
    state = await _state(setting, links)
    if _one_sharing(state):
        return state
    report("the weights provider sends the shares of the weights")
    address = setting.addresses[PROVIDER]
    context = client_context(folder=setting.folder, protocol=SHARES)
    async with dial(context=context, address=address, expected=PROVIDER) as link:
        wanted = {"op": "provide", "model": setting.digest}
        answer, _ = await link.ask(wanted, seconds=PROVIDE_SECONDS + setting.limits.share_server)
    if answer.get("model") != setting.digest:
        raise PartyError(PROVIDER, "has the weights of another model")
    state = await _state(setting, links)
    if not _one_sharing(state):
        raise PipelineError("the servers do not hold one sharing of the weights", fix="see the weights provider's log")
    return state


async def _state(setting: Setting, links: Sequence[Link]) -> State:
    found = await _ask(links, {"op": "status"}, seconds=setting.limits.share_server)
    return tuple((str(one["boot"]), str(one["sharing"]) if one["model"] == setting.digest else "") for one in found)


async def _ask(links: Sequence[Link], message: Mapping[str, Any], *, seconds: float) -> list[Header]:
    """Send a message to all three share servers."""
    return await _ask_each(links, [message] * len(links), seconds=seconds)


async def _ask_each(links: Sequence[Link], messages: Sequence[Mapping[str, Any]], *, seconds: float) -> list[Header]:
    """Send each of the three share servers its message."""
    answers = []
    # All are heard before anything is raised, so that nobody is left in the middle of a message.
    asked = (link.ask(message, seconds=seconds) for link, message in zip(links, messages, strict=True))
    for one in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one
        answers.append(one[0])
    return answers


def _one_sharing(state: State) -> bool:
    sharings = {sharing for _, sharing in state}
    return len(sharings) == 1 and "" not in sharings


def _require_same(before: State, now: State) -> None:
    for name, then, found in zip(SERVERS, before, now, strict=True):
        if then != found:
            raise PartyError(name, "was restarted, or got other weights")
