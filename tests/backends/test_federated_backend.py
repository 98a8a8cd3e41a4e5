"""The federated backend beside what the contract asks: clients, bounds, record, going on after a kill, bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from privacy_pipeline.accounting.plan import Sampler
from privacy_pipeline.backends import listed
from privacy_pipeline.backends.base import Executed, TrainingInputs
from privacy_pipeline.backends.simulation import federated_plan, federated_rounds
from privacy_pipeline.backends.simulation.federated_clients import first_rows, read_clients
from privacy_pipeline.dp.training import run_state
from privacy_pipeline.dp.training.run_state import StateMismatch
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.reports.record.build import build_record
from privacy_pipeline.reports.record.run_facts import RunFacts
from tests.backends.conftest import ROWS, make_config

OPTIMIZERS = {"client_optimizer": {"learning_rate": 0.5}, "server_optimizer": {"learning_rate": 1.0, "momentum": 0.5}}
PRIVACY = {"noise_multiplier": 2.0, "delta": 1e-5}
SHARED = {
    **PRIVACY,
    "mechanism": "skellam",
    "distributed": {"dimension": 1024, "min_clients": 15},
}
PERSONS = 120
FACTS = RunFacts(run_id="r", pipeline="p", code="c", lock="l", data="d", schema_is_public=True)


def config(*, bound: int = 3, unit: Any = None, **federated: Any) -> Any:
    section = {"algorithm": OPTIMIZERS, **({} if "clients" in federated else {"privacy": PRIVACY}), **federated}
    key = {"key": "person", "contribution_bound": bound}
    return make_config(
        backend="federated",
        epochs=2,
        batch_size=20,
        learning_rate=1e-3,
        federated=section,
        dataset={"privacy_unit": unit or ("row" if "clients" in federated else key)},
    )


def inputs_of(split: Any, config: Any, folder: Path, **changed: Any) -> TrainingInputs:
    plan = listed.load("federated").plan(config=config, units=PERSONS)
    return split.inputs(config, folder, **{"plan": plan, "eval_files": (), **changed})


def rewritten(split: Any, path: Path, key: Any) -> Any:
    """The split with other keys: `key(number)` of each row."""
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for number, record in enumerate(tf.data.TFRecordDataset(split.files, "GZIP").as_numpy_iterator()):
            row = tf.train.Example.FromString(record)
            row.features.feature["privacy_unit_key"].bytes_list.value[0] = key(number)
            writer.write(row.SerializeToString())
    return dataclasses.replace(split, files=(str(path),))


@pytest.fixture(scope="module")
def persons(split: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """600 rows of 120 persons, five each."""
    folder = tmp_path_factory.mktemp("persons")
    return rewritten(split, folder / "persons.gz", lambda number: b"p%d" % (number % PERSONS))


def train(inputs: TrainingInputs) -> Executed:
    return listed.load("federated").train(inputs)


def weights_of(folder: Path) -> list[np.ndarray]:
    return [variable.numpy() for variable in tf.saved_model.load(str(folder / "model")).trainable_variables]


def test_clients_are_the_persons_and_no_row_above_the_bound_is_used(persons: Any, tmp_path: Path) -> None:
    clients, rows = read_clients(inputs_of(persons, config(bound=3), tmp_path), names=["features"])
    assert (clients.num_clients, rows) == (PERSONS, ROWS)
    assert set(clients.counts) == {3} and not clients.origin.synthetic and "person" in clients.origin.client_is
    owners = np.array([4, 0, 4, 4, 1, 0, 4])
    np.testing.assert_array_equal(first_rows(owners, most=2), [0, 1, 2, 4, 5])
    np.testing.assert_array_equal(first_rows(owners, most=9), np.arange(7))


def test_made_up_clients_follow_the_stated_rule(split: Any, tmp_path: Path) -> None:
    made = config(clients={"rule": "label_skew", "clients": 30, "alpha": 0.5, "seed": 3})
    one, again = (read_clients(inputs_of(split, made, tmp_path), names=["features"])[0] for _ in range(2))
    assert one.num_clients == 30 and one.origin.synthetic and one.origin.rule["alpha"] == 0.5
    np.testing.assert_array_equal(one.offsets, again.offsets)


@pytest.fixture(scope="module")
def trained(persons: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Executed]:
    folder = tmp_path_factory.mktemp("trained")
    adaptive = config(privacy={**PRIVACY, "adaptive": {"count_noise": 2.0}}, attendance={"dropout": 0.2})
    inputs = inputs_of(persons, adaptive, folder)
    return inputs, train(inputs)


@pytest.mark.slow
def test_the_record_says_whose_privacy_it_is_and_what_is_not_covered(trained: tuple[Any, Executed]) -> None:
    inputs, executed = trained
    record = build_record(config=inputs.config, facts=FACTS, executed=executed, plan=inputs.plan, composition=None)
    assert record.training_guarantee == "dp" and record.unit == "person" and record.contribution_bound == 3
    assert record.guarantee is not None and record.guarantee.epsilon == record.guarantee.epsilon_pld
    assert record.guarantee.epsilon_rdp is not None and record.guarantee.epsilon_rdp >= record.guarantee.epsilon
    assert "client" in record.unit_in_words and all(assumption.held for assumption in record.assumptions)
    accesses = {access.what: access for access in record.data_accesses}
    assert (
        not accesses["updates of single clients"].covered and "simulat" in accesses["updates of single clients"].detail
    )
    assert "realised sizes of cohorts" in accesses["exact readings of the training"].detail
    assert record.mechanism is not None and isinstance(record.mechanism.plan, dict)
    assert record.mechanism.plan["unit"] == "client" and record.mechanism.plan["attendance"]["dropout"] == 0.2
    assert set(executed.history) == {"weights_norm", "clipping_norm"}  # nothing exact


def test_the_record_says_that_clients_are_made_up(split: Any, tmp_path: Path) -> None:
    made = config(clients={"clients": 30})
    inputs = inputs_of(split, made, tmp_path)
    executed = train(inputs)
    assert inputs.plan is None and executed.event is None and executed.sampler == Sampler.SHUFFLED.value
    record = build_record(config=made, facts=FACTS, executed=executed, plan=None, composition=None)
    assert record.training_guarantee == "none" and record.guarantee is None
    (clients,) = (access for access in record.data_accesses if access.what == "clients")
    assert "synthetic" in clients.detail and "iid" in clients.detail
    assert executed.history["loss"][-1] < executed.history["loss"][0]


@pytest.mark.slow
def test_tensorflow_federated_makes_the_same_rounds(split: Any, tmp_path: Path) -> None:
    made = [
        make_config(
            backend="federated",
            epochs=1,
            batch_size=10,
            learning_rate=1e-3,
            seed=1,
            federated={"clients": {"clients": 30}, "algorithm": {**OPTIMIZERS, "engine": engine}},
        )
        for engine in ("fast", "tff")
    ]
    runs = [train(inputs_of(split, one, tmp_path / one.training.federated.algorithm.engine)) for one in made]
    assert runs[0].steps == runs[1].steps == 3
    for one, other in zip(weights_of(tmp_path / "fast"), weights_of(tmp_path / "tff"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


class _Killed(Exception):  # noqa: N818
    pass


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Ends the process's training before the given round is made."""
    real = federated_rounds.ClientSampler.cohort
    before: list[int] = []

    def cohort(self: Any, number: int) -> Any:
        if number == at and before[-1:] == [at - 1]:
            raise _Killed
        before.append(number)
        return real(self, number)

    monkeypatch.setattr(federated_rounds.ClientSampler, "cohort", cohort)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"privacy": {**PRIVACY, "adaptive": {"count_noise": 2.0}}}, marks=pytest.mark.slow),
        {"privacy": SHARED, "attendance": {"dropout": 0.2}},
        pytest.param({"privacy": {**SHARED, "mechanism": "discrete_gaussian"}}, marks=pytest.mark.slow),
    ],
    ids=["adaptive", "skellam", "discrete_gaussian"],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    persons: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    monkeypatch.setattr(run_state, "CHECKPOINT_SECONDS", 0.0)
    adaptive = config(**given)
    states = [tmp_path / name for name in ("whole", "broken")]
    key = run_state.RunKey(bytes(range(32)), seed_fixed=False)  # one secret for both, to compare
    monkeypatch.setattr(federated_rounds.RunKey, "from_system", lambda: key)
    tf.keras.utils.set_random_seed(7)  # the first weights alone come from it
    whole = train(inputs_of(persons, adaptive, tmp_path / "a", state_dir=states[0]))
    tf.keras.utils.set_random_seed(7)
    broken = inputs_of(persons, adaptive, tmp_path / "b", state_dir=states[1])
    with monkeypatch.context() as patched, pytest.raises(_Killed):
        killing(patched, at=5)
        train(broken)
    assert run_state.has_state(states[1]) and not (tmp_path / "b" / "model").exists()
    tf.keras.utils.set_random_seed(99)
    resumed = train(broken)
    assert (whole.resumed_at, resumed.resumed_at) == (None, 5)
    assert resumed.history == whole.history and resumed.event == whole.event
    for one, other in zip(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_key_is_never_used_on_other_data(persons: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "CHECKPOINT_SECONDS", 0.0)
    inputs = inputs_of(persons, config(), tmp_path, state_dir=tmp_path / "state")
    with monkeypatch.context() as patched, pytest.raises(_Killed):
        killing(patched, at=3)
        train(inputs)
    moved = rewritten(persons, tmp_path / "moved.gz", lambda number: b"p%d" % (number // 5))
    with pytest.raises(StateMismatch, match="data"):
        train(dataclasses.replace(inputs, train_files=moved.files))
    assert not run_state.has_state(tmp_path / "state")


def test_another_number_of_clients_than_registered_is_refused(persons: Any, tmp_path: Path) -> None:
    known = config()
    plan = listed.load("federated").plan(config=known, units=PERSONS + 1)
    with pytest.raises(PipelineError, match=r"120 privacy units \(person\), but 121 units are registered"):
        train(inputs_of(persons, known, tmp_path, plan=plan))
    assert not (tmp_path / "model").exists()


def test_another_plan_than_the_reserved_one_is_refused() -> None:
    one = listed.load("federated").plan(config=config(), units=PERSONS)
    other = config(privacy={**PRIVACY, "clipping_norm": 7.0})
    assert one is not None
    with pytest.raises(PipelineError, match="another plan"):
        federated_plan.reserved_plan(other, one)


def test_a_row_without_a_key_is_refused(persons: Any, tmp_path: Path) -> None:
    bad = rewritten(persons, tmp_path / "null.gz", lambda number: b"" if number == 7 else b"p%d" % (number % PERSONS))
    with pytest.raises(BadInputError, match="key is empty in 1 row"):
        train(inputs_of(bad, config(), tmp_path))


@pytest.mark.slow
def test_one_giant_client_is_cut_to_the_bound(persons: Any, tmp_path: Path) -> None:
    giant = rewritten(
        persons, tmp_path / "giant.gz", lambda number: b"p%d" % number if number < PERSONS - 1 else b"giant"
    )
    executed = train(inputs_of(giant, config(bound=4), tmp_path))
    assert (executed.units, executed.examples) == (PERSONS, ROWS)
    clients, _ = read_clients(inputs_of(giant, config(bound=4), tmp_path), names=["features"])
    assert clients.counts.max() == 4 and clients.counts.sum() == PERSONS - 1 + 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"algorithm": {"name": "fedavgg"}}, "fedavg"),
        ({"privacy": {**PRIVACY, "clipping_norm": 0}}, "greater than 0"),
        ({"privacy": {**PRIVACY, "target_epsilon": 1.0}}, "exactly one of"),
        ({"privacy": {**PRIVACY, "mechanism": "tree"}, "sampling": "poisson"}, "sampling: cyclic"),
        ({"privacy": {**PRIVACY, "mechanism": "tree", "adaptive": {"count_noise": 2}}}, "adaptive"),
        ({"privacy": PRIVACY, "algorithm": {"name": "mimelite"}}, "mimelite"),
        ({"privacy": PRIVACY, "algorithm": {"engine": "tff"}}, "engine: fast"),
        ({"privacy": PRIVACY, "clients": {"clients": 30}}, "made-up ones are nobody"),
        ({"privacy": {**PRIVACY, "zeroing": True}}, "zeroing"),
        ({"clients": {"clients": 30}, "unit": {"key": "person"}}, "names the clients"),
        ({"clients": {"clients": 30, "rule": "label_skew"}}, "alpha"),
        ({"privacy": None, "unit": "row"}, "needs clients"),
        ({"clients": {"clients": 10}}, "batch_size"),
    ],
)
def test_impossible_settings_have_one_clear_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        config(**changed)
    assert caught.value.error_count() == 1


def test_impossible_clipping_and_too_few_clients_are_refused_before_any_data() -> None:
    backend = listed.load("federated")
    with pytest.raises(BadInputError, match="count_noise"):
        backend.plan(config=config(privacy={**PRIVACY, "adaptive": {"count_noise": 0.5}}), units=PERSONS)
    with pytest.raises(BadInputError, match="batch_size: 20 clients of a round are more than the 19"):
        backend.plan(config=config(), units=19)


@pytest.mark.slow
def test_distributed_noise_runs_as_accounted_and_its_record_says_what_is_simulated(
    persons: Any, tmp_path: Path
) -> None:
    shared = config(privacy=SHARED, attendance={"dropout": 0.2})
    inputs = inputs_of(persons, shared, tmp_path)
    executed = train(inputs)
    assert inputs.plan is not None and executed.event == inputs.plan.event
    assert executed.sampler == Sampler.SHUFFLED.value and executed.largest_participation == 1
    assert set(executed.history) == {"weights_norm", "rounds_released", "numbers_wrapped"}
    assert 0 < executed.history["rounds_released"][0] <= executed.history["rounds_released"][1] <= 12
    record = build_record(config=shared, facts=FACTS, executed=executed, plan=inputs.plan, composition=None)
    assert record.guarantee is not None and record.guarantee.epsilon == record.guarantee.epsilon_rdp
    assert record.guarantee.epsilon_pld is None and record.guarantee.epsilon_if_poisson_sampled is None
    assert record.mechanism is not None and "secure aggregation: simulated" in record.mechanism.name
    accesses = {access.what: access for access in record.data_accesses}
    assert "sees every update" in accesses["secure aggregation"].detail and not accesses["secure aggregation"].covered
    assert any(assumption.name.startswith("every reporting client is honest") for assumption in record.assumptions)
    assert "SecAgg" not in record.model_dump_json()


def test_distributed_noise_needs_a_plan_with_room_for_the_model(persons: Any, tmp_path: Path) -> None:
    small = config(privacy={**SHARED, "distributed": {"dimension": 2}})
    with pytest.raises(BadInputError, match="trainable weights, more than the 2 that are accounted"):
        train(inputs_of(persons, small, tmp_path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampling": "poisson"}, "has no bound for `sampling: poisson`"),
        ({"privacy": {**SHARED, "distributed": None}}, "`distributed` goes with"),
        ({"privacy": {**SHARED, "mechanism": "gaussian"}}, "`distributed` goes with"),
        ({"privacy": {**SHARED, "adaptive": {"count_noise": 2.0}}}, "releases a count"),
        ({"privacy": {**SHARED, "hardened": True}}, "`hardened` does nothing"),
        ({"privacy": {**SHARED, "distributed": {"dimension": 100}}}, "power of two: 128"),
        (
            {"privacy": {**SHARED, "distributed": {"dimension": 64}}, "attendance": {"straggler": 0.1}},
            "some clients do not report",
        ),
    ],
)
def test_distributed_noise_is_refused_where_it_has_no_bound(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**{"privacy": SHARED, **changed})
