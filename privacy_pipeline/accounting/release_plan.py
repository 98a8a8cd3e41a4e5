"""The plan of a release of noisy numbers, and the zCDP parameter that meets a target epsilon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.plan import Relation, parameters_digest
from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_LEAST_RHO, _MOST_RHO = 1e-12, 1e6
_HALVINGS = 100
# A threshold's delta is paid at the cap's epsilon, from a hundredth of the cap's delta (`truncation.SHARE`): a
# thousandth at epsilon 10 is next to nothing of it, and costs the threshold 1.5 times what delta itself would.
_THRESHOLD_SHARE = 1e-3
_LARGEST_USUAL_CAP = 10.0


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """What a release of noisy counts and sums does to the data, before any data is read.

    Discrete Gaussian noise on exact integers satisfies zero-concentrated DP with the parameter of the continuous one
    (Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", theorem 4), and queries add
    up (Bun and Steinke 2016, lemma 1.7).

    Attributes:
        kind: what is released, e.g. "dp_evaluation".
        unit: "row", or the key column that names the unit.
        contribution_bound: rows of one unit that are counted.
        relation: neighbouring relation of the guarantee.
        units: registered number of units of the split: public under ZERO_OUT; else None.
        delta: delta of the guarantee.
        rho: zCDP parameter of all queries together.
        threshold_delta: total variation distance that thresholds on noisy counts of unknown values add; 0 without.
        queries: what is asked, and the noise on each answer, as JSON values.
    """

    kind: str
    unit: str
    contribution_bound: int
    relation: Relation
    units: int | None
    delta: float
    rho: float
    threshold_delta: float = 0.0
    queries: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.units is None) != (self.relation is Relation.ADD_OR_REMOVE_ONE):
            raise ValueError("the number of units is public under the zero-out relation, and only there")
        if not (self.rho > 0 and math.isfinite(self.rho) and 0 <= self.threshold_delta < 1):
            raise ValueError("a release has a positive rho, and a threshold delta below 1")

    @property
    def event(self) -> DpEvent:
        """The DpEvent: zCDP, with a (0, threshold_delta)-DP part where there are thresholds."""
        from dp_accounting import ComposedDpEvent, ZCDpEvent

        from privacy_pipeline.accounting.total_variation import TotalVariationDpEvent

        noise = ZCDpEvent(rho=self.rho)
        if self.threshold_delta == 0:
            return noise
        return ComposedDpEvent([noise, TotalVariationDpEvent(self.threshold_delta)])

    @property
    def epsilon(self) -> float:
        """Epsilon at `delta`, by RDP."""
        return epsilon_of_rho(self.rho, delta=self.delta, distance=self.threshold_delta)

    def parameters(self) -> dict[str, Any]:
        """Return the plan's numbers and names without the event, ready for JSON."""
        return {
            "kind": self.kind,
            "mechanism": "discrete Gaussian on integers",
            "unit": self.unit,
            "contribution_bound": self.contribution_bound,
            "relation": self.relation.value,
            "units": self.units,
            "delta": self.delta,
            "rho": self.rho,
            "threshold_delta": self.threshold_delta,
            "queries": dict(self.queries),
        }

    def digest(self) -> str:
        """Return the SHA-256 over the parameters: part of the reservation's idempotency key."""
        return parameters_digest(self.parameters())


def epsilon_of_rho(rho: float, *, delta: float, distance: float = 0.0) -> float:
    """Return epsilon of rho-zCDP at delta, by RDP over the default orders: the divergence at order a is rho a.

    Args:
        rho: zCDP parameter.
        delta: delta of the guarantee.
        distance: total variation distance that is paid beside (see `truncation`).

    Raises:
        BadInputError: delta is out of range.
    """
    return truncation.epsilon_of([rho * order for order in ORDERS], distance, delta=delta)


def rho_for(*, epsilon: float, delta: float, distance: float = 0.0) -> float:
    """Return the largest rho, to 1 part in 10^6, whose epsilon at delta is at most the target; itself put to the
    accountant.

    Args:
        epsilon: epsilon that may not be exceeded.
        delta: delta of the guarantee.
        distance: total variation distance that is paid beside.

    Raises:
        BadInputError: the numbers are out of range, or no rho meets the target.
    """
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise BadInputError(f"epsilon must be a positive number, found {epsilon!r}")
    low, high = _LEAST_RHO, _MOST_RHO
    if epsilon_of_rho(low, delta=delta, distance=distance) > epsilon:
        raise BadInputError(
            f"no noise reaches epsilon {epsilon:g} at delta {delta:g} (RDP), beside a distance of {distance:g}",
            fix="raise epsilon or delta",
        )
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if epsilon_of_rho(middle, delta=delta, distance=distance) <= epsilon:
            low = middle
        else:
            high = middle
        if high / low < 1 + 1e-6:
            break
    return low


def default_threshold_delta(*, epsilon: float, delta: float) -> float:
    """Return what a release with thresholds may spend on them: next to nothing of delta, also in budgets with a high
    cap.
    """
    return _THRESHOLD_SHARE * delta / (1 + math.exp(max(epsilon, _LARGEST_USUAL_CAP)))
