"""Servers and driver made ready: the same weights at all three servers, and a graph for each bucket.

What was made ready is bound to the three desks' processes and to one sharing of the weights. When one of them is
another, nothing is run any more: shares of two sharings would give a wrong answer without a sign.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from privacy_pipeline.encrypted.coalescing import Pending
from privacy_pipeline.encrypted.dialing import Address, PartyError, dial
from privacy_pipeline.encrypted.driver_process import DriverError
from privacy_pipeline.encrypted.frames import Header
from privacy_pipeline.encrypted.provider import PROVIDE_SECONDS
from privacy_pipeline.encrypted.worker.parties import PROVIDER, SERVERS
from privacy_pipeline.errors import PipelineError

Report = Callable[[str], None]


class Driver(Protocol):
    """What drives the servers: `driver_process.DriverProcess`."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        ...

    async def call(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Does one thing."""
        ...

    async def close(self) -> None:
        """Ends it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds within which a thing is done, or has failed.

    Attributes:
        desk: one message to a server's desk.
        load: the driver reaches the servers, which load the weights.
        build: one graph.
        run: one batch.
    """

    desk: float = 10.0
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


class Warm:
    """Three servers and a driver that are ready for batches, until the first thing goes wrong."""

    def __init__(self, setting: Setting, driver: Driver, state: tuple[tuple[str, str], ...]) -> None:
        self._setting, self._driver, self._state = setting, driver, state

    async def run(self, requests: Sequence[Pending], *, bucket: int) -> list[str]:
        """Evaluates a batch; after that its requests' answers wait at the servers.

        Returns:
            Ids of requests that do not wait at all servers. Where there is one, nothing was evaluated.

        Raises:
            PartyError, DriverError: somebody failed; this object is of no use any more.
        """
        batch, limits = secrets.token_hex(16), self._setting.limits
        listed = [{"request": one.identifier, "rows": one.rows} for one in requests]
        found = await self.ask({"op": "batch", "batch": batch, "bucket": bucket, "requests": listed})
        missing = sorted({str(name) for answer in found for name in answer["missing"]})
        if missing:
            await self.ask({"op": "discard", "batch": batch})
            return missing
        await self._driver.call({"op": "run", "bucket": bucket, "batch": batch}, seconds=limits.run)
        await self.check()
        await self.ask({"op": "finish", "batch": batch})
        return []

    async def check(self) -> None:
        """Makes sure that all are the ones that were made ready.

        Raises:
            PartyError, DriverError: somebody does not answer, or is not.
        """
        if not self._driver.alive:
            raise DriverError("the driver ended")
        _require_same(self._state, await _state(self._setting))

    async def ask(self, message: Mapping[str, Any]) -> list[Header]:
        """Sends a message to all three desks."""
        return await _ask_all(self._setting, message)

    async def close(self) -> None:
        """Ends the driver."""
        await self._driver.close()


async def warm_up(setting: Setting, *, report: Report) -> Warm:
    """Makes all parties ready.

    Args:
        setting: the service's.
        report: gets what is being done.

    Raises:
        PartyError, DriverError: somebody failed; nothing is left running.
    """
    report("reaching the servers")
    state = await _state(setting)
    if len({sharing for _, sharing in state}) != 1 or not state[0][1]:
        report("the weights provider sends the shares of the weights")
        await _provide(setting)
        state = _require_boots(state, await _state(setting))
    driver = await setting.start_driver()
    try:
        report("the servers load the weights")
        load = {"op": "load", "model": str(setting.published), "digest": setting.digest}
        await driver.call(load, seconds=setting.limits.load)
        for number, bucket in enumerate(setting.buckets):
            report(f"building the graph for {bucket:,} rows ({number + 1} of {len(setting.buckets)})")
            await driver.call({"op": "build", "bucket": bucket}, seconds=setting.limits.build)
        warm = Warm(setting, driver, state)
        await warm.check()
        await warm.ask({"op": "reset"})
    except BaseException:
        await driver.close()
        raise
    return warm


async def _provide(setting: Setting) -> None:
    address = setting.addresses[PROVIDER]
    async with dial(folder=setting.folder, address=address, expected=PROVIDER) as link:
        answer, _ = await link.ask({"op": "provide"}, seconds=PROVIDE_SECONDS + setting.limits.desk)
    if answer.get("model") != setting.digest:
        raise PartyError(PROVIDER, "has the weights of another model")


async def _state(setting: Setting) -> tuple[tuple[str, str], ...]:
    """Of each server: which process it is, and which sharing it holds; "" where it has none of this model."""
    found = await _ask_all(setting, {"op": "status"})
    return tuple((str(one["boot"]), str(one["sharing"]) if one["model"] == setting.digest else "") for one in found)


async def _ask_all(setting: Setting, message: Mapping[str, Any]) -> list[Header]:
    async def ask(name: str) -> Header:
        async with dial(folder=setting.folder, address=setting.addresses[name], expected=name) as link:
            answer, _ = await link.ask(message, seconds=setting.limits.desk)
            return answer

    # All are heard before anything is raised, so that no connection is left behind.
    found = await asyncio.gather(*(ask(name) for name in SERVERS), return_exceptions=True)
    answers = []
    for one in found:
        if isinstance(one, BaseException):
            raise one
        answers.append(one)
    return answers


def _require_boots(
    before: tuple[tuple[str, str], ...], now: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """The state after the weights came, from the same processes, all of one sharing."""
    for name, (boot, _), (boot_now, _) in zip(SERVERS, before, now, strict=True):
        if boot != boot_now:
            raise PartyError(name, "started anew")
    if len({sharing for _, sharing in now}) != 1 or not now[0][1]:
        raise PipelineError("the servers do not hold one sharing of the weights", fix="see the weights provider's log")
    return now


def _require_same(before: tuple[tuple[str, str], ...], now: tuple[tuple[str, str], ...]) -> None:
    for name, (boot, sharing), (boot_now, sharing_now) in zip(SERVERS, before, now, strict=True):
        if boot != boot_now:
            raise PartyError(name, "started anew")
        if sharing != sharing_now:
            raise PartyError(name, "got other weights")
