"""What is kept of an evaluation of private predictions, and what PrivacyGate has against it. No NumPy in here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from privacy_pipeline.config.encrypted_models import EncryptedPolicy
from privacy_pipeline.encrypted.threat_model import ThreatModel

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
            "the client's shares, which go to the servers' desks; in one process the graph's has."
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
    """Plain against private predictions on the whole eval split.

    `range` says how it is known that no activation leaves the fixed-point range.
    """

    model: str
    rows: int
    accuracy_plain: float
    accuracy_encrypted: float
    auc_plain: float | None
    auc_encrypted: float | None
    agreement: float
    largest_logit_error: float
    p99_logit_error: float
    range: str
    batches: list[BatchTimes]
    threat_model: ThreatModel


def reasons(found: EncryptedEvaluation | None, *, announced: str, policy: EncryptedPolicy) -> list[str]:
    """Why PrivacyGate refuses a model for the sake of its private predictions; none where it does not.

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
    if not found.agreement >= policy.min_agreement:
        missed.append(
            f"plain and encrypted agree on {found.agreement:.4%} of the rows, below the policy's "
            f"{policy.min_agreement:.4%}"
        )
    if not found.largest_logit_error <= policy.max_logit_error:
        missed.append(
            f"a logit differs by {found.largest_logit_error:.4g} when encrypted, above the policy's "
            f"{policy.max_logit_error:.4g}"
        )
    return missed
