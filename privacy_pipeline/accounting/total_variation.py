"""The event of a (0, delta)-DP mechanism, which dp_accounting 0.6 does not have. Import it on use: it is slow."""

from __future__ import annotations

from dataclasses import dataclass

from dp_accounting import dp_event


@dataclass(frozen=True)
class TotalVariationDpEvent(dp_event.DpEvent):
    """A mechanism whose outputs on neighbouring datasets differ by at most `distance` in total variation.

    That is (0, distance)-DP. No accountant of dp_accounting supports it; `truncation.untruncated` takes it out of an
    event before they see it, and its distance is paid beside their epsilon.

    Attributes:
        distance: total variation distance, from 0 to 1.
    """

    distance: float
