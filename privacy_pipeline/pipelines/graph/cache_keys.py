"""What a run depends on: the part of the config that shapes a model, and the fingerprint of a whole run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from privacy_pipeline.backends.isolated.visible import hash_of_files
from privacy_pipeline.backends.models.code_hash import hash_of_user_code
from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.config.models.evaluation import EvaluationSection, PolicySection, PushSection, Threshold
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.models.storage import BeamSection, SqliteMetadata
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.processes.installed import distributions, environment_hash, hash_of_framework
from privacy_pipeline.spans import Span
from privacy_pipeline.tasks import registry as tasks


def canonical(config: PipelineConfig) -> str:
    """Return the config as JSON with sorted keys: equal for files that differ in comments or layout only."""
    return json.dumps(config.model_dump(mode="json", by_alias=True), sort_keys=True)


def training_view(config: PipelineConfig, *, span: Span) -> PipelineConfig:
    """Return the config with every setting fixed that cannot change a trained model.

    TFX's cache key holds this view, so that a new threshold or slice does not train (and spend) again.

    Args:
        config: the whole config.
        span: the span that "latest" stands for in this run.
    """
    fixed_span: dict[str, object] = {} if span is None else {"span": span}
    dataset: DatasetConfig = config.dataset.model_copy(update=fixed_span)
    return config.model_copy(
        update={
            "dataset": dataset,
            "evaluation": _no_evaluation(dataset),
            "policy": PolicySection(),
            "push": PushSection(),
            "metadata": SqliteMetadata(),
            "beam": BeamSection(),
            "workspace": Path("."),
            "cache": True,
        }
    )


def _no_evaluation(dataset: DatasetConfig) -> EvaluationSection:
    metric = tasks.of(dataset).metrics[0]
    bound = Threshold(min=0.0) if metric.larger_is_better else Threshold(max=0.0)
    return EvaluationSection(thresholds={metric.name: bound})


def evaluation_view(config: PipelineConfig, *, span: Span) -> PipelineConfig:
    """Return the config with every setting fixed that cannot change what a DP evaluation releases, above all its
    thresholds.

    Args:
        config: the whole config.
        span: the span that "latest" stands for in this run.
    """
    view = training_view(config, span=span)
    asked = view.evaluation.model_copy(update={"slices": config.evaluation.slices, "dp": config.evaluation.dp})
    return view.model_copy(update={"evaluation": asked})


def statistics_fingerprint(config: PipelineConfig, *, request: str, data_digest: str, lock: str) -> str:
    """Return the SHA-256 over all that DP statistics depend on: the request, the rows, and the code that reads and
    counts them.

    Args:
        config: the config; its dataset section defines the rows.
        request: the request, as JSON.
        data_digest: digest of the source files.
        lock: hash of the dependency lock.
    """
    dataset = config.dataset
    rows = [str(dataset.path), dataset.format, json.dumps([dataset.input, dataset.hash_split], sort_keys=True)]
    parts = (request, *rows, data_digest, hash_of_framework(), lock)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def packages_hash(config: PipelineConfig) -> str:
    """Return the SHA-256 over the installed packages that a run uses; with `training.encrypted`, also those of its
    environment.

    Raises:
        BadInputError: the environment of encrypted inference is not set up.
    """
    if config.training.encrypted is None:
        return environment_hash()
    folders = sorted((environment.interpreter().parents[1] / "lib").glob("python3*/site-packages"))
    found = [f"{folder.parent.name} {name}" for folder in folders for name in distributions(folder)]
    return hashlib.sha256("\n".join([environment_hash(), *found]).encode()).hexdigest()


def code_hash(config: PipelineConfig) -> str:
    """Return the SHA-256 over the framework's and the user's code that shapes a model."""
    user = ""
    if config.model.use != "tabular":
        user = hash_of_user_code(config.model.use, root=Path.cwd()) + hash_of_files(config)
    return hashlib.sha256(f"{hash_of_framework()}\n{user}".encode()).hexdigest()


def fingerprint(*, config: PipelineConfig, data_digest: str, schema_digest: str, code: str, lock: str) -> str:
    """Return the SHA-256 over all that a run (or, with `training_view`, a training) depends on.

    Equal fingerprints mean that nothing changed.
    """
    parts = (canonical(config), data_digest, schema_digest, code, lock)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
