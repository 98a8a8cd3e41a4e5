"""Ranges and vocabularies from noisy answers, into the columns that lack them, and into no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from privacy_pipeline.accounting import events
from privacy_pipeline.data.schema.features import Column
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.ledger.state.registration import SplitCount
from privacy_pipeline.releases.beam_sums import ExactSums
from privacy_pipeline.releases.queries import Row
from privacy_pipeline.releases.release import Release
from privacy_pipeline.releases.statistics import PURPOSE, DpStatistics, filled, statistics_of, statistics_release
from tests.ledger.conftest import DIGEST, make_registration
from tests.releases.test_release_sensitivity import sums_of

ROWS = 3000
REGISTRATION = dataclasses.replace(make_registration(), splits={"train": SplitCount(rows=ROWS, units=ROWS)})
PUBLIC = Column(name="sex", kind="categorical", dtype="bytes", domain=("F", "M"))
COLUMNS = (
    PUBLIC,
    Column(name="age", kind="numeric", dtype="float"),
    Column(name="word", kind="categorical", dtype="bytes", optional=True),
)


def release(epsilon: float = 1.0) -> Release:
    asked = statistics_release(COLUMNS, registration=REGISTRATION, epsilon=epsilon, delta=1e-5)
    assert asked is not None
    return asked


def rows() -> list[Row]:
    rng = np.random.default_rng(2)
    ages, words = rng.uniform(20, 60, ROWS), rng.choice(["yes", "no", None], ROWS, p=[0.6, 0.3, 0.1])
    table: list[Row] = [{"sex": "F", "age": float(a), "word": w} for a, w in zip(ages, words, strict=True)]
    return [*table[:-1], {"sex": "F", "age": 1e6, "word": "the only one of its kind"}]


PAID = {"budget": "adult/train/row", "ledger_entry": 1}


def statistics(asked: Release) -> DpStatistics:
    return statistics_of(asked, asked.noised(sums_of(asked, [[row] for row in rows()])), **PAID)


def check(released: list[DpStatistics]) -> None:
    (one,) = released
    assert one.ranges == {"age": (16.0, 64.0)}
    assert one.vocabularies == {"word": ("yes", "no")}


def test_what_is_released_fills_the_columns_and_hides_the_one_of_its_kind() -> None:
    found = statistics(release())
    check([found])
    assert DpStatistics.model_validate_json(found.model_dump_json()) == found
    assert events.from_json(found.event) == release().plan.event
    public, age, word = filled(COLUMNS, found)
    assert public == PUBLIC
    assert (age.minimum, age.maximum) == (16.0, 64.0)
    assert (word.domain, word.optional) == (("yes", "no"), True)


def test_beam_adds_the_noise_to_the_final_sums() -> None:
    asked = release()
    with beam.Pipeline() as pipeline:
        sums = pipeline | beam.Create([(None, row) for row in rows()]) | ExactSums(asked)
        found = sums | beam.Map(lambda exact: statistics_of(asked, asked.noised(exact), **PAID))
        assert_that(found, check)


def test_nothing_is_asked_where_all_is_public() -> None:
    assert statistics_release([PUBLIC], registration=REGISTRATION, epsilon=1.0, delta=1e-5) is None


def test_what_drowns_in_noise_is_an_error_and_never_a_guess() -> None:
    asked = release(epsilon=0.05)
    with pytest.raises(BadInputError, match="stands out"):
        statistics_of(asked, asked.noised({}), **PAID)
    nothing = statistics(release()).model_copy(update={"ranges": {}})
    with pytest.raises(BadInputError, match="none was released"):
        filled(COLUMNS, nothing)


def test_the_ledger_charges_a_release_as_it_charges_a_training(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", create=True)
    ledger.register(REGISTRATION, epsilon=1.2, delta=1e-5)
    asked = release()

    def spend(run_id: str) -> None:
        where = {"dataset": "adult", "span": None, "data_digest": DIGEST, "split": "train", "run_id": run_id}
        with ledger.spend(node="DpStatistics", plan=asked.plan, purpose=PURPOSE, **where) as grant:
            grant.start()
            grant.commit(asked.plan.event)

    spend("one")
    (entry,) = ledger.entries("adult")
    assert entry.state is State.COMMITTED
    assert not entry.overrun
    assert entry.purpose == PURPOSE
    assert entry.plan["kind"] == "dp_statistics"
    assert entry.epsilon == pytest.approx(asked.plan.epsilon)
    with pytest.raises(BudgetRefusedError):
        spend("two")


def test_every_release_counts_and_a_retry_is_a_release(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", create=True)
    ledger.register(REGISTRATION, epsilon=3.0, delta=1e-5)
    asked = release()
    where = {"dataset": "adult", "span": None, "data_digest": DIGEST, "split": "train", "run_id": "one"}
    for _ in range(2):  # the same run, node and plan: what a crash after the start leads to
        with ledger.spend(node="DpStatistics", plan=asked.plan, purpose=PURPOSE, **where) as grant:
            grant.start()
    assert [entry.state for entry in ledger.entries("adult")] == [State.STARTED, State.STARTED]
    (status,) = ledger.status("adult")
    assert status.spent_epsilon > 1.3 * asked.plan.epsilon
