"""What every backend owes its callers where the label is a number: it trains, or `check` refuses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.backends import keras_io, listed
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from tests.backends.conftest import PLAN, RAW_SPEC, Split, make_config, make_split, raw_rows
from tests.contract.task_cases import OFTEN, TRAINED, inputs_of, require_as_planned, require_rows_apart
from tests.contract.test_backend_contract import ROWS, SECTIONS, backend_of

LOW, HIGH = -20.0, 60.0
NUMBER = PLAN.model_copy(
    update={
        "label": "price",
        "label_domain": (),
        "label_dtype": "float",
        "positive_class": None,
        "label_range": (LOW, HIGH),
    }
)


def rows() -> list[dict[str, Any]]:
    """Rows whose price follows from size and colour."""
    found = []
    for row in raw_rows(ROWS):
        price = 3.0 * (row["size"] or 0.0) + (20.0 if row["colour"] == b"red" else 0.0) - 10.0
        found.append({**row, "price": min(max(price, LOW), HIGH)})
    return found


def config_of(name: str, **training: Any) -> PipelineConfig:
    section = {"backend": backend_of(name), "batch_size": 100, "epochs": 4, **SECTIONS[name], **training}
    dataset = {**section.pop("dataset", {}), "label": "price", "positive_class": None, "task": "regression"}
    return make_config(**{**section, "dataset": dataset, "thresholds": {"mae": {"max": 10.0}}})


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Split:
    spec = {**RAW_SPEC, "price": tf.io.FixedLenFeature([], tf.float32)}
    return make_split(tmp_path_factory.mktemp("priced"), plan=NUMBER, raw=rows(), spec=spec)


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in TRAINED])
def test_a_backend_trains_and_serves_in_the_labels_units(name: str, priced: Split, tmp_path: Path) -> None:
    learns = name in ("plain", "federated")
    config = config_of(name, **({"epochs": 60} if name == "plain" else {}))
    inputs = inputs_of(config, priced, tmp_path)
    executed = listed.load(backend_of(name)).train(inputs)
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](priced.serialized())
    assert set(served) == {"value"}
    values = served["value"].numpy()
    assert values.shape == (ROWS, 1) and values.dtype == np.float32
    assert (values >= LOW).all() and (values <= HIGH).all()
    truth = np.array([[row["price"]] for row in priced.raw])
    if learns:
        assert np.abs(values - truth).mean() < np.abs(truth - np.median(truth)).mean()
    require_as_planned(name, inputs, executed)


def test_dp_sgd_proves_that_the_loss_keeps_rows_apart(priced: Split, tmp_path: Path) -> None:
    require_rows_apart(inputs_of(config_of("dp_sgd"), priced, tmp_path))


@pytest.mark.parametrize("name", ["encrypted", "encrypted.dp_sgd"])
def test_private_predictions_of_a_number_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"training\.encrypted does not go with task regression"):
        config_of(name)


@pytest.mark.parametrize("label", [float("nan"), 1.25, -0.25])
def test_a_label_outside_the_range_is_refused(label: float, priced: Split, tmp_path: Path) -> None:
    path = tmp_path / "bad.gz"
    priced.write(path, [{"features": np.zeros(70, np.float32), "label": [label], "privacy_unit_key": [b"p"]}])
    inputs = inputs_of(config_of("plain"), priced, tmp_path)
    with pytest.raises(BadInputError, match=r"dataset\.label: some rows have no label, or one outside the range"):
        listed.load("plain").train(dataclasses.replace(inputs, train_files=(str(path),), eval_files=(str(path),)))


def test_labels_are_places_in_the_range(priced: Split) -> None:
    labels = keras_io.read_rows(priced.files, transform_graph=priced.transform_graph, classes=0).labels.ravel()
    truth = np.array([row["price"] for row in priced.raw])
    np.testing.assert_allclose(labels * (HIGH - LOW) + LOW, truth, atol=1e-4)
