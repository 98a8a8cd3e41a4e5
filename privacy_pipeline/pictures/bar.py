"""A budget as one bar: what counts against the cap, and what a run would add to it."""

from __future__ import annotations

import math

from privacy_pipeline.pictures.axes import WIDTH
from privacy_pipeline.pictures.drawing import Drawing, Item, Label, Path

BLUE, ORANGE, RED, EMPTY = "#1f5fa8", "#b85c00", "#b3202c", "#dfe7f1"
_LEFT, _RIGHT = 8.0, WIDTH - 8.0


def bar(
    *, name: str, title: str, description: str, cap: float, spent: float, words: tuple[str, str], added: float = 0.0
) -> Drawing:
    """Return what is spent of a cap, as one bar; red where the cap is reached.

    Args:
        name: of the picture, one of a kind on its page.
        title, description: for a screen reader.
        cap: epsilon of the cap, above 0.
        spent: epsilon that counts against it; infinite where nothing bounds it.
        words: label at the left end, and at the right end.
        added: epsilon that a run would add.
    """
    before, after = (min(1.0, part / cap) if math.isfinite(part) else 1.0 for part in (spent, spent + added))
    items: list[Item] = []
    parts = [(0.0, 1.0, EMPTY), (before, after, ORANGE), (0.0, before, BLUE if before < 1 else RED)]
    for low, high, colour in parts:
        x0, x1 = _LEFT + low * (_RIGHT - _LEFT), _LEFT + high * (_RIGHT - _LEFT)
        if x1 > x0:
            items.append(Path(points=((x0, 30), (x1, 30), (x1, 52), (x0, 52)), colour=colour, fill=True))
    items += [
        Label(x=_LEFT, y=20, text=words[0], bold=True),
        Label(x=_RIGHT, y=20, text=words[1], anchor="end"),
    ]
    return Drawing(name=name, title=title, description=description, width=WIDTH, height=64, items=items)
