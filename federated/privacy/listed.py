"""Which mechanisms protect clients. One is added by one line here, beside what it names. Imports no mechanism."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Facts of a mechanism that config, plan and record need.

    Attributes:
        title: what the record calls the mechanism.
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


_SHARES = "user-level distributed DP ({} noise of the clients; secure aggregation: simulated)"
MECHANISMS = {
    "gaussian": Listed(
        title="user-level DP (Gaussian noise on the sum of clipped client updates)",
        sampling=("poisson", "shuffled", "cyclic"),
        adaptive=True,
        experiments=("poisson",),
    ),
    "tree": Listed(
        title="user-level DP-FTRL (tree aggregation of clipped client updates)",
        sampling=("cyclic",),
        correlation="tree",
    ),
    "skellam": Listed(
        title=_SHARES.format("Skellam"),
        sampling=("shuffled", "cyclic"),
        integers=True,
        experiments=("shuffled", "cyclic"),
    ),
    "discrete_gaussian": Listed(
        title=_SHARES.format("discrete Gaussian"),
        sampling=("shuffled", "cyclic"),
        integers=True,
        experiments=("shuffled", "cyclic"),
    ),
}
