"""What a strided slice takes of each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privacy_pipeline.dp.rowwise.registry import OpCall
from privacy_pipeline.dp.rowwise.sizes import Dim


@dataclass(frozen=True)
class Cut:
    """One entry of a slice.

    Attributes:
        axis: axis of what is sliced; None for a new axis of size 1.
        start: first place; None where the entry leaves it out.
        stop: end; None where the entry leaves it out.
        step: step.
        single: one place is taken, and the axis goes away.
    """

    axis: int | None
    start: Any = None
    stop: Any = None
    step: int = 1
    single: bool = False

    def whole(self, size: Dim) -> bool:
        """Return whether all places are taken, in their order."""
        start = self.start is None or self.start == 0
        stop = self.stop is None or (self.stop == size and size is not None)
        return not self.single and self.step == 1 and start and stop


def strided(call: OpCall, rank: int, first: int = 1) -> list[Cut] | None:
    """Return entries of a `StridedSlice` or of its gradient, in the order of the output; None where they are not known.

    Args:
        call: the op.
        rank: axes of what is sliced.
        first: place of the input that holds the starts; stops and steps follow.
    """
    starts, stops, steps = (call.constant(first + place) for place in range(3))
    if starts is None or stops is None or steps is None or not all(isinstance(step, int) for step in steps):
        return None
    masks = {name: call.number(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    entries = len(starts)
    new = sum(1 for place in range(entries) if masks["new_axis"] >> place & 1 and not masks["ellipsis"] >> place & 1)
    ellipsis = 1 if masks["ellipsis"] else 0
    spread = rank - (entries - new - ellipsis)
    cuts: list[Cut] = []
    axis = 0
    for place in range(entries):
        if masks["ellipsis"] >> place & 1:
            cuts += [Cut(axis + more) for more in range(spread)]
            axis += spread
        elif masks["new_axis"] >> place & 1:
            cuts.append(Cut(None))
        else:
            start = None if masks["begin"] >> place & 1 else starts[place]
            stop = None if masks["end"] >> place & 1 else stops[place]
            single = bool(masks["shrink_axis"] >> place & 1)
            cuts.append(Cut(axis, start, stop, int(steps[place]), single))
            axis += 1
    cuts += [Cut(more) for more in range(axis, rank)]
    return cuts if all(cut.axis is None or cut.axis < rank for cut in cuts) else None


def index_of(cuts: list[Cut]) -> tuple[Any, ...]:
    """Return the slice as an index of NumPy; only for known numbers."""
    index: list[Any] = []
    for cut in cuts:
        if cut.axis is None:
            index.append(None)
        elif cut.single:
            index.append(int(cut.start))
        else:
            start, stop = (None if end is None else int(end) for end in (cut.start, cut.stop))
            index.append(slice(start, stop, cut.step))
    return tuple(index)


def size_of(cut: Cut, size: Dim) -> Dim:
    """Return the size of the axis that an entry leaves; None where it is not known."""
    if cut.axis is None:
        return 1
    if cut.whole(size):
        return size
    numbers = (cut.start, cut.stop)
    if not isinstance(size, int) or any(number is not None and not isinstance(number, int) for number in numbers):
        return None
    return len(range(*slice(cut.start, cut.stop, cut.step).indices(size)))
