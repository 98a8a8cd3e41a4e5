"""Renyi differential privacy (RDP): divergences at fixed orders, and the epsilon that they imply."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.loss_distribution import neighbours
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError, PipelineError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

# Orders of the stored RDP vectors: those of dp_accounting, a few below 1.1 for large epsilons and a few between 63
# and 1024 for small ones. Public and fixed: the choice may not depend on data. A change needs a new version.
ORDERS_VERSION = 1
ORDERS: tuple[float, ...] = (
    *(1.02, 1.05),
    *(round(1 + tenth / 10, 1) for tenth in range(1, 100)),
    *(float(order) for order in range(11, 65)),
    *(80.0, 96.0, 128.0, 160.0, 192.0, 256.0, 384.0, 512.0, 768.0, 1024.0),
)
_ROUNDING = 1e-9  # a Renyi divergence this little below zero is rounding; anything lower is an error


class AccountingError(PipelineError):
    """No epsilon can be stated: no accountant supports the event, or there is no finite bound."""


def checked_delta(delta: float) -> float:
    """Return a delta between 0 and 1.

    Raises:
        BadInputError: it is not.
    """
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
    """Return the Renyi divergence of an event at each of `ORDERS` (Mironov 2017).

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
    from privacy_pipeline.accounting.integer_noise import without_integer_noise

    text = canonical(event)  # refuses values out of range, which the accountants would partly take
    event, own = without_integer_noise(event, ORDERS)
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
    """Return the epsilon that RDP at one order implies; infinite where the bound is vacuous.

    Canonne, Kamath and Steinke 2020 ("The Discrete Gaussian for Differential Privacy"), proposition 12. May be
    negative, which means epsilon 0. Unstable, and never useful, for orders up to 1.01.
    """
    if order <= 1.01:
        return math.inf
    return value + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def epsilon_from_rdp(orders: Sequence[float], values: Sequence[float], delta: float) -> float:
    """Return the smallest epsilon that a vector of Renyi divergences implies at delta.

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
    checked_delta(delta)
    if len(orders) != len(values) or not orders or min(orders) <= 1:
        raise BadInputError("RDP needs one value for each order, and orders above 1")
    if not all(value >= 0 for value in values):
        raise AccountingError("a Renyi divergence is never negative: the stored or computed vector is wrong")
    if any(delta**2 + math.expm1(-value) > 0 for value in values):
        return 0.0
    return max(0.0, min(epsilon_at_order(a, value, delta) for a, value in zip(orders, values, strict=True)))
