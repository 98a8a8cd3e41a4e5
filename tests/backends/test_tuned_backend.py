"""Tuning: its plan is that of all trials, its trials are the planned ones, and only the best one comes out."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent

from privacy_pipeline.accounting import accountants
from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.tuning import trial_event
from privacy_pipeline.backends import keras_io, registry, trials, tuning
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.dp_sgd import DpSgdBackend
from privacy_pipeline.backends.plain import PlainBackend
from privacy_pipeline.backends.tuning import TunedBackend
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.tasks.binary import BINARY

ROWS = 600
SPACE = {"learning_rate": [0.01, 0.05], "clipping_norm": [0.5, 1.0], "hidden_units": [[4], [8, 4]]}
SELECT = {"method": "repeat_and_select", "trials": 4, "distribution": "geometric", "minutes": 9.0, "space": SPACE}
EACH = {"method": "each", "trials": 3, "space": SPACE}
SECTION = {"noise_multiplier": 2.0, "delta": 1e-5}
ONE = poisson_gaussian(sampling_probability=1 / 6, noise_multiplier=2.0, steps=6)


def make_inputs(split: Any, folder: Path, *, how: dict[str, Any] = SELECT, **changes: Any) -> TrainingInputs:
    private = {"backend": "dp_sgd", "batch_size": 100, "epochs": 1, "dp_sgd": SECTION, "tuning": how}
    config = split.config(**{**private, **changes})
    return split.inputs(config, folder, plan=registry.of(config).plan(config=config, units=ROWS))


def plain_inputs(split: Any, folder: Path, how: dict[str, Any]) -> TrainingInputs:
    space = {"learning_rate": [0.01, 0.05]}
    return make_inputs(split, folder, how={**how, "space": space}, backend="plain", dp_sgd=None)


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Moments until which a tuning would have waited; here none waits."""
    moments: list[float] = []
    monkeypatch.setattr(tuning, "_wait_until", moments.append)
    return moments


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials, whatever is asked for; for tests of this process alone."""
    monkeypatch.setattr(trials, "draw_number", lambda **_: 2)


def test_the_plan_is_that_of_all_trials(split: Any, tmp_path: Path) -> None:
    plan = make_inputs(split, tmp_path).plan
    assert plan is not None and plan.tuning is not None
    assert plan.event == RepeatAndSelectDpEvent(ONE, 4.0, 1.0)
    assert plan.parameters()["tuning"]["space"] == SPACE
    each = make_inputs(split, tmp_path, how=EACH).plan
    assert each is not None and each.event == SelfComposedDpEvent(ONE, 3)
    assert each.digest() != plan.digest()


def test_without_tuning_plans_keep_the_digest_they_had(split: Any) -> None:
    config = split.config(backend="dp_sgd", batch_size=100, dp_sgd=SECTION)
    assert isinstance(registry.of(config), DpSgdBackend)
    plan = registry.of(config).plan(config=config, units=ROWS)
    assert plan is not None and "tuning" not in plan.parameters()


@pytest.mark.slow_but("geometric", "poisson")
@pytest.mark.parametrize(
    "how", [SELECT, {**SELECT, "distribution": "poisson"}, EACH], ids=["geometric", "poisson", "each"]
)
def test_a_target_epsilon_is_that_of_the_whole_tuning(split: Any, tmp_path: Path, how: dict[str, Any]) -> None:
    target = {"target_epsilon": 2.0, "delta": 1e-5, "sampling": "shuffled"}  # its epsilon is quickly computed
    plan = make_inputs(split, tmp_path, how=how, dp_sgd=target).plan
    assert plan is not None
    reached = accountants.guarantee(plan.event, delta=1e-5, relation=plan.relation)
    assert 1.97 < reached.epsilon <= 2.0
    one = accountants.epsilon_of(trial_event(plan.event), delta=1e-5, relation=plan.relation)
    assert one < 1.6


def test_adaptive_clipping_is_calibrated_over_the_whole_too(split: Any, tmp_path: Path) -> None:
    target = {"target_epsilon": 2.0, "delta": 1e-5, "sampling": "shuffled", "adaptive": {"count_noise": 30.0}}
    plan = make_inputs(split, tmp_path, dp_sgd=target).plan
    assert plan is not None
    assert 1.97 < accountants.epsilon_of(plan.event, delta=1e-5, relation=plan.relation) <= 2.0


def test_correlated_noise_without_a_bound_is_refused(split: Any, tmp_path: Path) -> None:
    target = {"target_epsilon": 2.0, "delta": 1e-5, "noise": {"correlation": "tree"}}
    with pytest.raises(PipelineError, match="epsilon is unknown"):
        make_inputs(split, tmp_path, dp_sgd=target)


@pytest.mark.slow
def test_the_chosen_trial_alone_leaves_a_selection(split: Any, tmp_path: Path, few: None) -> None:
    inputs = make_inputs(split, tmp_path)
    chosen = trials.run(dataclasses.replace(inputs, log_dir=None))
    executed = chosen.executed
    assert executed is not None and executed.tuning is not None and inputs.plan is not None
    assert executed.event == inputs.plan.event and executed.steps == inputs.plan.steps == 6
    assert executed.tuning.results == () and "number of trials" in executed.withheld and executed.history == {}
    trial = executed.tuning.plan
    assert trial is not None and trial.clipping_norm == executed.tuning.point["clipping_norm"] and trial.event == ONE
    assert [weight.shape for weight in chosen.weights][1] == (executed.tuning.point["hidden_units"][0],)
    assert not (tmp_path / "work").exists() and not (tmp_path / "logs").exists()


def test_the_best_score_wins(split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.9, float("-inf"), 0.9, 0.5])
    monkeypatch.setattr(trials, "draw_number", lambda **_: 5)
    made: list[Any] = []
    weights = iter(range(5))

    def trial(inputs: TrainingInputs, point: Any) -> Any:
        made.append(point)
        executed = executed_like(inputs, point)
        return next(scores), [np.array(next(weights))], executed

    monkeypatch.setattr(trials, "_trial", trial)
    chosen = trials.run(make_inputs(split, tmp_path))
    assert chosen.weights == [np.array(1)] and chosen.executed is not None and chosen.executed.tuning is not None
    assert chosen.executed.tuning.point == made[1]


def executed_like(inputs: TrainingInputs, point: Any, **changes: Any) -> Any:
    from privacy_pipeline.backends.base import Executed, Tuned

    executed = Executed(
        steps=6,
        epochs=1,
        examples=ROWS,
        largest_participation=None,
        seed_fixed=False,
        generator="g",
        cryptographic=True,
        history={},
        event=ONE,
        tuning=Tuned(point=point, plan=None),
    )
    return dataclasses.replace(executed, **changes)


def test_trials_of_unlike_events_hand_out_nothing(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: None
) -> None:
    other = poisson_gaussian(sampling_probability=1 / 6, noise_multiplier=2.0, steps=7)
    ran = iter([ONE, other])
    monkeypatch.setattr(trials, "_trial", lambda i, p: (0.5, [], executed_like(i, p, event=next(ran))))
    with pytest.raises(PipelineError, match="unlike DpEvents"):
        trials.run(make_inputs(split, tmp_path))


def test_a_trial_that_is_not_the_accounted_one_is_not_trained(split: Any, tmp_path: Path, few: None) -> None:
    inputs = make_inputs(split, tmp_path)
    assert inputs.plan is not None
    dearer = RepeatAndSelectDpEvent(
        poisson_gaussian(sampling_probability=1 / 6, noise_multiplier=3.0, steps=6), 4.0, 1.0
    )
    for change in ({"event": dearer}, {"event": ONE}, {"noise_multiplier": 3.0}, {"units": 500}):
        plan = dataclasses.replace(inputs.plan, **change)
        asked = dataclasses.replace(inputs, plan=plan, train_files=("no/such/file",))
        with pytest.raises(PipelineError, match="another DpEvent"):
            trials.run(asked)


def test_a_model_whose_trials_cost_something_else_is_not_handed_out(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(split, tmp_path)
    fewer = executed_like(inputs, {}, event=RepeatAndSelectDpEvent(ONE, 3.0, 1.0))
    monkeypatch.setattr(tuning, "_run_trials", lambda _, ends: tuning.Chosen(executed=fewer, weights=[]))
    with pytest.raises(PipelineError, match="not handed out"):
        TunedBackend("dp_sgd").train(inputs)
    assert not (tmp_path / "model").exists()


def test_a_space_whose_points_cost_differently_has_no_plan(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config has no such hyperparameter; should one be added that changes the event, the plan is refused."""
    real = tuning.at_point

    def at_point(config: Any, point: Any) -> Any:
        found = real(config, point)
        epochs = 1 if point["learning_rate"] == 0.01 else 2
        return found.model_copy(update={"training": found.training.model_copy(update={"epochs": epochs})})

    monkeypatch.setattr(tuning, "at_point", at_point)
    with pytest.raises(PipelineError, match="another DpEvent"):
        make_inputs(split, tmp_path)


@pytest.mark.slow
def test_each_trial_is_made_and_shown(split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[Any] = []
    fit = DpSgdBackend.fit

    def counted(self: DpSgdBackend, inputs: TrainingInputs) -> Any:
        fitted.append(inputs)
        return fit(self, inputs)

    monkeypatch.setattr(DpSgdBackend, "fit", counted)
    inputs = make_inputs(split, tmp_path, how=EACH)
    executed = trials.run(dataclasses.replace(inputs, log_dir=None)).executed
    assert executed is not None and executed.tuning is not None and inputs.plan is not None
    assert len(fitted) == len(executed.tuning.results) == 3 and executed.event == inputs.plan.event
    assert len({json.dumps(result.point) for result in executed.tuning.results}) == 3  # without repetition
    best = max(executed.tuning.results, key=lambda result: result.score or 0.0)
    assert executed.tuning.point == best.point and "number of trials" not in executed.withheld


def test_each_begins_the_space_anew_where_there_are_more_trials(split: Any) -> None:
    how = {**EACH, "trials": 5, "space": {"learning_rate": [0.1, 0.2]}}
    section = tuning.tuning_of(split.config(backend="plain", tuning=how))
    found = [point["learning_rate"] for point in trials.points_to_try(section)]
    assert len(found) == 5 and sorted(found[:4]) == [0.1, 0.1, 0.2, 0.2]


@pytest.mark.slow
def test_a_plain_tuning_has_no_plan_and_no_event(split: Any, tmp_path: Path, few: None) -> None:
    inputs = plain_inputs(split, tmp_path, EACH)
    assert inputs.plan is None
    executed = trials.run(dataclasses.replace(inputs, log_dir=None)).executed
    assert executed is not None and executed.event is None and executed.tuning is not None
    assert len(executed.tuning.results) == 3 and executed.audits == ()


@pytest.mark.slow
def test_a_training_that_diverges_loses(split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = PlainBackend.fit
    rates: list[float] = []

    def diverging(self: PlainBackend, inputs: TrainingInputs) -> Any:
        rates.append(inputs.config.training.learning_rate)
        if inputs.config.training.learning_rate == 0.05:
            raise keras_io.TrainingDiverged("training diverged in epoch 1")
        return fit(self, inputs)

    monkeypatch.setattr(PlainBackend, "fit", diverging)
    how = {**EACH, "trials": 4}
    executed = trials.run(dataclasses.replace(plain_inputs(split, tmp_path, how), log_dir=None)).executed
    assert executed is not None and executed.tuning is not None and rates.count(0.05) == 2
    assert executed.tuning.point == {"learning_rate": 0.01}
    assert [result.score for result in executed.tuning.results].count(None) == 2
    monkeypatch.setattr(PlainBackend, "fit", lambda self, inputs: diverging(self, always(inputs)))
    with pytest.raises(keras_io.TrainingDiverged):
        trials.run(dataclasses.replace(plain_inputs(split, tmp_path, how), log_dir=None))


def always(inputs: TrainingInputs) -> TrainingInputs:
    training = inputs.config.training.model_copy(update={"learning_rate": 0.05})
    return dataclasses.replace(inputs, config=inputs.config.model_copy(update={"training": training}))


def test_a_model_that_gives_no_numbers_has_the_lowest_score(split: Any) -> None:
    rows = keras_io.read_rows(split.files, transform_graph=split.transform_graph, classes=2)
    inputs = {name: tf.keras.Input(value.shape[1:], name=name) for name, value in rows.inputs.items()}
    hidden = tf.keras.layers.Concatenate()([tf.keras.layers.Flatten()(x) for x in inputs.values()])
    dense = tf.keras.layers.Dense(1)
    model = tf.keras.Model(list(inputs.values()), dense(hidden))
    assert (
        0 <= trials._score(model, rows, BINARY.scores["accuracy"]) <= 1
        and 0 <= trials._score(model, rows, BINARY.scores["auc"]) <= 1
    )
    dense.bias.assign([float("nan")])
    assert trials._score(model, rows, BINARY.scores["accuracy"]) == float("-inf")


def test_equal_rows_add_alike_to_a_score() -> None:
    """A batch gives the same row several values, and a threshold between them counts some and not others."""
    given = tf.keras.Input([1], name="x")
    bias = tf.Variable(0.0)
    model = tf.keras.Model([given], tf.keras.layers.Lambda(lambda x: tf.sigmoid(tf.math.log1p(x)) - bias)(given))
    told = []
    for size in np.linspace(1, 50, 200, dtype=np.float32):
        found = np.unique(model(np.full((4095, 1), size)).numpy())
        if len(found) > 1:
            told.append((size, found[0]))
    assert told, "no row tells of its place: this test shows nothing on this machine"
    for size, least in told[:2]:
        bias.assign(least)
        together = model(np.full((4095, 1), size)).numpy() > 0
        assert 0 < together.sum() < 4095  # what must not happen
        rows = keras_io.Rows(inputs={"x": np.full((4095, 1), size)}, labels=np.ones((4095, 1), np.float32))
        assert trials._score(model, rows, BINARY.scores["accuracy"]) in (0.0, 1.0)
        bias.assign(0.0)


def test_no_trial_drawn_gives_an_untrained_model_at_the_full_price(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "draw_number", lambda **_: 0)
    inputs = dataclasses.replace(
        make_inputs(split, tmp_path, how={**SELECT, "distribution": "poisson"}), train_files=("no/such/file",)
    )
    monkeypatch.setattr(tuning, "_run_trials", lambda asked, ends: trials.run(asked))
    executed = TunedBackend("dp_sgd").train(inputs)
    assert executed.tuning is not None and not executed.tuning.trained and inputs.plan is not None
    assert (executed.steps, executed.event) == (0, inputs.plan.event)
    assert (tmp_path / "model" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_the_audit_is_made_once(split: Any, tmp_path: Path, few: None) -> None:
    inputs = make_inputs(split, tmp_path, dp_sgd={**SECTION, "audit": "mechanism"})
    executed = trials.run(dataclasses.replace(inputs, log_dir=None)).executed
    assert executed is not None and [audit["kind"] for audit in executed.audits] == ["mechanism"]


@pytest.mark.slow
def test_the_process_of_the_trials_hands_back_a_model_that_tells_no_number(split: Any, tmp_path: Path) -> None:
    """Names of layers and functions count up with every model of a process; those of an untuned one start anew."""
    inputs = make_inputs(split, tmp_path)
    tf.keras.backend.clear_session()
    executed = TunedBackend("dp_sgd").train(inputs)
    assert executed.tuning is not None and executed.tuning.trained
    restored = tf.keras.models.load_model(str(tmp_path / "model"), compile=False)
    dense = [layer.name for layer in restored.layers if layer.name.startswith("dense")]
    assert dense == ["dense", "dense_1"][: len(executed.tuning.point["hidden_units"])]
    model = tf.saved_model.load(str(tmp_path / "model"))
    rows = split.serialized(without=("bought", "person", "unused"))[:3]
    assert model.signatures["serving_default"](rows)["probability"].shape == (3, 1)
    assert list((tmp_path / "work").iterdir()) == [] and not (tmp_path / "logs").exists()


def test_what_goes_wrong_in_the_process_of_the_trials_is_told(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        trials.main(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(tuning.subprocess, "run", in_this_process)
    monkeypatch.setattr(trials, "draw_number", lambda **_: 1)
    inputs = make_inputs(split, tmp_path)
    with pytest.raises(BadInputError, match="no rows") as caught:
        TunedBackend("dp_sgd").train(dataclasses.replace(inputs, train_files=("no/such/file",)))
    assert caught.value.fix
    assert not (tmp_path / "model").exists()


def test_a_process_that_dies_is_an_error(split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "REQUEST", "elsewhere")
    with pytest.raises(PipelineError, match=r"ended with status 1: FileNotFoundError"):
        TunedBackend("dp_sgd").train(make_inputs(split, tmp_path))


def test_what_crosses_to_the_process_can_be_pickled(split: Any, tmp_path: Path) -> None:
    inputs = dataclasses.replace(make_inputs(split, tmp_path), report_progress=tuning._silent)
    again = pickle.loads(pickle.dumps(inputs))
    assert again.plan == inputs.plan and again.config == inputs.config


def test_a_tuning_takes_as_long_as_it_says_whatever_the_number_of_trials(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: list[float]
) -> None:
    inputs = make_inputs(split, tmp_path, how={**SELECT, "minutes": 2.0})
    monkeypatch.setattr(tuning, "_run_trials", lambda _, ends: tuning.Chosen(executed=None, weights=[]))
    begun = time.monotonic()
    TunedBackend("dp_sgd").train(inputs)
    assert begun + 120 <= waited[0] < begun + 150  # the clock runs from the beginning, not from the end of the trials


def test_trials_that_take_longer_hand_out_nothing(split: Any, tmp_path: Path) -> None:
    inputs = make_inputs(split, tmp_path, how={**SELECT, "minutes": 0.001})
    with pytest.raises(PipelineError, match=r"longer than training\.tuning\.minutes") as caught:
        TunedBackend("dp_sgd").train(inputs)
    assert "raise training.tuning.minutes" in caught.value.fix
    assert not inputs.model_dir.exists()


def names_in(model_dir: Path) -> set[str]:
    """Names of all functions and layers in a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((model_dir / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    layers = {node.user_object.metadata for node in graph.object_graph_def.nodes}
    return {function.signature.name for function in graph.graph_def.library.function} | layers


@pytest.mark.slow
def test_nothing_in_the_saved_model_depends_on_the_number_of_trials(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process the names would count on with each trial; the parent's own counters are set back between runs."""
    how = {**SELECT, "space": {"hidden_units": [[4]]}}
    real, made = subprocess.run, {}
    for number in (1, 3):
        inputs = make_inputs(split, tmp_path / str(number), how=how)
        with monkeypatch.context() as patched:
            patched.setattr(tuning.subprocess, "run", drawing(number, real))
            chosen = tuning._run_trials(inputs, ends=None)
        assert chosen.executed is not None and chosen.executed.tuning is not None
        made[number] = in_a_new_process(inputs, chosen.executed.tuning.point, chosen.weights, trials_before=0)
    assert made[1] == made[3] and len(made[1]) > 10
    twins = [saved_after_trials_in_one_process(split, tmp_path / f"twin-{n}", how, n) for n in (1, 3)]
    assert twins[0] != twins[1]


def drawing(number: int, real: Any) -> Any:
    """A process of trials that draws this number."""
    code = (
        "import sys, pathlib; from privacy_pipeline.backends import trials; "
        f"trials.draw_number = lambda **_: {number}; trials.main(pathlib.Path(sys.argv[1]))"
    )
    return lambda command, **given: real([*command[:-3], "-c", code, command[-1]], **given)


def saved_after_trials_in_one_process(split: Any, folder: Path, how: dict[str, Any], number: int) -> set[str]:
    """The broken twin: trials and the saved model in one process."""
    inputs = make_inputs(split, folder, how=how)
    return in_a_new_process(inputs, {"hidden_units": [4]}, [], trials_before=number)


def in_a_new_process(inputs: TrainingInputs, point: Any, weights: list[Any], *, trials_before: int) -> set[str]:
    asked = dataclasses.replace(inputs, log_dir=None, report_progress=tuning._silent)
    inputs.work_dir.mkdir(parents=True, exist_ok=True)
    request = inputs.work_dir.parent / "save.pickle"
    request.write_bytes(pickle.dumps((asked, point, weights)))
    code = (
        "import sys, pickle; from privacy_pipeline.backends import trials, tuning; "
        "inputs, point, weights = pickle.load(open(sys.argv[1], 'rb')); "
        f"[trials._trial(inputs, point) for _ in range({trials_before})]; tuning._save(inputs, point, weights)"
    )
    subprocess.run([sys.executable, "-c", code, str(request)], check=True, capture_output=True)
    return names_in(inputs.model_dir)
