"""The mean of the clients' updates, without privacy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from federated.contract import AggregatorState, Metrics, Tensor, Tensors


class MeanAggregator:
    """Mean over the clients that sent an update, weighted by their examples or uniform; 0 if none did.

    Args:
        shapes: shape of each trainable weight.
        weighting: `examples` or `uniform`.
    """

    every_report = False
    update_bytes: int | None = None

    def __init__(self, shapes: Sequence[tuple[int, ...]], *, weighting: Literal["examples", "uniform"]) -> None:
        self._shapes = tuple(shapes)
        self._weighting = weighting

    def initial_state(self) -> AggregatorState:
        """Keep nothing between rounds."""
        return {}

    def partial(self, state: AggregatorState, updates: Tensors, num_examples: Tensor, present: Tensor) -> Tensors:
        """Return the weighted sum of each update, and the sum of weights."""
        weights = present * num_examples if self._weighting == "examples" else present
        sums = [tf.tensordot(weights, update, 1) for update in updates]
        return [*sums, tf.reduce_sum(weights)]

    def finish(
        self, state: AggregatorState, sums: Tensors | None, round_number: int
    ) -> tuple[Tensors, AggregatorState, Metrics]:
        """Divide by the sum of weights."""
        if sums is None:
            return [tf.zeros(shape) for shape in self._shapes], state, {"weight": 0.0}
        total = sums[-1]
        update = [tf.math.divide_no_nan(value, total) for value in sums[:-1]]
        return update, state, {"weight": float(total)}
