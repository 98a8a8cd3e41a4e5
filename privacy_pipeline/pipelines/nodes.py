"""Names of the pipeline's nodes, in the order in which they are shown. No TFX in here."""

from __future__ import annotations

TRAINER = "Trainer"
CHARGING = (TRAINER,)  # nodes that may spend budget
ENCRYPTED = "EncryptedEvaluator"
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

ALL_NODES = (*NODES[: NODES.index(GATE)], ENCRYPTED, *NODES[NODES.index(GATE) :])


def nodes_of(backend: str) -> tuple[str, ...]:
    """Nodes of a run with that backend."""
    return ALL_NODES if backend == "encrypted" else NODES
