"""Truncated Poisson sampling for a Renyi filter, which does not support it: the untruncated event, and the rest.

A truncated and an untruncated run on the same data agree unless a batch is cut, so their outputs differ in total
variation by at most tau = steps * P(a batch is cut). If the untruncated run is (epsilon, delta)-DP, the truncated one
is (epsilon, delta + (1 + e^epsilon) tau)-DP: tau is paid once on either of the two neighbouring datasets.

A (0, delta_0)-DP mechanism, such as a threshold on noisy counts, is priced alike. Hybrid argument: let every mechanism
M_i of an adaptive sequence have stand-ins P_i on D and Q_i on its neighbour D', such that, whatever was output before,
M_i(D) is within tau_i of P_i in total variation, M_i(D') within tau_i of Q_i, and P_i and Q_i have the Renyi
divergences that are added up. Replace M_i by its stand-in for one i after the other: each replacement moves the joint
output on D, and that on D', by at most tau_i, so both by at most tau = sum of tau_i. With all replaced, adaptive Renyi
composition holds between P and Q; going back costs tau on one side and e^epsilon tau on the other. For a (0,
delta_0)-DP mechanism P_i = Q_i = M_i(D') will do: the distance is delta_0, the divergence 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.renyi import ORDERS, epsilon_from_rdp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dp_accounting import DpEvent

# Share of a budget's delta that is kept for truncation, fixed beforehand: were it what truncation happens to need, the
# filter's own delta would depend on runs that were chosen after results were seen. It costs log(1 / 0.99) / (order - 1)
# of epsilon, about 0.001.
SHARE = 0.01
_MOST_ROUNDS = 200
_STEP = 1e-9


def untruncated(event: DpEvent) -> tuple[DpEvent, float]:
    """Return an event without truncation and (0, delta)-DP parts, and a bound on the total variation distance of the
    two.

    Args:
        event: any event; one without truncated sampling or (0, delta)-DP parts comes back as it is, with distance 0.
    """
    import dp_accounting as d

    from privacy_pipeline.accounting.total_variation import TotalVariationDpEvent

    if isinstance(event, d.SelfComposedDpEvent):
        inner, distance = untruncated(event.event)
        return (d.SelfComposedDpEvent(inner, event.count), distance * event.count) if distance else (event, 0.0)
    if isinstance(event, d.ComposedDpEvent):
        parts = [untruncated(part) for part in event.events]
        distance = math.fsum(part[1] for part in parts)
        return (d.ComposedDpEvent([part[0] for part in parts]), distance) if distance else (event, 0.0)
    if isinstance(event, d.dp_event.TruncatedSubsampledGaussianDpEvent):
        plain = d.PoissonSampledDpEvent(event.sampling_probability, d.GaussianDpEvent(event.noise_multiplier))
        return plain, chance_of_a_cut(event.truncated_batch_size, event.dataset_size, event.sampling_probability)
    if isinstance(event, TotalVariationDpEvent):
        # Never 0, which would pass for an event without distance and leave this part in it.
        return d.NoOpDpEvent(), max(event.distance, 5e-324)
    return event, 0.0


def chance_of_a_cut(cap: int, units: int, probability: float) -> float:
    """Probability that a Poisson sample holds more than `cap` units; never 0, which would pass for no truncation."""
    from scipy.stats import binom  # type: ignore[import-untyped]

    return max(float(binom.sf(cap, units, probability)), 5e-324)


def cap_of_a_cut(chance: float, units: int, probability: float) -> int:
    """Return the least size that a Poisson sample exceeds with at most the given probability."""
    from scipy.stats import binom

    return max(1, int(binom.isf(chance, units, probability)))


def paid(distance: float, *, epsilon: float) -> float:
    """Return the delta that a total variation distance costs at epsilon; infinite where the exponential overflows."""
    if distance <= 0:
        return 0.0
    return (1 + math.exp(epsilon)) * distance if epsilon < 700 else math.inf


def epsilon_of(values: Sequence[float], distance: float, *, delta: float) -> float:
    """Return epsilon of a Renyi vector over the default orders together with a distance; infinite where there is none.

    The smallest epsilon for which the vector gives (epsilon, delta - paid(distance)), found from below: the right side
    grows with epsilon.
    """
    epsilon = epsilon_from_rdp(ORDERS, values, delta)
    if distance <= 0 or math.isinf(epsilon):
        return epsilon
    for _ in range(_MOST_ROUNDS):
        left = delta - paid(distance, epsilon=epsilon)
        if left <= 0:
            return math.inf
        needed = epsilon_from_rdp(ORDERS, values, left)
        if needed <= epsilon:
            return epsilon
        epsilon = needed * (1 + _STEP)
    return math.inf
