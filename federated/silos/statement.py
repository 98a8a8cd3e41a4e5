"""What a guarantee inside silos rests on and covers, in the words of the privacy record. No TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

from privacy_pipeline.accounting.record import Assumption, DataAccess

MECHANISM = "cross-silo FedAvg, DP-SGD (Gaussian) inside each silo"


def silo_assumption(silos: Mapping[str, int]) -> Assumption:
    """Return what the one event of all silos rests on, after it was checked.

    Args:
        silos: units of each silo, by name.
    """
    held = ", ".join(f"{name} {units}" for name, units in silos.items())
    return Assumption(
        name="a unit is in one silo, and all silos run one mechanism",
        held=True,
        detail=f"checked: {len(silos)} silos ({held}), none shares a unit with another; each drew its own Poisson "
        "samples with one probability and added its own noise of one multiplier, for the same number of steps",
    )


def silo_accesses(column: str) -> list[DataAccess]:
    """Return what leaves the silos, and what their guarantee does not protect.

    Args:
        column: names a row's silo.
    """
    return [
        DataAccess(
            what="models that leave a silo",
            covered=True,
            detail=f"each silo (`{column}`) adds its own noise to every step: the guarantee covers what the server and "
            "the other silos see, which is each silo's model after each round; no secure aggregation is needed",
        ),
        DataAccess(
            what="which silo a unit is in, and how many each holds",
            covered=False,
            detail="public: the config states the numbers, and they weigh the mean",
        ),
        DataAccess(
            what="the silo itself",
            covered=False,
            detail="a silo sees its own records; here all silos are simulated in one process",
        ),
    ]
