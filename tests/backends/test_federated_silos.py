"""The federated backend with `silo_privacy` beside what the contract asks: record, going on after a kill, bad silos."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from privacy_pipeline.backends import keras_io, listed
from privacy_pipeline.backends.base import Executed, TrainingInputs
from privacy_pipeline.backends.simulation import federated_rounds, federated_silos
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.training import run_state
from privacy_pipeline.dp.training.run_state import StateMismatch
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.reports.record.build import build_record
from privacy_pipeline.reports.record.run_facts import RunFacts
from tests.backends.conftest import ROWS, make_config, silo_sizes

SIZES = silo_sizes()
PRIVACY = {"noise_multiplier": 2.0, "delta": 1e-5, "clipping_norm": 1.0, "column": "colour", "silos": SIZES}
ALGORITHM = {"client_optimizer": {"learning_rate": 0.5}}
FACTS = RunFacts(run_id="r", pipeline="p", code="c", lock="l", data="d", schema_is_public=True)
PERSON = {"key": "person", "contribution_bound": 3}


def config(*, unit: Any = "row", training: dict[str, Any] | None = None, **federated: Any) -> Any:
    section = {"algorithm": ALGORITHM, "silo_privacy": PRIVACY, **federated}
    given = {"epochs": 2, "batch_size": 60, **(training or {})}
    return make_config(
        backend="federated", learning_rate=1e-3, federated=section, dataset={"privacy_unit": unit}, **given
    )


def privacy(**changed: Any) -> dict[str, Any]:
    return {**PRIVACY, **changed}


def inputs_of(split: Any, config: Any, folder: Path, *, units: int = ROWS, **changed: Any) -> TrainingInputs:
    plan = listed.load("federated").plan(config=config, units=units)
    return split.inputs(config, folder, **{"plan": plan, "eval_files": (), **changed})


def train(inputs: TrainingInputs) -> Executed:
    return listed.load("federated").train(inputs)


def weights_of(folder: Path) -> list[np.ndarray]:
    return [variable.numpy() for variable in tf.saved_model.load(str(folder / "model")).trainable_variables]


def rewritten(split: Any, path: Path, change: Any) -> Any:
    """The split with rows changed: `change(number, features of the row)`."""
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for number, record in enumerate(tf.data.TFRecordDataset(split.files, "GZIP").as_numpy_iterator()):
            row = tf.train.Example.FromString(record)
            change(number, row.features.feature)
            writer.write(row.SerializeToString())
    return dataclasses.replace(split, files=(str(path),))


def set_text(feature: Any, name: str, text: bytes) -> None:
    feature[name].bytes_list.value[0] = text


def test_the_plan_is_that_of_dp_sgd_over_all_silos() -> None:
    plan = listed.load("federated").plan(config=config(), units=ROWS)
    central = PrivacyPlan.calibrated(
        units=ROWS, expected_batch_size=60, epochs=2, noise_multiplier=2.0, delta=1e-5, clipping_norm=1.0
    )
    assert plan is not None and plan.event == central.event and plan.unit == "row"
    assert (plan.steps, plan.batch_size, plan.units) == (20, 60, ROWS)
    assert plan.engine_parameters["silos"] == SIZES and plan.engine_parameters["local_steps"] == 10


@pytest.mark.slow
def test_the_record_says_what_leaves_a_silo(split: Any, tmp_path: Path) -> None:
    asked = config(silo_privacy=privacy(local_steps=4))
    inputs = inputs_of(split, asked, tmp_path)
    executed = train(inputs)
    assert (executed.steps, executed.units) == (20, ROWS) and set(executed.history) == {"weights_norm"}
    record = build_record(config=asked, facts=FACTS, executed=executed, plan=inputs.plan, composition=None)
    assert record.training_guarantee == "dp" and record.guarantee is not None and record.unit == "row"
    assert "in the silo (`colour`)" in record.unit_in_words
    (silos,) = (part for part in record.assumptions if "one silo" in part.name)
    assert silos.held and f"red {SIZES['red']}" in silos.detail
    accesses = {access.what: access for access in record.data_accesses}
    assert accesses["models that leave a silo"].covered
    assert "no secure aggregation" in accesses["models that leave a silo"].detail
    for what in ("which silo a unit is in, and how many each holds", "evaluation metrics, blessing and slices"):
        assert not accesses[what].covered
    assert "realised batch sizes of silos" in accesses["exact readings of the training"].detail
    assert "updates of single clients" not in accesses


@pytest.mark.slow
def test_persons_are_protected_where_a_key_names_them(split: Any, tmp_path: Path) -> None:
    """Three rows a person, all of one silo."""
    names, seen = sorted(SIZES), dict.fromkeys(SIZES, 0)

    def change(number: int, feature: Any) -> None:
        silo = feature["silo_name"].bytes_list.value[0].decode()
        set_text(feature, "privacy_unit_key", f"{silo}{seen[silo] // 3}".encode())
        seen[silo] += 1

    persons = rewritten(split, tmp_path / "persons.gz", change)
    counts = {name: -(-SIZES[name] // 3) for name in names}
    units = sum(counts.values())
    asked = config(unit=PERSON, silo_privacy=privacy(silos=counts), training={"batch_size": units // 5, "epochs": 1})
    inputs = inputs_of(persons, asked, tmp_path, units=units)
    executed = train(inputs)
    assert inputs.plan is not None and (inputs.plan.unit, inputs.plan.contribution_bound) == ("person", 3)
    assert (executed.units, executed.examples) == (units, ROWS)
    assert inputs.plan.engine_parameters["users"] == {"max_examples": 3, "clip": "sum"}

    def moved(number: int, feature: Any) -> None:
        set_text(feature, "privacy_unit_key", b"somebody")

    with pytest.raises(BadInputError, match="rows in two silos"):
        train(dataclasses.replace(inputs, train_files=rewritten(split, tmp_path / "moved.gz", moved).files))


class _Killed(Exception):  # noqa: N818
    pass


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Ends the training before the given round is made."""
    real = federated_rounds.SiloEngine.run_round

    def run_round(self: Any, state: Any, cohort: Any) -> Any:
        if state.round_number == at:
            raise _Killed
        return real(self, state, cohort)

    monkeypatch.setattr(federated_rounds.SiloEngine, "run_round", run_round)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights_and_its_key_fits_nothing_else(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_state, "CHECKPOINT_SECONDS", 0.0)
    key = run_state.RunKey(bytes(range(32)), seed_fixed=False)  # one secret for both, to compare
    monkeypatch.setattr(federated_rounds.RunKey, "from_system", lambda: key)
    asked = config(silo_privacy=privacy(local_steps=5))
    states = [tmp_path / name for name in ("whole", "broken")]
    tf.keras.utils.set_random_seed(7)  # the first weights alone come from it
    whole = train(inputs_of(split, asked, tmp_path / "a", state_dir=states[0]))
    tf.keras.utils.set_random_seed(7)
    broken = inputs_of(split, asked, tmp_path / "b", state_dir=states[1])
    with monkeypatch.context() as patched, pytest.raises(_Killed):
        killing(patched, at=2)
        train(broken)
    assert run_state.has_state(states[1]) and not (tmp_path / "b" / "model").exists()
    tf.keras.utils.set_random_seed(99)
    resumed = train(broken)
    assert (whole.resumed_at, resumed.resumed_at) == (None, 10)
    assert resumed.history == whole.history and resumed.event == whole.event
    for one, other in zip(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(one, other)

    def flipped(number: int, feature: Any) -> None:
        feature["label"].int64_list.value[0] ^= number == 5

    other_data = rewritten(split, tmp_path / "flipped.gz", flipped)
    with pytest.raises(StateMismatch, match="data"):
        train(dataclasses.replace(broken, train_files=other_data.files))
    assert not run_state.has_state(states[1])


def test_other_silos_than_stated_are_refused(split: Any, tmp_path: Path) -> None:
    moved = {**SIZES, "red": SIZES["red"] - 1, "blue": SIZES["blue"] + 1}
    with pytest.raises(PipelineError, match=r"silo 'blue' holds .* stays spent"):
        train(inputs_of(split, config(silo_privacy=privacy(silos=moved)), tmp_path))
    assert not (tmp_path / "model").exists()
    with pytest.raises(BadInputError, match="hold 601 units together, and 600 are registered"):
        listed.load("federated").plan(
            config=config(silo_privacy=privacy(silos={**SIZES, "red": SIZES["red"] + 1})), units=ROWS
        )


def test_a_row_without_a_silo_is_refused(split: Any, tmp_path: Path) -> None:
    def emptied(number: int, feature: Any) -> None:
        if number == 7:
            set_text(feature, "silo_name", b"")

    bad = rewritten(split, tmp_path / "null.gz", emptied)
    with pytest.raises(BadInputError, match=r"silo_privacy\.column: the silo is empty in 1 row"):
        train(inputs_of(bad, config(), tmp_path))


def test_another_plan_than_the_reserved_one_is_refused() -> None:
    one = listed.load("federated").plan(config=config(), units=ROWS)
    assert one is not None
    for changed in ({"clipping_norm": 7.0}, {"local_steps": 3}, {"column": "size"}):
        with pytest.raises(PipelineError, match="another plan"):
            federated_silos.reserved_plan(config(silo_privacy=privacy(**changed)), one)


def test_the_silo_never_reaches_a_model(split: Any) -> None:
    assert set(keras_io.input_specs(split.transform_graph)) == {"features"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"silo_privacy": privacy(silos={})}, "at least 1 item"),
        ({"silo_privacy": privacy(silos={"red": 0})}, "greater than or equal to 1"),
        ({"silo_privacy": privacy(clipping_norm=0)}, "greater than 0"),
        ({"silo_privacy": privacy(target_epsilon=1.0)}, "exactly one of"),
        ({"silo_privacy": privacy(local_steps=0)}, "greater than or equal to 1"),
        ({"silo_privacy": privacy(column="bought")}, "'bought' is the label"),
        ({"silo_privacy": privacy(column="person"), "unit": PERSON}, "the privacy unit's key"),
        ({"privacy": {"noise_multiplier": 1.0, "delta": 1e-5}}, "give one of the two"),
        ({"clients": {"clients": 3}}, "the silos are the clients"),
        ({"sampling": "poisson"}, "every silo takes part"),
        ({"attendance": {"dropout": 0.1}}, "every silo takes part"),
        ({"algorithm": {"name": "fedprox", "proximal_strength": 0.1}}, "not of `fedprox`"),
        ({"algorithm": {"engine": "tff"}}, "drop `engine: tff`"),
        ({"algorithm": {"weighting": "uniform"}}, "`weighting` does nothing"),
        ({"training": {"batch_size": None}}, "needs `batch_size`"),
    ],
)
def test_impossible_settings_have_one_clear_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        config(**changed)
    assert caught.value.error_count() == 1
