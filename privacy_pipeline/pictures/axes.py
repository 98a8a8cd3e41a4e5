"""Axes of a chart: map values to places, with ticks at round numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy_pipeline.pictures.drawing import Drawing, Item, Label, Path

GREY, LIGHT = "#666666", "#dddddd"
WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 24.0, 40.0, 48.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One axis from `low` to `high`; `log` is base 10."""

    low: float
    high: float
    log: bool = False

    def part(self, value: float) -> float:
        """Return where a value lies between the ends, 0 to 1; values outside are moved to the nearer end."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return min(1.0, (at - low) / (high - low))

    def ticks(self) -> list[float]:
        """Return round values on the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first) / 7))
            return [10.0**power for power in range(first, last + 1, every)]
        rough = (self.high - self.low) / 5
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * times for times in (1, 2, 2.5, 5, 10) if size * times >= rough - 1e-12)
        start, end = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 10) for index in range(start, end + 1)]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing with two axes."""

    drawing: Drawing
    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a pair of values."""
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        return LEFT + self.x.part(x) * (right - LEFT), bottom - self.y.part(y) * (bottom - TOP)

    def add(self, *items: Item) -> None:
        """Draw on top of what is there."""
        self.drawing.items.extend(items)


def plot(*, name: str, title: str, description: str, x: Scale, y: Scale, x_label: str, y_label: str) -> Plot:
    """Return an empty chart with title, grid, ticks and names of the axes."""
    drawing = Drawing(name=name, title=title, description=description, width=WIDTH, height=HEIGHT)
    made = Plot(drawing=drawing, x=x, y=y)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    made.add(Label(x=8, y=16, text=title, size=13, bold=True), Label(x=8, y=32, text=y_label, colour=GREY, size=11))
    for tick in y.ticks():
        _, at = made.at(x.low, tick)
        made.add(Path(points=((LEFT, at), (right, at)), colour=LIGHT))
        made.add(Label(x=LEFT - 8, y=at + 4, text=f"{tick:g}", colour=GREY, size=11, anchor="end", scale=True))
    for tick in x.ticks() if x_label else []:
        at, _ = made.at(tick, y.low)
        made.add(Path(points=((at, bottom), (at, bottom + 5)), colour=GREY))
        made.add(Label(x=at, y=bottom + 18, text=f"{tick:g}", colour=GREY, size=11, anchor="middle", scale=True))
    made.add(Path(points=((LEFT, TOP), (LEFT, bottom), (right, bottom)), colour=GREY))
    made.add(Label(x=(LEFT + right) / 2, y=HEIGHT - 10, text=x_label, colour=GREY, size=11, anchor="middle"))
    return made
