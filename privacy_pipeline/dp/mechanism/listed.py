"""Which mechanisms spread noise over the steps. One is added by its module and one line here. Imports no mechanism."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Facts of a mechanism that config, plan and record need.

    Attributes:
        title: what the record calls the mechanism.
        place: module and object below `privacy_pipeline.dp.noise`, a `correlation.Correlation`; None for noise that is
            independent from step to step.
        bands: whether the mechanism takes `bands`.
    """

    title: str
    place: str | None
    bands: bool = False


FOLDER = "privacy_pipeline.dp.noise"
CORRELATIONS = {
    "none": Listed(title="DP-SGD (Gaussian)", place=None),
    "tree": Listed(title="DP-FTRL (tree aggregation)", place="tree:TREE"),
    "banded": Listed(title="DP-MF (banded matrix)", place="banded:BANDED", bands=True),
}
