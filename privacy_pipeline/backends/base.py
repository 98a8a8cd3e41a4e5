"""The protocol that every trainer backend keeps, and the values that cross it.

A backend never touches the ledger: whoever calls `train` has reserved and started the budget, and commits it after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from privacy_pipeline.config.models import PipelineConfig

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import MechanismPlan
    from privacy_pipeline.data.features import FeaturePlan

ReportProgress = Callable[[int, int, str], None]  # done, total, unit of both ("steps")


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """What a backend trains on.

    Attributes:
        train_files: gzipped TFRecord files of transformed tf.Examples.
        eval_files: the same for the eval split; backends may watch it only where nothing private depends on it.
        transform_graph: folder of the tf.Transform output.
        features: the columns and their public domains.
        config: the whole config.
        plan: the reserved mechanism, or None for a backend that claims no guarantee.
        work_dir: scratch folder of this attempt.
        model_dir: where the SavedModel goes.
        log_dir: where TensorBoard logs go.
        report_progress: called now and then with (done, total, "steps").
    """

    train_files: tuple[str, ...]
    eval_files: tuple[str, ...]
    transform_graph: Path
    features: FeaturePlan
    config: PipelineConfig
    plan: MechanismPlan | None
    work_dir: Path
    model_dir: Path
    log_dir: Path
    report_progress: ReportProgress


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What really ran, counted while it ran, to be held against the plan.

    Attributes:
        steps: optimizer updates made.
        epochs: passes over the data made.
        examples: rows in the training split as read.
        largest_participation: most batches that any one row was in during any one epoch.
        seed_fixed: whether a fixed seed made the randomness reproducible.
        generator: the random number generator behind noise and sampling.
        cryptographic: whether that generator is a cryptographic one.
        history: training curves by metric name, one value an epoch.
    """

    steps: int
    epochs: int
    examples: int
    largest_participation: int
    seed_fixed: bool
    generator: str
    cryptographic: bool
    history: Mapping[str, list[float]]


class Backend(Protocol):
    """A way to train a model with (or without) a privacy guarantee."""

    name: str

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan | None:
        """The mechanism that `train` would run, from the config and the registered number of units alone.

        Args:
            config: the whole config.
            units: registered number of privacy units in the training split.

        Returns:
            The plan, or None where the backend gives no guarantee.

        Raises:
            BadInputError: the config asks for what the backend cannot guarantee.
        """
        ...

    def train(self, inputs: TrainingInputs) -> Executed:
        """Trains and writes a SavedModel to `inputs.model_dir`.

        The SavedModel's `serving_default` takes serialized raw tf.Examples, shape [batch], dtype string, and returns
        `probability` (float32, [batch, 1]) of the positive class; `transform_features` takes the same and returns the
        transformed features, the label included.
        """
        ...
