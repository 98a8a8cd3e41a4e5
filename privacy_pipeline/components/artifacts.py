"""Artifact types of our own. Scalars are MLMD properties, so that one query reads them without opening a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.types import artifact, standard_artifacts, system_artifacts
from tfx.utils import path_utils

_STRING = artifact.Property(type=artifact.PropertyType.STRING)
_FLOAT = artifact.Property(type=artifact.PropertyType.FLOAT)
_INT = artifact.Property(type=artifact.PropertyType.INT)

RECORD_FILE = "privacy_record.json"
SUMMARY_FILE = "summary.json"


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
        "accuracy": _FLOAT,
        "auc": _FLOAT,
        "precision": _FLOAT,
        "recall": _FLOAT,
        "examples": _INT,
        "blessed": _INT,
        "cached_training": _INT,
    }


def is_whole(found: Any) -> bool:
    """Whether what an artifact names is still on the disk: its folder, and of a model the SavedModel in it.

    Args:
        found: an artifact with a URI.
    """
    if isinstance(found, standard_artifacts.Model):
        return Path(path_utils.serving_model_dir(found.uri), "saved_model.pb").is_file()
    return Path(found.uri).exists()
