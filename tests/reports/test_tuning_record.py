"""What the record, the tables and the report state of a tuning."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from privacy_pipeline.accounting import accountants, events
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.accounting.tuning import trial_event
from privacy_pipeline.api.record_rows import privacy_rows
from privacy_pipeline.backends.base import Tuned
from privacy_pipeline.reports.record.build import build_record
from tests.reports.records import COMPOSITION, FACTS, make_config, make_executed
from tests.reports.tuned import EACH, POINT, SELECT, SPACE, tuned_executed, tuned_plan


def record_of(how: dict[str, Any] = SELECT, **changes: Any) -> PrivacyRecord:
    config = make_config(training={"tuning": how})
    executed = tuned_executed(how, **changes)
    return build_record(config=config, facts=FACTS, executed=executed, plan=tuned_plan(how), composition=COMPOSITION)


def access(record: PrivacyRecord, what: str) -> Any:
    (found,) = [a for a in record.data_accesses if a.what == what]
    return found


def test_the_guarantee_is_that_of_the_whole_tuning() -> None:
    record = record_of()
    assert record.guarantee is not None and record.mechanism is not None and record.tuning is not None
    event = events.from_json(record.mechanism.dp_event)
    assert event == tuned_plan().event
    whole = accountants.guarantee(event, delta=1e-5, relation=Relation.ZERO_OUT)
    alone = accountants.guarantee(trial_event(event), delta=1e-5, relation=Relation.ZERO_OUT)
    assert (record.guarantee.epsilon, record.guarantee.epsilon_pld) == (whole.epsilon, None)
    assert (record.tuning.epsilon_one_trial, record.tuning.accountant_one_trial) == (alone.epsilon, "pld")
    assert 1.2 * alone.epsilon < whole.epsilon


def test_the_mechanism_is_that_of_the_chosen_trial() -> None:
    record = record_of()
    assert record.mechanism is not None and record.mechanism.clipping_norm == POINT["clipping_norm"]
    assert record.tuning is not None and record.tuning.chosen == POINT and record.tuning.space == SPACE


def test_what_a_selection_keeps_secret_is_nowhere() -> None:
    """13 trials, one of them chosen: neither the number nor what the others gave is in the record."""
    record = record_of()
    assert record.tuning is not None and record.tuning.results == [] and record.tuning.trials == 7
    assert "scores" not in record.tuning.model_dump()
    fields = {"method", "trials", "distribution", "space", "metric", "chosen", "trained", "results"}
    assert set(record.tuning.model_dump()) == fields | {"epsilon_one_trial", "accountant_one_trial"}


def test_scores_time_and_earlier_choices_are_listed_as_not_covered() -> None:
    record = record_of()
    choice = access(record, "choice of hyperparameters")
    assert choice.covered and "one trial alone would have claimed" in choice.detail and "Poisson" not in choice.detail
    scores = access(record, "scores of the trials")
    assert not scores.covered and "eval split" in scores.detail
    assert not access(record, "load of the machine while it tunes").covered
    assert not access(record, "earlier choices of hyperparameters, and of the space").covered


def test_users_with_rows_in_both_splits_are_spoken_of() -> None:
    config = make_config(training={"tuning": SELECT}, dataset={"privacy_unit": {"key": "person"}})
    record = build_record(
        config=config, facts=FACTS, executed=tuned_executed(), plan=tuned_plan(), composition=COMPOSITION
    )
    assert "not checked: who shares a `person`" in access(record, "scores of the trials").detail


def test_each_trial_is_listed_and_its_time_is_no_secret() -> None:
    record = record_of(EACH)
    assert record.tuning is not None and [trial.score for trial in record.tuning.results] == [0.7, 0.8, None]
    assert record.guarantee is not None and record.guarantee.accountant == "pld"
    assert not [a for a in record.data_accesses if a.what == "load of the machine while it tunes"]
    again = PrivacyRecord.model_validate_json(record.model_dump_json())
    assert again == record


def test_a_plain_tuning_is_told_and_covers_nothing() -> None:
    config = make_config("plain", training={"tuning": {**EACH, "space": {"learning_rate": [0.1, 0.2]}}})
    tuned = Tuned(point={"learning_rate": 0.1}, plan=None)
    record = build_record(config=config, facts=FACTS, executed=make_executed(tuning=tuned), plan=None, composition=None)
    assert record.tuning is not None and record.tuning.epsilon_one_trial is None and record.guarantee is None
    assert not access(record, "choice of hyperparameters").covered


def test_an_untrained_model_is_said_to_be_one() -> None:
    tuned = dataclasses.replace(tuned_executed().tuning or Tuned(point={}, plan=None), trained=False)
    record = record_of({**SELECT, "distribution": "poisson"}, steps=0, epochs=0, units=None, tuning=tuned, examples=0)
    assert record.training_guarantee == "dp" and record.mechanism is not None and record.mechanism.steps == 0
    assert "nothing was trained" in [a.name for a in record.assumptions]
    assert "untrained" in access(record, "choice of hyperparameters").detail


@pytest.mark.parametrize("changes", [{"steps": 19}, {"sampler": "fixed_partition"}, {"units": 999}, {"event": None}])
def test_no_record_is_made_of_trials_that_ran_otherwise(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="did not hold"):
        record_of(**changes)


def test_records_of_version_4_still_open() -> None:
    document = record_of().model_dump(mode="json") | {"record_version": 4}
    del document["tuning"]
    assert PrivacyRecord.model_validate(document).tuning is None


def test_the_table_states_the_honest_number_and_what_one_trial_would_have_claimed() -> None:
    rows = dict(privacy_rows(record_of()))
    assert "7 on average" in rows["tuning, counted in epsilon"]
    assert "not claimed" in rows["epsilon had this been the only trial"]
    each = dict(privacy_rows(record_of(EACH)))
    assert each["trial 2, accuracy on the eval split"].startswith("0.8000: learning_rate 0.05")
    assert each["trial 3, accuracy on the eval split"].startswith("-: ")
