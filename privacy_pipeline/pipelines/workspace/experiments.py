"""Federated experiments in a workspace, for the dataset's report. Reads files only; imports no TensorFlow, no TFX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.reports.dataset.evidence import UnrecordedRun
from privacy_pipeline.reports.record.summary import RunSummary, SliceMetrics

# Files of a run's folder (`federated.experiments.run_folder`, which needs NumPy).
_POINT, _ROUNDS, _SUMMARY, _RECORD = "point.json", "rounds.jsonl", "summary.json", "privacy_record.json"
_METRICS = ("accuracy", "auc")
_NODE = "FederatedTraining"
_NOT_GATED = "an experiment is not a candidate: no gate decided on it"


@dataclass(frozen=True)
class Experiment:
    """The folder of one run of an experiment."""

    path: Path

    @property
    def name(self) -> str:
        """Name of experiment and run."""
        return f"{self.path.parent.name}-{self.path.name}"

    def dataset(self) -> str:
        """Name of the dataset that it trains on.

        Raises:
            BadInputError: the folder cannot be read.
        """
        try:
            return str(self._json(_POINT)["config"]["data"]["dataset"]["name"])
        except (KeyError, TypeError) as error:
            raise BadInputError(f"{self.path / _POINT}: this is not a run of an experiment") from error

    def summary(self) -> RunSummary | None:
        """Return the result of a private run, as a run's summary; None where it left no record.

        Raises:
            BadInputError: a file cannot be read.
        """
        if not (self.path / _RECORD).exists():
            return None
        try:
            record = PrivacyRecord.model_validate(self._json(_RECORD))
        except ValidationError as error:
            raise BadInputError(f"{self.path / _RECORD}: this is not a privacy record") from error
        found = self._json(_SUMMARY) if (self.path / _SUMMARY).exists() else {}
        metrics = {name: value for name in _METRICS if isinstance(value := found.get(name), float)}
        return RunSummary(
            run_id=record.run_id,
            pipeline=record.pipeline,
            backend=record.backend,
            training_run=record.run_id,
            evaluation_reasons=[],
            blessed=False,
            reasons=[_NOT_GATED],
            slices=[SliceMetrics(name="overall", examples=0, metrics=metrics)],
            model_uri="",
            tensorboard="",
            record=record,
        )

    def without_record(self) -> UnrecordedRun | None:
        """Return a run that trained without a guarantee, or was killed; None if it did not begin."""
        finished, began = (self.path / _SUMMARY).exists(), (self.path / _ROUNDS).exists()
        if not (finished or began):
            return None
        private = self._json(_POINT)["config"].get("privacy") is not None
        status = "unfinished" if not finished else "done" if private else "done, without any guarantee"
        return UnrecordedRun(run_id=self.name, status=status, nodes=[_NODE])

    def _json(self, name: str) -> Any:
        try:
            return json_value((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInputError(f"{self.path / name}: cannot be read: {error}") from error


def experiments(root: Path) -> Iterator[Experiment]:
    """Yield runs of experiments in a workspace's folder `federated`, or in the folder itself if it holds experiments.

    Args:
        root: a workspace, or the `folder` of experiments.
    """
    for pattern in (f"federated/*/*/{_POINT}", f"*/*/{_POINT}"):
        for point in sorted(root.glob(pattern)):
            yield Experiment(point.parent)
