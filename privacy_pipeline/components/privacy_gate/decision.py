"""The gate's decision, as a plain function of what it looks at. No TFX in here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.config.models.evaluation import PolicySection
from privacy_pipeline.encrypted.evaluation import measured
from privacy_pipeline.encrypted.evaluation.measured import EncryptedEvaluation

_WITHOUT_BOUND = ("UnsupportedDpEvent", "NonPrivateDpEvent")


@dataclass(frozen=True)
class Decision:
    """Whether a model may be pushed, and every reason why not.

    Attributes:
        blessed: whether `reasons` is empty.
        reasons: all reasons.
        budget: those among them that are the policy's or the ledger's.
    """

    blessed: bool
    reasons: tuple[str, ...]
    budget: tuple[str, ...]


def decide(
    *,
    evaluation_reasons: Sequence[str],
    record: PrivacyRecord,
    expected_class: str,
    policy: PolicySection,
    ledger_reasons: Sequence[str],
    encrypted: EncryptedEvaluation | None = None,
) -> Decision:
    """Bless a model whose evaluation, privacy record, ledger and policy all agree.

    Args:
        evaluation_reasons: quality thresholds that were missed; none where Evaluator blessed the model.
        record: the privacy record of the training that made the model.
        expected_class: privacy class that the config announced; a record of another class is a broken promise.
        policy: bounds of the config.
        ledger_reasons: what the ledger has against the record (`ledger_check`).
        encrypted: plain and private predictions, compared; needed where the record states a protected inference.
    """
    reasons = list(evaluation_reasons)
    if record.privacy_class != expected_class:
        reasons.append(f"the config announces privacy class {expected_class}, the record states {record.privacy_class}")
    budget = [*_unbounded_reasons(record), *_policy_reasons(record, policy), *ledger_reasons]
    reasons += budget
    reasons += measured.reasons(encrypted, announced=record.inference_protection, policy=policy.encrypted)
    return Decision(blessed=not reasons, reasons=tuple(reasons), budget=tuple(budget))


def _unbounded_reasons(record: PrivacyRecord) -> list[str]:
    """Return the reason to refuse a guarantee whose event bounds nothing, whatever epsilon stands beside it."""
    if record.training_guarantee != "dp" or record.mechanism is None:
        return []
    event = json.dumps(record.mechanism.dp_event)
    if any(f'"{name}"' in event for name in _WITHOUT_BOUND):
        return ["epsilon is unknown: the record's DpEvent has no bound"]
    return []


def _policy_reasons(record: PrivacyRecord, policy: PolicySection) -> list[str]:
    bounds = (("epsilon", policy.max_epsilon), ("delta", policy.max_delta))
    if all(bound is None for _, bound in bounds):
        return []
    if record.guarantee is None:
        return ["the policy bounds epsilon or delta, and this model has no DP guarantee"]
    return [
        f"{name} {getattr(record.guarantee, name):.4g} is above the policy's {bound:.4g}"
        for name, bound in bounds
        if bound is not None and getattr(record.guarantee, name) > bound
    ]
