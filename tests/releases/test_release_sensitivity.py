"""No unit moves the exact sums by more than is stated, and the sums do not depend on partition or order."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.releases.beam_sums import AddSums, ExactSums, hashed
from privacy_pipeline.releases.queries import UNIT_OF_FIXED_POINT, Counts, Histogram, Moments, Query, Row, Vocabulary
from privacy_pipeline.releases.release import Cell, Release, plan_release

QUERIES: tuple[Query, ...] = (
    Counts(name="all"),
    Counts(name="cross", columns=("sex", "label"), domains=(("F", "M"), ("0", "1"))),
    Histogram(name="ages", column="age", edges=(0.0, 18.0, 65.0)),
    Moments(name="age", column="age", minimum=17.0, maximum=90.0),
    Vocabulary(name="words", column="word"),
)
ODD = (None, "", "x", 7, -(10**30), 10**400, -(10**400), 1.5, math.nan, math.inf, -math.inf, 5e-324)
rows = st.fixed_dictionaries(
    {
        "sex": st.sampled_from(["F", "M", *ODD]),
        "label": st.sampled_from([0, 1, 1.0, "1", *ODD]),
        "age": st.sampled_from([0, 17.0, 18, 64.9, 90, 120.0, *ODD]),
        "word": st.sampled_from(["a", "b", "c", *ODD]),
    }
)


def release_of(queries: Sequence[Query] = QUERIES, *, bound: int = 1, unit: str = "row", **given: Any) -> Release:
    settings_of = {"kind": "test", "relation": Relation.ZERO_OUT, "units": 100, "epsilon": 1.0, "delta": 1e-5, **given}
    return plan_release(queries, unit=unit, contribution_bound=bound, **settings_of)


def sums_of(release: Release, units: Sequence[Sequence[Row]]) -> dict[Cell, int]:
    adder = AddSums()
    total = adder.create_accumulator()
    for held in units:
        total = adder.add_input(total, release.contribution(held))
    return adder.extract_output(total)


def squared_distance(one: dict[Cell, int], other: dict[Cell, int], query: int) -> int:
    cells = {cell for cell in (*one, *other) if cell[0] == query}
    return sum((one.get(cell, 0) - other.get(cell, 0)) ** 2 for cell in cells)


@settings(deadline=None)
@given(st.lists(st.lists(rows, max_size=3), min_size=1, max_size=4), st.data())
def test_a_unit_moves_the_sums_by_at_most_the_sensitivity(units: list[list[Row]], data: st.DataObject) -> None:
    release = release_of(bound=3, unit="person")
    gone = data.draw(st.integers(0, len(units) - 1))
    whole = sums_of(release, units)
    for neighbour in (units[:gone] + units[gone + 1 :], [*units[:gone], [], *units[gone + 1 :]]):
        less = sums_of(release, neighbour)
        for number, query in enumerate(QUERIES):
            assert squared_distance(whole, less, number) <= query.sensitivity_squared(3)


@pytest.mark.parametrize("bound", [1, 3])
def test_the_sensitivity_is_reached(bound: int) -> None:
    release = release_of(bound=bound, unit="person")
    unit: list[Row] = [{"sex": "F", "label": 1, "age": 90.0, "word": str(i)} for i in range(bound)]
    moved = sums_of(release, [unit])
    for number, query in enumerate(QUERIES):
        assert squared_distance(moved, {}, number) == query.sensitivity_squared(bound)


def test_an_understated_sensitivity_fails_the_brute_force() -> None:
    class TooSmall(Counts):
        def sensitivity_squared(self, bound: int) -> int:
            return bound

    moved = sums_of(release_of(bound=3, unit="person"), [[{"sex": "F"}] * 3])
    assert squared_distance(moved, {}, 0) > TooSmall(name="all").sensitivity_squared(3)


@settings(deadline=None)
@given(st.lists(rows, max_size=12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_sums_do_not_depend_on_partition_or_order(table: list[Row], parts: int, chance: random.Random) -> None:
    release, adder = release_of(), AddSums()
    straight = sums_of(release, [[row] for row in table])
    shuffled = chance.sample(table, len(table))
    accumulators = [adder.create_accumulator() for _ in range(parts)]
    for row in shuffled:
        at = chance.randrange(parts)
        accumulators[at] = adder.add_input(accumulators[at], release.contribution([row]))
    chance.shuffle(accumulators)
    assert adder.extract_output(adder.merge_accumulators(accumulators)) == straight


@given(st.floats(), st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
@example(float("inf"), 0.0, 5e-324)
def test_fixed_point_never_leaves_its_bounds(value: float, one: float, other: float) -> None:
    try:
        query = Moments(name="m", column="x", minimum=min(one, other), maximum=max(one, other))
    except ValueError:
        return  # no width, or none that is a number
    assert abs(query.contribution([{"x": value}]).get("sum", 0)) <= UNIT_OF_FIXED_POINT


def test_more_rows_than_the_bound_are_an_error() -> None:
    with pytest.raises(PipelineError, match="bounded"):
        release_of().contribution([{}, {}])


def test_beam_bounds_the_rows_of_a_unit_and_adds_exactly() -> None:
    release = release_of((Counts(name="all"), Vocabulary(name="words", column="word")), bound=2, unit="person")
    table = [(f"p{i % 5}", {"word": f"{i % 5}"}) for i in range(40)] + [(None, {"word": "nobody"}), ("p9", {})]
    expected = {(0, "[]"): 11, **{(1, str(i)): 1 for i in range(5)}}
    with beam.Pipeline() as pipeline:
        found = pipeline | beam.Create(table, reshuffle=False) | ExactSums(release)
        assert_that(found, equal_to([expected]))


def test_beam_takes_each_row_where_the_unit_is_a_row() -> None:
    release = release_of((Counts(name="all"),))
    with beam.Pipeline() as pipeline:
        found = pipeline | beam.Create([(None, {})] * 7) | ExactSums(release)
        assert_that(found, equal_to([{(0, "[]"): 7}]))


def test_which_rows_are_taken_depends_on_the_key_and_on_nothing_else() -> None:
    row: Row = {"a": 1, "b": None}
    again: Row = {"b": None, "a": 1}
    assert hashed(row, key=b"k") == hashed(again, key=b"k")
    assert hashed(row, key=b"k")[0] != hashed(row, key=b"l")[0]


@settings(max_examples=30, deadline=None)  # the first example imports OpenDP
@given(st.floats(0.1, 10), st.integers(1, 20), st.sampled_from(list(Relation)))
def test_the_plan_is_what_opendp_says_and_meets_the_target(epsilon: float, bound: int, relation: Relation) -> None:
    release = release_of(bound=bound, unit="person", epsilon=epsilon, relation=relation)
    assert release.plan.epsilon <= epsilon
    assert release.plan.epsilon > epsilon * (1 - 1e-4)
    assert (release.plan.units is None) == (relation is Relation.ADD_OR_REMOVE_ONE)
    release.noised({})  # holds OpenDP's map against the plan


def test_less_noise_than_is_charged_releases_nothing() -> None:
    release = release_of()
    weaker = dataclasses.replace(release, scales=tuple(0.9 * scale for scale in release.scales))
    with pytest.raises(PipelineError, match="OpenDP"):
        weaker.noised({})


def test_what_makes_no_release_is_refused() -> None:
    with pytest.raises(BadInputError, match="name"):
        release_of((Counts(name="a"), Counts(name="a")))
    with pytest.raises(BadInputError, match="unit 'row'"):
        release_of(bound=2)
    with pytest.raises(BadInputError, match="epsilon"):
        release_of(epsilon=0.0)
    with pytest.raises(ValueError, match="ascending"):
        Histogram(name="h", column="x", edges=(1.0, 0.0))
    with pytest.raises(ValueError, match="distinct"):
        Counts(name="c", columns=("x",), domains=(("a", "a"),))
