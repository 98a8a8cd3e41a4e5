"""What is proven of a model's rows, in words. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PROVEN, NOT_PROVEN, UNKNOWN = "proven", "not_proven", "not_examined"
WHOLE_MODEL = "the whole model"


@dataclass(frozen=True, kw_only=True)
class SlowPart:
    """A part of a model that runs on one example at a time.

    Attributes:
        name: the layer, the loss, or the whole model.
        op: the op that no rule covers, and its type; empty where the reason is another one.
        reason: one line.
    """

    name: str
    op: str
    reason: str

    def __str__(self) -> str:
        op = f", op {self.op}" if self.op else ""
        return f"{self.name}{op}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a model's examples are proven to stay apart in training.

    Attributes:
        kind: "proven", or "not_proven": then the slow parts run on one example at a time, which keeps examples apart
            without a proof; "not_examined" before anything was looked at.
        slow: the parts that are not proven.
        vectorised: the gradients of the whole model are formed for each example, by a vectorised program that is
            itself proven.
        ops: ops that were looked at.
        times_slower: seconds of a step on made-up examples over those of a step without isolation; None where it was
            not measured.
    """

    kind: str
    slow: tuple[SlowPart, ...] = ()
    vectorised: bool = False
    ops: int = 0
    times_slower: float | None = None

    def __str__(self) -> str:
        if self.kind == PROVEN:
            how = "; per-example gradients of the whole model, vectorised" if self.vectorised else ""
            return f"examples stay apart: proven for all {self.ops} ops of forward and backward pass{how}"
        if self.kind == UNKNOWN:
            return "examples stay apart: not examined"
        cost = "" if self.times_slower is None else f" (a step takes about {self.times_slower:.1f} times as long)"
        parts = "; ".join(str(part) for part in self.slow)
        return f"examples stay apart: one example at a time where it is not proven{cost}: {parts}"

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as it is kept in the record: without times, which depend on the machine."""
        return {
            "verdict": self.kind,
            "one_by_one": [str(part) for part in self.slow],
            "vectorised_whole_model": self.vectorised,
        }


NOT_EXAMINED = Verdict(kind=UNKNOWN)
_STRENGTH = (UNKNOWN, NOT_PROVEN, PROVEN)


def least_proven(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the first of the verdicts that prove least; None of none."""
    return min(verdicts, key=lambda verdict: _STRENGTH.index(verdict.kind), default=None)
