"""Nobody pays from two budgets: units and rows are compared over all datasets, spans and splits of a ledger."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.registration import Division, Registration
from privacy_pipeline.ledger.state.unit_digests import ALL
from tests.ledger.conftest import make_plan, make_registration

Array = NDArray[np.uint64]
A, Z = ([f"{letter}{number}" for number in range(20)] for letter in "az")


@pytest.fixture
def opened(url: str) -> Ledger:
    return Ledger.open(url, create=True)


def described(dataset: str, span: int | None, content: str, unit: str, **facts: Any) -> Registration:
    digest = hashlib.sha256(f"{dataset} {span} {content}".encode()).hexdigest()
    return dataclasses.replace(make_registration(dataset, span, digest=digest, unit=unit), **facts)


def register(
    ledger: Ledger,
    dataset: str,
    keys: dict[str, Sequence[str]] | None,
    *,
    span: int | None = None,
    unit: str = "person",
    rows: dict[str, Array] | None = None,
    disjoint: bool = False,
    **facts: Any,
) -> None:
    registration = described(dataset, span, f"{keys} {rows}", unit, **facts)
    known = None if keys is None else {split: list(found) for split, found in keys.items()}
    ledger.register(registration, epsilon=2.0, delta=1e-5, units=known, rows=rows, disjoint=disjoint)


def table(ledger: Ledger, rows: Sequence[Sequence[str]]) -> Array:
    return RowHasher(ledger.digest_secret()).rows(rows)


def people(count: int = 40) -> list[list[str]]:
    return [[str(20 + number), f"{number / 7:.4f}", "yes" if number % 2 else "no"] for number in range(count)]


class TestKeys:
    @pytest.mark.parametrize("same", ["a3", "A3", " a3 ", "a\u200b3", "\ufeffa3", "\uff213"])
    def test_units_of_another_name_are_refused(self, opened: Ledger, same: str) -> None:
        register(opened, "first", {"train": A, "eval": Z})
        with pytest.raises(BadInputError, match="registered as first already") as caught:
            register(opened, "second", {"train": [same, "new"], "eval": ["other"]})
        told = f"{caught.value.message} {caught.value.fix}"
        assert "dataset.name: first" in told and "--id-space" in told
        assert same not in told and not any(digit in caught.value.message for digit in "0123456789")
        assert opened.registration("second", None) is None

    @pytest.mark.parametrize("side", ["train", "eval"])
    def test_whatever_split_they_are_in(self, opened: Ledger, side: str) -> None:
        register(opened, "first", {"train": A, "eval": Z})
        other = "eval" if side == "train" else "train"
        with pytest.raises(BadInputError, match="registered as first already"):
            register(opened, "second", {side: ["z1"], other: ["new"]})

    def test_spans_of_other_datasets_are_held_against_too(self, opened: Ledger) -> None:
        register(opened, "first", {"train": A, "eval": ["x"]}, span=1)
        register(opened, "first", {"train": Z, "eval": ["y"]}, span=2)
        with pytest.raises(BadInputError, match="registered as first already"):
            register(opened, "second", {"train": ["z7"], "eval": ["w"]}, span=1)

    def test_a_numbering_of_its_own_is_other_people(self, opened: Ledger) -> None:
        register(opened, "first", {"train": A, "eval": Z})
        own = {"id_space": "hospital", "reasons": {"id_space": "numbers of patients"}}
        register(opened, "second", {"train": A, "eval": Z}, **own)
        found = opened.registration("second", None)
        assert found is not None and (found.id_space, found.reasons) == (
            "hospital",
            {"id_space": "numbers of patients"},
        )
        with pytest.raises(BadInputError, match="registered as second already"):
            register(opened, "third", {"train": A, "eval": ["q"]}, **own)
        with pytest.raises(BadInputError, match="of id space 'hospital'"):
            register(opened, "second", {"train": ["p"], "eval": ["q"]}, span=1)
        assert opened.verify().ok


class TestSides:
    def policy(self, unit: str = "person") -> Policy:
        shares = {"train": 1.0}
        return Policy(dataset="d", epsilon=2.0, delta=1e-5, unit=unit, eval_epsilon=2.0, shares=shares)

    def test_a_unit_that_one_span_trains_on_is_not_evaluated_in_another(self, opened: Ledger) -> None:
        register(opened, "d", {"train": A, "eval": Z}, span=1)
        opened.apply_policy(self.policy())
        for train, evaluated in ((Z, ["new"]), (["new"], A), (Z, A)):
            with pytest.raises(BadInputError, match="the eval split has a budget of its own"):
                register(opened, "d", {"train": train, "eval": evaluated}, span=2)
        register(opened, "d", {"train": [*A, "new"], "eval": [*Z, "other"]}, span=2)

    def test_nor_does_the_eval_split_get_a_budget_where_they_cross(self, opened: Ledger) -> None:
        register(opened, "d", {"train": A, "eval": Z}, span=1)
        register(opened, "d", {"train": Z, "eval": A}, span=2)
        with pytest.raises(BadInputError, match="units that are trained on are in the eval split too"):
            opened.apply_policy(self.policy())
        assert [status.split for status in opened.status("d")] == ["train"]

    @pytest.mark.parametrize("unknown", [None, {ALL: A}])
    def test_where_nothing_tells_there_is_no_budget(self, opened: Ledger, unknown: Any) -> None:
        register(opened, "d", {"train": A, "eval": Z}, span=1)
        register(opened, "d", unknown, span=2)
        with pytest.raises(BadInputError, match="nothing shows which units"):
            opened.apply_policy(self.policy())

    def test_rows_that_cross_are_refused_by_their_part(self, opened: Ledger) -> None:
        one, other = table(opened, people()), table(opened, [[*row, "more"] for row in people()])
        register(opened, "d", None, unit="row", span=1, rows={"train": one, "eval": other})
        opened.apply_policy(self.policy("row"))
        with pytest.raises(BadInputError, match="rows that are trained on are in the eval split too"):
            register(opened, "d", None, unit="row", span=2, rows={"train": other, "eval": one})
        new = table(opened, [[*row, "others"] for row in people()])
        register(opened, "d", None, unit="row", span=2, rows={"train": one, "eval": np.concatenate([new, one[:1]])})

    @pytest.mark.parametrize("spans", [[1], [1, 2]])
    def test_a_unit_that_is_written_otherwise_in_the_other_split_is_one(self, opened: Ledger, spans: list[int]) -> None:
        """ExampleGen takes `ann` and `ANN` for two keys, and a hash may divide them."""
        for span in spans:
            register(opened, "d", {"train": [f"ann-{span}", "bob"], "eval": [f"ANN-{span}"]}, span=span)
        with pytest.raises(BadInputError, match="units that are trained on are in the eval split too"):
            opened.apply_policy(self.policy())

    def test_rows_of_one_span_in_both_splits_get_no_second_budget(self, opened: Ledger) -> None:
        """Nor do all rows of a small train split, which are a small part of the eval split."""
        both = {"train": table(opened, people()[:5]), "eval": table(opened, people(100))}
        register(opened, "d", None, unit="row", rows=both)
        with pytest.raises(BadInputError, match="rows that are trained on are in the eval split too"):
            opened.apply_policy(self.policy("row"))
        assert [status.split for status in opened.status("d")] == ["train"]

    def test_rows_that_are_declared_to_be_other_peoples_do(self, opened: Ledger) -> None:
        both = {split: table(opened, people()) for split in ("train", "eval")}
        register(opened, "d", None, unit="row", rows=both, reasons={"distinct_rows": "few columns"})
        opened.apply_policy(self.policy("row"))
        assert [status.split for status in opened.status("d")] == ["train", "eval"]


def shuffled(rows: list[list[str]]) -> list[list[str]]:
    return rows[::-1]


def one_cell_edited(rows: list[list[str]]) -> list[list[str]]:
    return [["999", *rows[0][1:]], *rows[1:]]


def columns_in_another_order(rows: list[list[str]]) -> list[list[str]]:
    return [[row[2], row[0], row[1]] for row in rows]


def written_otherwise(rows: list[list[str]]) -> list[list[str]]:
    return [[f"{float(age):.1f}", f" {value}00", label.upper()] for age, value, label in rows]


def a_half(rows: list[list[str]]) -> list[list[str]]:
    return rows[::2]


def with_others(rows: list[list[str]]) -> list[list[str]]:
    return [*rows, *([str(number), "0.5", "maybe"] for number in range(500, 700))]


CHANGES = (shuffled, one_cell_edited, columns_in_another_order, written_otherwise, a_half, with_others)


class TestRows:
    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("unit", ["row", "person"])
    def test_the_same_rows_under_a_second_name_are_refused(self, opened: Ledger, change: Any, unit: str) -> None:
        register(opened, "first", {"train": A, "eval": Z}, unit="person", rows={ALL: table(opened, people())})
        again = {ALL: table(opened, change(people()))}
        keys = None if unit == "row" else {"train": ["other"], "eval": ["numbers"]}
        with pytest.raises(BadInputError, match="many rows of this data are registered as first") as caught:
            register(opened, "second", keys, unit=unit, rows=again)
        assert "--distinct-rows" in str(caught.value.fix)

    def test_a_few_rows_in_common_are_chance(self, opened: Ledger) -> None:
        register(opened, "first", None, unit="row", rows={ALL: table(opened, people())})
        others = [[str(number), "0.5", "maybe"] for number in range(500, 600)]
        register(opened, "second", None, unit="row", rows={ALL: table(opened, [*others, *people(4)])})
        assert opened.registration("second", None) is not None

    def test_equal_rows_count_as_often_as_both_have_them(self, opened: Ledger) -> None:
        register(opened, "first", None, unit="row", rows={ALL: table(opened, [["1", "yes"]] * 2 + people(98))})
        register(opened, "second", None, unit="row", rows={ALL: table(opened, [["1", "yes"]] * 50)})
        assert opened.registration("second", None) is not None

    def test_a_reason_lets_them_be_other_people_and_stays(self, opened: Ledger) -> None:
        rows = {ALL: table(opened, people())}
        register(opened, "first", None, unit="row", rows=rows)
        register(opened, "second", None, unit="row", rows=rows, reasons={"distinct_rows": "five answers of a poll"})
        found = opened.registration("second", None)
        assert found is not None and found.reasons == {"distinct_rows": "five answers of a poll"}
        assert opened.verify().ok

    def test_a_reason_may_come_later_and_the_first_one_stays(self, opened: Ledger) -> None:
        rows, division = {ALL: table(opened, people())}, Division(buckets=None, key=None, patterns={})
        again = {"unit": "row", "rows": rows, "division": division}
        register(opened, "first", None, **again)
        before = opened.verify().records
        register(opened, "first", None, **again, reasons={"distinct_rows": "a poll"})
        register(opened, "first", None, **again, reasons={"distinct_rows": "another word"})
        found = opened.registration("first", None)
        assert found is not None and found.reasons == {"distinct_rows": "a poll"} and found.division == division
        assert opened.verify().ok and opened.verify().records == before + 1
        with pytest.raises(BadInputError, match="many rows of this data are registered as first"):
            register(opened, "second", None, unit="row", rows=rows)  # its digests are still there


class TestDivision:
    def spend(self, ledger: Ledger, division: Division | None) -> None:
        registered = ledger.registration("d", None)
        assert registered is not None
        where: dict[str, Any] = {"dataset": "d", "span": None, "data_digest": registered.digest, "split": "train"}
        with ledger.spend(
            **where, run_id="run", node="Trainer", plan=make_plan(unit="person"), division=division
        ) as grant:
            grant.start()

    def test_a_run_divides_as_was_registered(self, opened: Ledger) -> None:
        registered = Division(buckets={"train": 1, "eval": 1}, key="person", patterns={"all": "p.csv"})
        register(opened, "d", {"train": A, "eval": Z}, division=registered)
        for other in (
            Division(buckets={"train": 7, "eval": 7}, key="person"),
            Division(buckets={"train": 1, "eval": 1}, key="household"),
            Division(buckets={"train": 1, "eval": 1}),
            Division(),
        ):
            with pytest.raises(BudgetRefusedError, match="is registered with hash_split 1:1 by person"):
                self.spend(opened, other)
        self.spend(opened, dataclasses.replace(registered, patterns={"all": "renamed.csv"}))

    def test_units_are_compared_by_content_and_not_by_number(self, opened: Ledger) -> None:
        register(opened, "d", {"train": A, "eval": Z})
        registered = opened.registration("d", None)
        assert registered is not None
        opened.require_same_units(registered, {"train": list(reversed(A)), "eval": Z})
        for keys in ({"train": [*A[1:], Z[0]], "eval": [*Z[1:], A[0]]}, {"train": Z, "eval": A}):
            with pytest.raises(BudgetRefusedError, match="would have other units than were registered"):
                opened.require_same_units(registered, keys)

    def test_registering_again_adds_what_an_older_registration_has_not(self, opened: Ledger) -> None:
        keys: dict[str, Sequence[str]] = {"train": A, "eval": Z}
        register(opened, "d", None)
        older = opened.registration("d", None)
        assert older is not None and older.division is None
        division = Division(buckets={"train": 1, "eval": 1}, key="person")
        again = dataclasses.replace(older, division=division)
        opened.register(again, epsilon=2.0, delta=1e-5, units=keys)
        assert opened.registration("d", None) == again and opened.verify().ok
        with pytest.raises(BadInputError, match="registered as d already"):
            register(opened, "second", keys)
        with pytest.raises(BadInputError, match="with other values of: division"):
            opened.register(dataclasses.replace(again, division=Division()), epsilon=2.0, delta=1e-5, units=keys)
