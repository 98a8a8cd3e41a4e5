"""Two accountants over one DpEvent: privacy loss distributions (PLD) for the headline, Renyi DP (RDP) for the ledger.

Both are upper bounds (`loss_distribution` says when PLD is), and PLD is the tighter one, so it is the headline. Where
it is above RDP the reason decides: its grid is too coarse, or delta too small for float64, and then the bound of RDP
stands; or nothing explains it, and then the larger of the two is claimed. The record says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from privacy_pipeline.accounting.loss_distribution import (
    INTERVAL,
    LossDistribution,
    library_version,
    loss_distribution,
    neighbours,
    reason_without_pld,
)
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError, PipelineError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Guarantee

# Orders of the stored RDP vectors: those of dp_accounting, a few below 1.1 for large epsilons and a few between 63
# and 1024 for small ones. Public and fixed: the choice may not depend on data. A change needs a new version.
ORDERS_VERSION = 1
ORDERS: tuple[float, ...] = (
    *(1.02, 1.05),
    *(round(1 + tenth / 10, 1) for tenth in range(1, 100)),
    *(float(order) for order in range(11, 65)),
    *(80.0, 96.0, 128.0, 160.0, 192.0, 256.0, 384.0, 512.0, 768.0, 1024.0),
)
CROSS_CHECK_TOLERANCE = 1e-3  # relative room for discretisation when PLD is held against RDP
_MOST_BUCKETS = 100_000  # epsilon over interval, up to which the interval is narrowed
_FINEST_INTERVAL = 5e-5  # narrower ones are not narrowed again
# Nothing is protected long before this; PLD's exponentials leave float64 at ten times as much (exp of its interval).
LARGEST_EPSILON = 1e6
_CURVE_DELTAS: tuple[float, ...] = tuple(10 ** (-9 + 7 * point / 19) for point in range(20))
_ROUNDING = 1e-9  # a Renyi divergence this little below zero is rounding; anything lower is an error


class AccountingError(PipelineError):
    """No epsilon can be stated: no accountant knows the event, or there is no finite bound."""


def _checked_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise BadInputError(f"delta must lie between 0 and 1, found {delta!r}")
    return delta


@contextmanager
def _without_order_warnings() -> Iterator[None]:
    """dp_accounting warns for each order it leaves out (as infinite); `rdp_vector` handles those."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def rdp_vector(event: DpEvent, relation: Relation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Renyi divergence of an event at each of `ORDERS` (Mironov 2017).

    Between whole orders dp_accounting's series for sampled Gaussians may not converge (infinite), or end far too high.
    The value of a higher order then stands in where it is lower: Renyi divergence does not fall with the order (van
    Erven and Harremoes 2014, theorem 3), so it is an upper bound too.

    Args:
        event: the event.
        relation: neighbouring relation.

    Returns:
        The orders, and the values at them; infinite values mean no bound.

    Raises:
        AccountingError: RDP does not support the event, or its values make no sense.
        BadInputError: the event is malformed.
    """
    from dp_accounting import UnsupportedEventError
    from dp_accounting.rdp import RdpAccountant

    from privacy_pipeline.accounting.events import canonical
    from privacy_pipeline.accounting.integer_noise import taken_out

    text = canonical(event)  # refuses values out of range, which the accountants would partly take
    event, own = taken_out(event, ORDERS)
    if own is not None and relation is not Relation.ZERO_OUT:
        why = "a client that is gone adds no noise"
        raise AccountingError(f"RDP cannot account for {text} under {relation.value}: {why}")
    accountant = RdpAccountant(orders=ORDERS, neighboring_relation=neighbours(relation))
    try:
        with _without_order_warnings():
            accountant.compose(event)
    except (OverflowError, ZeroDivisionError):  # next to no noise: the divergence leaves float64
        return ORDERS, (math.inf,) * len(ORDERS)
    except (UnsupportedEventError, ValueError) as error:
        raise AccountingError(f"RDP cannot account for {text} under {relation.value}: {error}") from error
    values = [float(value) for value in accountant.rdp]
    if own is not None:
        values = [value + more for value, more in zip(values, own, strict=True)]
    if any(math.isnan(value) or value < -_ROUNDING for value in values):
        raise AccountingError(f"RDP gives a negative or undefined divergence for {text}")
    for index in range(len(values) - 2, -1, -1):
        values[index] = min(values[index], values[index + 1])
    return ORDERS, tuple(max(0.0, value) for value in values)


def epsilon_at_order(order: float, value: float, delta: float) -> float:
    """Epsilon that RDP at one order implies; infinite where the bound says nothing.

    Canonne, Kamath and Steinke 2020 ("The Discrete Gaussian for Differential Privacy"), proposition 12. May be
    negative, which means epsilon 0. Unstable, and never useful, for orders up to 1.01.
    """
    if order <= 1.01:
        return math.inf
    return value + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def epsilon_from_rdp(orders: Sequence[float], values: Sequence[float], delta: float) -> float:
    """Smallest epsilon that a vector of Renyi divergences implies at delta.

    The best order by Canonne, Kamath and Steinke 2020, proposition 12; epsilon is 0 where the divergence is so small
    that delta alone covers it (Bretagnolle and Huber 1979: total variation is at most sqrt(1 - exp(-KL))).

    Args:
        orders: Renyi orders, all above 1.
        values: divergences at the orders.
        delta: delta of the guarantee.

    Raises:
        BadInputError: lengths differ, an order is not above 1, or delta is out of range.
        AccountingError: a divergence is negative or not a number.
    """
    return _epsilon_from_rdp(tuple(orders), tuple(values), delta)


@functools.lru_cache(maxsize=256)  # a ledger asks for that of equal charges, within its lock
def _epsilon_from_rdp(orders: tuple[float, ...], values: tuple[float, ...], delta: float) -> float:
    _checked_delta(delta)
    if len(orders) != len(values) or not orders or min(orders) <= 1:
        raise BadInputError("RDP needs one value for each order, and orders above 1")
    if not all(value >= 0 for value in values):
        raise AccountingError("a Renyi divergence is never negative: the stored or computed vector is wrong")
    if any(delta**2 + math.expm1(-value) > 0 for value in values):
        return 0.0
    return max(0.0, min(epsilon_at_order(a, value, delta) for a, value in zip(orders, values, strict=True)))


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
    """PLD against RDP, for an event that both support.

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
    """The numerical reason for which PLD is above RDP; None where there is none."""
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
    """The bound of an event: PLD's where it supports the event, else RDP's; see `weigh` where both do.

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
    from privacy_pipeline.accounting import truncation

    _checked_delta(delta)
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
    """The bound of an event that RDP knows without its truncation alone.

    The interval follows the epsilon without truncation, as in `weigh`.
    """
    from privacy_pipeline.accounting import truncation

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
    """The headline epsilon of an event (`bound_of`); infinite where there is none.

    Raises:
        AccountingError: neither accountant supports the event.
        BadInputError: the event is malformed or delta out of range.
    """
    return bound_of(event, delta=delta, relation=relation).epsilon


def guarantee(event: DpEvent, *, delta: float, relation: Relation, poisson_event: DpEvent | None = None) -> Guarantee:
    """What an event guarantees, by both accountants, with the delta-epsilon curve of the headline one.

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
    """(epsilon, delta) points of an event by the accountant of its bound; those that are infinite are left out."""
    from privacy_pipeline.accounting import truncation

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
