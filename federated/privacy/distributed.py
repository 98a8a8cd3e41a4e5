"""The mechanism of distributed noise as an aggregator: clients' encodings, their shares, a sum modulo 2^bits.

The secure aggregation is simulated: the process that runs this sees every update. Sums of encodings come first and the
reporting clients' shares after, which gives the very number that adding and wrapping client by client gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from federated.contract import AggregatorState, Metrics, Tensor, Tensors
from federated.privacy.distributed_noise import RELEASED, WRAPPED
from federated.privacy.encoding import clipped, rotated, rounded, signs, unrotated, wrapped
from federated.privacy.gaussian import GaussianAggregator
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.dp.graphs.randomness import KEY_BYTES, RunKey
from privacy_pipeline.dp.noise.integer_noise import IntegerNoise
from privacy_pipeline.dp.noise.noise import keystream
from privacy_pipeline.errors import BadInputError, PipelineError

_ROUND = "round"
_AT_ONCE = 1 << 20  # numbers that are rotated at once


class DistributedAggregator:
    """Distributed noise of a plan, as an aggregator of the round engines.

    Shares, rotation and rounding are functions of the key, the round and what is encoded: a round that is made again
    adds the same noise to the same sum. State counts, over all rounds so far, the rounds that released something and
    the numbers of their sums that wrapped around; both follow from the noised sum or from who reported, so that the
    guarantee covers them.

    Args:
        plan: the plan.
        key: the run's key.
        shapes: shapes of the model's trainable variables.

    Raises:
        BadInputError: the plan has no distributed noise, or the model has more weights than it is for.
    """

    # A client whose update is not finite adds its share all the same: else the noise would depend on its data.
    every_report = True

    def __init__(self, *, plan: FederatedPlan, key: RunKey, shapes: Sequence[tuple[int, ...]]) -> None:
        if plan.distributed is None:
            raise BadInputError("the plan has no distributed noise")
        self.plan, self.noise, self._key = plan, plan.distributed, key
        self.summed: list[int] = []
        self._shapes = [tuple(shape) for shape in shapes]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.noise.require_room(sum(self._sizes))
        self._shares = IntegerNoise(self.noise.family, self.noise.share_variance)
        # Public, the same for all clients, and no function of any data.
        self._seed = int.from_bytes(hashlib.sha256(plan.digest().encode()).digest()[:16], "little")
        self._rounding = key.derive("randomized rounding", KEY_BYTES)

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        return f"shares of {self.noise.min_clients} clients or more: {self._shares.generator}"

    @property
    def update_bytes(self) -> int:
        """Bytes that a client would send."""
        return self.noise.update_bytes

    def initial_state(self) -> AggregatorState:
        """Return the round, rounds released, and numbers that wrapped around: int64, []."""
        return {_ROUND: np.int64(0), RELEASED: np.int64(0), WRAPPED: np.int64(0)}

    def partial(self, state: AggregatorState, updates: Tensors, num_examples: Tensor, present: Tensor) -> Tensors:
        """Return the sum of some clients' encoded updates.

        Args:
            state: see `initial_state`.
            updates: one tensor a variable, [clients, ...].
            num_examples: not used: an update's weight may not depend on its client's data.
            present: which clients report, [clients].

        Returns:
            The sum, int64 [dimension], and how many clients reported, int64 [].
        """
        del num_examples
        flat = tf.concat([tf.reshape(part, [tf.shape(part)[0], -1]) for part in updates], axis=1)
        total = tf.numpy_function(
            self._encoded, [flat, tf.cast(present, tf.bool), state[_ROUND]], tf.int64, stateful=False
        )
        return [
            tf.ensure_shape(total, [self.noise.dimension]),
            tf.reduce_sum(tf.cast(tf.cast(present, tf.bool), tf.int64)),
        ]

    def encode(self, updates: NDArray[Any], round_number: int) -> NDArray[np.int64]:
        """Return what clients send before noise and wrapping: int64 [clients, dimension], each row within the norm
        bound.

        Args:
            updates: [clients, weights of the model].
            round_number: the round.
        """
        flips = signs(self.noise.dimension, seed=self._seed, round_number=round_number)
        rows = clipped(updates.astype(np.float64), self.plan.base.clipping.norm)
        turned = rotated(rows, flips) * self.noise.scale
        return np.stack([self._rounded(row, turned[place], round_number) for place, row in enumerate(rows)])

    def share(self, reporter: int, round_number: int) -> NDArray[np.int64]:
        """Return the noise of one of a round's reporting clients, int64 [dimension]."""
        return self._shares.draw(self._key, f"noise share {reporter}", round_number, self.noise.dimension)

    def finish(
        self, state: AggregatorState, sums: Tensors | None, round_number: int
    ) -> tuple[Tensors | None, AggregatorState, Metrics]:
        """Add a share for each client that reported, wrap, decode, and divide by the plan's number of clients.

        Args:
            state: see `initial_state`.
            sums: what `partial` gave, added up over the cohort; None if it was empty.
            round_number: the round.

        Returns:
            The update, one tensor a variable, or None where too few clients reported; the next state; metrics, which
            the guarantee covers.

        Raises:
            BadInputError: the plan has no such round, or the state is that of another one.
            PipelineError: more clients reported than a round has.
        """
        if not 0 <= round_number < self.plan.rounds:
            raise BadInputError(f"the plan has {self.plan.rounds} rounds; round {round_number} is not accounted for")
        if int(state[_ROUND]) != round_number:
            raise BadInputError(f"round {round_number} has the state of round {int(state[_ROUND])}")
        reported = 0 if sums is None else int(sums[1])
        released, before = int(state[RELEASED]), int(state[WRAPPED])
        if reported > self.noise.clients:
            raise PipelineError(f"{reported} clients reported, {self.noise.clients} are accounted for")
        self.summed.append(round_number)  # also where nothing is released: the round is charged
        if sums is None or reported < self.noise.min_clients:
            return None, self._state(round_number + 1, released, before), {RELEASED: 0.0, WRAPPED: 0.0}
        total = np.array(sums[0], np.int64)
        for reporter in range(reported):
            total += self.share(reporter, round_number)
        seen = wrapped(total, self.noise.bits)
        over = int(np.count_nonzero(seen != total))
        state = self._state(round_number + 1, released + 1, before + over)
        return self._decoded(seen, round_number), state, {RELEASED: 1.0, WRAPPED: float(over)}

    @staticmethod
    def _state(round_number: int, released: int, over: int) -> AggregatorState:
        return {_ROUND: np.int64(round_number), RELEASED: np.int64(released), WRAPPED: np.int64(over)}

    def _encoded(self, flat: NDArray[np.float32], present: NDArray[np.bool_], round_number: Any) -> NDArray[np.int64]:
        total = np.zeros(self.noise.dimension, np.int64)
        there, rows = flat[present], max(1, _AT_ONCE // self.noise.dimension)
        for start in range(0, len(there), rows):
            total += self.encode(there[start : start + rows], int(round_number)).sum(axis=0)
        return total

    def _rounded(self, row: NDArray[np.float64], turned: NDArray[np.float64], round_number: int) -> NDArray[np.int64]:
        # A client's own coins: a function of what it encodes, since chunks come in no fixed order.
        own = hashlib.blake2b(row.tobytes(), key=self._rounding, digest_size=KEY_BYTES).digest()
        stream = keystream(own, round_number)

        def uniform(size: int) -> NDArray[np.float64]:
            return np.asarray(np.frombuffer(stream.update(bytes(4 * size)), "<u4") * 2.0**-32)

        return rounded(turned, squared_norm=self.noise.squared_norm, uniform=uniform)

    def _decoded(self, seen: NDArray[np.int64], round_number: int) -> Tensors:
        flips = signs(self.noise.dimension, seed=self._seed, round_number=round_number)
        flat = unrotated(seen / self.noise.scale, flips, sum(self._sizes)) / self.plan.expected_clients
        parts = np.split(flat.astype(np.float32), np.cumsum(self._sizes)[:-1])
        return [tf.constant(part.reshape(shape)) for part, shape in zip(parts, self._shapes, strict=True)]


def aggregator_of(
    *, plan: FederatedPlan, key: RunKey, shapes: Sequence[tuple[int, ...]]
) -> GaussianAggregator | DistributedAggregator:
    """Return the aggregator that a plan names."""
    if plan.distributed is None:
        return GaussianAggregator(plan=plan, key=key, shapes=shapes)
    return DistributedAggregator(plan=plan, key=key, shapes=shapes)
