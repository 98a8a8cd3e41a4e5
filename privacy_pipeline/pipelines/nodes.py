"""Names of the pipeline's nodes, in the order in which they are shown. No TFX in here."""

from __future__ import annotations

TRAINER = "Trainer"
CHARGING = (TRAINER,)  # nodes that may spend budget
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
