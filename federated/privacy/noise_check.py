"""Measures the realised deviation of a federated run's noise before its first round, as `dp.checks.noise_check` does.

A round without updates is made by the very aggregator that the run will use, under a key of its own: what comes out is
noise alone, encoded, summed, decoded and divided as it will be. No client's data is read.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from federated.privacy.distributed import DistributedAggregator
from federated.privacy.distributed_noise import DistributedNoise
from federated.privacy.gaussian import GaussianAggregator
from federated.privacy.plan import FederatedPlan
from federated.silos.plan import SiloPlan
from privacy_pipeline.dp.checks import noise_check
from privacy_pipeline.dp.checks.noise_check import DRAWS, Deviation, measured
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.noise.correlated import row_lengths
from privacy_pipeline.dp.noise.integer_families import FAMILIES

_CORRELATED_ROUNDS = 8
_COUNTS = 256
_FEWEST, _MOST = 1 << 8, 1 << 14  # numbers of an encoded round of the check


def gaussian_deviations(plan: FederatedPlan, *, draws: int = DRAWS) -> list[Deviation]:
    """Return the server's noise on the update of a round; of each of the first rounds where it is correlated over them.

    Args:
        plan: a plan without distributed noise.
        draws: how many numbers, over all rounds.
    """
    base = plan.base
    rounds = min(_CORRELATED_ROUNDS, plan.rounds) if base.noise.correlation != "none" else 1
    aggregator = GaussianAggregator(plan=plan, key=RunKey.from_system(), shapes=[(draws // rounds,)])
    state, found = aggregator.initial_state(), []
    lengths = row_lengths(base.noise, steps=rounds, steps_per_epoch=base.steps_per_epoch)
    for number, length in enumerate(lengths):
        (update,), _, _ = aggregator.finish(state, None, number)
        found.append(measured("noise of the update", np.asarray(update), plan.base.noise_stddev * float(length)))
    if base.clipping.adaptive is not None:
        stated = base.clipping.adaptive.count_noise
        counts = [aggregator.noise_of_count(number, stddev=stated) for number in range(_COUNTS)]
        found.append(measured("noise of the count", np.array(counts), stated))
    return found


def distributed_deviations(plan: FederatedPlan, noise: DistributedNoise) -> list[Deviation]:
    """Return the clients' noise on the update of a round in which just enough of them report.

    On fewer numbers than the model has, with the plan's own grid and shares.

    Args:
        plan: the plan.
        noise: its noise.
    """
    size = min(max(_FEWEST, min(_MOST, 1 << (4 * DRAWS // noise.min_clients).bit_length())), noise.dimension)
    small = replace(plan, distributed=replace(noise, dimension=size))
    aggregator = DistributedAggregator(plan=small, key=RunKey.from_system(), shapes=[(size,)])
    sums = [np.zeros(size, np.int64), np.int64(noise.min_clients)]
    update, _, _ = aggregator.finish(aggregator.initial_state(), sums, 0)
    if update is None:
        raise ValueError("a round in which enough clients report releases its sum")
    variance, excess = FAMILIES[noise.family].moments(noise.share_variance)
    total = noise.min_clients * variance
    stated = math.sqrt(total) / noise.scale / plan.expected_clients
    return [measured("noise of the update", np.asarray(update[0]), stated, excess=excess / noise.min_clients)]


def require_noise(plan: FederatedPlan | SiloPlan) -> tuple[Deviation, ...]:
    """Refuse a run whose noise is not the one that is accounted; inside silos, that of any silo.

    Args:
        plan: the plan of the run.

    Returns:
        What was measured.

    Raises:
        PipelineError: the realised deviation is another one than the stated.
    """
    if isinstance(plan, SiloPlan):
        return noise_check.require_noise([plan.plan_of(place) for place in range(len(plan.silos))])
    if plan.distributed is not None:
        return noise_check.require(distributed_deviations(plan, plan.distributed))
    return noise_check.require(gaussian_deviations(plan))
