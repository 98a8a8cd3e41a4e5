"""The rule by which the ledger grants or refuses: a Renyi filter of one order, and what it proves.

A later run is chosen after the results of earlier ones were seen, and so are its cost, the caps, the policy and the
keys. What follows holds for all of that (Feldman and Zrnic 2021, "Individual Privacy Accounting via a Renyi Filter",
theorem 4.3; Lecuyer 2021, "Practical Privacy Filters and Odometers with Renyi Differential Privacy").

Fixed before the first charge: a Renyi order a > 1; the cap's delta, of which d is the filter's part and t the part that
is kept for failures (`truncation.SHARE`). Fixed before the first charge that may fail: the ceiling C of all caps.

Assumed of each run i, whatever was output before: its cost r_i and its failure tau_i are fixed before its output
exists, and there are P_i and Q_i, at most tau_i in total variation from what it outputs on one dataset and on the
neighbouring one, with Renyi divergences of order a of at most r_i in both directions.

Theorem. Stop whenever the outputs say so. Let R be the sum of r_i by then, eps = R + c with
c = log(1 - 1/a) - log(d a) / (a - 1), and let eps <= C and (1 + e^C) sum tau_i <= t hold throughout. For every set S of
outcomes, with P on a dataset and Q on its neighbour, P(S) <= E_Q[e^eps; S] + d + t. So for every E that was fixed
beforehand, P(S) <= e^E Q(S) + d + t for every S in which eps did not pass E.

Proof. Without failures: let L be the sum of log P_i/Q_i. exp((a - 1)(L - R)) is a supermartingale under P that starts
at 1, for E_P[e^((a-1) L_i)] = E_Q[e^(a L_i)] <= e^((a-1) r_i) given what was output before; its expectation at any
stopping time is at most 1. For every x = L - R, (1 - e^(c - x))+ <= d e^((a-1) x): the left side times e^(-(a-1) x) is
largest at e^(-x) = (a - 1) e^(-c) / a, where it is e^(-c (a-1)) (1 - 1/a)^(a-1) / a = d (Canonne, Kamath and Steinke
2020, proposition 12, whose constant c is). So P(S) - E_Q[e^eps; S] <= E_P[(1 - e^(eps - L))+] <= d. With failures:
replace the runs by their P_i and Q_i one after the other. That moves P(S) by at most sum tau_i and E_Q[e^eps; S] by at
most e^C sum tau_i, and both together by at most t. Either dataset may be the first of the two.

Nothing in this asks when a cap, an alert, a share or a key was changed: such a change costs no delta, as long as no cap
is above C once a run that may fail was charged. It does ask that a, d and t stay. Taking the order again after outputs
were seen is not covered: over K orders delta can grow up to K-fold, by the sum of their supermartingales. Version 0.1.0
did that with each change of a cap or a policy; for a budget with such a change the delta that holds is `len(ORDERS)`
times as large (`delta_factor`). Nor is the best order of the runs so far covered, nor the shortcut by total variation
(`renyi.epsilon_from_rdp`): those hold for runs that were fixed beforehand.

The order is the one at which most copies of the first run fit the cap: nothing is lost for runs of one kind, or for
Gaussian runs of any size. Budgets with different orders are charged apart: their epsilons and deltas add. For a group
of k units the pair (E, d + t) goes through the group property as it is (`group_privacy`); a better pair of the curve,
taken after outputs were seen, is not covered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from privacy_pipeline.accounting.renyi import epsilon_at_order

MOST_RUNS = 1_000_000


def total(vectors: Iterable[Sequence[float]], *, length: int) -> tuple[float, ...]:
    """Return the sum of Renyi vectors, order by order, rounded once: it does not depend on the order of the entries."""
    columns = list(zip(*vectors, strict=True))
    return tuple(math.fsum(column) for column in columns) if columns else (0.0,) * length


def allowance(order: float, *, epsilon: float, delta: float) -> float:
    """Return the Renyi divergence at `order` that still gives (epsilon, delta); negative or -inf where none does."""
    return epsilon - epsilon_at_order(order, 0.0, delta)


def choose_order(
    orders: Sequence[float], spent: Sequence[float], cost: Sequence[float], *, epsilon: float, delta: float
) -> float:
    """Return the order at which most copies of a run fit beside what is spent.

    Args:
        orders: Renyi orders.
        spent: divergences of all counted entries; zeros where the order is chosen before the first run.
        cost: divergences of the run.
        epsilon: the cap's epsilon.
        delta: the cap's delta.
    """

    def copies(index: int) -> float:
        room = allowance(orders[index], epsilon=epsilon, delta=delta) - spent[index]
        # A plan that costs nothing gives no hint of the order: then take the one that suits Gaussians.
        return room / max(cost[index], 1e-12 * orders[index])

    finite = [i for i, order in enumerate(orders) if order > 1.01 and math.isfinite(cost[i] + spent[i])]
    return orders[max(finite, key=copies, default=len(orders) - 1)]


def filter_epsilon(orders: Sequence[float], values: Sequence[float], *, order: float, delta: float) -> float:
    """Return the epsilon of a sum at the filter's order: what counts against the cap."""
    return max(0.0, epsilon_at_order(order, values[list(orders).index(order)], delta))


def floor_fixed(room: float) -> int:
    """Return an allowance of 0 or more as a fixed-point integer of `totals`, rounded down: never more than is
    allowed.
    """
    numerator, denominator = room.as_integer_ratio()
    return (numerator << 64) // denominator


def runs_that_fit(spent: float, cost: float, *, room: float) -> int:
    """Return how many runs of one cost fit beside what is spent, all at the filter's order.

    Args:
        spent: divergence of all counted entries.
        cost: divergence of one run.
        room: the cap's allowance.
    """
    if spent > room or cost > room - spent:
        return 0
    if cost <= 0:
        return MOST_RUNS
    return int(min(MOST_RUNS, (room - spent) // cost))
