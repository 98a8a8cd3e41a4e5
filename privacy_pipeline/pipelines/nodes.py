"""Names of the pipeline's nodes, in the order in which they are shown. No TFX in here."""

from __future__ import annotations

from privacy_pipeline.config.models import PipelineConfig

TRAINER = "Trainer"
DP_EVALUATOR = "DpEvaluator"
CHARGING = (TRAINER, DP_EVALUATOR)  # nodes that may spend budget
GATE = "PrivacyGate"

NODES = (
    "ExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    TRAINER,
    "Resolver",
    "Evaluator",
    GATE,
    "RunMetrics",
    "Pusher",
)
_EXACT_EVALUATION = ("Resolver", "Evaluator")


def nodes_of(config: PipelineConfig) -> tuple[str, ...]:
    """The nodes of a config's pipeline. A DP evaluation takes the place of the exact one and of its baseline."""
    if config.evaluation.dp is None:
        return NODES
    kept = [name for name in NODES if name not in _EXACT_EVALUATION]
    kept.insert(kept.index(GATE), DP_EVALUATOR)
    return tuple(kept)
