"""The server's part of a round, the same for every engine that holds the weights itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federated.algorithms import registry
from federated.contract import Array, Metrics, RoundState
from federated.optimizers import Optimizer, learning_rate
from privacy_pipeline.config.models.federated import FederatedAlgorithm

_SERVER, _BASE = "server:", "base:"


class Server:
    """Server optimizer, and the state that the server makes of an algorithm's second sum, if it has one.

    Args:
        algorithm: names the optimizers, and the algorithm.
        shapes: of the trainable weights.
    """

    def __init__(self, algorithm: FederatedAlgorithm, shapes: tuple[tuple[int, ...], ...]) -> None:
        self._algorithm = algorithm
        self._shapes = shapes
        self._optimizer = Optimizer(algorithm.server_optimizer)
        self._base = Optimizer(algorithm.client_optimizer)
        self._second_sum = registry.of(algorithm).second_sum

    def initial_state(self) -> dict[str, Array]:
        """Return the arrays before the first round."""
        state = {_SERVER + name: value for name, value in self._optimizer.initial_state(self._shapes).items()}
        if self._second_sum is not None:
            base = self._second_sum.first(self._base, self._shapes)
            state.update({_BASE + name: value for name, value in base.items()})
        return state

    @staticmethod
    def shared(state: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the server sends beside the weights, without the prefix of its names."""
        return {name[len(_BASE) :]: value for name, value in state.items() if name.startswith(_BASE)}

    def step(
        self, state: RoundState, update: list[Array], second: list[Array] | None
    ) -> tuple[tuple[Array, ...], dict[str, Array], Metrics]:
        """Return weights and server state after the round.

        An update that is not finite is rejected, as TFF does: weights and optimizer stay as they are.

        Args:
            state: before the round.
            update: aggregated change of each weight.
            second: mean of the second sum, of an algorithm that has one.
        """
        weights, server = state.weights, dict(state.server)
        rejected = not all(np.isfinite(value).all() for value in update)
        if not rejected:
            rate = np.float32(learning_rate(self._algorithm.server_optimizer, state.round_number))
            own = {name[len(_SERVER) :]: value for name, value in server.items() if name.startswith(_SERVER)}
            after, moved = self._optimizer.step(own, weights, [-value for value in update], rate)
            weights = tuple(np.asarray(value, np.float32) for value in moved)
            server.update({_SERVER + name: np.asarray(value) for name, value in after.items()})
        if self._second_sum is not None and second is not None:
            base = self._second_sum.after(self._base, self.shared(server), second)
            server.update({_BASE + name: np.asarray(value) for name, value in base.items()})
        return weights, server, {"update_rejected": float(rejected)}
