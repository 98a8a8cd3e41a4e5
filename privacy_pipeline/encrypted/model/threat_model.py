"""Who could learn what in encrypted inference, as part of its record. docs/threat_model.md explains it in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

Protection = Literal["encrypted", "simulated"]


class ThreatModel(BaseModel):
    """What encrypted inference protects against, and what it rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protection: Protection
    protocol: str = "ABY3 (Mohassel and Rindal, CCS 2018), replicated secret sharing among three servers"
    ring: str = "64 bits, with a public scale for each layer; truncation exact up to the last bit (SecureQ8)"
    adversary: str = "semi-honest and static: a server follows the protocol and is not taken over while it runs"
    threshold: str = "one of three servers; any two that collude read the weights, the queries and the answers"
    integrity: str = "none: a server that deviates can change answers"
    driver: str
    transport: str
    randomness: str = (
        "libsodium through TF-Encrypted's native module, with new keys for every call; without it nothing is shared"
    )
    public: tuple[str, ...] = (
        "the architecture",
        "the scale of each layer, and so the order of magnitude of its largest possible output",
        "the proven error of a logit",
        "the ranges of the inputs",
        "the shape and the time of every query",
        "the batch sizes",
    )
    revealed_to_the_client: tuple[str, ...] = ("the logit of each of its rows",)
    not_covered: tuple[str, ...] = (
        "what the logits reveal of the model and of its training data: see the training guarantee",
        "a model extracted by many queries",
        "how long a call takes",
    )


def simulated() -> ThreatModel:
    """Return the model of all parties in one process: nothing is protected from a person who runs it."""
    return ThreatModel(
        protection="simulated",
        driver="this pipeline's own process, which holds every share, the weights and the eval split",
        transport="none: all parties are in one process",
    )


def deployed() -> ThreatModel:
    """Return the model of parties that each have a host and an operator of their own."""
    return ThreatModel(
        protection="encrypted",
        driver="a trusted role of its own, without shares and weights; it names what the servers compute, and anyone "
        "who runs it could have them reveal what they hold",
        transport="mutual TLS 1.3 with a certificate for each role; TensorFlow in closed namespaces behind it",
    )


def deployed_for_evaluation() -> ThreatModel:
    """Return `deployed`, but with the pipeline as the driver: it has the model and the eval split anyway."""
    return deployed().model_copy(
        update={
            "driver": "this pipeline, which also provides the weights and is the client: it holds the model and the "
            "eval split, and anyone who runs it could have the servers reveal what they hold"
        }
    )


def on_one_host() -> ThreatModel:
    """Return the model of parties in processes of their own under one user, who can read all their memory."""
    return ThreatModel(
        protection="simulated",
        driver="a process of the same machine as the servers, whose owner holds every key, every share and the weights",
        transport=deployed().transport,
    )


def of_parties(*, local: bool, hosts: Mapping[str, str]) -> ThreatModel:
    """Return what protects the queries to a service; whether two hosts have one owner cannot be seen from here.

    Args:
        local: whether the service itself started the servers.
        hosts: of the servers, as parties.yaml names them.

    Returns:
        `deployed` where no two servers live at the same host, else `on_one_host`: one machine has two shares of three.
    """
    apart = {"this machine" if is_this_machine(host) else host.lower() for host in hosts.values()}
    return deployed() if not local and len(apart) == len(hosts) else on_one_host()


def is_this_machine(host: str) -> bool:
    """Whether a host of parties.yaml is certainly the machine that reads it."""
    return host.lower() in ("localhost", "::1", "[::1]", "0.0.0.0") or host.startswith("127.")
