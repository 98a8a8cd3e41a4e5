"""The smallest parts of a report: numbers, quotes and privacy losses, each with the place it comes from.

Sentences of a report are lists of parts. Plain strings in them are the report's own words and hold no numbers; every
number is a `Figure` (or part of a `Loss`), and words of others are a `Quote`. So each number of a rendered page can be
traced to a ledger entry or to a field of a record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from privacy_pipeline.reports.record.properties import shown

Place = Literal[
    "ledger entry",
    "ledger entries",
    "journal record",
    "budget",
    "registration",
    "record",
    "summary",
    "workspace",
    "facts",
    "report",
]
Kind = Literal[
    "epsilon", "epsilon left", "epsilon low", "cap", "delta", "delta up", "count", "rate", "metric", "number"
]


class ReportPart(BaseModel):
    """Base of everything in a report: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


DAY, COVERED = "day", "covered"  # methods of quotes: a time without its hours, a digest that may be published
_DAY_DIGITS = len("2030-01-31")


class Source(ReportPart):
    """The place that a value comes from.

    Attributes:
        place: kind of document.
        name: which one: an entry's number (or ranges of them), a run, a budget's key.
        field: dotted path in it.
        method: what was computed from the field; empty for the field's own value.
    """

    place: Place
    name: str = ""
    field: str = ""
    method: str = ""

    @property
    def text(self) -> str:
        """Return the source in one line."""
        where = f"{self.place} {self.name}".strip()
        return ", ".join(part for part in (where, self.field, self.method) if part)


class Figure(ReportPart):
    """A number. Epsilons are shown rounded up; the rest of a budget and lower bounds are shown rounded down."""

    value: int | Annotated[float, Field(allow_inf_nan=False)]
    kind: Kind
    source: Source

    @property
    def text(self) -> str:
        """The number for people."""
        if self.kind == "epsilon":
            return shown(self.value)
        if self.kind in ("epsilon left", "epsilon low"):
            return f"{math.floor(self.value * 1000 + 1e-9) / 1000:.3f}"
        if self.kind == "count":
            return f"{int(self.value):,}"
        if self.kind == "delta up":
            return _rounded_up(self.value)
        if self.kind == "rate":
            return f"{math.ceil(self.value * 1000 - 1e-9) / 10:g} %"
        return f"{self.value:.4f}" if self.kind == "metric" else f"{self.value:g}"


def _rounded_up(value: float) -> str:
    """Return two digits, not less than the value except for the rounding of a sum."""
    text = f"{value:.1e}"
    if float(text) < value * (1 - 1e-9):
        exponent = math.floor(math.log10(value))
        text = f"{(math.floor(value / 10.0 ** (exponent - 1)) + 1) * 10.0 ** (exponent - 1):.1e}"
    return text.replace(".0e", "e")


class Quote(ReportPart):
    """Words of a record, of the ledger or of the facts file, unchanged."""

    quote: str
    source: Source

    @property
    def text(self) -> str:
        """The words."""
        return self.quote


def day(stamp: str, source: Source) -> Quote:
    """Return the day of a time, which is all that a report shows: hours would reveal how long reading the data took.

    Args:
        stamp: ISO 8601.
        source: where it comes from.
    """
    return Quote(quote=stamp[:_DAY_DIGITS], source=source.model_copy(update={"method": DAY}))


class Loss(ReportPart):
    """A privacy loss: epsilon never appears without its delta and its basis.

    Attributes:
        epsilon: None where there is no finite bound.
        delta: delta at which epsilon holds.
        basis: the accountant, or another basis, e.g. "RDP", "cap".
        missing: why there is no epsilon.
    """

    epsilon: Figure | None
    delta: Figure
    basis: str
    missing: str = ""

    @model_validator(mode="after")
    def _epsilon_or_reason(self) -> Loss:
        if (self.epsilon is None) != bool(self.missing):
            raise ValueError("a loss has either an epsilon or the reason why there is none")
        return self


Part = str | Quote | Figure | Loss
Words = list[Part]


class Statement(ReportPart):
    """One sentence of the report; `known` is False if its content is that something is not known."""

    words: Words
    known: bool = True


def pieces(part: Part) -> list[str | Quote | Figure]:
    """Return a part as plain words, quotes and figures, in reading order."""
    if not isinstance(part, Loss):
        return [part]
    if part.epsilon is None:
        why = Quote(quote=part.missing, source=Source(place="report", field="missing"))
        return ["no epsilon (", why, ") at delta ", part.delta, f" ({part.basis})"]
    return ["epsilon ", part.epsilon, " at delta ", part.delta, f" ({part.basis})"]


def plain(words: Iterable[Part]) -> str:
    """Return words as one string."""
    return "".join(p if isinstance(p, str) else p.text for part in words for p in pieces(part))


def ranges(numbers: Iterable[int]) -> str:
    """Return entry numbers as short text: "1-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
