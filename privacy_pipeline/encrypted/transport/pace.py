"""Delay and rate for a tunnel, for benchmarks: as if its two ends were far apart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

_CHUNK = 1 << 14  # bytes: at 352 Mbit/s 0.4 ms
_AHEAD_SECONDS = 1.0  # how much may be on the way before the sender has to wait

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How slow a tunnel is.

    Attributes:
        delay_ms: milliseconds that every byte is on its way, in each direction: half of a round-trip time.
        rate_mbps: megabits a second in each direction; 0: as fast as the machine can.
    """

    delay_ms: float = 0.0
    rate_mbps: float = 0.0


class Pace:
    """All connections of one tunnel, which share its rate in each direction."""

    def __init__(self, speed: Speed) -> None:
        self._delay = speed.delay_ms / 1e3
        self._seconds_per_byte = 8 / (speed.rate_mbps * 1e6) if speed.rate_mbps else 0.0
        self._free_at = {"out": 0.0, "back": 0.0}

    async def join(self, near: Stream, far: Stream) -> None:
        """Carry what the party that dialled sends, and what it gets, until either side ends; then end both.

        Args:
            near: to the party that dialled.
            far: to the other one.
        """
        both = [
            asyncio.create_task(self._carry("out", near[0], far[1])),
            asyncio.create_task(self._carry("back", far[0], near[1])),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            # A connection that broke is an end like any other here: the party at each end sees its socket close.
            await asyncio.gather(*both, return_exceptions=True)
            near[1].close()
            far[1].close()

    async def _carry(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(_deliver(under_way, writer))
        clock = asyncio.get_running_loop().time
        try:
            while content := await reader.read(_CHUNK):
                self._free_at[way] = max(self._free_at[way], clock()) + len(content) * self._seconds_per_byte
                under_way.put_nowait((self._free_at[way] + self._delay, content))
                await asyncio.sleep(max(0.0, self._free_at[way] - clock() - _AHEAD_SECONDS))
            under_way.put_nowait((0.0, b""))
            await sending
        finally:
            sending.cancel()


async def _deliver(under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due, content = await under_way.get()
        if not content:
            return
        await asyncio.sleep(max(0.0, due - clock()))
        writer.write(content)
        await writer.drain()
