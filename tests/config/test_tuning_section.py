"""The block that tunes: what it takes, and what would not be accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from privacy_pipeline.config.loader import load_config
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError

SELECT = {
    "method": "repeat_and_select",
    "trials": 5,
    "distribution": "poisson",
    "minutes": 5,
    "space": {"learning_rate": [0.01, 0.1], "hidden_units": [[8], [16, 8], [32]]},
}


def load(
    folder: Path, tuning: dict[str, Any], *, training: dict[str, Any] | None = None, **sections: Any
) -> PipelineConfig:
    document = {
        "pipeline": "things",
        "dataset": {"name": "things", "path": "d", "schema": "s.pbtxt", "label": "y", "positive_class": "a"},
        "training": {"backend": "dp_sgd", "dp_sgd": {"target_epsilon": 3, "delta": 1e-5}, "tuning": tuning},
        "evaluation": {"thresholds": {"accuracy": {"min": 0.5}}},
    }
    document["training"] = {
        name: value for name, value in {**document["training"], **(training or {})}.items() if value is not None
    }
    for name, values in sections.items():
        document[name] = {**document[name], **values}
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_config(path)


def test_a_space_is_all_its_combinations(tmp_path: Path) -> None:
    section = load(tmp_path, SELECT).training.tuning
    assert section is not None
    points = section.space.points()
    assert len(points) == 6 and points[0] == {"learning_rate": 0.01, "hidden_units": [8]}
    assert {tuple(point) for point in points} == {("learning_rate", "hidden_units")}


@pytest.mark.parametrize(
    "name", ["epochs", "batch_size", "noise_multiplier", "target_epsilon", "sampling", "delta", "users", "noise"]
)
def test_what_changes_the_cost_of_a_trial_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError) as caught:
        load(tmp_path, {**SELECT, "space": {"learning_rate": [0.1], name: [1, 2]}})
    message = caught.value.message
    assert f"`{name}` changes what a trial costs" in message and "learning_rate, optimizer" in message
    assert len(message.splitlines()) == 1 and "c.yaml:" in message


@pytest.mark.parametrize(
    ("tuning", "training", "says"),
    [
        ({"distribution": None}, {}, "needs `distribution`"),
        ({"method": "each"}, {}, "`method: each` takes none"),
        ({"minutes": None}, {}, "needs `minutes`"),
        ({"minutes": 0}, {}, "minutes"),
        ({"method": "each", "distribution": None, "minutes": 2}, {}, "`minutes` hides"),
        ({"trials": 1}, {}, "at least 2"),
        ({"space": {}}, {}, "names no hyperparameter"),
        ({"space": {"learning_rate": []}}, {}, "learning_rate"),
        ({"space": {"momentum": [0.9]}}, {}, "momentum"),
        ({"space": {"learning_rate": [0.1 + i for i in range(1001)]}}, {}, "at most 1000"),
        ({}, {"seed": 3}, "same noise"),
        ({}, {"dp_sgd": {"target_epsilon": 3, "delta": 1e-5, "sampling": "truncated_poisson"}}, "truncated_poisson"),
        ({"space": {"clipping_norm": [1.0]}}, {"backend": "plain", "dp_sgd": None}, "no `clipping_norm`"),
        ({}, {"backend": "encrypted", "encrypted": {"train_with": "dp_sgd", "simulate": True}}, "not with encrypted"),
    ],
)
def test_what_is_not_accounted_for_is_refused(
    tmp_path: Path, tuning: dict[str, Any], training: dict[str, Any], says: str
) -> None:
    block = {name: value for name, value in {**SELECT, **tuning}.items() if value is not None}
    with pytest.raises(BadInputError) as caught:
        load(tmp_path, block, training=training)
    assert says in f"{caught.value.message} {caught.value.fix}"


def test_a_tuning_does_not_go_with_a_private_evaluation(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="exactly on the eval split"):
        load(tmp_path, SELECT, evaluation={"dp": {"epsilon": 1.0, "delta": 1e-5}})


def test_plain_takes_a_seed_and_a_tuning(tmp_path: Path) -> None:
    config = load(tmp_path, SELECT, training={"backend": "plain", "dp_sgd": None, "seed": 3})
    assert config.training.tuning is not None and not config.training.claims_guarantee
