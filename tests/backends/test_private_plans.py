"""Plans of the dp_sgd backend beyond single rows and independent noise: users, adaptive clipping, correlation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import dp_accounting as d
import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import MechanismPlan, Sampler
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.accounting.truncation import paid, untruncated
from privacy_pipeline.backends import private_plan
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.dp_sgd import DpSgdBackend
from privacy_pipeline.backends.example_data import read_examples
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.backends.conftest import make_config

ROWS, USERS = 600, 200
SECTION = {"noise_multiplier": 2.0, "delta": 1e-5}
PERSON = {"privacy_unit": {"key": "person", "contribution_bound": 2}}


def plan_of(units: int = ROWS, *, dataset: dict[str, Any] | None = None, **section: Any) -> MechanismPlan:
    return DpSgdBackend().plan(config=config_of(dataset=dataset, **section), units=units)


def config_of(*, dataset: dict[str, Any] | None = None, **section: Any) -> Any:
    return make_config(backend="dp_sgd", batch_size=100, dp_sgd={**SECTION, **section}, dataset=dataset or {})


@pytest.fixture(scope="session")
def owned(split: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The rows of `split`, three in a row to each of 200 persons."""
    path = tmp_path_factory.mktemp("owned") / "rows.gz"
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        records = tf.data.TFRecordDataset(split.files, "GZIP").as_numpy_iterator()
        for number, record in enumerate(records):
            row = tf.train.Example.FromString(record)
            row.features.feature["privacy_unit_key"].bytes_list.value[0] = f"p{number // 3}".encode()
            writer.write(row.SerializeToString())
    return (str(path),)


def inputs_of(split: Any, files: tuple[str, ...], folder: Path, *, units: int = ROWS, **given: Any) -> TrainingInputs:
    config = config_of(**given)
    plan = DpSgdBackend().plan(config=config, units=units)
    return split.inputs(config, folder, plan=plan, train_files=files, eval_files=())


def test_a_user_is_the_unit_that_is_sampled_and_bounded() -> None:
    plan = plan_of(USERS, dataset=PERSON, users={"clip": "each"})
    assert (plan.unit, plan.units, plan.contribution_bound) == ("person", USERS, 2)
    assert plan.engine_parameters["unit"] == "user"
    assert plan.event == poisson_gaussian(sampling_probability=100 / USERS, noise_multiplier=2.0, steps=4)
    bound = plan.engine_parameters["users"]
    assert (bound["max_examples"], bound["clip"]) == (2, "each")
    assert plan_of(USERS, dataset=PERSON, users={"max_examples": 1}).contribution_bound == 1


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["sum", "each"])
def test_users_are_counted_and_trained_on(split: Any, owned: tuple[str, ...], tmp_path: Path, clip: str) -> None:
    inputs = inputs_of(split, owned, tmp_path, units=USERS, dataset=PERSON, users={"clip": clip})
    executed = DpSgdBackend().train(inputs)
    assert (executed.units, executed.examples) == (USERS, ROWS)
    assert inputs.plan is not None and executed.event == inputs.plan.event
    assert (tmp_path / "model").is_dir()


def test_another_number_of_users_than_registered_is_an_error(
    split: Any, owned: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match=rf"{USERS} privacy units \(person\), but {ROWS} units"):
        DpSgdBackend().train(inputs_of(split, owned, tmp_path, units=ROWS, dataset=PERSON))


def test_owners_are_numbered_and_the_key_is_no_input(split: Any, owned: tuple[str, ...], tmp_path: Path) -> None:
    examples = read_examples(
        owned, transform_graph=split.transform_graph, names=["features"], keyed=True, classes=2, folder=tmp_path
    )
    np.testing.assert_array_equal(examples.owners, np.arange(ROWS) // 3)
    assert set(examples.store.x) == {"features"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"users": {"clip": "sum"}}, "privacy_unit"),
        ({"users": {"max_examples": 3}, "dataset": PERSON}, "above the contribution_bound 2"),
        ({"relation": "add_or_remove_one"}, "sampling_probability"),
        ({"sampling_probability": 0.1}, "zero_out"),
        ({"truncate_at": 100}, "truncated_poisson"),
        ({"relation": "add_or_remove_one", "sampling_probability": 0.1, "sampling": "shuffled"}, "no guarantee"),
        ({"noise": {"correlation": "banded"}}, "bands"),
        ({"noise": {"bands": 3}}, "bands"),
        ({"engine": "tensorflow_privacy", "per_layer": True}, "per_layer"),
        ({"engine": "tensorflow_privacy", "sampling": "truncated_poisson"}, "sampling"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_in_the_config(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config_of(**given)


def test_tensorflow_privacy_protects_rows_alone() -> None:
    with pytest.raises(BadInputError, match="protects single rows"):
        plan_of(USERS, dataset=PERSON, engine="tensorflow_privacy")


def test_truncation_is_planned_with_a_cap_that_costs_next_to_nothing() -> None:
    plan = plan_of(sampling="truncated_poisson")
    assert plan.sampler is Sampler.TRUNCATED_POISSON
    plain, distance = untruncated(plan.event)
    assert paid(distance, epsilon=10.0) <= 1e-8
    cap = plan.engine_parameters["sampling"]["cap"]
    shorter = untruncated(plan_of(sampling="truncated_poisson", truncate_at=cap - 1).event)[1]
    assert paid(shorter, epsilon=10.0) > 1e-8
    assert plain == poisson_gaussian(sampling_probability=100 / ROWS, noise_multiplier=2.0, steps=12)
    given = plan_of(sampling="truncated_poisson", truncate_at=200)
    assert given.engine_parameters["sampling"]["cap"] == 200


@pytest.mark.slow
def test_truncated_samples_train(split: Any, tmp_path: Path) -> None:
    inputs = inputs_of(split, split.files, tmp_path, sampling="truncated_poisson")
    executed = DpSgdBackend().train(inputs)
    assert inputs.plan is not None
    assert executed.event == inputs.plan.event and executed.sampler == "truncated_poisson"


@pytest.mark.slow
def test_adaptive_clipping_is_in_the_plan_and_trains(split: Any, tmp_path: Path) -> None:
    inputs = inputs_of(split, split.files, tmp_path, adaptive={"count_noise": 10.0, "quantile": 0.6})
    assert inputs.plan is not None
    adaptive = inputs.plan.engine_parameters["clipping"]["adaptive"]
    assert adaptive == {"quantile": 0.6, "learning_rate": 0.2, "count_noise": 10.0}
    assert DpSgdBackend().train(inputs).event == inputs.plan.event


@pytest.mark.slow
@pytest.mark.parametrize("noise", [{"correlation": "tree"}, {"correlation": "banded", "bands": 3}], ids=str)
def test_correlated_noise_over_cyclic_batches_has_a_bound_and_trains(
    split: Any, tmp_path: Path, noise: dict[str, Any]
) -> None:
    inputs = inputs_of(split, split.files, tmp_path, sampling="cyclic", noise=noise)
    assert inputs.plan is not None and inputs.plan.sampler is Sampler.CYCLIC
    assert inputs.plan.mechanism != plan_of().mechanism
    executed = DpSgdBackend().train(inputs)
    assert executed.event == inputs.plan.event and executed.largest_participation == 1


@pytest.mark.parametrize("target", [{}, {"noise_multiplier": None, "target_epsilon": 3.0}], ids=["noise", "target"])
@pytest.mark.parametrize(
    "given",
    [
        {"noise": {"correlation": "tree"}},
        {"noise": {"correlation": "banded", "bands": 3}, "sampling": "shuffled"},
        {"noise": {"correlation": "banded", "bands": 7}, "sampling": "cyclic"},  # an epoch has six steps
    ],
    ids=str,
)
def test_what_has_no_bound_is_refused_before_any_data(given: dict[str, Any], target: dict[str, Any]) -> None:
    with pytest.raises(AccountingError, match="epsilon is unknown"):
        plan_of(**given, **target)


def test_an_unsupported_event_never_becomes_a_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of()
    plan = private_plan.privacy_plan(config, units=ROWS)
    monkeypatch.setattr(type(plan), "event", property(lambda self: d.UnsupportedDpEvent()))
    with pytest.raises(AccountingError, match="epsilon is unknown"):
        private_plan.mechanism_plan(config, plan)


def test_each_option_makes_another_plan() -> None:
    plans = [
        plan_of(),
        plan_of(per_layer=True),
        plan_of(hardened=True),
        plan_of(sampling="shuffled"),
        plan_of(sampling="truncated_poisson"),
        plan_of(adaptive={"count_noise": 10.0}),
        plan_of(engine="tensorflow_privacy"),
        plan_of(clipping_norm=0.5),
    ]
    assert len({plan.digest() for plan in plans}) == len(plans)
    assert dataclasses.replace(plans[0], engine="other").digest() != plans[0].digest()
