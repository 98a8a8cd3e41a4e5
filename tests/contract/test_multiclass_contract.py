"""What every backend owes its callers where the label has several classes: it trains, or `check` refuses it."""

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
from tests.contract.test_backend_contract import ROWS, SECTIONS, backend_of, silo_sizes

DOMAIN = ("cheap", 'a "b", c', "dear ü")  # of which the last one is never seen below
SEVERAL = PLAN.model_copy(update={"label": "price", "label_domain": (*DOMAIN, "unseen"), "positive_class": None})


def rows() -> list[dict[str, Any]]:
    """Rows whose price follows from size and colour."""
    found = []
    for row in raw_rows(ROWS):
        size = row["size"] or 0.0
        place = 2 if row["colour"] == b"red" else int(size > 5)
        found.append({**row, "price": DOMAIN[place].encode()})
    return found


def config_of(name: str, **training: Any) -> PipelineConfig:
    section = {"backend": backend_of(name), "batch_size": 100, "epochs": 4, **SECTIONS[name], **training}
    dataset = {**section.pop("dataset", {}), "label": "price", "positive_class": None}
    return make_config(**{**section, "dataset": dataset})


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Split:
    spec = {**RAW_SPEC, "price": tf.io.FixedLenFeature([], tf.string)}
    return make_split(tmp_path_factory.mktemp("several"), plan=SEVERAL, raw=rows(), spec=spec)


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in TRAINED])
def test_a_backend_trains_serves_and_keeps_rows_apart(name: str, several: Split, tmp_path: Path) -> None:
    inputs = inputs_of(config_of(name), several, tmp_path)
    backend = listed.load(backend_of(name))
    executed = backend.train(inputs)
    found = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](several.serialized())
    assert set(found) == {"probabilities", "class"}
    probabilities = found["probabilities"].numpy()
    assert probabilities.shape == (ROWS, 4) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    said = [value.decode() for value in found["class"].numpy().ravel()]
    assert said == [SEVERAL.label_domain[place] for place in probabilities.argmax(axis=1)]
    truth = [row["price"].decode() for row in several.raw]
    if name in ("plain", "federated"):
        assert np.mean([one == other for one, other in zip(said, truth, strict=True)]) > 0.7
    require_as_planned(name, inputs, executed)


def test_dp_sgd_proves_that_the_loss_keeps_rows_apart(several: Split, tmp_path: Path) -> None:
    require_rows_apart(inputs_of(config_of("dp_sgd"), several, tmp_path))


@pytest.mark.parametrize("name", ["encrypted", "encrypted.dp_sgd"])
def test_private_predictions_of_several_classes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"training\.encrypted does not go with task multiclass"):
        config_of(name)


def test_a_label_outside_the_domain_is_refused(several: Split, tmp_path: Path) -> None:
    path = tmp_path / "bad.gz"
    several.write(path, [{"features": np.zeros(70, np.float32), "label": [4], "privacy_unit_key": [b"p"]}])
    inputs = inputs_of(config_of("plain"), several, tmp_path)
    with pytest.raises(BadInputError, match=r"dataset\.label"):
        listed.load("plain").train(dataclasses.replace(inputs, train_files=(str(path),), eval_files=(str(path),)))


def test_labels_are_places_in_the_domain(several: Split) -> None:
    labels = keras_io.read_rows(several.files, transform_graph=several.transform_graph, classes=4).labels.ravel()
    assert [SEVERAL.label_domain[int(place)] for place in labels] == [row["price"].decode() for row in several.raw]


def test_silos_have_the_rows_of_the_split() -> None:
    assert sum(silo_sizes().values()) == ROWS
