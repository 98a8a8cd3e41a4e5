"""What every backend of the registry owes its callers. A new backend needs one line in SECTIONS and no new test."""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.accounting.plan import MechanismPlan, Sampler
from privacy_pipeline.backends import keras_io, listed, registry
from privacy_pipeline.backends.base import Executed
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.features import LABEL_FEATURE
from privacy_pipeline.dp.rowwise.verdict import PROVEN
from privacy_pipeline.errors import BadInputError
from tests.backends.conftest import make_config, silo_sizes

# Backends, and ways to run them after a dot, with the keys of the training section that they cannot do without.
DP = {"noise_multiplier": 2.0, "delta": 1e-5}
KEYED = {"dataset": {"privacy_unit": {"key": "person"}}}
FEDERATED = {"learning_rate": 1e-3}  # the default: clients and server have their own
ALGORITHM = {"client_optimizer": {"learning_rate": 0.5}, "server_optimizer": {"learning_rate": 1.0, "momentum": 0.5}}
SILOS = {**DP, "clipping_norm": 1.0, "column": "colour", "silos": silo_sizes()}
SECTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dp_sgd": {"dp_sgd": DP},
    "dp_sgd.shuffled": {"dp_sgd": {**DP, "sampling": "shuffled"}},
    "encrypted": {"encrypted": {"simulate": True}},
    "encrypted.dp_sgd": {"encrypted": {"simulate": True, "train_with": "dp_sgd"}, "dp_sgd": DP},
    "dp_sgd.tensorflow_privacy": {"dp_sgd": {**DP, "engine": "tensorflow_privacy"}},
    "federated": {**FEDERATED, "federated": {"clients": {"clients": 600}, "algorithm": ALGORITHM}},
    "federated.private": {**FEDERATED, **KEYED, "federated": {"privacy": DP, "algorithm": ALGORITHM}},
    "federated.silos": {**FEDERATED, "federated": {"silo_privacy": SILOS, "algorithm": ALGORITHM}},
}
ROWS, BATCH, EPOCHS = 600, 100, 2
EXACT = re.compile(r"loss|accuracy|auc|precision|recall|error|gradient")

OFTEN = ("plain", "dp_sgd", "encrypted", "federated", "federated.private")  # one of a kind; the others are slow

pytestmark = pytest.mark.parametrize(
    "name",
    [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in SECTIONS],
    scope="module",
)


def backend_of(name: str) -> str:
    return name.partition(".")[0]


def config_of(name: str, **training: Any) -> PipelineConfig:
    return make_config(
        **{"backend": backend_of(name), "batch_size": BATCH, "epochs": EPOCHS, **SECTIONS[name], **training}
    )


def is_private(name: str) -> bool:
    return config_of(name).training.claims_guarantee


@dataclass(frozen=True)
class Trained:
    """One training and all that came out of it."""

    plan: MechanismPlan | None
    executed: Executed
    model: Any
    progress: list[tuple[int, int, str]]

    def predict(self, examples: Any) -> Any:
        return self.model.signatures["serving_default"](examples)["probability"]


def train(name: str, split: Any, folder: Path, *, files: tuple[str, ...] = (), **training: Any) -> Trained:
    backend, config = listed.load(backend_of(name)), config_of(name, **training)
    plan = backend.plan(config=config, units=ROWS)
    progress: list[tuple[int, int, str]] = []
    report = {"report_progress": lambda done, total, unit: progress.append((done, total, unit))}
    inputs = split.inputs(config, folder, plan=plan, train_files=files or split.files, **report)
    executed = backend.train(inputs)
    return Trained(plan, executed, tf.saved_model.load(str(folder / "model")), progress)


@pytest.fixture(scope="module")
def trained(name: str, split: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(name, split, tmp_path_factory.mktemp(name))


def test_the_backend_has_its_registered_name_and_a_section_here(name: str) -> None:
    assert listed.load(backend_of(name)).name == backend_of(name)
    assert set(registry.names()) == {backend_of(known) for known in SECTIONS}
    assert is_private(name) == (registry.relation_of(config_of(name)) is not None)


def test_serving_takes_serialized_raw_examples_and_gives_probabilities(trained: Trained, split: Any) -> None:
    signature = trained.model.signatures["serving_default"]
    (given,) = signature.structured_input_signature[1].values()
    assert (given.dtype, given.shape.as_list()) == (tf.string, [None])
    found = signature(split.serialized())
    assert set(found) == {"probability"}
    probability = found["probability"]
    assert probability.dtype == tf.float32 and probability.shape == [ROWS, 1]
    values = probability.numpy()
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    assert values.std() > 1e-3  # it looks at the example


def test_what_is_proven_of_the_rows_is_known_before_the_data(name: str, split: Any, trained: Trained) -> None:
    if trained.plan is None:
        assert trained.executed.rows is None
        return
    specs = functools.partial(keras_io.input_specs, split.transform_graph)
    backend = listed.load(backend_of(name))
    verdict = backend.examine(config=config_of(name), features=split.features, plan=trained.plan, specs=specs)
    assert verdict == trained.executed.rows
    assert (verdict and verdict.kind) == (None if name == "federated.private" else PROVEN)


def test_any_batch_size_can_be_served(trained: Trained, split: Any) -> None:
    whole = trained.predict(split.serialized()).numpy()
    single = trained.predict(split.serialized()[:1]).numpy()
    np.testing.assert_allclose(single, whole[:1], atol=1e-6)
    assert trained.predict(split.serialized()[:0]).shape == [0, 1]


def test_the_label_is_not_needed_to_serve(trained: Trained, split: Any) -> None:
    without = split.serialized(without=(split.features.label, split.features.unit_key))
    np.testing.assert_array_equal(trained.predict(without), trained.predict(split.serialized()))


def test_the_label_does_not_change_a_prediction(trained: Trained, split: Any) -> None:
    flipped = dataclasses.replace(split, raw=[{**row, split.features.label: b"no"} for row in split.raw])
    np.testing.assert_array_equal(trained.predict(flipped.serialized()), trained.predict(split.serialized()))


def test_transform_features_gives_the_label(trained: Trained, split: Any) -> None:
    found = trained.model.signatures["transform_features"](split.serialized())
    labels = found[LABEL_FEATURE].numpy().ravel()
    np.testing.assert_array_equal(labels, [row[split.features.label] == b"yes" for row in split.raw])
    assert set(found) > {LABEL_FEATURE}


def permuted_keys(split: Any, key: str) -> list[dict[str, Any]]:
    keys = [row[key] for row in split.raw]
    return [{**row, key: keys[(number + 1) % len(keys)]} for number, row in enumerate(split.raw)]


def test_the_units_key_changes_no_prediction(trained: Trained, split: Any) -> None:
    other = dataclasses.replace(split, raw=permuted_keys(split, split.features.unit_key))
    np.testing.assert_array_equal(trained.predict(other.serialized()), trained.predict(split.serialized()))


@pytest.mark.slow
def test_the_units_key_changes_no_training(name: str, split: Any, tmp_path: Path) -> None:
    """With a fixed seed two trainings that differ in the keys alone make the same model."""
    rows = [tf.train.Example.FromString(r) for r in tf.data.TFRecordDataset(split.files, "GZIP").as_numpy_iterator()]
    keys = [row.features.feature["privacy_unit_key"].bytes_list.value[0] for row in rows]
    assert len(set(keys)) == ROWS
    path = tmp_path / "permuted.gz"
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for row, key in zip(rows, reversed(keys), strict=True):
            row.features.feature["privacy_unit_key"].bytes_list.value[0] = key
            writer.write(row.SerializeToString())
    one = train(name, split, tmp_path / "one", seed=1, epochs=1)
    other = train(name, split, tmp_path / "other", files=(str(path),), seed=1, epochs=1)
    np.testing.assert_allclose(one.predict(split.serialized()), other.predict(split.serialized()), atol=1e-5)


def test_progress_grows_and_ends_at_its_total(trained: Trained) -> None:
    assert trained.progress
    done = [step for step, _, _ in trained.progress]
    assert done == sorted(set(done)) and done[0] >= 1
    ((total, unit),) = {(total, unit) for _, total, unit in trained.progress}
    assert done[-1] == total == trained.executed.steps and unit == "steps"


def test_what_ran_is_what_was_planned(name: str, trained: Trained) -> None:
    executed, plan = trained.executed, trained.plan
    assert (executed.epochs, executed.examples) == (EPOCHS, ROWS)
    # How often a row was sampled is secret; only where each is dealt once is it counted.
    sampled = plan is not None and plan.sampler is Sampler.POISSON
    assert executed.largest_participation == (None if sampled else 1)
    assert executed.generator and not executed.seed_fixed
    if plan is None:
        assert not is_private(name) and executed.steps == EPOCHS * ROWS // BATCH
    else:
        assert (executed.steps, executed.epochs, executed.units) == (plan.steps, plan.epochs, plan.units)
        assert executed.event == plan.event and executed.sampler == plan.sampler.value
        assert executed.withheld


@pytest.mark.slow_but("federated.private")
def test_a_fixed_seed_is_confessed(name: str, split: Any, tmp_path: Path) -> None:
    assert train(name, split, tmp_path, seed=1, epochs=1).executed.seed_fixed


def test_the_history_of_a_private_backend_holds_nothing_exact(name: str, trained: Trained, tmp_path: Path) -> None:
    history = trained.executed.history
    assert all(len(curve) == EPOCHS and np.isfinite(curve).all() for curve in history.values())
    exact = {metric for metric in history if EXACT.search(metric)}
    assert not exact if is_private(name) else exact


def test_planning_reads_no_data_and_writes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where neither data nor schema nor ledger of the config is
    listed.load(backend_of(name)).plan(config=config_of(name), units=ROWS)
    assert not list(tmp_path.iterdir())


def test_a_plan_follows_from_config_and_units_alone(name: str) -> None:
    first, again = (listed.load(backend_of(name)).plan(config=config_of(name), units=ROWS) for _ in range(2))
    assert (first is not None) == is_private(name)
    if first is None or again is None:
        return
    assert first.parameters() == again.parameters() and first.digest() == again.digest()
    assert first.event == again.event
    other = listed.load(backend_of(name)).plan(config=config_of(name, epochs=5), units=ROWS)
    assert other is not None and other.digest() != first.digest()
    assert first.relation == registry.relation_of(config_of(name)) and first.backend == backend_of(name)
    assert (first.units, first.batch_size, first.epochs) == (ROWS, BATCH, EPOCHS)


def test_a_private_backend_plans_on_registered_data_alone(name: str) -> None:
    if not is_private(name):
        assert listed.load(backend_of(name)).plan(config=config_of(name), units=None) is None
        return
    with pytest.raises(BadInputError, match="not registered"):
        listed.load(backend_of(name)).plan(config=config_of(name), units=None)


def test_a_batch_that_is_larger_than_the_split_is_no_private_plan(name: str) -> None:
    if not is_private(name):
        pytest.skip("no plan, no promise about batches")
    listed.load(backend_of(name)).plan(config=config_of(name, batch_size=ROWS), units=ROWS)
    with pytest.raises(BadInputError, match="batch_size"):
        listed.load(backend_of(name)).plan(config=config_of(name, batch_size=ROWS + 1), units=ROWS)


def test_a_private_backend_does_not_train_without_its_plan(name: str, split: Any, tmp_path: Path) -> None:
    if not is_private(name):
        pytest.skip("it has none")
    backend, config = listed.load(backend_of(name)), config_of(name)
    inputs = split.inputs(config, tmp_path, plan=None, eval_files=())
    with pytest.raises(BadInputError, match="plan"):
        backend.train(inputs)
    assert not (tmp_path / "model").exists()


def test_no_model_is_left_where_the_split_is_empty(name: str, split: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty.gz"
    with tf.io.TFRecordWriter(str(empty), "GZIP"):
        pass
    with pytest.raises(BadInputError, match="no rows"):
        train(name, split, tmp_path, files=(str(empty),))
    assert not (tmp_path / "model").exists()
