"""What is kept of an evaluation of private predictions, and what PrivacyGate has against it. No NumPy in here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from privacy_pipeline.config.models.encrypted import EncryptedPolicy
from privacy_pipeline.config.models.evaluation import Threshold
from privacy_pipeline.encrypted.model.threat_model import ThreatModel

EVALUATION_FILE = "encrypted_evaluation.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchTimes(_Part):
    """One batch size: what its graph costs once, and what a call of it does."""

    batch: Annotated[int, Field(description="Rows of a call.")]
    build_seconds: Annotated[float, Field(description="To build the graph, once; through parties by their driver.")]
    seconds: Annotated[
        float,
        Field(
            description="Median of a call: in one process the graph alone; through parties a client's whole request, "
            "over open connections, from sharing the rows until its shares of the answer are joined."
        ),
    ]
    rows_per_second: Annotated[float, Field(description="`batch` over `seconds`: one call after the other.")]
    bytes_per_call: Annotated[
        int,
        Field(
            description="What crosses in a call. Counted by `graph`: tensors that go from one party to another; by "
            "`tunnels`: what the servers' tunnels to one another carried, with gRPC's framing, before TLS."
        ),
    ]
    bytes_counted_by: Annotated[
        Literal["graph", "tunnels"],
        Field(
            description="`tunnels` where the pipeline itself started the servers. Through parties neither count has "
            "the client's shares, which go to the share servers; in one process the graph's has."
        ),
    ] = "graph"
    rounds: Annotated[
        int,
        Field(
            description="Longest chain of messages, counted on the graph: through parties between servers alone; in "
            "one process from the client's sharing until it has the logits."
        ),
    ]


class EncryptedEvaluation(_Part):
    """Plain and private predictions on the whole eval split, compared.

    `range` states why no activation leaves the fixed-point range. `logit_spread` is the largest plain logit minus the
    smallest. `proven_error` bounds the difference of a logit on all rows that the inputs' ranges allow; the widest
    layer multiplies what its input can reach by the most. `undefined` has the reason why a metric of the private
    predictions is None. Evaluations of earlier versions lack what has a default.
    """

    model: str
    rows: int
    accuracy_plain: float
    accuracy_encrypted: float
    auc_plain: float | None
    auc_encrypted: float | None
    precision_encrypted: float | None = None
    recall_encrypted: float | None = None
    pr_auc_encrypted: float | None = None
    log_loss_encrypted: float | None = None
    ece_encrypted: float | None = None
    undefined: dict[str, str] = {}
    agreement: float
    largest_logit_error: float
    p99_logit_error: float
    logit_spread: float | None = None
    range: str
    proven_error: float | None = None
    widest_layer: str = ""
    widest_growth: float = 0.0
    batches: list[BatchTimes]
    threat_model: ThreatModel


def reasons(found: EncryptedEvaluation | None, *, announced: str, policy: EncryptedPolicy) -> list[str]:
    """Return why PrivacyGate refuses a model for the sake of its private predictions; none where it does not.

    Args:
        found: the evaluation; None where there is none.
        announced: `inference_protection` of the privacy record.
        policy: bounds of the config.
    """
    if announced == "none":
        return []
    if found is None:
        return [f"the record states {announced} inference, and there is no evaluation of it"]
    missed = []
    if found.threat_model.protection != announced:
        missed.append(f"the record states {announced} inference, the evaluation was {found.threat_model.protection}")
    return [*missed, *_apart(found, policy)]


def _apart(found: EncryptedEvaluation, policy: EncryptedPolicy) -> Iterator[str]:
    """Yield how plain and private predictions differ by more than the policy allows."""
    if not found.agreement >= policy.min_agreement:
        yield (
            f"plain and encrypted agree on {found.agreement:.4%} of the rows, below the policy's "
            f"{policy.min_agreement:.4%}"
        )
    if not found.largest_logit_error <= policy.max_logit_error:
        yield (
            f"a logit differs by {found.largest_logit_error:.4g} when encrypted, above the policy's "
            f"{policy.max_logit_error:.4g}"
        )
    if found.proven_error is None:
        yield "the evaluation has no proven error of the logits: an earlier version made it; run again"
    elif not found.proven_error <= policy.max_proven_error:
        yield (
            f"on some row that the inputs' ranges allow a logit may differ by {found.proven_error:.4g} when encrypted, "
            f"above the policy's {policy.max_proven_error:.4g}; layer '{found.widest_layer}' multiplies what its input "
            f"can reach by {found.widest_growth:.4g}, more than any other: smaller weights there (a regularizer or a "
            "constraint), fewer layers or narrower ranges help"
        )
    if found.logit_spread is None:
        yield "the evaluation does not state how far the plain logits lie apart: an earlier version made it; run again"
    elif found.logit_spread and not found.largest_logit_error <= policy.max_spread_error * found.logit_spread:
        yield (
            f"a logit differs by {found.largest_logit_error:.4g} when encrypted, and all plain logits lie within "
            f"{found.logit_spread:.4g}: more than the policy's share of {policy.max_spread_error:.4g}"
        )


def missed_thresholds(
    found: EncryptedEvaluation | None, *, thresholds: Mapping[str, Threshold], baseline: Mapping[str, float]
) -> list[str]:
    """Return the thresholds of the config that the private predictions miss: these predictions are what is served.

    Args:
        found: the evaluation; None where nothing is served privately, then none is missed.
        thresholds: by metric.
        baseline: metrics of the last blessed model of the class, as far as there is one. They are its plain ones,
            which its own gate compared with its private ones.
    """
    if found is None:
        return []
    return [reason for name, bound in thresholds.items() for reason in _missed(found, name, bound, baseline.get(name))]


def _missed(found: EncryptedEvaluation, name: str, bound: Threshold, before: float | None) -> Iterator[str]:
    value: float | None = getattr(found, f"{name}_encrypted")
    if value is None:
        why = found.undefined.get(name, "the evaluation does not have it; run again")
        yield f"{name} of the private predictions has a threshold, and is not defined on the eval split: {why}"
        return
    if bound.min is not None and not value >= bound.min:
        yield f"{name} of the private predictions is {value:.4f}, below the threshold {bound.min:.4f}"
    if bound.max is not None and not value <= bound.max:
        yield f"{name} of the private predictions is {value:.4f}, above the threshold {bound.max:.4f}"
    if bound.max_increase is not None and before is not None and not value - before <= bound.max_increase:
        yield (
            f"{name} of the private predictions is {value - before:.4f} above the last blessed model; at most "
            f"{bound.max_increase:.4f} is allowed"
        )
    if bound.max_decrease is not None and before is not None and not before - value <= bound.max_decrease:
        yield (
            f"{name} of the private predictions is {before - value:.4f} below the last blessed model; at most "
            f"{bound.max_decrease:.4f} is allowed"
        )
