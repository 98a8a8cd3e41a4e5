"""What the clients of a chunk compute in a round, in one TensorFlow graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from federated.algorithms.algorithm import LocalSteps, Pull, Sent
from federated.contract import Tensor, Tensors
from federated.fast.gradients import Gradients
from federated.optimizers import Optimizer
from privacy_pipeline.config.models.federated import FederatedAlgorithm


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
        updates: what the algorithm sends as the change of each weight, [c, ...]; 0 where not finite.
        second: what it sends beside them, each [c, ...]; see `federated.algorithms.algorithm.SecondSum`.
        num_examples: float32 [c], epochs counted, as TFF does.
        present: float32 [c]; 0 also for a client whose update is not finite.
        losses: float32 [c], summed over the rows trained on.
    """

    updates: Tensors
    second: Tensors
    num_examples: Tensor
    present: Tensor
    losses: Tensor


class LocalWork:
    """An algorithm's work of the clients of a chunk.

    Args:
        section: the config's settings of the algorithm.
        client_update: what the clients compute; see `federated.algorithms.algorithm.Algorithm`.
        gradients: how gradients of a local batch come about.
    """

    def __init__(
        self,
        section: FederatedAlgorithm,
        client_update: Callable[[FederatedAlgorithm, LocalSteps], Sent],
        gradients: Gradients,
    ) -> None:
        self._section, self._client_update, self._gradients = section, client_update, gradients
        self._optimizer = Optimizer(section.client_optimizer, tf.math)

    def __call__(
        self, weights: Tensors, shared: dict[str, Tensor], chunk: ChunkTensors, learning_rate: Tensor
    ) -> LocalResult:
        """Run the clients of a chunk from the same weights.

        Args:
            weights: the round's, without a client axis.
            shared: what the server sends beside the weights, without its prefix.
            chunk: the examples.
            learning_rate: float32 scalar, of local steps.
        """
        clients = tf.shape(chunk.counts)[0]
        start = [tf.broadcast_to(w, tf.concat([[clients], w.shape], 0)) for w in weights]
        start = [tf.ensure_shape(s, [None, *w.shape]) for s, w in zip(start, weights, strict=True)]
        examples = tf.cast(chunk.counts * self._section.local_epochs, tf.float32)
        steps = ChunkSteps(
            start=start,
            shared=shared,
            chunk=chunk,
            epochs=self._section.local_epochs,
            learning_rate=learning_rate,
            optimizer=self._optimizer,
            gradients=self._gradients,
        )
        sent = self._client_update(self._section, steps)
        finite = tf.ones_like(chunk.present)
        for update in sent.updates:
            finite *= tf.cast(tf.reduce_all(tf.math.is_finite(_flat(update)), 1), tf.float32)
        return LocalResult(
            updates=[tf.where(_like(finite, update) > 0, update, 0.0) for update in sent.updates],
            second=sent.second,
            num_examples=examples,
            present=chunk.present * finite,
            losses=tf.where(finite > 0, sent.losses, 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class ChunkSteps:
    """Local work of a chunk's clients, as `federated.algorithms.algorithm.LocalSteps` describes it.

    Attributes:
        start: the round's weights, each [c, ...].
        shared: what the server sends beside them.
        chunk: the examples.
        epochs: passes over each client's examples.
        learning_rate: float32 scalar, of local steps.
        optimizer: of local steps.
        gradients: of a local batch.
    """

    start: Tensors
    shared: Mapping[str, Tensor]
    chunk: ChunkTensors
    epochs: int
    learning_rate: Tensor
    optimizer: Optimizer
    gradients: Gradients

    def full_gradient(self) -> tuple[Tensors, Tensor]:
        """Return each client's mean gradient at `start`, each [c, ...], and its summed losses [c]."""
        start, chunk = self.start, self.chunk

        def body(step: Tensor, sums: Tensors, losses: Tensor) -> tuple[Tensor, Tensors, Tensor]:
            inputs, labels, mask = self._batch(step)
            gradients, loss = self.gradients(start, inputs, labels, mask)
            rows = tf.reduce_sum(mask, 1)
            sums = [total + _like(rows, g) * g for total, g in zip(sums, gradients, strict=True)]
            return step + 1, sums, losses + loss

        steps = tf.shape(chunk.labels)[0]
        initial = (0, [tf.zeros_like(weight) for weight in start], tf.zeros_like(chunk.present))
        _, sums, losses = _loop(lambda step, *_: step < steps, body, initial)
        rows = tf.cast(chunk.counts, tf.float32)
        return [tf.math.divide_no_nan(total, _like(rows, total)) for total in sums], losses

    def train(self, *, pull: Pull | None = None, fixed: Mapping[str, Tensor] | None = None) -> tuple[Tensors, Tensor]:
        """Make the local steps; see `federated.algorithms.algorithm.LocalSteps.train`."""
        optimizer, start = self.optimizer, self.start
        # An epoch's missing batches leave plain SGD where it is (their gradient is 0), and nothing else.
        masked = pull is not None or bool(optimizer.slots or optimizer.counts_steps)

        def body(step: Tensor, weights: Tensors, state: Any, losses: Tensor) -> tuple[Tensor, Tensors, Any, Tensor]:
            inputs, labels, mask = self._batch(step % steps)
            gradients, loss = self.gradients(weights, inputs, labels, mask)
            if pull is not None:
                gradients = pull(gradients, weights, start)
            held = state if fixed is None else dict(fixed)
            moved, updated = optimizer.step(held, weights, gradients, self.learning_rate)
            after: Any = moved if fixed is None else {}
            if masked:
                active = tf.reduce_any(mask > 0, 1)
                updated = [_where(active, new, old) for new, old in zip(updated, weights, strict=True)]
                after = {name: _where(active, value, state[name]) for name, value in after.items()}
            return step + 1, updated, after, losses + loss

        steps = tf.shape(self.chunk.labels)[0]
        total = steps * self.epochs
        first = self._initial_state() if fixed is None else {}
        initial = (0, start, first, tf.zeros_like(self.chunk.present))
        _, weights, _, losses = _loop(lambda step, *_: step < total, body, initial)
        return weights, losses

    def _batch(self, step: Tensor) -> tuple[Tensors, Tensor, Tensor]:
        chunk = self.chunk
        rows = tf.shape(chunk.labels)[2]
        number = step * rows + tf.range(rows)
        mask = tf.cast(number[tf.newaxis, :] < chunk.counts[:, tf.newaxis], tf.float32)
        return [tensor[step] for tensor in chunk.inputs], chunk.labels[step], mask

    def _initial_state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for slot in self.optimizer.slots:
            value = self.optimizer.initial if slot == "preconditioner" else 0.0
            state.update({f"{slot}/{i}": tf.zeros_like(weight) + value for i, weight in enumerate(self.start)})
        if self.optimizer.counts_steps:
            # One count a client: a client that has fewer batches skips the others of an epoch.
            state["step"] = tf.zeros([tf.shape(self.start[0])[0]], tf.int32)
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
