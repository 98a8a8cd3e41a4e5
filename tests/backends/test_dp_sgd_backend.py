"""The DP-SGD backend: its plan, its sampler, and that what ran is what was planned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.dp_sgd import DpSgdBackend, FullPass
from privacy_pipeline.backends.verify import require_executed_as_planned
from privacy_pipeline.errors import BadInputError, PipelineError

ROWS = 600
DP = {"backend": "dp_sgd", "batch_size": 100, "dp_sgd": {"noise_multiplier": 2.0, "delta": 1e-5}}


def make_inputs(split: Any, folder: Path, *, plan: MechanismPlan | None = None, **training: Any) -> TrainingInputs:
    config = split.config(**{**DP, **training})
    return TrainingInputs(
        train_files=split.files,
        eval_files=("no/such/file",),  # reading it would be an error
        transform_graph=split.transform_graph,
        features=split.features,
        config=config,
        plan=plan or DpSgdBackend().plan(config=config, units=ROWS),
        work_dir=folder / "work",
        model_dir=folder / "model",
        log_dir=folder / "logs",
        report_progress=lambda done, total, unit: None,
    )


def test_the_plan_follows_from_config_and_registration(split: Any) -> None:
    plan = DpSgdBackend().plan(config=split.config(**DP, epochs=3), units=650)
    assert (plan.steps, plan.epochs, plan.batch_size, plan.units) == (18, 3, 100, 650)
    assert (plan.relation, plan.sampler, plan.unit) == (Relation.ZERO_OUT, Sampler.FULL_PASS, "row")
    assert plan.noise_multiplier == 2.0
    assert (plan.event.event.noise_multiplier, plan.event.count) == (2.0, 3)


def test_a_target_epsilon_sets_the_noise(split: Any) -> None:
    def noise(epochs: int) -> float:
        section = {"target_epsilon": 3.0, "delta": 1e-5}
        config = split.config(**{**DP, "dp_sgd": section}, epochs=epochs)
        return DpSgdBackend().plan(config=config, units=ROWS).noise_multiplier

    assert noise(4) == pytest.approx(2 * noise(1), rel=2e-3)  # epochs are Gaussians in sequence


@pytest.mark.parametrize(
    ("change", "units", "says"),
    [
        ({}, None, "not registered"),
        ({}, 99, "batch_size"),
        ({"dataset": {"privacy_unit": {"key": "person"}}}, ROWS, "dataset.privacy_unit"),
    ],
)
def test_plans_without_a_guarantee_are_refused(
    split: Any, change: dict[str, Any], units: int | None, says: str
) -> None:
    with pytest.raises(BadInputError, match=says):
        DpSgdBackend().plan(config=split.config(**DP, **change), units=units)


def test_training_runs_as_planned_and_publishes_nothing_exact(split: Any, tmp_path: Path) -> None:
    inputs = make_inputs(split, tmp_path)
    assert inputs.plan is not None
    executed = DpSgdBackend().train(inputs)
    assert (executed.steps, executed.epochs, executed.examples) == (inputs.plan.steps, 2, ROWS)
    assert executed.largest_participation == 1
    assert not executed.seed_fixed and not executed.cryptographic
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


def test_a_seed_is_recorded_and_repeats_the_run(split: Any, tmp_path: Path) -> None:
    runs = [DpSgdBackend().train(make_inputs(split, tmp_path / name, seed=5)) for name in "ab"]
    assert all(run.seed_fixed for run in runs)
    assert runs[0].history == runs[1].history
    free = [DpSgdBackend().train(make_inputs(split, tmp_path / name)) for name in "cd"]
    assert free[0].history != free[1].history


def test_another_number_of_rows_than_registered_is_an_error(split: Any, tmp_path: Path) -> None:
    plan = DpSgdBackend().plan(config=split.config(**DP), units=ROWS + 1)
    with pytest.raises(PipelineError, match=rf"{ROWS} rows.*{ROWS + 1} units.*stays spent"):
        DpSgdBackend().train(make_inputs(split, tmp_path, plan=plan))
    assert not (tmp_path / "model").exists()


def test_a_plan_that_accounts_fewer_steps_gets_no_model(split: Any, tmp_path: Path) -> None:
    plan = dataclasses.replace(DpSgdBackend().plan(config=split.config(**DP), units=ROWS), steps=5)
    with pytest.raises(PipelineError, match="12 steps ran, but 5"):
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


def test_every_row_is_in_at_most_one_batch_of_an_epoch() -> None:
    sampler = FullPass(rows=103, batch_size=10, seed=None)
    epochs = [np.concatenate(list(sampler.epoch())) for _ in range(20)]
    assert all(len(epoch) == 100 == len(set(epoch.tolist())) for epoch in epochs)
    assert sampler.largest_participation == 1
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 20  # reshuffled each time
    assert set(np.concatenate(epochs).tolist()) == set(range(103))  # no row is left out for ever


def test_participation_is_counted_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Repeating:
        def permutation(self, rows: int) -> Any:
            return np.zeros(rows, np.int64)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Repeating())
    sampler = FullPass(rows=6, batch_size=2, seed=None)
    for _ in sampler.epoch():
        pass
    assert sampler.largest_participation == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 13}, "13 steps ran, but 12"),
        ({"epochs": 3}, "3 epochs ran, but 2"),
        ({"examples": 599}, "599 rows.*600 units"),
        ({"largest_participation": 2}, "in 2 batches"),
    ],
)
def test_a_run_unlike_its_plan_is_refused(split: Any, change: dict[str, int], says: str) -> None:
    plan = DpSgdBackend().plan(config=split.config(**DP), units=ROWS)
    ran = {"steps": 12, "epochs": 2, "examples": ROWS, "largest_participation": 1}
    require_executed_as_planned(plan, **ran)
    with pytest.raises(PipelineError, match=says):
        require_executed_as_planned(plan, **{**ran, **change})
