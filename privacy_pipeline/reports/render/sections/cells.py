"""Cells of the report's tables that several sections share."""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.reports.figures import Loss, Quote, Words, pieces

NONE: Words = ["none"]
DASH: Words = ["-"]


def compact(loss: Loss | None) -> Words:
    """Return a privacy loss for a cell: epsilon with delta and basis, never epsilon alone."""
    if loss is None:
        return NONE
    if loss.epsilon is None:
        return ["no epsilon, at delta ", loss.delta, f", {loss.basis}"]
    return ["(", loss.epsilon, ", ", loss.delta, f") {loss.basis}"]


def or_why(loss: Loss) -> Words:
    """Return a privacy loss in a cell, or why there is none."""
    return ["none: ", *pieces(loss)[1:2]] if loss.missing else compact(loss)


def listed(names: Sequence[Quote]) -> Words:
    """Return names with commas between them."""
    words: Words = []
    for index, name in enumerate(names):
        words += [", "] * (index > 0) + [name]
    return words
