"""The DP-SGD backend: its plan, its sampler, and that what ran is what was planned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import dp_accounting
import dp_accounting.pld
import dp_accounting.rdp
import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.accounting import accountants, events, renyi
from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.backends import keras_io
from privacy_pipeline.backends.base import Executed, TrainingInputs
from privacy_pipeline.backends.dp_sgd import DpSgdBackend
from privacy_pipeline.backends.example_data import read_examples
from privacy_pipeline.backends.verify import require_executed_as_planned
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.dp import twins

ROWS = 600
DP = {"backend": "dp_sgd", "batch_size": 100, "dp_sgd": {"noise_multiplier": 2.0, "delta": 1e-5}}


def make_inputs(split: Any, folder: Path, *, plan: MechanismPlan | None = None, **training: Any) -> TrainingInputs:
    config = split.config(**{**DP, **training})
    plan = plan or DpSgdBackend().plan(config=config, units=ROWS)
    return split.inputs(config, folder, plan=plan, eval_files=("no/such/file",))  # reading it would be an error


def plan_of(split: Any, units: int | None = ROWS, /, **changes: Any) -> MechanismPlan:
    section = {**DP["dp_sgd"], **changes.pop("dp_sgd", {})}
    return DpSgdBackend().plan(config=split.config(**{**DP, **changes, "dp_sgd": section}), units=units)


def test_the_plan_follows_from_config_and_registration(split: Any) -> None:
    plan = plan_of(split, 650, epochs=3)
    assert (plan.steps, plan.epochs, plan.batch_size, plan.units) == (19, 3, 100, 650)  # floor(3 / (100 / 650))
    assert (plan.relation, plan.sampler, plan.unit) == (Relation.ZERO_OUT, Sampler.POISSON, "row")
    assert plan.event == poisson_gaussian(sampling_probability=100 / 650, noise_multiplier=2.0, steps=19)
    assert plan.engine_parameters["sampling"] == {"scheme": "poisson", "probability": 100 / 650}


def test_a_shuffled_plan_claims_no_amplification(split: Any) -> None:
    plan = plan_of(split, 650, epochs=3, dp_sgd={"sampling": "shuffled"})
    assert (plan.steps, plan.sampler) == (18, Sampler.SHUFFLED)
    assert plan.event == gaussian_passes(noise_multiplier=2.0, epochs=3)


@pytest.mark.parametrize("relation", ["zero_out", "add_or_remove_one"])
def test_the_recorded_epsilon_is_that_of_the_event_by_hand(split: Any, relation: str) -> None:
    """dp_accounting alone, without any of our accounting, on the event as the record stores it."""
    secret = {"sampling_probability": 0.1} if relation == "add_or_remove_one" else {}
    plan = plan_of(split, dp_sgd={"noise_multiplier": 4.0, "relation": relation, **secret})
    record = events.from_json(json.loads(json.dumps(events.to_json(plan.event))))
    stated = accountants.guarantee(plan.event, delta=plan.delta, relation=plan.relation)
    neighbours = dp_accounting.NeighboringRelation
    by_hand = neighbours.REPLACE_SPECIAL if relation == "zero_out" else neighbours.ADD_OR_REMOVE_ONE
    pld = dp_accounting.pld.PLDAccountant(by_hand, 1e-4).compose(record).get_epsilon(1e-5)
    rdp = dp_accounting.rdp.RdpAccountant(renyi.ORDERS, by_hand).compose(record).get_epsilon(1e-5)
    assert stated.epsilon == stated.epsilon_pld == pytest.approx(pld, rel=1e-9)
    assert stated.epsilon_rdp == pytest.approx(rdp, rel=1e-6)
    assert 0 < stated.epsilon < stated.epsilon_rdp


@pytest.mark.slow
def test_a_target_epsilon_sets_the_noise(split: Any) -> None:
    def noise(epochs: int) -> float:
        section = {"target_epsilon": 3.0, "noise_multiplier": None, "sampling": "shuffled"}
        return plan_of(split, dp_sgd=section, epochs=epochs).noise_multiplier

    assert noise(4) == pytest.approx(2 * noise(1), rel=2e-3)  # epochs are Gaussians in sequence


@pytest.mark.parametrize(
    ("change", "units", "says"),
    [
        ({}, None, "not registered"),
        ({}, 99, "batch_size"),
    ],
)
def test_plans_without_a_guarantee_are_refused(
    split: Any, change: dict[str, Any], units: int | None, says: str
) -> None:
    with pytest.raises(BadInputError, match=says):
        DpSgdBackend().plan(config=split.config(**DP, **change), units=units)


def test_under_add_or_remove_one_nothing_follows_from_the_number_of_units(split: Any) -> None:
    section = {"relation": "add_or_remove_one", "sampling_probability": 0.125}
    plans = [plan_of(split, units, dp_sgd=section) for units in (None, 40, ROWS, 10**6)]
    assert len({plan.digest() for plan in plans}) == 1
    assert plans[0].units is None and "units" not in str(plans[0].event)
    assert plans[0].engine_parameters["units"] is None
    assert (plans[0].steps, plans[0].relation) == (16, Relation.ADD_OR_REMOVE_ONE)


@pytest.mark.slow
def test_training_under_add_or_remove_one_takes_any_number_of_rows(split: Any, tmp_path: Path) -> None:
    section = {"relation": "add_or_remove_one", "sampling_probability": 0.125, "noise_multiplier": 2.0, "delta": 1e-5}
    executed = DpSgdBackend().train(make_inputs(split, tmp_path, dp_sgd=section))
    assert (executed.steps, executed.epochs) == (16, 2)
    assert executed.event == poisson_gaussian(sampling_probability=0.125, noise_multiplier=2.0, steps=16)


def test_rows_that_do_not_fit_into_memory_train_alike(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = read_examples(
        split.files,
        transform_graph=split.transform_graph,
        names=["features"],
        keyed=True,
        classes=2,
        folder=tmp_path / "none",
    )
    assert not (tmp_path / "none").exists() and isinstance(inside.store.y, np.ndarray)
    monkeypatch.setattr(keras_io, "_PARSED_AT_ONCE", 64)
    outside = read_examples(
        split.files,
        transform_graph=split.transform_graph,
        names=["features"],
        keyed=True,
        classes=2,
        folder=tmp_path / "rows",
        memory_limit=20_000,
    )
    assert list((tmp_path / "rows").glob("*.npy")) and isinstance(outside.store.y, np.memmap)
    index = np.arange(ROWS)
    for held, mapped in zip(tf.nest.flatten(inside.store.rows(index)), tf.nest.flatten(outside.store.rows(index))):
        np.testing.assert_array_equal(held, mapped)
    np.testing.assert_array_equal(inside.owners, outside.owners)
    assert inside.units == outside.units == ROWS


def test_training_runs_as_planned_and_publishes_nothing_exact(split: Any, tmp_path: Path) -> None:
    inputs = make_inputs(split, tmp_path)
    assert inputs.plan is not None
    executed = DpSgdBackend().train(inputs)
    assert (executed.steps, executed.epochs, executed.examples) == (inputs.plan.steps, 2, ROWS)
    assert executed.largest_participation is None  # how often a row was sampled is secret
    assert not executed.seed_fixed and executed.cryptographic and "ChaCha20" in executed.generator
    assert "realised batch sizes" in executed.withheld
    assert executed.event == inputs.plan.event
    assert set(executed.history) == {"weights_norm"}
    tags = {
        value.tag
        for file in (tmp_path / "logs").rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert tags == {"epoch_weights_norm"}
    model = tf.saved_model.load(str(tmp_path / "model"))
    rows = split.serialized(without=("bought", "person", "unused"))[:3]
    assert model.signatures["serving_default"](rows)["probability"].shape == (3, 1)


@pytest.mark.parametrize("sampling", ["poisson", "shuffled"])
def test_tensorflow_privacy_trains_under_the_same_plan(split: Any, tmp_path: Path, sampling: str) -> None:
    section = {"noise_multiplier": 2.0, "delta": 1e-5, "sampling": sampling}
    other = {**section, "engine": "tensorflow_privacy"}
    inputs = make_inputs(split, tmp_path, dp_sgd=other, epochs=1)
    native = plan_of(split, dp_sgd={"sampling": sampling}, epochs=1)
    assert inputs.plan is not None and inputs.plan.engine_parameters == native.engine_parameters
    assert (inputs.plan.event, inputs.plan.engine) == (native.event, "tensorflow_privacy")
    executed = DpSgdBackend().train(inputs)
    assert executed.event == native.event and not executed.cryptographic
    assert "TensorFlow Privacy" in executed.generator and "32 bits" in executed.generator


@pytest.mark.slow
def test_a_seed_is_recorded_and_repeats_the_run(split: Any, tmp_path: Path) -> None:
    runs = [DpSgdBackend().train(make_inputs(split, tmp_path / name, seed=5)) for name in "ab"]
    assert all(run.seed_fixed for run in runs)
    assert runs[0].history == runs[1].history
    free = [DpSgdBackend().train(make_inputs(split, tmp_path / name)) for name in "cd"]
    assert free[0].history != free[1].history


@pytest.mark.slow
def test_another_number_of_rows_than_registered_is_an_error(split: Any, tmp_path: Path) -> None:
    plan = DpSgdBackend().plan(config=split.config(**DP), units=ROWS + 1)
    with pytest.raises(PipelineError, match=rf"{ROWS} privacy units.*{ROWS + 1} units.*stays spent"):
        DpSgdBackend().train(make_inputs(split, tmp_path, plan=plan))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 5},
        {"noise_multiplier": 3.0},
        {"clipping_norm": 0.5},
        {"event": gaussian_passes(noise_multiplier=9.0, epochs=1)},
        {"engine_parameters": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_plan_than_the_reserved_one_is_not_trained(split: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    plan = dataclasses.replace(DpSgdBackend().plan(config=split.config(**DP), units=ROWS), **change)
    with pytest.raises(PipelineError, match="another plan than the one whose cost was reserved"):
        DpSgdBackend().train(make_inputs(split, tmp_path, plan=plan))
    assert not (tmp_path / "model").exists()


def test_a_users_batch_normalization_is_refused(split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "normalizing_model.py").write_text(
        "import tensorflow as tf\n"
        "def build_model(context):\n"
        "    source = tf.keras.Input(context.inputs['features'].shape, name='features')\n"
        "    hidden = tf.keras.layers.BatchNormalization()(source)\n"
        "    return tf.keras.Model(source, tf.keras.layers.Dense(1)(hidden))\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="BatchNormalization"):
        DpSgdBackend().train(make_inputs(split, tmp_path, model="normalizing_model"))


@pytest.mark.parametrize("sampling", ["poisson", "shuffled"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 13}, "13 steps ran, but 12"),
        ({"epochs": 3}, "3 epochs ran, but 2"),
        ({"units": 599}, "599 privacy units.*600 units"),
        ({"sampler": "another"}, "another as the sampler ran"),
        ({"event": poisson_gaussian(sampling_probability=0.5, noise_multiplier=2.0, steps=12)}, "another DpEvent"),
        ({"event": None}, "another DpEvent"),
    ],
)
def test_a_run_unlike_its_plan_is_refused(split: Any, sampling: str, change: dict[str, Any], says: str) -> None:
    plan, executed = as_planned(split, sampling)
    require_executed_as_planned(plan, executed)
    with pytest.raises(PipelineError, match=says):
        require_executed_as_planned(plan, dataclasses.replace(executed, **change))


@pytest.mark.parametrize("most", [2, None])
def test_a_partition_that_deals_a_row_twice_is_refused(split: Any, most: int | None) -> None:
    plan, executed = as_planned(split, "shuffled")
    with pytest.raises(PipelineError, match=f"in {most} batches"):
        require_executed_as_planned(plan, dataclasses.replace(executed, largest_participation=most))


def as_planned(split: Any, sampling: str) -> tuple[MechanismPlan, Executed]:
    plan = plan_of(split, dp_sgd={"sampling": sampling})
    return plan, Executed(
        steps=12,
        epochs=2,
        examples=ROWS,
        units=ROWS,
        largest_participation=1 if sampling == "shuffled" else None,
        seed_fixed=False,
        generator="some",
        cryptographic=True,
        history={},
        event=plan.event,
        sampler=plan.sampler.value,
    )


@pytest.mark.slow
def test_an_audit_goes_into_what_was_executed(split: Any, tmp_path: Path) -> None:
    section = {"noise_multiplier": 2.0, "delta": 1e-5, "audit": "mechanism"}
    (audit,) = DpSgdBackend().train(make_inputs(split, tmp_path, dp_sgd=section)).audits
    assert audit["kind"] == "mechanism"
    assert 0 < float(audit["lower_bound"]) < float(audit["upper_bound"])


def test_an_engine_that_fails_its_audit_reads_no_data(split: Any, tmp_path: Path) -> None:
    section = {"noise_multiplier": 2.0, "delta": 1e-5, "audit": "mechanism"}
    inputs = dataclasses.replace(make_inputs(split, tmp_path, dp_sgd=section), train_files=("no/such/file",))
    with twins.no_noise(), pytest.raises(PipelineError, match="the guarantee is wrong"):
        DpSgdBackend().train(inputs)
    assert not (tmp_path / "model").exists()
