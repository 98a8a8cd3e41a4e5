"""Exact sums of a release by Beam: rows are bounded per unit, turned into integers, and added.

Integer addition is associative and commutative, and the choice of a unit's rows looks at its own rows alone. So the
sums do not depend on how Beam splits or orders the work, and with them neither sensitivity nor result. The module is to
be imported on use: Beam is slow to import.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam

from privacy_pipeline.releases.queries import Row
from privacy_pipeline.releases.release import Cell, Release

Sums = dict[Cell, int]


class AddSums(beam.CombineFn):
    """Adds contributions cell by cell."""

    def create_accumulator(self) -> Sums:
        """Return an empty sum."""
        return {}

    def add_input(self, accumulator: Sums, element: Mapping[Cell, int]) -> Sums:
        """Add one contribution."""
        for cell, value in element.items():
            accumulator[cell] = accumulator.get(cell, 0) + value
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        """Add partial sums."""
        total: Sums = {}
        for part in accumulators:
            self.add_input(total, part)
        return total

    def extract_output(self, accumulator: Sums) -> Sums:
        """Return the sums."""
        return accumulator


class ExactSums(beam.PTransform):
    """Pairs of (unit, row) to one dict of exact sums, which is not private and must not be stored.

    Of a unit with more rows than the contribution bound, those are counted that come first under a hash with a key of
    this release: a choice that is as good as random, and independent of what other units hold. Rows whose unit is None
    belong to nobody and are left out, unless the unit is a row.

    Args:
        release: the release.
    """

    def __init__(self, release: Release) -> None:
        super().__init__()
        self._release = release
        self._key = secrets.token_bytes(32)

    def expand(self, input_or_inputs: Any) -> Any:
        """Bound the rows of each unit, turn them into integers, and add them."""
        plan = self._release.plan
        if plan.unit == "row":
            units = input_or_inputs | "OneRow" >> beam.Map(lambda pair: [pair[1]])
        else:
            key, bound = self._key, plan.contribution_bound
            units = (
                input_or_inputs
                | "Owned" >> beam.Filter(lambda pair: pair[0] is not None)
                | "Hashed" >> beam.Map(lambda pair: (pair[0], hashed(pair[1], key=key)))
                | "Bounded" >> beam.combiners.Top.SmallestPerKey(bound)
                | "Rows" >> beam.Map(lambda pair: [json.loads(text) for _, text in pair[1]])
            )
        return units | "Integers" >> beam.Map(self._release.contribution) | "Add" >> beam.CombineGlobally(AddSums())


def hashed(row: Row, *, key: bytes) -> tuple[str, str]:
    """Return a row's place in its unit's order, and the row as text: equal rows are interchangeable."""
    text = json.dumps(dict(row), sort_keys=True)
    return hmac.new(key, text.encode(), "sha256").hexdigest(), text
