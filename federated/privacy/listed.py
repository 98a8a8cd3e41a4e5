"""Which mechanisms protect clients. One is added by one line here, beside what it names. Imports no mechanism."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Facts of a mechanism that config, plan and record need.

    Attributes:
        title: what the record of a pipeline calls the mechanism.
        experiment_title: what the record of an experiment calls it; empty where experiments do not offer it.
        sampling: how clients may be drawn under it; the first is the default.
        correlation: of the server's noise over the rounds, by its name in `dp.mechanism.listed`.
        integers: whether the clients add whole numbers, of the family with the mechanism's name
            (`dp.noise.integer_families`).
        adaptive: whether the clipping norm may adapt.
        experiments: ways of drawing clients that experiments account for.
    """

    title: str
    sampling: tuple[str, ...]
    correlation: str = "none"
    integers: bool = False
    adaptive: bool = False
    experiments: tuple[str, ...] = ()
    experiment_title: str = ""


MECHANISMS = {
    "gaussian": Listed(
        title="user-level DP (Gaussian noise on the sum of clipped client updates)",
        sampling=("poisson", "shuffled", "cyclic"),
        adaptive=True,
        experiments=("poisson",),
        experiment_title="DP-FedAvg (Gaussian, clients' updates clipped)",
    ),
    "tree": Listed(
        title="user-level DP-FTRL (tree aggregation of clipped client updates)",
        sampling=("cyclic",),
        correlation="tree",
    ),
    "skellam": Listed(
        title="user-level distributed DP (Skellam noise of the clients; secure aggregation: simulated)",
        sampling=("shuffled", "cyclic"),
        integers=True,
        experiments=("shuffled", "cyclic"),
        experiment_title="distributed DP-FedAvg (Skellam noise of the clients; secure aggregation: simulated)",
    ),
    "discrete_gaussian": Listed(
        title="user-level distributed DP (discrete Gaussian noise of the clients; secure aggregation: simulated)",
        sampling=("shuffled", "cyclic"),
        integers=True,
        experiments=("shuffled", "cyclic"),
        experiment_title=("distributed DP-FedAvg (discrete Gaussian noise of clients; secure aggregation: simulated)"),
    ),
}
