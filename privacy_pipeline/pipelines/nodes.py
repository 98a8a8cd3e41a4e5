"""Names of the pipeline's nodes, in the order in which they are shown. Imports no TFX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privacy_pipeline.config.models.pipeline import PipelineConfig

EXAMPLE_GEN = "ExampleGen"
TRAINER = "Trainer"
DP_STATISTICS = "DpStatistics"
TRANSFORM = "Transform"
DP_EVALUATOR = "DpEvaluator"
ENCRYPTED = "EncryptedEvaluator"
CHARGING = (DP_STATISTICS, TRAINER, DP_EVALUATOR)  # nodes that may spend budget
GATE = "PrivacyGate"

NODES = (
    EXAMPLE_GEN,
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    TRANSFORM,
    TRAINER,
    "Resolver",
    "Evaluator",
    GATE,
    "RunMetrics",
    "Pusher",
)
_EXACT_EVALUATION = ("Resolver", "Evaluator")


def trains(config: PipelineConfig, *, from_nodes: Sequence[str], to_nodes: Sequence[str]) -> bool:
    """Whether a run trains; a partial run may end before the training, or begin after it.

    Args:
        config: the config.
        from_nodes, to_nodes: ends of a partial run; both empty for a whole one.
    """
    order = nodes_of(config)
    at = order.index(TRAINER)
    begins = not from_nodes or min(map(order.index, from_nodes)) <= at
    return begins and (not to_nodes or max(map(order.index, to_nodes)) >= at)


def nodes_of(config: PipelineConfig) -> tuple[str, ...]:
    """Return the nodes of a config's pipeline. A DP evaluation replaces the exact one and its baseline."""
    kept = list(NODES)
    if config.preprocessing.dp is not None:
        kept.insert(kept.index(TRANSFORM), DP_STATISTICS)
    if config.evaluation.dp is not None:
        kept = [name for name in kept if name not in _EXACT_EVALUATION]
        kept.insert(kept.index(GATE), DP_EVALUATOR)
    if config.training.encrypted is not None:
        kept.insert(kept.index(GATE), ENCRYPTED)
    return tuple(kept)
