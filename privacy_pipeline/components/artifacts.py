"""Artifact types of our own. Scalars are MLMD properties, so that one query reads them without opening a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfx.types import artifact, standard_artifacts, system_artifacts
from tfx.utils import path_utils

from privacy_pipeline.components import left_files
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.tasks.registry import metrics

Artifacts = dict[str, list[artifact.Artifact]]  # what TFX gives an executor, by the name of a channel

_STRING = artifact.Property(type=artifact.PropertyType.STRING)
_FLOAT = artifact.Property(type=artifact.PropertyType.FLOAT)
_INT = artifact.Property(type=artifact.PropertyType.INT)

RECORD_FILE = "privacy_record.json"
SUMMARY_FILE = "summary.json"
DATA_DIGEST = "data_digest"  # of examples: a custom property
PLACES = "places"  # of DpStatistics: a parameter that its cache key leaves out
MODEL_DIGEST = "model_digest"  # of models: a custom property


class PrivacyRecordArtifact(artifact.Artifact):
    """The privacy record of one training; `privacy_record.json` below its URI holds the whole of it."""

    TYPE_NAME = "PrivacyRecord"
    TYPE_ANNOTATION = system_artifacts.Metrics
    PROPERTIES = {
        "backend": _STRING,
        "training_guarantee": _STRING,
        "unit": _STRING,
        "relation": _STRING,
        "epsilon": _FLOAT,
        "delta": _FLOAT,
        "accountant": _STRING,
        "noise_multiplier": _FLOAT,
        "sampler": _STRING,
        "ledger_entry": _INT,
    }


class EncryptedEvaluationArtifact(artifact.Artifact):
    """Plain against private predictions; `encrypted_evaluation.json` below its URI holds times and threat model too."""

    TYPE_NAME = "EncryptedEvaluation"
    TYPE_ANNOTATION = system_artifacts.Metrics
    PROPERTIES = {
        "inference_protection": _STRING,
        "rows": _INT,
        "accuracy_plain": _FLOAT,
        "accuracy_encrypted": _FLOAT,
        "auc_plain": _FLOAT,
        "auc_encrypted": _FLOAT,
        "agreement": _FLOAT,
        "largest_logit_error": _FLOAT,
        "p99_logit_error": _FLOAT,
        "rows_per_second": _FLOAT,
        "rounds": _INT,
    }


class DpStatisticsArtifact(artifact.Artifact):
    """Noisy ranges and vocabularies of columns; `dp_statistics.json` below its URI holds them and what they cost."""

    TYPE_NAME = "DpStatistics"
    TYPE_ANNOTATION = system_artifacts.Statistics


class RunMetricsArtifact(artifact.Artifact):
    """Utility and privacy of one run; `summary.json` below its URI adds slices and the whole record.

    A run without a DP guarantee has no `epsilon` property: its epsilon is not zero, it does not exist.
    """

    TYPE_NAME = "RunMetrics"
    TYPE_ANNOTATION = system_artifacts.Metrics
    PROPERTIES = {
        "run_id": _STRING,
        "pipeline": _STRING,
        "backend": _STRING,
        "training_guarantee": _STRING,
        "unit": _STRING,
        "relation": _STRING,
        "accountant": _STRING,
        "epsilon": _FLOAT,
        "delta": _FLOAT,
        **dict.fromkeys(metrics(), _FLOAT),
        "examples": _INT,
        "blessed": _INT,
        "cached_training": _INT,
    }


def bind_to_data(examples: Sequence[Any], digest: str) -> None:
    """Mark artifacts of examples with the data that they were made of.

    Args:
        examples: artifacts of examples, raw or transformed.
        digest: covered digest of the data.
    """
    for one in examples:
        one.set_string_custom_property(DATA_DIGEST, digest)


def data_of(examples: Sequence[Any]) -> str:
    """Return the digest of the data that examples were made of; empty where an earlier version made them."""
    digests = {str(one.get_string_custom_property(DATA_DIGEST) or "") for one in examples}
    return digests.pop() if len(digests) == 1 else ""


def require_data(examples: Sequence[Any], digest: str) -> None:
    """Refuse examples of other data than what is to be charged, before anything is charged or computed.

    Args:
        examples: artifacts of examples, raw or transformed.
        digest: covered digest of the data that the run was started on.

    Raises:
        PipelineError: they were made of other data, or do not name theirs.
    """
    if not digest or data_of(examples) != digest:
        raise PipelineError(
            "the examples of this run were not made of the data whose digest it was started with; nothing is charged",
            fix="run the whole pipeline again, without --from",
        )


def bind_model(model: Any) -> None:
    """Mark a model's artifact with the digest of its files, when they were written.

    Args:
        model: the artifact.
    """
    model.set_string_custom_property(MODEL_DIGEST, digest_of_folder(Path(path_utils.serving_model_dir(model.uri))))


def require_model(model: Any, folder: Path | None = None) -> None:
    """Refuse a model whose files are not those that were trained.

    Args:
        model: the artifact; one of an earlier version has no digest of its files, and passes.
        folder: of a copy of its SavedModel, which is checked in its place.

    Raises:
        PipelineError: a file was changed, added or removed.
    """
    known = model.get_string_custom_property(MODEL_DIGEST)
    folder = Path(path_utils.serving_model_dir(model.uri)) if folder is None else folder
    if known and digest_of_folder(folder) != known:
        raise PipelineError(
            f"{folder}: the files of the model changed since it was trained; it is not used",
            fix="run again with --no-cache",
        )


def digest_of_folder(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                content.update(block)
        total.update(f"{path.relative_to(folder).as_posix()}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


def is_whole(found: Any) -> bool:
    """Whether what an artifact names is still on the disk, see `left_files`.

    Args:
        found: an artifact with a URI.
    """
    kind = left_files.MODEL if isinstance(found, standard_artifacts.Model) else found.type_name
    splits = found.split_names if isinstance(found, standard_artifacts.Examples) else ""
    return left_files.are_left(kind, Path(found.uri), splits=splits or "")
