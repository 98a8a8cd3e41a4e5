"""Clips each client's update, sums, adds Gaussian noise from the run's key, and divides by the expected cohort.

Fixed clipping (McMahan et al. 2018), adaptive clipping (Andrew et al. 2021, arXiv 1905.03871, algorithm 1) and noise
that is correlated over the rounds (DP-FTRL, Kairouz et al. 2021). There is no zeroing of large updates before
clipping: the bound for it would be learnt without noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from federated.contract import AggregatorState, Metrics, Tensor, Tensors
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.dp.clipping.edge import within
from privacy_pipeline.dp.graphs.randomness import KEY_BYTES, RunKey
from privacy_pipeline.dp.noise.correlated import noise_source
from privacy_pipeline.dp.noise.noise import GaussianNoise
from privacy_pipeline.errors import BadInputError

# Known to the aggregator, never released: nothing of it is covered by the noise.
WITHHELD = (
    "losses and metrics of clients",
    "realised sizes of cohorts",
    "numbers of examples of clients",
    "norms of single updates",
)
_ROUNDING_ROOM = 1 - 2.0**-18  # float32 sums of squares may round down; what is clipped stays within the norm
NORM_RANGE = 1e6  # an adaptive norm stays within this factor of its first value, so that it is never 0 or infinite
_NORM = "clipping_norm"


def lengths(updates: Sequence[Tensor]) -> Tensor:
    """Return each client's L2 norm over all variables of its update, float64, [clients]; not finite where that is not.

    Squares are summed in float32, which is fast. Where one overflows, those of its client are summed again with each
    part over its largest number; other clients keep their bits. What underflow takes, below 1e-19 in a coordinate, is
    far below any norm in range.

    Args:
        updates: one tensor a variable, float, [clients, ...].
    """
    flat = [tf.reshape(part, [tf.shape(part)[0], -1]) for part in updates]

    def wide(values: Tensor) -> Tensor:
        return tf.cast(values, tf.float64)

    def scaled() -> Tensor:
        found = []
        for part in flat:
            largest = tf.reduce_max(tf.abs(part), axis=1, keepdims=True)
            safe = tf.where(largest > 0, largest, tf.ones_like(largest))  # infinite over infinite is NaN
            found.append(wide(tf.reduce_sum(tf.square(part / safe), axis=1)) * tf.square(wide(safe[:, 0])))
        return tf.where(tf.math.is_finite(squares), squares, tf.add_n(found))

    squares = tf.add_n([wide(tf.reduce_sum(tf.square(part), axis=1)) for part in flat])
    return tf.sqrt(tf.cond(tf.reduce_all(tf.math.is_finite(squares)), lambda: squares, scaled))


def clipped_sum(updates: Sequence[Tensor], present: Tensor, norm: Tensor) -> tuple[Tensors, Tensor]:
    """Return the sum of updates, each scaled to an L2 norm of at most `norm` over all variables.

    An update that is not finite counts as zero: scaling would spread it.

    Args:
        updates: one tensor a variable, float, [clients, ...].
        present: which clients count, bool or number, [clients].
        norm: the bound, a scalar.

    Returns:
        The sum, one tensor a variable, and how each client's update counts as within the norm, float32, [clients]: see
        `within`; -1/2 if it is not finite, 0 for clients that do not count.
    """
    counts = tf.cast(present, tf.bool)
    length = lengths(updates)
    usable = counts & tf.math.is_finite(length)
    bound = tf.cast(norm, tf.float64) * _ROUNDING_ROOM
    scale = tf.cast(tf.minimum(tf.cast(1.0, tf.float64), tf.math.divide_no_nan(bound, length)), tf.float32)
    scale = tf.where(length > bound, scale, tf.ones_like(scale))

    def total(part: Tensor) -> Tensor:
        shape = tf.concat([tf.shape(scale), tf.ones([tf.rank(part) - 1], tf.int32)], axis=0)
        kept = tf.where(tf.reshape(usable, shape), part, tf.zeros_like(part))
        return tf.reduce_sum(kept * tf.cast(tf.reshape(scale, shape), part.dtype), axis=0)

    half = tf.where(usable, within(tf.where(usable, length, tf.zeros_like(length)), bound), -0.5)
    return [total(part) for part in updates], tf.where(counts, half, tf.zeros_like(half))


class GaussianAggregator:
    """The central mechanism of a plan, as an aggregator of the round engines.

    Noise is a function of the key and the round: a round that is made again adds the same noise to the same sum.

    Args:
        plan: the plan.
        key: the run's key.
        shapes: shapes of the model's trainable variables.

    Attributes:
        summed: the round of each noisy sum that was given out, in their order: what ran, and is accounted for.

    Raises:
        BadInputError: the plan's noise is distributed.
    """

    every_report = False
    update_bytes: int | None = None

    def __init__(self, *, plan: FederatedPlan, key: RunKey, shapes: Sequence[tuple[int, ...]]) -> None:
        if plan.distributed is not None:
            raise BadInputError("the noise of this plan is the clients', not the server's")
        self.plan = plan
        self.summed: list[int] = []
        self._shapes = [tuple(shape) for shape in shapes]
        self._noise = noise_source(plan.base.noise, key, self._shapes, steps_per_epoch=plan.base.steps_per_epoch)
        own = RunKey(key.derive("noise of the count", KEY_BYTES), seed_fixed=key.seed_fixed)
        self._count_noise = GaussianNoise(own, [()], hardened=plan.base.noise.hardened)

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        return self._noise.generator

    def initial_state(self) -> AggregatorState:
        """Return the clipping norm, float32, []."""
        return {_NORM: np.float32(self.plan.base.clipping.norm)}

    def partial(self, state: AggregatorState, updates: Tensors, num_examples: Tensor, present: Tensor) -> Tensors:
        """Return the clipped sum of some clients' updates; those of disjoint parts of a cohort add up to the cohort's.

        Args:
            state: see `initial_state`.
            updates: one tensor a variable, [clients, ...].
            num_examples: not used: an update's weight may not depend on its client's data.
            present: which clients count, [clients].

        Returns:
            One tensor a variable, then, if clipping adapts, the centred count of clients within the norm.
        """
        del num_examples
        total, within = clipped_sum(updates, present, state[_NORM])
        return [*total, tf.reduce_sum(within)] if self.plan.base.clipping.adaptive is not None else total

    def noise_of_count(self, round_number: int, *, stddev: float) -> float:
        """Return the noise of a round on the number of clients within the norm.

        Args:
            round_number: the round.
            stddev: standard deviation.
        """
        return float(self._count_noise.draw(round_number, stddev=stddev)[0])

    def finish(
        self, state: AggregatorState, sums: Tensors | None, round_number: int
    ) -> tuple[Tensors, AggregatorState, Metrics]:
        """Add the round's noise and divide by the expected number of clients, however many came, even if none did.

        Args:
            state: see `initial_state`.
            sums: what `partial` gave, added up over the cohort; None if it was empty.
            round_number: the round.

        Returns:
            The update, one tensor a variable; the next state; metrics, which the noise covers.

        Raises:
            BadInputError: the plan has no such round, or the sum has other shapes than the model.
        """
        if not 0 <= round_number < self.plan.rounds:
            raise BadInputError(f"the plan has {self.plan.rounds} rounds; round {round_number} is not accounted for")
        held = [np.zeros(shape, np.float32) for shape in [*self._shapes, ()]] if sums is None else sums
        found = [np.asarray(part, np.float32) for part in held[: len(self._shapes)]]
        if [part.shape for part in found] != self._shapes:
            raise BadInputError("the sum of updates does not have the shapes of the model's variables")
        self.summed.append(round_number)
        norm, expected = float(state[_NORM]), self.plan.expected_clients
        noise = self._noise.draw(round_number, stddev=self.plan.base.sum_multiplier * norm)
        update = [tf.constant((part + own) / np.float32(expected)) for part, own in zip(found, noise, strict=True)]
        adaptive = self.plan.base.clipping.adaptive
        if adaptive is None:
            return update, dict(state), {}
        count = float(held[-1]) + self.noise_of_count(round_number, stddev=adaptive.count_noise)
        share = count / expected + 0.5
        first = self.plan.base.clipping.norm
        moved = np.log(norm) - adaptive.learning_rate * (share - adaptive.quantile)
        room = np.log(NORM_RANGE)
        following = float(np.exp(np.clip(moved, np.log(first) - room, np.log(first) + room)))
        return update, {_NORM: np.float32(following)}, {_NORM: norm}
