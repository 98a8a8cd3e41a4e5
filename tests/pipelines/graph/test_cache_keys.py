"""What a run and a training depend on. A new key of the config fails here until someone decides on which side it is."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from federated.algorithms.fedavg import FEDAVG
from federated.algorithms.registry import REGISTRY
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.config.models import training
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.pipelines.graph import cache_keys

BASE = """
pipeline: things
dataset:
  name: things
  path: data/things
  schema: schemas/things.pbtxt
  label: bought
  positive_class: "yes"
training: {backend: plain}
evaluation:
  thresholds:
    accuracy: {min: 0.5}
"""
SERVER = "metadata={kind: mysql, host: h, port: 1, database: d, user: u, password_env: P}"
DP = "training={backend: dp_sgd, dp_sgd: {noise_multiplier: 1.0, delta: 1.0e-5}}"
TARGET = "training={backend: dp_sgd, dp_sgd: {target_epsilon: 1.0, delta: 1.0e-5}}"
_DP_SGD = "training={{backend: dp_sgd, dp_sgd: {{noise_multiplier: 1.0, delta: 1.0e-5, {}}}}}"
TRUNCATED = _DP_SGD.format("sampling: truncated_poisson")
DP_40 = DP.replace("backend: dp_sgd,", "backend: dp_sgd, batch_size: 40,")
SECRET = _DP_SGD.replace("backend: dp_sgd,", "backend: dp_sgd, batch_size: 40,").format(
    "relation: add_or_remove_one, sampling_probability: 0.1"
)
ADAPTIVE = _DP_SGD.format("adaptive: {count_noise: 10.0}")
BANDED = _DP_SGD.format("sampling: cyclic, noise: {correlation: banded, bands: 4}")
USERS = _DP_SGD.format("users: {max_examples: 2}")
MANY = "dataset.privacy_unit={key: person, contribution_bound: 4}"
HASHED = ("dataset.input=all/*", "dataset.hash_split={train: 4, eval: 1}")
KEYED = "dataset.privacy_unit={key: person}"
STATISTICS = "preprocessing.dp={epsilon: 1.0, delta: 1.0e-6}"
SGD = "learning_rate: 0.1"
YOGI = "name: yogi, learning_rate: 0.1"
SCHEDULE = "learning_rate: 0.1, schedule: {kind: exponential, rounds: 5, decay: 0.5}"
NOISE = "noise_multiplier: 1.0"
CLIPPING = f"{NOISE}, adaptive: {{count_noise: 10.0}}"
PRIVATE = "training={{backend: federated, batch_size: 8, federated: {{privacy: {{delta: 1.0e-5, {}}}}}}}"


def federated(more: str) -> tuple[str, ...]:
    """A federated training of made-up clients."""
    parts = ", ".join(part for part in (more, "" if "clients:" in more else "clients: {clients: 40}") if part)
    return (f"training={{backend: federated, batch_size: 8, federated: {{{parts}}}}}",)


SHARED = NOISE + ", mechanism: skellam, distributed: {dimension: 256, min_clients: 7}"
SILOS = (
    "training={{backend: federated, batch_size: 8, federated: {{silo_privacy: {{column: site, silos: {{a: 5, b: 7}}, "
    "delta: 1.0e-5, clipping_norm: 1.0, {}}}}}}}"
)
_TUNED = (
    "training={{backend: dp_sgd, dp_sgd: {{noise_multiplier: 1.0, delta: 1.0e-5}}, tuning: {{method: {}, trials: 3, "
    "space: {{learning_rate: [0.1], optimizer: [sgd], clipping_norm: [1.0], hidden_units: [[8]], dropout: [0.1]}}}}}}"
)
SELECT, EACH = _TUNED.format("repeat_and_select, distribution: poisson, minutes: 5"), _TUNED.format("each")

ENCRYPTED = "training={backend: encrypted, encrypted: {simulate: true}}"

# Key of the config -> overrides that both sides share, and the one that changes the key.
SHAPES_THE_MODEL: dict[str, tuple[tuple[str, ...], str]] = {
    "pipeline": ((), "pipeline=others"),
    "dataset.name": ((), "dataset.name=others"),
    "dataset.path": ((), "dataset.path=data/others"),
    "dataset.format": ((), "dataset.format=tfrecord"),
    "dataset.input": ((), "dataset.input={train: a/*, eval: b/*}"),
    "dataset.hash_split": (HASHED, "dataset.hash_split={train: 3, eval: 1}"),
    "dataset.span": ((), "dataset.span=2"),
    "dataset.version": ((), "dataset.version=2"),
    "dataset.schema": ((), "dataset.schema=schemas/others.pbtxt"),
    "dataset.label": ((), "dataset.label=sold"),
    "dataset.positive_class": ((), "dataset.positive_class='no'"),
    "dataset.privacy_unit.key": ((), KEYED),
    "dataset.privacy_unit.contribution_bound": ((KEYED,), "dataset.privacy_unit.contribution_bound=5"),
    "preprocessing.dp.epsilon": ((DP, STATISTICS), "preprocessing.dp.epsilon=2.0"),
    "preprocessing.dp.delta": ((DP, STATISTICS), "preprocessing.dp.delta=1.0e-7"),
    "model.use": ((), "model.use=my.module"),
    "model.hidden_units": ((), "model.hidden_units=[3]"),
    "model.dropout": ((), "model.dropout=0.5"),
    "model.params": ((), "model.params={depth: 3}"),
    "model.files": ((), "model.files=[words.txt]"),
    "model.trust": ((), "model.trust=reviewed"),
    "training.backend": ((), DP),
    "training.epochs": ((), "training.epochs=3"),
    "training.batch_size": ((), "training.batch_size=3"),
    "training.learning_rate": ((), "training.learning_rate=0.5"),
    "training.optimizer": ((), "training.optimizer=sgd"),
    "training.seed": ((), "training.seed=3"),
    "training.dp_sgd.target_epsilon": ((TARGET,), "training.dp_sgd.target_epsilon=2.0"),
    "training.dp_sgd.noise_multiplier": ((DP,), "training.dp_sgd.noise_multiplier=2.0"),
    "training.dp_sgd.delta": ((DP,), "training.dp_sgd.delta=1.0e-6"),
    "training.dp_sgd.clipping_norm": ((DP,), "training.dp_sgd.clipping_norm=2.0"),
    "training.dp_sgd.engine": ((DP,), "training.dp_sgd.engine=tensorflow_privacy"),
    "training.dp_sgd.sampling": ((DP,), "training.dp_sgd.sampling=shuffled"),
    "training.dp_sgd.truncate_at": ((TRUNCATED,), "training.dp_sgd.truncate_at=400"),
    "training.dp_sgd.relation": (
        (DP_40,),
        "training.dp_sgd={noise_multiplier: 1, delta: 1.0e-5, relation: add_or_remove_one, sampling_probability: 0.1}",
    ),
    "training.dp_sgd.sampling_probability": ((SECRET,), "training.dp_sgd.sampling_probability=0.2"),
    "training.dp_sgd.per_layer": ((DP,), "training.dp_sgd.per_layer=true"),
    "training.dp_sgd.hardened": ((DP,), "training.dp_sgd.hardened=true"),
    "training.dp_sgd.audit": ((DP,), "training.dp_sgd.audit=none"),
    "training.dp_sgd.adaptive.quantile": ((ADAPTIVE,), "training.dp_sgd.adaptive.quantile=0.7"),
    "training.dp_sgd.adaptive.learning_rate": ((ADAPTIVE,), "training.dp_sgd.adaptive.learning_rate=0.3"),
    "training.dp_sgd.adaptive.count_noise": ((ADAPTIVE,), "training.dp_sgd.adaptive.count_noise=20.0"),
    "training.dp_sgd.noise.correlation": ((BANDED,), "training.dp_sgd.noise={correlation: tree}"),
    "training.dp_sgd.noise.bands": ((BANDED,), "training.dp_sgd.noise.bands=8"),
    "training.dp_sgd.users.max_examples": ((MANY, USERS), "training.dp_sgd.users.max_examples=3"),
    "training.dp_sgd.users.clip": ((MANY, USERS), "training.dp_sgd.users.clip=each"),
    "training.tuning.method": ((SELECT,), EACH),
    "training.tuning.trials": ((SELECT,), "training.tuning.trials=4"),
    "training.tuning.distribution": ((SELECT,), "training.tuning.distribution=geometric"),
    "training.tuning.metric": ((SELECT,), "training.tuning.metric=auc"),
    "training.tuning.minutes": ((SELECT,), "training.tuning.minutes=2"),  # it does not, but the run is another one
    "training.tuning.space.learning_rate": ((SELECT,), "training.tuning.space.learning_rate=[0.2]"),
    "training.tuning.space.optimizer": ((SELECT,), "training.tuning.space.optimizer=[adam]"),
    "training.tuning.space.clipping_norm": ((SELECT,), "training.tuning.space.clipping_norm=[2.0]"),
    "training.tuning.space.hidden_units": ((SELECT,), "training.tuning.space.hidden_units=[[9]]"),
    "training.tuning.space.dropout": ((SELECT,), "training.tuning.space.dropout=[0.2]"),
    "training.settings": ((), "training.settings={share: 0.2}"),
    "training.encrypted.train_with": (
        (ENCRYPTED,),
        "training={backend: encrypted, dp_sgd: {noise_multiplier: 1.0, delta: 1.0e-5},"
        " encrypted: {simulate: true, train_with: dp_sgd}}",
    ),
    "training.encrypted.parties": (
        ("training={backend: encrypted, encrypted: {parties: a}}",),
        "training.encrypted.parties=b",  # of other hosts perhaps, and the record says which
    ),
    "training.encrypted.input_range": ((ENCRYPTED,), "training.encrypted.input_range=64"),
    "training.encrypted.simulate": ((ENCRYPTED,), "training.encrypted.simulate=false"),  # the record says so
    **{
        f"training.federated.{key}": (federated(shared), f"training.federated.{change}")
        for key, shared, change in (
            ("algorithm.name", "", "algorithm.name=mimelite"),
            ("algorithm.settings", "", "algorithm.settings={share: 0.2}"),
            ("algorithm.engine", "", "algorithm.engine=tff"),
            ("algorithm.weighting", "", "algorithm.weighting=uniform"),
            ("algorithm.batch_size", "", "algorithm.batch_size=7"),
            ("algorithm.local_epochs", "", "algorithm.local_epochs=2"),
            (
                "algorithm.proximal_strength",
                "algorithm: {name: fedprox, proximal_strength: 0.1}",
                "algorithm.proximal_strength=0.2",
            ),
            *(
                (f"algorithm.{side}.{key}", f"algorithm: {{{side}: {{{shared}}}}}", f"algorithm.{side}.{change}")
                for side in ("client_optimizer", "server_optimizer")
                for key, shared, change in (
                    ("name", SGD, "name=adam"),
                    ("learning_rate", SGD, "learning_rate=0.3"),
                    ("momentum", SGD, "momentum=0.9"),
                    ("beta_1", YOGI, "beta_1=0.8"),
                    ("beta_2", YOGI, "beta_2=0.8"),
                    ("epsilon", YOGI, "epsilon=0.01"),
                    ("initial_accumulator", YOGI, "initial_accumulator=0.2"),
                    ("schedule.kind", SCHEDULE, "schedule.kind=step"),
                    ("schedule.rounds", SCHEDULE, "schedule.rounds=6"),
                    ("schedule.decay", SCHEDULE, "schedule.decay=0.2"),
                    ("schedule.warmup_rounds", SCHEDULE, "schedule.warmup_rounds=3"),
                )
            ),
            ("attendance.dropout", "", "attendance.dropout=0.1"),
            ("attendance.straggler", "", "attendance.straggler=0.1"),
            ("clients.rule", "", "clients={rule: label_skew, clients: 40, alpha: 1.0}"),
            ("clients.clients", "", "clients.clients=41"),
            ("clients.alpha", "clients: {rule: label_skew, clients: 40, alpha: 1.0}", "clients.alpha=2.0"),
            ("clients.seed", "", "clients.seed=2"),
            ("sampling", "", "sampling=poisson"),
        )
    },
    **{
        f"training.federated.privacy.{key}": ((KEYED, PRIVATE.format(shared)), f"training.federated.privacy.{change}")
        for key, shared, change in (
            ("target_epsilon", "target_epsilon: 1.0", "target_epsilon=2.0"),
            ("noise_multiplier", NOISE, "noise_multiplier=2.0"),
            ("delta", NOISE, "delta=1.0e-6"),
            ("mechanism", NOISE, "mechanism=tree"),
            ("clipping_norm", NOISE, "clipping_norm=2.0"),
            ("hardened", NOISE, "hardened=true"),
            ("audit", NOISE, "audit=none"),
            ("adaptive.quantile", CLIPPING, "adaptive.quantile=0.7"),
            ("adaptive.learning_rate", CLIPPING, "adaptive.learning_rate=0.3"),
            ("adaptive.count_noise", CLIPPING, "adaptive.count_noise=20.0"),
            ("distributed.dimension", SHARED, "distributed.dimension=512"),
            ("distributed.min_clients", SHARED, "distributed.min_clients=6"),
            ("distributed.bits", SHARED, "distributed.bits=20"),
        )
    },
    **{
        f"training.federated.silo_privacy.{key}": ((SILOS.format(shared),), f"training.federated.silo_privacy.{change}")
        for key, shared, change in (
            ("column", NOISE, "column=colour"),
            ("silos", NOISE, "silos={a: 5, b: 6}"),
            ("target_epsilon", "target_epsilon: 1.0", "target_epsilon=2.0"),
            ("noise_multiplier", NOISE, "noise_multiplier=2.0"),
            ("delta", NOISE, "delta=1.0e-6"),
            ("clipping_norm", NOISE, "clipping_norm=2.0"),
            ("local_steps", NOISE, "local_steps=3"),
            ("audit", NOISE, "audit=none"),
            ("hardened", NOISE, "hardened=true"),
        )
    },
    "ledger": ((), "ledger=sqlite:///other.db"),  # the training is charged there, and its record says so
}
LOSS_BOUND = "evaluation.thresholds={log_loss: {max: 0.5, max_increase: 0.1}}"
EVALUATED = (DP, "evaluation.dp={epsilon: 1.0, delta: 1.0e-5}")
CANNOT_SHAPE_THE_MODEL: dict[str, tuple[tuple[str, ...], str]] = {
    "evaluation.dp.epsilon": (EVALUATED, "evaluation.dp.epsilon=2.0"),
    "evaluation.dp.delta": (EVALUATED, "evaluation.dp.delta=1.0e-6"),
    "evaluation.dp.decision_threshold": (EVALUATED, "evaluation.dp.decision_threshold=0.4"),
    "evaluation.slices": ((), "evaluation.slices=[colour]"),
    "evaluation.thresholds.min": ((), "evaluation.thresholds.accuracy.min=0.9"),
    "evaluation.thresholds.max_decrease": ((), "evaluation.thresholds.accuracy.max_decrease=0.9"),
    "evaluation.thresholds.max": ((LOSS_BOUND,), "evaluation.thresholds.log_loss.max=0.9"),
    "evaluation.thresholds.max_increase": ((LOSS_BOUND,), "evaluation.thresholds.log_loss.max_increase=0.9"),
    "policy.max_epsilon": ((), "policy.max_epsilon=1.0"),
    "policy.max_delta": ((), "policy.max_delta=1.0e-9"),
    "policy.encrypted.min_agreement": ((), "policy.encrypted.min_agreement=0.5"),
    "policy.encrypted.max_logit_error": ((), "policy.encrypted.max_logit_error=0.5"),
    "policy.encrypted.max_proven_error": ((), "policy.encrypted.max_proven_error=0.5"),
    "policy.encrypted.max_spread_error": ((), "policy.encrypted.max_spread_error=0.5"),
    "push.directory": ((), "push.directory=/models"),
    "workspace": ((), "workspace=/elsewhere"),
    "metadata.kind": ((SERVER,), "metadata.kind=postgresql"),
    "metadata.path": ((), "metadata={kind: sqlite, path: /elsewhere.db}"),
    "metadata.host": ((SERVER,), "metadata.host=other"),
    "metadata.port": ((SERVER,), "metadata.port=2"),
    "metadata.database": ((SERVER,), "metadata.database=other"),
    "metadata.user": ((SERVER,), "metadata.user=other"),
    "metadata.password_env": ((SERVER,), "metadata.password_env=OTHER"),
    "beam.args": ((), "beam.args=[--runner=DataflowRunner]"),
    "cache": ((), "cache=false"),
}


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in typing.get_args(annotation):
        yield from sections_in(member)


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        path = prefix + (field.alias or name)
        below = list(sections_in(field.annotation))
        if not below:
            yield path
        for inner in below:
            yield from keys_of(inner, f"{path}.")


class Settings(BaseModel):
    """Settings of a backend or an algorithm that an extension adds."""

    share: float = 0.1


@pytest.fixture(autouse=True)
def settings_of_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "fedavg", dataclasses.replace(FEDAVG, settings=Settings))
    monkeypatch.setattr(training, "settings_of_backend", lambda name: Settings)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "things.yaml"
    path.write_text(BASE)
    return path


def training_views(config_file: Path, case: tuple[tuple[str, ...], str]) -> tuple[PipelineConfig, PipelineConfig]:
    shared, change = case
    before = load_config(config_file, overrides=shared)
    after = load_config(config_file, overrides=[*shared, change])
    assert before != after, "the case changes nothing"
    return cache_keys.training_view(before, span=None), cache_keys.training_view(after, span=None)


def test_every_key_of_the_config_is_on_one_side() -> None:
    known = set(SHAPES_THE_MODEL) | set(CANNOT_SHAPE_THE_MODEL) | {"dataset.task"}  # which has a test of its own
    assert not set(SHAPES_THE_MODEL) & set(CANNOT_SHAPE_THE_MODEL)
    new = set(keys_of(PipelineConfig)) - known
    assert not new, f"decide whether these can change a trained model, and add them to a table above: {sorted(new)}"
    assert known == set(keys_of(PipelineConfig))


def test_the_task_shapes_the_model(config_file: Path) -> None:
    """It changes with its thresholds, which cannot."""
    views = []
    for task, metric in (("multiclass", "accuracy"), ("regression", "r2")):
        asked = [
            "dataset.positive_class=null",
            f"dataset.task={task}",
            f"evaluation.thresholds={{{metric}: {{min: 0.1}}}}",
        ]
        views.append(cache_keys.training_view(load_config(config_file, overrides=asked), span=None))
    assert views[0].model_copy(update={"evaluation": None}) != views[1].model_copy(update={"evaluation": None})


@pytest.mark.parametrize("key", SHAPES_THE_MODEL)
def test_the_training_view_sees_what_shapes_a_model(key: str, config_file: Path) -> None:
    before, after = training_views(config_file, SHAPES_THE_MODEL[key])
    assert before != after
    assert cache_keys.canonical(before) != cache_keys.canonical(after)


@pytest.mark.parametrize("key", CANNOT_SHAPE_THE_MODEL)
def test_the_training_view_ignores_what_cannot_shape_a_model(key: str, config_file: Path) -> None:
    before, after = training_views(config_file, CANNOT_SHAPE_THE_MODEL[key])
    assert cache_keys.canonical(before) == cache_keys.canonical(after)


@pytest.mark.parametrize("key", SHAPES_THE_MODEL | CANNOT_SHAPE_THE_MODEL)
def test_the_evaluation_view_sees_the_model_and_what_is_counted_alone(key: str, config_file: Path) -> None:
    shared, change = (SHAPES_THE_MODEL | CANNOT_SHAPE_THE_MODEL)[key]
    before, after = (
        cache_keys.canonical(cache_keys.evaluation_view(load_config(config_file, overrides=overrides), span=None))
        for overrides in (shared, [*shared, change])
    )
    counted = key == "evaluation.slices" or key.startswith("evaluation.dp.")
    assert (before != after) == (key in SHAPES_THE_MODEL or counted)


def test_the_training_view_names_the_span_that_latest_stands_for(config_file: Path) -> None:
    latest = load_config(config_file)
    second = load_config(config_file, overrides=["dataset.span=2"])
    assert cache_keys.training_view(latest, span=2) == cache_keys.training_view(second, span=2)
    assert cache_keys.training_view(latest, span=1) != cache_keys.training_view(latest, span=2)


def test_a_view_is_a_config_again_so_that_the_trainer_can_read_it(config_file: Path) -> None:
    view = cache_keys.training_view(load_config(config_file), span=4)
    assert PipelineConfig.model_validate_json(view.model_dump_json(by_alias=True)) == view
    clients = load_config(config_file, overrides=federated("algorithm: {name: fedsgd}"))
    assert PipelineConfig.model_validate_json(clients.model_dump_json(by_alias=True)) == clients
    assert cache_keys.training_view(view, span=4) == view


FACTS = {"data_digest": "d", "schema_digest": "s", "code": "c", "lock": "l"}


def fingerprint(text: str, folder: Path, **facts: str) -> str:
    path = folder / "some.yaml"
    path.write_text(text)
    return cache_keys.fingerprint(config=load_config(path), **(FACTS | facts))


@given(order=st.permutations(sorted(yaml.safe_load(BASE))), flow=st.booleans(), comment=st.text("abc #:", max_size=9))
def test_comments_and_layout_do_not_change_the_fingerprint(
    order: list[str], flow: bool, comment: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    document = yaml.safe_load(BASE)
    text = f"# {comment}\n" + yaml.safe_dump(
        {name: document[name] for name in order}, sort_keys=False, default_flow_style=flow
    )
    folder = tmp_path_factory.getbasetemp()
    assert fingerprint(text, folder) == fingerprint(BASE, folder)


@pytest.mark.parametrize("key", SHAPES_THE_MODEL | CANNOT_SHAPE_THE_MODEL)
def test_any_changed_key_changes_the_fingerprint_of_the_run(key: str, config_file: Path) -> None:
    shared, change = (SHAPES_THE_MODEL | CANNOT_SHAPE_THE_MODEL)[key]
    before = load_config(config_file, overrides=shared)
    after = load_config(config_file, overrides=[*shared, change])
    assert cache_keys.fingerprint(config=before, **FACTS) != cache_keys.fingerprint(config=after, **FACTS)


@pytest.mark.parametrize("fact", FACTS)
def test_changed_data_schema_code_or_packages_change_the_fingerprint(fact: str, tmp_path: Path) -> None:
    assert fingerprint(BASE, tmp_path) != fingerprint(BASE, tmp_path, **{fact: "other"})


def test_code_of_the_user_is_part_of_the_code_hash(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "my_views_module.py"
    module.write_text("def build_model(context): return 1\n")
    own = load_config(config_file, overrides=["model.use=my_views_module"])
    first = cache_keys.code_hash(own)
    assert first != cache_keys.code_hash(load_config(config_file))
    module.write_text("def build_model(context): return 2\n")
    assert cache_keys.code_hash(own) != first


def test_code_of_the_framework_is_part_of_every_key(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(config_file)

    def keys() -> tuple[str, str]:
        statistics = cache_keys.statistics_fingerprint(config, request="{}", data_digest="d" * 64, lock="l")
        return cache_keys.code_hash(config), statistics

    before = keys()
    monkeypatch.setattr(cache_keys, "hash_of_framework", lambda: "0" * 64)
    assert all(one != other for one, other in zip(before, keys(), strict=True))
