"""What the clients of a chunk compute in a round, in one TensorFlow graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from federated.contract import Tensor, Tensors
from federated.fast.gradients import Gradients
from federated.optimizers import Optimizer
from privacy_pipeline.config.federated_models import FederatedAlgorithm


@dataclass(frozen=True, kw_only=True)
class ChunkTensors:
    """Examples of c clients, in S local batches of b rows, padded.

    Attributes:
        inputs: each [S, c, b, ...].
        labels: [S, c, b, ...].
        counts: int32 [c], real rows of each client, which come first.
        present: float32 [c].
    """

    inputs: Tensors
    labels: Tensor
    counts: Tensor
    present: Tensor

    def one(self, client: Tensor) -> ChunkTensors:
        """Return one client, with no step more than it needs."""
        batch = tf.shape(self.labels)[2]
        count = self.counts[client]
        steps = (count + batch - 1) // batch
        return ChunkTensors(
            inputs=[_keep(tensor[:steps, client : client + 1], tensor) for tensor in self.inputs],
            labels=self.labels[:steps, client : client + 1],
            counts=count[tf.newaxis],
            present=self.present[client : client + 1],
        )


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What c clients send.

    Attributes:
        updates: new weights minus old ones (for `fedsgd` minus the gradient), each [c, ...]; 0 where not finite.
        full_gradients: mean gradients at the round's weights, each [c, ...]; of `mimelite` only.
        num_examples: float32 [c], epochs counted, as TFF does.
        present: float32 [c]; 0 also for a client whose update is not finite.
        losses: float32 [c], summed over the rows trained on.
    """

    updates: Tensors
    full_gradients: Tensors
    num_examples: Tensor
    present: Tensor
    losses: Tensor


class LocalWork:
    """Local training of FedAvg, FedProx and MimeLite, and the gradient of FedSGD.

    Args:
        algorithm: what to compute.
        gradients: how.
    """

    def __init__(self, algorithm: FederatedAlgorithm, gradients: Gradients) -> None:
        self._algorithm = algorithm
        self._gradients = gradients
        self._optimizer = Optimizer(algorithm.client_optimizer, tf.math)

    def __call__(
        self, weights: Tensors, base_state: dict[str, Tensor], chunk: ChunkTensors, learning_rate: Tensor
    ) -> LocalResult:
        """Run the clients of a chunk from the same weights.

        Args:
            weights: the round's, without a client axis.
            base_state: MimeLite's optimizer state; else empty.
            chunk: the examples.
            learning_rate: float32 scalar, of local steps.
        """
        clients = tf.shape(chunk.counts)[0]
        start = [tf.broadcast_to(w, tf.concat([[clients], w.shape], 0)) for w in weights]
        start = [tf.ensure_shape(s, [None, *w.shape]) for s, w in zip(start, weights, strict=True)]
        epochs = self._algorithm.local_epochs
        examples = tf.cast(chunk.counts * epochs, tf.float32)
        full: Tensors = []
        if self._algorithm.name in ("fedsgd", "mimelite"):
            full, losses = self._full_gradient(start, chunk)
        if self._algorithm.name == "fedsgd":
            updates, full = [-gradient for gradient in full], []
        else:
            after, losses = self._train(start, base_state, chunk, learning_rate)
            updates = [new - old for new, old in zip(after, start, strict=True)]
        finite = tf.ones_like(chunk.present)
        for update in updates:
            finite *= tf.cast(tf.reduce_all(tf.math.is_finite(_flat(update)), 1), tf.float32)
        updates = [tf.where(_like(finite, update) > 0, update, 0.0) for update in updates]
        losses = tf.where(finite > 0, losses, 0.0)
        return LocalResult(
            updates=updates,
            full_gradients=full,
            num_examples=examples,
            present=chunk.present * finite,
            losses=losses,
        )

    def _batch(self, chunk: ChunkTensors, step: Tensor) -> tuple[Tensors, Tensor, Tensor]:
        rows = tf.shape(chunk.labels)[2]
        number = step * rows + tf.range(rows)
        mask = tf.cast(number[tf.newaxis, :] < chunk.counts[:, tf.newaxis], tf.float32)
        return [tensor[step] for tensor in chunk.inputs], chunk.labels[step], mask

    def _full_gradient(self, start: Tensors, chunk: ChunkTensors) -> tuple[Tensors, Tensor]:
        def body(step: Tensor, sums: Tensors, losses: Tensor) -> tuple[Tensor, Tensors, Tensor]:
            inputs, labels, mask = self._batch(chunk, step)
            gradients, loss = self._gradients(start, inputs, labels, mask)
            rows = tf.reduce_sum(mask, 1)
            sums = [total + _like(rows, g) * g for total, g in zip(sums, gradients, strict=True)]
            return step + 1, sums, losses + loss

        steps = tf.shape(chunk.labels)[0]
        initial = (0, [tf.zeros_like(weight) for weight in start], tf.zeros_like(chunk.present))
        _, sums, losses = _loop(lambda step, *_: step < steps, body, initial)
        rows = tf.cast(chunk.counts, tf.float32)
        return [tf.math.divide_no_nan(total, _like(rows, total)) for total in sums], losses

    def _train(
        self, start: Tensors, base_state: dict[str, Tensor], chunk: ChunkTensors, learning_rate: Tensor
    ) -> tuple[Tensors, Tensor]:
        proximal = self._algorithm.proximal_strength
        stateful = bool(self._optimizer.slots or self._optimizer.counts_steps)
        fixed = self._algorithm.name == "mimelite"
        # An epoch's missing batches leave plain SGD where it is (their gradient is 0), and nothing else.
        masked = proximal is not None or stateful
        state = {} if fixed else self._initial_state(start)

        def body(step: Tensor, weights: Tensors, state: Any, losses: Tensor) -> tuple[Tensor, Tensors, Any, Tensor]:
            inputs, labels, mask = self._batch(chunk, step % steps)
            gradients, loss = self._gradients(weights, inputs, labels, mask)
            if proximal is not None:
                pulled = zip(gradients, weights, start, strict=True)
                gradients = [g + proximal * (w - w0) for g, w, w0 in pulled]
            moved, updated = self._optimizer.step(base_state if fixed else state, weights, gradients, learning_rate)
            after: Any = {} if fixed else moved
            if masked:
                active = tf.reduce_any(mask > 0, 1)
                updated = [_where(active, new, old) for new, old in zip(updated, weights, strict=True)]
                after = {name: _where(active, value, state[name]) for name, value in after.items()}
            return step + 1, updated, after, losses + loss

        steps = tf.shape(chunk.labels)[0]
        total = steps * self._algorithm.local_epochs
        initial = (0, start, state, tf.zeros_like(chunk.present))
        _, weights, _, losses = _loop(lambda step, *_: step < total, body, initial)
        return weights, losses

    def _initial_state(self, start: Tensors) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for slot in self._optimizer.slots:
            value = self._optimizer.initial if slot == "preconditioner" else 0.0
            state.update({f"{slot}/{i}": tf.zeros_like(weight) + value for i, weight in enumerate(start)})
        if self._optimizer.counts_steps:
            # One count a client: a client that has fewer batches skips the others of an epoch.
            state["step"] = tf.zeros([tf.shape(start[0])[0]], tf.int32)
        return state


def _loop(condition: Any, body: Any, initial: Any) -> Any:
    return tf.while_loop(condition, body, initial, parallel_iterations=1)


def _keep(value: Tensor, like: Tensor) -> Tensor:
    return tf.ensure_shape(value, [None, None, *like.shape[2:]])


def _flat(value: Tensor) -> Tensor:
    return tf.reshape(value, [tf.shape(value)[0], -1])


def _like(per_client: Tensor, value: Tensor) -> Tensor:
    return tf.reshape(per_client, [-1] + [1] * (value.shape.rank - 1))


def _where(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return tf.where(_like(active, new), new, old)
