"""Audit of a federated run's mechanism: its own aggregator clips, sums, adds noise and divides, on made-up clients.

As `privacy_pipeline.dp.attacks.audit`, with clients for canaries: each has a coordinate of its own, an update far
longer than the clipping norm in it, and is in or out by a coin. The attacker sees the update of the round. No data is
read.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federated.privacy.cohort_plan import Attendance
from federated.privacy.distributed import aggregator_of
from federated.privacy.distributed_noise import DistributedNoise
from federated.privacy.plan import FederatedPlan
from federated.silos.plan import SiloPlan
from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.attacks.audit import RUN_CANARIES, AuditResult, audit_mechanism, mechanism_plan
from privacy_pipeline.dp.attacks.guessing_bounds import bound_from_scores
from privacy_pipeline.dp.graphs.randomness import RunKey

if TYPE_CHECKING:
    from dp_accounting import DpEvent

CANARIES = 2000
_AT_ONCE = 100  # clients whose updates are held at once
_SCALE = 1e4  # length of an update before clipping, in clipping norms
_DRAWS = 1 << 23  # whole numbers that distributed noise may draw for an audit

_STATEMENT = (
    "The aggregator with the plan's clipping and noise, without sampling, on made-up clients with a coordinate each; "
    "no private data is read. A lower bound above the upper bound shows a fault, with its confidence; one below it "
    "proves nothing."
)


def audit_aggregation(
    plan: FederatedPlan | SiloPlan, *, canaries: int = CANARIES, confidence: float = 0.95
) -> AuditResult:
    """Audit a plan's aggregation; inside silos, the steps of a silo, which are those of the DP-SGD engine.

    Distributed noise is for a fixed number of clients a round: its canaries come in several rounds of one epoch, each
    in one of them, and are fewer where an encoded update is long.

    Args:
        plan: the plan of a run; its clipping and noise are used, its sampling is not.
        canaries: made-up clients.
        confidence: of the lower bound.

    Raises:
        BadInputError: fewer than 2 canaries.
        AccountingError: no epsilon is known for the plan.
    """
    if isinstance(plan, SiloPlan):
        return audit_mechanism(plan.plan_of(0), canaries=RUN_CANARIES, confidence=confidence)
    began = time.perf_counter()
    included = np.random.default_rng().integers(0, 2, canaries).astype(bool)
    if plan.distributed is None:
        scores, included, event = _by_server(plan, included)
    else:
        scores, included, event = _by_shares(plan, plan.distributed, included)
    bound = bound_from_scores(scores, included, delta=plan.delta, confidence=confidence)
    return AuditResult(
        kind="mechanism",
        lower_bound=bound.lower_bound,
        confidence=confidence,
        upper_bound=epsilon_of(event, delta=plan.delta, relation=Relation.ZERO_OUT),
        delta=plan.delta,
        canaries=included.size,
        guesses=bound.guesses,
        correct=bound.correct,
        statement=_STATEMENT,
        seconds=time.perf_counter() - began,
    )


def _updates(first: int, included: NDArray[np.bool_], size: int, norm: float) -> NDArray[np.float32]:
    """Return updates of consecutive canaries, float32 [canaries, size]: one coordinate each, from `first` on."""
    updates = np.zeros((included.size, size), np.float32)
    places = np.arange(included.size)
    updates[places, first + places] = np.where(included, _SCALE * norm, 0.0)
    return updates


def _by_server(
    plan: FederatedPlan, included: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], DpEvent]:
    """Return scores, coins and event of a round with all canaries, or of a few where noise is correlated over them."""
    base = mechanism_plan(plan.base, canaries=included.size)
    short = replace(plan, base=base, attendance=Attendance())
    size, rounds = int(base.units or 0), base.steps
    included = included[:size]
    aggregator = aggregator_of(plan=short, key=RunKey.from_system(), shapes=[(size,)])
    state, scores = aggregator.initial_state(), np.zeros(size)
    for number in range(rounds):
        sums: list[Any] | None = None
        last = (number + 1) * size // rounds
        for first in range(number * size // rounds, last, _AT_ONCE):
            coins = included[first : min(first + _AT_ONCE, last)]
            found = _partial(aggregator, state, _updates(first, coins, size, base.clipping.norm))
            sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
        update, state, _ = aggregator.finish(state, sums, number)
        if update is not None:
            scores += np.asarray(update[0], np.float64)
    return scores, included, short.event


def _partial(aggregator: Any, state: Any, updates: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return the sum of some canaries' clipped updates, as the round engines ask for it."""
    import tensorflow as tf

    count = len(updates)
    tensors = [tf.constant(updates)]
    parts = aggregator.partial(state, tensors, tf.ones([count]), tf.ones([count], tf.bool))
    return [np.asarray(part) for part in parts]


def _by_shares(
    plan: FederatedPlan, noise: DistributedNoise, included: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], DpEvent]:
    """Return the scores, coins and event of rounds of an epoch in which just enough clients report."""
    # A coordinate for each client of a round; what is rotated has as many numbers as the plan accounts.
    each = min(noise.min_clients, noise.dimension)
    rounds = max(1, min(included.size // each, _DRAWS // (noise.dimension * noise.min_clients), plan.rounds))
    rounds = min(rounds, plan.base.steps_per_epoch)
    aggregator = aggregator_of(plan=plan, key=RunKey.from_system(), shapes=[(noise.dimension,)])
    state, scores = aggregator.initial_state(), []
    coins = np.resize(included, rounds * each)
    for number in range(rounds):
        own = coins[number * each : (number + 1) * each]
        updates = _updates(0, own, noise.dimension, plan.base.clipping.norm)
        idle = np.zeros((noise.min_clients - each, noise.dimension), np.float32)
        sums = _partial(aggregator, state, np.concatenate([updates, idle]))
        update, state, _ = aggregator.finish(state, sums, number)
        if update is None:
            raise ValueError("a round in which enough clients report releases its sum")
        scores.append(np.asarray(update[0], np.float64)[:each])
    return np.concatenate(scores), coins, plan.event_of(rounds)
