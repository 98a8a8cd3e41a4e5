"""Rounds of federated training in this process: the clients of a chunk are one call of one TensorFlow graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from federated.aggregation import MeanAggregator
from federated.algorithms import registry
from federated.contract import Aggregator, AggregatorState, Clients, IntArray, RoundResult, RoundState, Tensor, Tensors
from federated.fast.chunks import Chunk, Chunker
from federated.fast.gradients import KerasGradients, StackedGradients
from federated.fast.local import ChunkTensors, LocalResult, LocalWork
from federated.fast.proof import clients_apart
from federated.fast.stacked import single
from federated.model import FederatedModel, label_spec
from federated.optimizers import learning_rate
from federated.server import Server
from federated.state import require_stateless_pass
from privacy_pipeline.config.extensions import either
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.graph_state import require_stateless
from privacy_pipeline.dp.graphs.tracing import Traced, ran
from privacy_pipeline.errors import BadInputError

_LARGEST_CHUNK = 256
_CHUNK_ROWS = 1 << 17
_CHUNK_PARAMETERS = 1 << 24  # stacked weights of a chunk: 64 MiB in float32, and a few times that while it trains


class FastEngine:
    """Trains a model on cohorts of clients. The same arguments give the same weights, bit by bit on one machine.

    Models of dense and embedding layers have their clients' weights stacked, and each layer is one batched product, if
    that is proven to keep clients apart. Any other model takes its clients one after the other, within the graph. So
    rows of two clients never meet.

    Args:
        model: the model; its weights are the first round's.
        clients: examples of all clients.
        algorithm: what a round computes.
        aggregator: combines updates; default: the mean that `algorithm.weighting` names.
        stacked: force (or forbid) stacking; default: where the model allows it.

    Raises:
        BadInputError: features that do not fit the model; an aggregator for an algorithm with a second sum, which the
            aggregator would not cover; stacking asked for a model that cannot be stacked; a model or loss that keeps
            state.
    """

    def __init__(
        self,
        *,
        model: FederatedModel,
        clients: Clients,
        algorithm: FederatedAlgorithm,
        aggregator: Aggregator | None = None,
        stacked: bool | None = None,
    ) -> None:
        self._model, self._algorithm, self._rules = model, algorithm, registry.of(algorithm)
        if not self._rules.one_update and aggregator is not None and not isinstance(aggregator, MeanAggregator):
            able = [name for name, other in registry.REGISTRY.items() if other.one_update]
            raise BadInputError(
                f"federated.algorithm: `{algorithm.name}` also sends {self._rules.sends_beside}, which this aggregator "
                "does not cover",
                fix=f"use {either(able)}",
            )
        labels = label_spec(clients.labels)
        require_stateless_pass(model, labels)
        proof = None if stacked is False else clients_apart(model, labels, batch_size=algorithm.batch_size)
        self.stacked = proof is not None and proof.proven
        if stacked and not self.stacked:
            raise BadInputError("model: its layers, or its loss, cannot be stacked over clients", fix="drop `stacked`")
        mean = MeanAggregator(model.shapes, weighting=algorithm.weighting)
        self._aggregator: Aggregator = mean if aggregator is None else aggregator
        self._mean = mean
        self._server = Server(algorithm, model.shapes)
        largest = max(1, min(_LARGEST_CHUNK, _CHUNK_PARAMETERS // model.parameters)) if self.stacked else _LARGEST_CHUNK
        self._chunker = Chunker(model, clients, batch_size=algorithm.batch_size, largest=largest, rows=_CHUNK_ROWS)
        # Without the Keras model's variables between them, two clients' graphs can overlap.
        apart = self.stacked or (single(model) and stacked is None)
        self._overlapping = 2 if apart else 1
        gradients = StackedGradients(model) if apart else KerasGradients(model)
        self._work = LocalWork(algorithm, self._rules.client_update, gradients)
        self._compiled: Any = None

    def initial_state(self) -> RoundState:
        """Return the state before the first round."""
        aggregator = self._aggregator.initial_state()
        return RoundState(
            round_number=0,
            weights=self._model.weights(),
            non_trainable=self._model.non_trainable(),
            server=self._server.initial_state(),
            aggregator={name: np.asarray(value) for name, value in aggregator.items()},
        )

    def run_round(
        self, state: RoundState, cohort: IntArray, *, present: npt.NDArray[np.bool_] | None = None
    ) -> RoundResult:
        """Run one round; see `federated.contract.Engine`.

        Raises:
            BadInputError: a client index that does not exist, or is there twice.
        """
        cohort = np.asarray(cohort, np.int64)
        if len(cohort) and (cohort.min() < 0 or cohort.max() >= self._chunker.clients):
            raise BadInputError("cohort: a client that does not exist", fix=f"there are {self._chunker.clients}")
        if np.unique(cohort).size != len(cohort):  # its update would count, and be clipped, twice
            raise BadInputError("cohort: a client is in it twice", fix="name each client once")
        self._model.hold(state.non_trainable)
        sending = np.ones(len(cohort), np.bool_) if present is None else np.asarray(present, np.bool_)
        sums, beside, totals = self._run_chunks(state, cohort, sending)
        update, aggregator, metrics = self._aggregator.finish(dict(state.aggregator), sums, state.round_number)
        second = None
        if beside is not None:
            mean, _, _ = self._mean.finish({}, beside, state.round_number)
            second = [np.asarray(value) for value in mean]
        if update is None:
            weights, server, more = state.weights, dict(state.server), {"update_rejected": 0.0}
        else:
            weights, server, more = self._server.step(state, [np.asarray(value) for value in update], second)
        loss, seen, examples, sent = totals
        size = self._rules.bytes_sent(self._model.parameters)
        return RoundResult(
            state=RoundState(
                round_number=state.round_number + 1,
                weights=weights,
                non_trainable=state.non_trainable,
                server=server,
                aggregator={name: np.asarray(value) for name, value in aggregator.items()},
            ),
            metrics={"loss": loss / seen if seen else float("nan"), **metrics, **more},
            clients=int(sent),
            examples=int(examples),
            bytes_down=size * len(cohort),
            bytes_up=(self._aggregator.update_bytes or size) * int(sending.sum()),
        )

    def _run_chunks(
        self, state: RoundState, cohort: IntArray, sending: npt.NDArray[np.bool_]
    ) -> tuple[Tensors | None, Tensors | None, tuple[float, float, float, float]]:
        weights = [tf.constant(value) for value in state.weights]
        shared = {name: tf.constant(value) for name, value in self._server.shared(state.server).items()}
        aggregator = {name: tf.convert_to_tensor(value) for name, value in state.aggregator.items()}
        rate = tf.constant(learning_rate(self._algorithm.client_optimizer, state.round_number), tf.float32)
        sums: Tensors | None = None
        beside: Tensors | None = None
        totals = np.zeros(4)
        for chunk in self._chunker.chunks(cohort, sending):
            partial, second, numbers = self._call(weights, shared, aggregator, rate, chunk)
            sums = partial if sums is None else [a + b for a, b in zip(sums, partial, strict=True)]
            if second:
                beside = second if beside is None else [a + b for a, b in zip(beside, second, strict=True)]
            totals += numbers.numpy()
        return sums, beside, (totals[0], totals[1], totals[2], totals[3])

    def _call(
        self,
        weights: Tensors,
        shared: dict[str, Tensor],
        aggregator: AggregatorState,
        rate: Tensor,
        chunk: Chunk,
    ) -> Any:
        inputs = [tf.constant(value) for value in chunk.inputs]
        data = (inputs, tf.constant(chunk.labels), tf.constant(chunk.counts), tf.constant(chunk.present))
        if self._compiled is None:
            signature = (
                *(
                    tf.nest.map_structure(tf.TensorSpec.from_tensor, part)
                    for part in (weights, shared, aggregator, rate)
                ),
                [tf.TensorSpec([None, None, None, *value.shape[3:]], value.dtype) for value in inputs],
                tf.TensorSpec([None, None, None, *chunk.labels.shape[3:]], data[1].dtype),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.float32),
            )
            graph = self._stacked_chunk if self.stacked else self._sequential_chunk
            compiled = Traced(graph, *signature)
            self._require_stateless(compiled.concrete.graph, graph, signature)
            self._compiled = compiled
        return ran(lambda: self._compiled(weights, shared, aggregator, rate, *data), where="a round")

    def _require_stateless(self, traced: Any, graph: Any, signature: Any) -> None:
        """Refuse clients' work that keeps or shows rows.

        Distributed noise is drawn by Python code of the aggregator, which the graph calls; the clients' work is traced
        without it then.
        """
        if self._aggregator.every_report:
            own, self._aggregator = self._aggregator, self._mean
            try:
                traced = Traced(graph, *signature).concrete.graph
            finally:
                self._aggregator = own
        variables = self._model.keras.trainable_weights
        require_stateless(traced, model=self._model.keras, writes=variables, draws=False, part="a round")

    def _stacked_chunk(
        self,
        weights: Tensors,
        shared: Any,
        aggregator: Any,
        rate: Tensor,
        inputs: Tensors,
        labels: Tensor,
        *rest: Tensor,
    ) -> tuple[Tensors, Tensors, Tensor]:
        chunk = ChunkTensors(inputs=inputs, labels=labels, counts=rest[0], present=rest[1])
        result = self._work(weights, shared, chunk, rate)
        return self._sums(aggregator, result, chunk)

    def _sequential_chunk(
        self,
        weights: Tensors,
        shared: Any,
        aggregator: Any,
        rate: Tensor,
        inputs: Tensors,
        labels: Tensor,
        *rest: Tensor,
    ) -> tuple[Tensors, Tensors, Tensor]:
        chunk = ChunkTensors(inputs=inputs, labels=labels, counts=rest[0], present=rest[1])

        def one(client: Tensor) -> tuple[Tensors, Tensors, Tensor]:
            alone = chunk.one(client)
            return self._sums(aggregator, self._work(weights, shared, alone, rate), alone)

        def body(client: Tensor, so_far: Any) -> Any:
            return client + 1, tf.nest.map_structure(tf.add, so_far, one(client))

        clients = tf.shape(chunk.counts)[0]
        first = (tf.constant(1), one(tf.constant(0)))
        _, (sums, second, numbers) = tf.while_loop(
            lambda client, _: client < clients, body, first, parallel_iterations=self._overlapping
        )
        return sums, second, numbers

    def _sums(self, aggregator: Any, result: LocalResult, chunk: ChunkTensors) -> tuple[Tensors, Tensors, Tensor]:
        present = chunk.present if self._aggregator.every_report else result.present
        sums = self._aggregator.partial(aggregator, result.updates, result.num_examples, present)
        second: Tensors = []
        if result.second:
            second = self._mean.partial({}, result.second, result.num_examples, result.present)
        seen = result.num_examples * result.present
        counts = tf.cast(chunk.counts, tf.float32)
        numbers = tf.stack(
            [
                tf.reduce_sum(result.losses * result.present),
                tf.reduce_sum(seen),
                tf.reduce_sum(counts),
                tf.reduce_sum(result.present),
            ]
        )
        return sums, second, numbers
