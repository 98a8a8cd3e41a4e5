"""Who could learn what in encrypted inference, as part of its record. docs/threat_model.md says it at length."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Protection = Literal["encrypted", "simulated"]


class ThreatModel(BaseModel):
    """What encrypted inference protects against, and what it rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protection: Protection
    protocol: str = "ABY3 (Mohassel and Rindal, CCS 2018), replicated secret sharing among three servers"
    ring: str = "64 bits, 16 of them behind the point; truncation exact up to the last bit (SecureQ8)"
    adversary: str = "semi-honest and static: a server follows the protocol and is not taken over while it runs"
    threshold: str = "one of three servers; any two that collude read the weights, the queries and the answers"
    integrity: str = "none: a server that deviates can change answers"
    driver: str
    transport: str
    randomness: str = (
        "libsodium through TF-Encrypted's native module, with keys drawn anew by every call; without it nothing is "
        "shared"
    )
    public: tuple[str, ...] = ("the architecture", "the shape and the time of every query", "the batch sizes")
    revealed_to_the_client: tuple[str, ...] = ("the logit of each of its rows",)
    not_covered: tuple[str, ...] = (
        "what the logits tell of the model and of its training data: see the training guarantee",
        "a model extracted by many queries",
        "how long a call takes",
    )


def simulated() -> ThreatModel:
    """All parties in one process: nothing is protected from whoever runs it."""
    return ThreatModel(
        protection="simulated",
        driver="this pipeline's own process, which holds every share, the weights and the eval split",
        transport="none: all parties are in one process",
    )
