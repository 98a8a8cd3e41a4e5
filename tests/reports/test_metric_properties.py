"""The flat values that ML Metadata stores."""

from __future__ import annotations

import math

import pytest

from privacy_pipeline.reports.record import properties
from privacy_pipeline.reports.record.properties import metric_properties, shown
from tests.reports.records import dp_record, make_summary, plain_record


def test_a_dp_run_has_epsilon_with_all_that_belongs_to_it() -> None:
    record = dp_record()
    assert record.guarantee is not None
    found = metric_properties(make_summary(record))
    # Never below the truth, which is what ML Metadata's six digits would otherwise make of it.
    assert 0 <= found["epsilon"] - record.guarantee.epsilon < 1e-5 * record.guarantee.epsilon
    assert float(f"{found['epsilon']:.6g}") == found["epsilon"]
    assert (found["delta"], found["unit"], found["relation"], found["accountant"]) == (1e-5, "row", "zero_out", "pld")
    assert (found["accuracy"], found["examples"], found["blessed"], found["cached_training"]) == (0.8, 200, 1, 0)


def test_a_plain_run_has_no_epsilon_key_rather_than_a_zero() -> None:
    found = metric_properties(make_summary(plain_record()))
    assert not {"epsilon", "delta", "accountant", "relation"} & set(found)
    assert found["training_guarantee"] == "none"


def test_what_a_slice_could_not_measure_is_left_out() -> None:
    assert "recall" not in metric_properties(make_summary(plain_record()))


def test_training_from_the_cache_is_told() -> None:
    found = metric_properties(make_summary(dp_record(), run_id="run-2", blessed=False))
    assert (found["cached_training"], found["blessed"], found["run_id"]) == (1, 0, "run-2")


def test_an_epsilon_is_shown_rounded_up() -> None:
    assert shown(3.0001) == "3.001"
    assert shown(2.9997) == "3.000"
    assert shown(3.0) == "3.000"
    assert shown(None) == "-"


@pytest.mark.parametrize("number", [1e-13, 3.4000001, 1e15, 1e22, 1.7e308, math.inf])
def test_what_ml_metadata_keeps_of_a_guarantee_is_never_less(number: float) -> None:
    assert number <= properties._up(number) <= max(number + 1e-6, number * 1.00001)
