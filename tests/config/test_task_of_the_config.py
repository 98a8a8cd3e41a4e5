"""The task of a config: inferred, stated, and what does not go with it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.config.models.pipeline import PipelineConfig


def dataset(**changes: Any) -> dict[str, Any]:
    return {"name": "things", "path": "d", "schema": "s.pbtxt", "label": "y", **changes}


def config(thresholds: dict[str, Any], **changes: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "pipeline": "things",
            "dataset": dataset(**changes),
            "training": {"backend": "plain"},
            "evaluation": {"thresholds": thresholds},
        }
    )


@pytest.mark.parametrize(
    ("given", "task"),
    [
        ({"positive_class": "a"}, "binary"),
        ({}, "multiclass"),
        ({"task": "binary", "positive_class": 1}, "binary"),
        ({"task": "multiclass"}, "multiclass"),
        ({"task": "regression"}, "regression"),
    ],
)
def test_a_task_is_stated_or_follows_from_the_positive_class(given: dict[str, Any], task: str) -> None:
    found = DatasetConfig.model_validate(dataset(**given))
    assert found.task == task
    assert DatasetConfig.model_validate(found.model_dump(by_alias=True)) == found
    assert DatasetConfig.model_validate_json(found.model_dump_json(by_alias=True)).task == task


@pytest.mark.parametrize("given", [{"task": "binary", "positive_class": "a"}, {"task": "multiclass"}])
def test_a_task_that_is_inferred_anyway_changes_nothing(given: dict[str, Any]) -> None:
    without = {key: value for key, value in given.items() if key != "task"}
    assert DatasetConfig.model_validate(dataset(**given)) == DatasetConfig.model_validate(dataset(**without))


def test_a_block_that_states_no_task_is_written_as_before_there_was_one() -> None:
    for by_alias in (True, False):
        written = DatasetConfig.model_validate(dataset(positive_class="a")).model_dump(by_alias=by_alias)
        assert not {"task", "stated_task"} & set(written)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "binary"}, "task binary needs `positive_class`"),
        ({"task": "multiclass", "positive_class": "a"}, "task multiclass has no `positive_class`"),
        ({"task": "regression", "positive_class": 3}, "task regression has no `positive_class`"),
        ({"task": "ranking"}, "Input should be 'binary', 'multiclass' or 'regression'"),
        ({"task": "regression", "schema": "infer"}, "or a number write a schema with the label's domain or range"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetConfig.model_validate(dataset(**given))


def test_thresholds_are_on_metrics_of_the_task_and_on_their_side() -> None:
    assert config({"mae": {"max": 3}, "r2": {"min": 0.1}}, task="regression").dataset.task == "regression"
    with pytest.raises(ValidationError, match=r"thresholds\.accuracy: task regression has no such metric; one of mae,"):
        config({"accuracy": {"min": 0.5}}, task="regression")
    with pytest.raises(ValidationError, match=r"a smaller rmse is better: replace `min`"):
        config({"rmse": {"min": 0.5}}, task="regression")
    with pytest.raises(ValidationError, match=r"a larger r2 is better: replace `max_increase`"):
        config({"r2": {"max_increase": 0.1}}, task="regression")
