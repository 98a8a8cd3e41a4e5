"""Two accountants over one DpEvent: privacy loss distributions (PLD) for the headline, Renyi DP (RDP) for the ledger.

PLD here is pessimistic at every discretisation (Koskela, Jalko and Honkela 2020; connect-the-dots of Doroshenko et al.
2022), so its epsilon is an upper bound, and RDP's is one too. The tighter accountant never belongs above the looser
one: if it is, one of them is wrong and no epsilon is given.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
_MOST_BUCKETS = 10_000  # epsilon over interval, up to which a disagreement may be due to a wide interval
_INTERVAL = 1e-4
_FINEST_INTERVAL = 5e-5  # narrower ones are not narrowed again
# Nothing is protected long before this; PLD's exponentials leave float64 at ten times as much (exp of its interval).
LARGEST_EPSILON = 1e6
_CURVE_DELTAS: tuple[float, ...] = tuple(10 ** (-9 + 7 * point / 19) for point in range(20))
_ROUNDING = 1e-9  # a Renyi divergence this little below zero is rounding; anything lower is an error


class AccountingError(PipelineError):
    """No epsilon can be stated: the accountants disagree, or none of them knows the event."""


def _checked_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise BadInputError(f"delta must lie between 0 and 1, found {delta!r}")
    return delta


def _neighbours(relation: Relation) -> Any:
    from dp_accounting import NeighboringRelation

    return {
        Relation.ZERO_OUT: NeighboringRelation.REPLACE_SPECIAL,
        Relation.ADD_OR_REMOVE_ONE: NeighboringRelation.ADD_OR_REMOVE_ONE,
    }[relation]


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
    accountant = RdpAccountant(orders=ORDERS, neighboring_relation=_neighbours(relation))
    try:
        with _without_order_warnings():
            accountant.compose(event)
    except (UnsupportedEventError, ValueError, OverflowError) as error:
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


def _pld(event: DpEvent, relation: Relation, interval: float) -> Any:
    from dp_accounting.pld import PLDAccountant

    return PLDAccountant(_neighbours(relation), interval).compose(event)


def reason_without_pld(event: DpEvent, relation: Relation) -> str | None:
    """Why there is no PLD of an event; None where there is one."""
    from dp_accounting.pld import PLDAccountant

    if PLDAccountant(_neighbours(relation)).supports(event):
        return None
    return f"PLD of dp_accounting {_library_version()} does not support this event under {relation.value}"


def checked_pld(event: DpEvent, relation: Relation, delta: float, epsilon_rdp: float) -> tuple[Any, float]:
    """PLD accountant and interval, refined until it is no looser than RDP.

    The interval grows with epsilon, so that the number of buckets stays about the same: it is pessimistic at any
    width. Where one step's loss is far below the interval, rounding up adds over the steps: then it is narrowed.

    Raises:
        AccountingError: PLD stays above RDP by more than the tolerance.
    """
    interval = _INTERVAL * max(1.0, epsilon_rdp / 2)
    while True:
        accountant = _pld(event, relation, interval)
        epsilon = float(accountant.get_epsilon(delta))
        if epsilon <= epsilon_rdp * (1 + CROSS_CHECK_TOLERANCE):
            return accountant, interval
        if epsilon_rdp <= 0 or epsilon_rdp / interval > _MOST_BUCKETS or interval < _FINEST_INTERVAL:
            break
        interval /= 10
    raise AccountingError(
        f"the accountants disagree: PLD gives epsilon {epsilon:.6g}, above RDP's {epsilon_rdp:.6g}, at delta {delta:g}",
        fix="report this event; no epsilon is stated while one of the two must be wrong",
    )


def _rdp_or_none(event: DpEvent, relation: Relation) -> tuple[float, ...] | None:
    try:
        return rdp_vector(event, relation)[1]
    except AccountingError:
        return None


def epsilon_of(event: DpEvent, *, delta: float, relation: Relation) -> float:
    """The headline epsilon of an event: PLD where it supports the event, else RDP; infinite where there is none.

    What RDP puts above `LARGEST_EPSILON` is infinite too, as with next to no noise.

    RDP takes (0, delta)-DP parts out of the event and pays for them beside (`truncation.untruncated`). PLD stands
    alone, without its cross-check, where RDP does not support the event (truncated Poisson samples).

    Args:
        event: the event.
        delta: delta of the guarantee.
        relation: neighbouring relation.

    Raises:
        AccountingError: neither accountant supports the event, or they disagree.
        BadInputError: the event is malformed or delta out of range.
    """
    from privacy_pipeline.accounting import truncation

    with_pld = reason_without_pld(event, relation) is None
    if not with_pld:
        plain, distance = truncation.untruncated(event)
        return truncation.epsilon_of(rdp_vector(plain, relation)[1], distance, delta=_checked_delta(delta))
    values = _rdp_or_none(event, relation)
    if values is None:
        return float(_pld(event, relation, _INTERVAL).get_epsilon(_checked_delta(delta)))
    epsilon_rdp = epsilon_from_rdp(ORDERS, values, delta)
    if epsilon_rdp > LARGEST_EPSILON:
        return math.inf
    return float(checked_pld(event, relation, delta, epsilon_rdp)[0].get_epsilon(delta))


def guarantee(event: DpEvent, *, delta: float, relation: Relation, poisson_event: DpEvent | None = None) -> Guarantee:
    """What an event guarantees, by both accountants, with the delta-epsilon curve of the headline one.

    Args:
        event: the event, as executed.
        delta: delta of the headline.
        relation: neighbouring relation.
        poisson_event: what the event would be if batches were Poisson samples; information beside the headline.

    Raises:
        AccountingError: there is no finite epsilon, neither accountant supports the event, or they disagree.
        BadInputError: the event is malformed or delta out of range.
    """
    from privacy_pipeline.accounting import truncation
    from privacy_pipeline.accounting.record import Guarantee

    _checked_delta(delta)
    values, distance = _rdp_or_none(event, relation), 0.0
    missing = reason_without_pld(event, relation)
    if values is None and missing is not None:
        # (0, delta)-DP parts, which no accountant knows, are taken out of the event and paid beside it.
        plain, distance = truncation.untruncated(event)
        values = _rdp_or_none(plain, relation)
    epsilon_rdp = None if values is None else truncation.epsilon_of(values, distance, delta=delta)
    if values is None and missing is not None:
        raise AccountingError(f"no accountant supports this event under {relation.value}")
    if epsilon_rdp is not None and epsilon_rdp > LARGEST_EPSILON:
        raise AccountingError(
            "epsilon is infinite: part of the mechanism adds no noise, or next to none", fix="raise noise_multiplier"
        )
    version = f"dp-accounting {_library_version()}; RDP orders v{ORDERS_VERSION}"
    epsilon_pld: float | None = None
    if missing is None:
        accountant, interval = (
            (_pld(event, relation, _INTERVAL), _INTERVAL)
            if epsilon_rdp is None
            else checked_pld(event, relation, delta, epsilon_rdp)
        )
        epsilon_pld = float(accountant.get_epsilon(delta))
        version += f"; PLD pessimistic, interval {interval:.3g}"
        curve = [(float(accountant.get_epsilon(point)), point) for point in _CURVE_DELTAS]
    else:
        curve = [(truncation.epsilon_of(values or (), distance, delta=point), point) for point in _CURVE_DELTAS]
    epsilon = epsilon_rdp if epsilon_pld is None else epsilon_pld
    if epsilon is None or math.isinf(epsilon):
        raise AccountingError(f"this event has no finite epsilon at delta {delta:g}")
    return Guarantee(
        epsilon=epsilon,
        delta=delta,
        accountant="rdp" if epsilon_pld is None else "pld",
        accountant_version=version,
        epsilon_pld=epsilon_pld,
        epsilon_rdp=epsilon_rdp,
        epsilon_missing=missing or (None if values is not None else "RDP does not support this event"),
        curve=[point for point in curve if math.isfinite(point[0])],
        epsilon_if_poisson_sampled=None
        if poisson_event is None
        else epsilon_of(poisson_event, delta=delta, relation=relation),
    )


def _library_version() -> str:
    return importlib.metadata.version("dp-accounting")
