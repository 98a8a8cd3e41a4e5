"""Two accountants over one DpEvent: privacy loss distributions (PLD) for the headline, Renyi DP (RDP) for the ledger.

Both are upper bounds (for PLD see `loss_distribution`), and PLD is the tighter one, so it is the headline. Where
it is above RDP the reason decides: its grid is too coarse, or delta too small for float64, and then the bound of RDP
stands; or nothing explains it, and then the larger of the two is claimed. The record states which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.loss_distribution import (
    INTERVAL,
    LossDistribution,
    library_version,
    loss_distribution,
    reason_without_pld,
)
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import (
    ORDERS,
    ORDERS_VERSION,
    AccountingError,
    checked_delta,
    epsilon_from_rdp,
    rdp_vector,
)

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Guarantee

CROSS_CHECK_TOLERANCE = 1e-3  # relative room for discretisation when PLD is compared with RDP
_MOST_BUCKETS = 100_000  # epsilon over interval, up to which the interval is narrowed
_FINEST_INTERVAL = 5e-5  # narrower ones are not narrowed again
# Nothing is protected long before this; PLD's exponentials leave float64 at ten times as much (exp of its interval).
LARGEST_EPSILON = 1e6
_CURVE_DELTAS: tuple[float, ...] = tuple(10 ** (-9 + 7 * point / 19) for point in range(20))


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The epsilon of an event that is claimed, and how it came about.

    Attributes:
        epsilon: the bound; infinite where there is none.
        accountant: whose it is.
        epsilon_pld, epsilon_rdp: of either accountant; None where it does not support the event, and for PLD where it
            does not resolve delta.
        why: why the headline is not PLD's although PLD supports the event, or why it is in spite of a lower bound by
            RDP; None in the usual case.
        distribution: the PLD; None where there is none.
    """

    epsilon: float
    accountant: Literal["pld", "rdp"]
    epsilon_pld: float | None = None
    epsilon_rdp: float | None = None
    why: str | None = None
    distribution: LossDistribution | None = None


def weigh(event: DpEvent, relation: Relation, *, delta: float, epsilon_rdp: float) -> Bound:
    """Compare PLD with RDP, for an event that both support.

    The interval grows with epsilon, so that the number of buckets stays about the same: it is pessimistic at any
    width. Where one step's loss is far below the interval, rounding up adds over the steps: then it is narrowed.
    """
    interval = INTERVAL * max(1.0, epsilon_rdp / 2)
    while True:
        pld = loss_distribution(event, relation, interval=interval)
        epsilon = pld.epsilon(delta)
        agreed = epsilon <= epsilon_rdp * (1 + CROSS_CHECK_TOLERANCE)
        narrowed = epsilon_rdp / interval > _MOST_BUCKETS or interval < _FINEST_INTERVAL
        if agreed or epsilon_rdp <= 0 or narrowed or not pld.resolves(delta):
            break
        interval /= 10
    found = {"epsilon_pld": epsilon if math.isfinite(epsilon) else None, "epsilon_rdp": epsilon_rdp}
    if agreed:
        return Bound(epsilon=epsilon, accountant="pld", distribution=pld, epsilon_pld=epsilon, epsilon_rdp=epsilon_rdp)
    why = _explained(pld, delta=delta, excess=epsilon - epsilon_rdp)
    if why is not None:
        return Bound(epsilon=epsilon_rdp, accountant="rdp", why=f"RDP stands: {why}", distribution=pld, **found)
    why = "PLD is above RDP, and neither its grid nor float64 explains it; the larger of the two is claimed"
    return Bound(epsilon=epsilon, accountant="pld", why=why, distribution=pld, **found)


def _explained(pld: LossDistribution, *, delta: float, excess: float) -> str | None:
    """Return the numerical reason for which PLD is above RDP; None where there is none."""
    if not pld.resolves(delta):
        return _not_resolved(pld, delta)
    if excess <= pld.compositions * pld.interval:  # each composed loss is rounded up by one interval at most
        return f"the grid of PLD ({pld.interval:.2g}) is too coarse for {pld.compositions:,} compositions"
    return None


def _rdp_or_none(event: DpEvent, relation: Relation) -> tuple[float, ...] | None:
    try:
        return rdp_vector(event, relation)[1]
    except AccountingError:
        return None


def bound_of(event: DpEvent, *, delta: float, relation: Relation) -> Bound:
    """Return the bound of an event: PLD's where it supports the event, else RDP's; see `weigh` where both do.

    What RDP puts above `LARGEST_EPSILON` is infinite, as with next to no noise. RDP takes (0, delta)-DP parts out of
    the event and pays for them beside (`truncation.untruncated`), and truncated Poisson samples, which it does not
    support either: PLD, without its cross-check, is the bound there, and RDP's where PLD does not resolve delta.

    Args:
        event: the event.
        delta: delta of the guarantee.
        relation: neighbouring relation.

    Raises:
        AccountingError: neither accountant supports the event.
        BadInputError: the event is malformed or delta out of range.
    """
    checked_delta(delta)
    values = _rdp_or_none(event, relation)
    if reason_without_pld(event, relation) is not None:
        plain, distance = truncation.untruncated(event)
        values = rdp_vector(plain, relation)[1] if values is None else values
        epsilon = truncation.epsilon_of(values, distance, delta=delta)
        largest = math.inf if epsilon > LARGEST_EPSILON else epsilon
        return Bound(epsilon=largest, accountant="rdp", epsilon_rdp=epsilon)
    if values is None:
        plain, distance = truncation.untruncated(event)
        values = _rdp_or_none(plain, relation)
        if values is not None:
            return _truncated(event, relation, delta=delta, plain=values, distance=distance)
        pld = loss_distribution(event, relation)
        epsilon = pld.epsilon(delta)
        return Bound(epsilon=epsilon, accountant="pld", epsilon_pld=epsilon, distribution=pld)
    epsilon_rdp = epsilon_from_rdp(ORDERS, values, delta)
    if epsilon_rdp > LARGEST_EPSILON:
        return Bound(epsilon=math.inf, accountant="rdp", epsilon_rdp=epsilon_rdp)
    return weigh(event, relation, delta=delta, epsilon_rdp=epsilon_rdp)


def _truncated(event: DpEvent, relation: Relation, *, delta: float, plain: Sequence[float], distance: float) -> Bound:
    """Return the bound of an event that RDP supports only without its truncation.

    The interval follows the epsilon without truncation, as in `weigh`.
    """
    near = epsilon_from_rdp(ORDERS, plain, delta)
    if near > LARGEST_EPSILON:
        return Bound(epsilon=math.inf, accountant="rdp", epsilon_rdp=near)
    pld = loss_distribution(event, relation, interval=INTERVAL * max(1.0, near / 2))
    epsilon = pld.epsilon(delta)
    if math.isfinite(epsilon):
        return Bound(epsilon=epsilon, accountant="pld", epsilon_pld=epsilon, distribution=pld)
    epsilon = truncation.epsilon_of(plain, distance, delta=delta)
    why = None if math.isinf(epsilon) else f"RDP stands: {_not_resolved(pld, delta)}"
    return Bound(epsilon=epsilon, accountant="rdp", epsilon_rdp=epsilon, why=why, distribution=pld)


def epsilon_of(event: DpEvent, *, delta: float, relation: Relation) -> float:
    """Return the headline epsilon of an event (`bound_of`); infinite where there is none.

    Raises:
        AccountingError: neither accountant supports the event.
        BadInputError: the event is malformed or delta out of range.
    """
    return bound_of(event, delta=delta, relation=relation).epsilon


def guarantee(event: DpEvent, *, delta: float, relation: Relation, poisson_event: DpEvent | None = None) -> Guarantee:
    """Return what an event guarantees, by both accountants, with the delta-epsilon curve of the headline one.

    Args:
        event: the event, as executed.
        delta: delta of the headline.
        relation: neighbouring relation.
        poisson_event: what the event would be if batches were Poisson samples; information beside the headline.

    Raises:
        AccountingError: there is no finite epsilon, or neither accountant supports the event.
        BadInputError: the event is malformed or delta out of range.
    """
    from privacy_pipeline.accounting.record import Guarantee

    bound = bound_of(event, delta=delta, relation=relation)
    if math.isinf(bound.epsilon):
        raise _infinite(bound, delta)
    version = f"dp-accounting {library_version()}; RDP orders v{ORDERS_VERSION}"
    if bound.distribution is not None:
        version += f"; PLD pessimistic, interval {bound.distribution.interval:.3g}"
    if bound.why is not None:
        version += f"; {bound.why}"
    return Guarantee(
        epsilon=bound.epsilon,
        delta=delta,
        accountant=bound.accountant,
        accountant_version=version,
        epsilon_pld=bound.epsilon_pld,
        epsilon_rdp=bound.epsilon_rdp,
        epsilon_missing=_missing(bound, event, relation),
        curve=curve(event, bound, relation=relation, deltas=_CURVE_DELTAS),
        epsilon_if_poisson_sampled=None
        if poisson_event is None
        else epsilon_of(poisson_event, delta=delta, relation=relation),
    )


def curve(event: DpEvent, bound: Bound, *, relation: Relation, deltas: Sequence[float]) -> list[tuple[float, float]]:
    """Return (epsilon, delta) points of an event by the accountant of its bound; infinite ones are left out."""
    if bound.accountant == "pld" and bound.distribution is not None:
        points = [(bound.distribution.epsilon(delta), delta) for delta in deltas]
    else:
        values, distance = (_rdp_or_none(event, relation) if bound.distribution is not None else None), 0.0
        if values is None:
            plain, distance = truncation.untruncated(event)
            values = rdp_vector(plain, relation)[1]
        points = [(truncation.epsilon_of(values, distance, delta=delta), delta) for delta in deltas]
    return [point for point in points if math.isfinite(point[0])]


def _missing(bound: Bound, event: DpEvent, relation: Relation) -> str | None:
    if bound.distribution is None:
        return reason_without_pld(event, relation)
    return "RDP does not support this event" if bound.epsilon_rdp is None else None


def _infinite(bound: Bound, delta: float) -> AccountingError:
    if bound.epsilon_rdp is not None and bound.epsilon_rdp > LARGEST_EPSILON:
        why = "epsilon is infinite: part of the mechanism adds no noise, or next to none"
        return AccountingError(why, fix="raise noise_multiplier")
    if bound.distribution is not None and not bound.distribution.resolves(delta):
        return AccountingError(_not_resolved(bound.distribution, delta), fix="raise delta")
    return AccountingError(f"this event has no finite epsilon at delta {delta:g}")


def _not_resolved(pld: LossDistribution, delta: float) -> str:
    return f"delta {delta:g} is not resolved by PLD in float64, whose error may be {pld.error:.1e} here"
