"""Time the modes of a peer, and its non-private baseline, in the peer's own environment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

# A mode this much slower than the best one at a batch size is not tried at larger ones.
_HOPELESS = 3.0


def timed(step: Callable[[], int], *, seconds: float, repeats: int) -> float:
    """Return examples a second of a step that returns its number of examples: the best of some repeats."""
    step()
    best = 0.0
    for _ in range(repeats):
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            done += step()
        best = max(best, done / (time.perf_counter() - begin))
    return best


def compare(
    name: str,
    make: Callable[[Any, int], Callable[[], int]],
    engines: tuple[str, str],
    modes: Sequence[Any],
    given: dict[str, Any],
) -> None:
    """Print a JSON object for the baseline and each mode at each batch size.

    Args:
        name: the model.
        make: returns a step for a mode (None for the baseline) and a batch size.
        engines: names of the baseline and of the private engine.
        modes: modes of the private engine.
        given: batch sizes, seconds of a repeat, repeats.
    """
    tried = list(modes)
    for batch in sorted(given["batch"]):
        speeds: dict[Any, float] = {}
        for mode in (None, *tried):
            row: dict[str, Any] = {"model": name, "batch": batch, "engine": engines[mode is not None], "mode": mode}
            try:
                speed = timed(make(mode, batch), seconds=given["seconds"], repeats=given["repeats"])
            except (NotImplementedError, RuntimeError, ValueError, AttributeError, TypeError) as error:
                print(json.dumps({**row, "error": f"{type(error).__name__}: {error}"[:200]}), flush=True)
                continue
            speeds[mode] = speed
            print(json.dumps({**row, "examples_per_second": speed}), flush=True)
        best = max((speed for mode, speed in speeds.items() if mode is not None), default=0.0)
        tried = [mode for mode in tried if speeds.get(mode, 0.0) * _HOPELESS > best]
