"""The protocol that every trainer backend keeps, and the values that cross it.

A backend never touches the ledger: the caller of `train` has reserved and started the budget, and commits it after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from privacy_pipeline.accounting.record import Assumption, DataAccess
from privacy_pipeline.config.models.pipeline import PipelineConfig

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.plan import MechanismPlan
    from privacy_pipeline.backends.models.tabular import InputSpec
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.rowwise.verdict import Verdict

Audits = tuple[Mapping[str, str | int | float], ...]  # as the record keeps them
Specs = Callable[[], Mapping[str, "InputSpec"]]  # transformed features that may enter a model, by name
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
        log_dir: where TensorBoard logs go; None where no curve may be kept.
        report_progress: called now and then with (done, total, "steps").
        state_dir: where a private run keeps what it needs to be continued after a kill, its secret key among it;
            None for a run that cannot be continued.
        binding: what else the state may only be continued under: hashes of code, packages and data.
        audits: what `verify` found; None where nobody asked it, so that `train` does.
    """

    train_files: tuple[str, ...]
    eval_files: tuple[str, ...]
    transform_graph: Path
    features: FeaturePlan
    config: PipelineConfig
    plan: MechanismPlan | None
    work_dir: Path
    model_dir: Path
    log_dir: Path | None
    report_progress: ReportProgress
    state_dir: Path | None = None
    binding: str = ""
    audits: Audits | None = None


@dataclass(frozen=True, kw_only=True)
class TrialScore:
    """A trial that may be shown: its hyperparameters, and its score; None where the training diverged."""

    point: Mapping[str, Any]
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came out of several trials. Nothing here reveals how many there were, where that is secret.

    Attributes:
        point: hyperparameters of the chosen trial.
        plan: plan of the chosen trial; None for a backend without a guarantee.
        trained: False where the number of trials that was drawn is 0: the model is an untrained one.
        results: every trial, where all of them are paid for.
    """

    point: Mapping[str, Any]
    plan: MechanismPlan | None
    trained: bool = True
    results: tuple[TrialScore, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What really ran, counted while it ran, to be compared with the plan.

    Attributes:
        steps: optimizer updates made.
        epochs: passes over the data made; expected ones, rounded up, where batches are samples.
        examples: rows in the training split as read. Secret under add-or-remove-one.
        largest_participation: most batches that any one unit was in during any one epoch; None where batches are
            samples, whose event bounds it, and it is secret.
        seed_fixed: whether a fixed seed made the randomness reproducible.
        generator: the random number generator behind noise and sampling.
        cryptographic: whether the noise comes from a cryptographic generator.
        history: training curves by metric name, one value an epoch.
        units: privacy units in the training split as read; None for a backend that does not count them. Secret under
            add-or-remove-one.
        event: the DpEvent of what ran, as far as it went; None for a backend without a guarantee.
        sampler: what drew the batches (`accounting.plan.Sampler`).
        withheld: what was computed exactly and is never released.
        audits: results of audits made on the way, as the record keeps them.
        assumptions: what the guarantee rests on beside what every record lists.
        accesses: uses of the data to be listed, beside those of every record.
        resumed_at: step at which a killed attempt was continued with its own key; None for a fresh start.
        tuning: which of several trials this is; None where there was one training. All else here is about the chosen
            trial, but for `event`, which is that of all of it.
        rows: whether the examples of the model are proven to stay apart in training; None where nothing is clipped by
            the example.
        inference_error: proven for the logits of private predictions; None where the model is predicted plainly.
    """

    steps: int
    epochs: int
    examples: int
    largest_participation: int | None
    seed_fixed: bool
    generator: str
    cryptographic: bool
    history: Mapping[str, list[float]]
    units: int | None = None
    event: DpEvent | None = None
    sampler: str | None = None
    withheld: tuple[str, ...] = ()
    audits: Audits = ()
    assumptions: tuple[Assumption, ...] = ()
    accesses: tuple[DataAccess, ...] = ()
    resumed_at: int | None = None
    tuning: Tuned | None = None
    rows: Verdict | None = None
    inference_error: float | None = None


class Backend(Protocol):
    """A way to train a model with (or without) a privacy guarantee."""

    name: str

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan | None:
        """Return the mechanism that `train` would run, from the config and the registered number of units alone.

        Args:
            config: the whole config.
            units: registered number of privacy units in the training split.

        Returns:
            The plan, or None where the backend gives no guarantee.

        Raises:
            BadInputError: the config asks for what the backend cannot guarantee.
        """
        ...

    def examine(
        self, *, config: PipelineConfig, features: FeaturePlan, plan: MechanismPlan, specs: Specs
    ) -> Verdict | None:
        """Whether the examples of the config's model are proven to stay apart in training.

        The model is built and traced; no data is read, so that this comes before any budget is reserved.

        Args:
            config: the whole config.
            features: the columns and their public domains.
            plan: what `plan` made.
            specs: gives the features that may enter the model; asked only where there is something to examine.

        Returns:
            The verdict; None where no example's gradient is clipped.

        Raises:
            BadInputError: an example of the model reaches another one, or the model cannot be trained privately.
        """
        ...

    def verify(self, inputs: TrainingInputs) -> Audits:
        """Measure the noise of `inputs.plan`, and audit its mechanism where the config asks for that.

        Draws and canaries are made up, under keys of their own: no data is read, so that this comes before the budget
        is marked started.

        Returns:
            Results of audits; none without a guarantee.

        Raises:
            PipelineError: the noise is not the one that is accounted, or an audit found more than the plan claims.
        """
        ...

    def train(self, inputs: TrainingInputs) -> Executed:
        """Train and write a SavedModel to `inputs.model_dir`.

        The SavedModel's `serving_default` takes serialized raw tf.Examples, shape [batch], dtype string, and returns
        what the config's task serves (`tasks.task.Task`; of a binary task `probability`, float32, [batch, 1], of the
        positive class); `transform_features` takes the same and returns the transformed features, the label included.
        """
        ...


@runtime_checkable
class KerasBackend(Backend, Protocol):
    """A backend that trains one Keras model, which can be had before it is saved: what `training.tuning` needs."""

    def fit(self, inputs: TrainingInputs) -> tuple[Any, Executed]:
        """Train as `train` does, and return the Keras model instead of writing it."""
        ...
