"""What a record states of distributed noise: what its guarantee rests on, and against whom it gives none."""

from __future__ import annotations

from federated.privacy.encoding import BETA
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.accounting.record import Assumption, DataAccess


def assumptions(plan: FederatedPlan, *, released: int | None) -> list[Assumption]:
    """Return what the guarantee of distributed noise rests on; empty for other noise.

    Args:
        plan: the plan.
        released: rounds that released something.
    """
    noise = plan.distributed
    if noise is None:
        return []
    return [
        Assumption(
            name="every reporting client is honest: it encodes as planned and adds its share of the noise",
            held=True,
            detail=f"the noise of {noise.min_clients} shares is accounted; a client that is zeroed out, or whose "
            "update is not finite, adds its share all the same; shares that are left out on purpose are not covered",
        ),
        Assumption(
            name="whether a client reports does not depend on its data",
            held=True,
            detail=f"simulated so; a round with fewer than {noise.min_clients} reporting clients releases nothing and "
            f"stays charged: {released} of {plan.rounds} rounds were released",
        ),
        Assumption(
            name="the noise is drawn from its distribution",
            held=True,
            detail=f"all draws together are within total variation {noise.distance(plan.rounds):.1e} of it; what that "
            "adds to delta is below a float's rounding of delta, and is not added",
        ),
        Assumption(
            name="an encoded update is within its bounds",
            held=True,
            detail=f"squared L2 norm at most {noise.squared_norm} on the grid, enforced by rounding again "
            f"(beta {BETA:.4f}); {noise.dimension} numbers, {noise.scale:.6g} steps in one unit",
        ),
    ]


def accesses(plan: FederatedPlan, *, over: int | None) -> list[DataAccess]:
    """Return what distributed noise does not cover; empty for other noise.

    Args:
        plan: the plan.
        over: numbers of the released sums that wrapped around.
    """
    noise = plan.distributed
    if noise is None:
        return []
    inside = plan.epsilon_of_insider()
    against = "there is no other share" if inside is None else f"against it epsilon is {inside:.4g} at {plan.delta:g}"
    return [
        DataAccess(
            what="secure aggregation",
            covered=False,
            detail="simulated: the process that runs this sees every update, every share of the noise and their key; "
            "the guarantee is against those who see the released sums alone, and assumes that the rest is hidden",
        ),
        DataAccess(
            what="what a reporting client sees",
            covered=False,
            detail=f"it can subtract its own share: {against}; several that pool theirs, or a server that runs clients "
            "of its own, take away as many shares",
        ),
        DataAccess(
            what="numbers that wrapped around",
            covered=True,
            detail=f"{over}, of the noised sums modulo 2^{noise.bits}; wrapping costs accuracy, never privacy",
        ),
        DataAccess(
            what="who takes part in a round",
            covered=False,
            detail="the server sees whom it asks and who reports; no amplification by sampling is claimed",
        ),
    ]
