"""Which spans of a dataset something reads or names: one, several together, or a dataset without spans."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping

from privacy_pipeline.errors import BadInputError

# One span; several that were registered each for itself, two or more in ascending order; or a dataset without spans.
Span = int | tuple[int, ...] | None
SPAN_KEY_LENGTH = 32


def spans_of(span: Span) -> tuple[int | None, ...]:
    """Return each span of what is read, alone."""
    return span if isinstance(span, tuple) else (span,)


def check_spans(spans: tuple[int, ...]) -> None:
    """Refuse several spans that are not two or more ascending numbers, so that each set of spans has one form.

    Raises:
        BadInputError: they are not, or the ledger has no room for their names.
    """
    if len(spans) < 2 or any(one >= other for one, other in itertools.pairwise(spans)) or spans[0] < 0:
        raise BadInputError(f"spans {list(spans)!r} are not two or more different numbers in ascending order")
    span_key(spans)


def span_words(span: Span) -> str:
    """Return a span, or several, for messages."""
    return f"spans {', '.join(map(str, span))}" if isinstance(span, tuple) else f"span {span}"


def span_key(span: Span) -> str:
    """Return a span as part of a unique key (SQL treats NULLs as distinct); several by their ranges: "1-3,7".

    Raises:
        BadInputError: the ranges of several spans are too long for the ledger's column.
    """
    if not isinstance(span, tuple):
        return "" if span is None else str(span)
    runs: list[list[int]] = []
    for number in span:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    key = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    if len(key) > SPAN_KEY_LENGTH:
        raise BadInputError(
            f"the ledger names the spans of one run by at most {SPAN_KEY_LENGTH} characters, and {key} has {len(key)}",
            fix="read fewer spans at once, or spans whose numbers follow on one another: those are named as a range",
        )
    return key


def span_of(key: str) -> Span:
    """Return the span, or the several, that `span_key` wrote."""
    if key.isdigit() or not key:
        return int(key) if key else None
    found: list[int] = []
    for part in key.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def union_digest(digests: Mapping[int, str]) -> str:
    """Return the SHA-256, hexadecimal, over the digests of several spans: equal where each span is what it was.

    Args:
        digests: SHA-256 of each span's data, by its number.
    """
    text = "".join(f"span {span}\0{digest}\n" for span, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()
