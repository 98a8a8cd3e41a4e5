"""The summary of a run: utility, slices and privacy. RunMetrics writes it, and the command line reads it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.encrypted.evaluation.measured import EncryptedEvaluation
from privacy_pipeline.releases.evaluation import DpEvaluation
from privacy_pipeline.tasks.registry import metric_names, metrics

# TFMA's name of a metric, and ours.
METRIC_NAMES = metric_names()
METRICS = tuple(metrics())


class SliceMetrics(BaseModel):
    """Metrics of one slice of the eval split; `name` is "overall", or "column=value" joined by commas.

    A metric that the slice does not define, as AUC with one class, is None, and `undefined` has the reason.
    `examples` is None where the relation keeps the number of rows secret and no noise was added to it.
    After a DP evaluation all numbers are noisy, and `intervals` has the ends of each metric's confidence interval.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    examples: int | None
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float, float]] = {}
    undefined: dict[str, str] = {}


class RunSummary(BaseModel):
    """The result of one run.

    Attributes:
        evaluation_reasons: thresholds that were missed, or, after a DP evaluation, not shown to be met.
        blessed: PrivacyGate's verdict, which is the final one.
        reasons: why a model was not blessed.
        budget_reasons: the reasons that come from the policy or the ledger.
        model_uri: folder of the SavedModel.
        record: the privacy record of the training that made the model, with how it was evaluated.
        dp_evaluation: what a DP evaluation released; None where the metrics are exact.
        training_run: run that trained the model; differs from `run_id` where training came from the cache.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    pipeline: str
    backend: str
    training_run: str
    evaluation_reasons: list[str]
    blessed: bool
    reasons: list[str]
    budget_reasons: list[str] = []
    slices: list[SliceMetrics]
    model_uri: str
    tensorboard: str
    record: PrivacyRecord
    encrypted: EncryptedEvaluation | None = None
    dp_evaluation: DpEvaluation | None = None

    @property
    def overall(self) -> SliceMetrics:
        """Metrics over the whole eval split."""
        return next(s for s in self.slices if s.name == "overall")
