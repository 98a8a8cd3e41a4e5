"""`silo_privacy` before a run: registration holds the stated silos against the data, `check` forecasts the charge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.preflight.forecast import fitting, noise_section
from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.pipelines.projects import HASHED, KEYED, SCHEMA, write_project

SILOS = {"red": 54, "green": 53, "blue": 53}  # of 160 rows
IGNORED = SCHEMA.replace('name: "colour"', 'name: "colour" annotation { tag: "ignore" }')


def project(
    root: Path, *, silos: dict[str, int] | None = None, column: str = "colour", **sections: Any
) -> PipelineConfig:
    privacy = {
        "noise_multiplier": 4.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "column": column,
        "silos": silos or SILOS,
    }
    training = {"backend": "federated", "federated": {"silo_privacy": privacy}}
    return write_project(root, training=training, **sections)


def test_registration_and_forecast(tmp_path: Path) -> None:
    config = project(tmp_path)
    with pytest.raises(BudgetRefusedError, match="ledger"):
        preflight.check(config, span=1)
    register_dataset(config=config, epsilon=10, delta=1e-5)
    checked = preflight.check(config, span=1)
    assert checked.plan is not None and checked.forecast is not None and checked.forecast.fits
    assert (checked.plan.units, checked.plan.steps, checked.plan.batch_size) == (160, 8, 40)
    assert checked.features is not None and checked.features.silo == "colour"
    assert [column.name for column in checked.features.columns] == ["colour", "size"]
    assert not Ledger.open(config.ledger).entries("things")


def test_silos_are_those_of_one_span(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="silo_privacy states the silos of one span"):
        project(tmp_path, dataset={"span": [1, 2]})


def test_the_silo_may_be_kept_out_of_the_model(tmp_path: Path) -> None:
    features = preflight.read_features(project(tmp_path, schema=IGNORED))
    assert features is not None and features.silo == "colour"
    assert [column.name for column in features.columns] == ["size"]


def test_wrong_numbers_are_told_and_nothing_is_registered(tmp_path: Path) -> None:
    config = project(tmp_path, silos={"red": 100, "green": 60})
    with pytest.raises(BadInputError, match="not the numbers of units in the training split") as caught:
        register_dataset(config=config, epsilon=10, delta=1e-5)
    assert caught.value.fix == 'silos: {"blue": 53, "green": 53, "red": 54}'
    assert not (tmp_path / "ledger").exists()


def test_a_sum_that_is_not_the_registered_one_is_refused_by_check(tmp_path: Path) -> None:
    register_dataset(config=project(tmp_path), epsilon=10, delta=1e-5)
    other = project(tmp_path / "other", silos={**SILOS, "red": 55})
    other = other.model_copy(update={"ledger": f"sqlite:///{tmp_path}/ledger/ledger.db"})
    with pytest.raises(BadInputError, match="hold 161 units together, and 160 are registered"):
        preflight.check(other, span=1)


def test_a_person_in_two_silos_is_refused_at_registration(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"'person' \d+ has rows in the silos"):
        register_dataset(config=project(tmp_path, dataset={**HASHED, **KEYED}), epsilon=10, delta=1e-5)


@pytest.mark.parametrize(
    ("column", "message"), [("shade", r"'shade'.*silo_privacy\.column|silo_privacy\.column.*shade"), ("size", "FLOAT")]
)
def test_a_column_that_can_be_no_silo_is_named(tmp_path: Path, column: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        preflight.check(project(tmp_path, column=column), span=1)


def test_a_file_without_the_silos_column_is_named(tmp_path: Path) -> None:
    config = project(tmp_path, schema=IGNORED)
    file = next((tmp_path / "data" / "span-1" / "train").glob("*.csv"))
    file.write_text(file.read_text().replace("colour", "shade", 1))
    with pytest.raises(BadInputError, match=r"rows.csv: column 'colour' is missing"):
        preflight.check_source(config, preflight.read_features(config))


@pytest.mark.slow
def test_the_forecast_sets_noise_in_the_block_of_the_silos(tmp_path: Path) -> None:
    config = project(tmp_path)
    register_dataset(config=config, epsilon=4, delta=1e-5)
    path, block = noise_section(config) or ("", None)
    assert path == "federated.silo_privacy" and block.noise_multiplier == 4.0
    found = fitting(config, preflight.check(config, span=1), span=1, runs=3)
    assert found is not None and found.runs_that_fit >= 3
    assert found.override == f"training.federated.silo_privacy.noise_multiplier={found.noise_multiplier!r}"
    plain = write_project(tmp_path / "plain")
    assert noise_section(plain) is None
