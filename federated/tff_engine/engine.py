"""Rounds on TFF 0.87's learning processes, with an own loop: sampler, saving and accounting stay ours."""

from __future__ import annotations

import copy
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from federated.algorithms import registry
from federated.algorithms.algorithm import TffRules
from federated.contract import Array, Clients, IntArray, RoundResult, RoundState
from federated.model import FederatedModel, label_spec
from federated.optimizers import learning_rate
from federated.state import require_stateless_pass
from federated.tff_engine.process import learning_process
from federated.tff_engine.worker import TffWorker
from privacy_pipeline.config.extensions import either
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.tracing import ran
from privacy_pipeline.errors import BadInputError

_LEAF = "tff:{:04d}"
_PARTS = ("distributor", "client_work", "aggregator", "finalizer")


class TffEngine:
    """Trains on cohorts of clients as `federated.fast.engine.FastEngine` does, in TFF's runtime.

    Args:
        model: the model; its weights are the first round's.
        clients: examples of all clients.
        algorithm: what a round computes.
        worker: a started worker; the caller closes it.
        aggregator: a TFF aggregation factory for unweighted updates (`tff.aggregators`); None: the algorithm's mean.

    Raises:
        BadInputError: an algorithm that TFF does not run; an aggregator for an algorithm that TFF weighs by examples
            alone; a model whose outputs have a mask; a model or loss that keeps state.
    """

    def __init__(
        self,
        *,
        model: FederatedModel,
        clients: Clients,
        algorithm: FederatedAlgorithm,
        worker: TffWorker,
        aggregator: Any = None,
    ) -> None:
        rules = _rules_of(algorithm)
        if aggregator is not None and not rules.aggregates:
            able = [name for name, other in registry.REGISTRY.items() if other.tff is not None and other.tff.aggregates]
            raise BadInputError(
                f"federated.algorithm: TFF's `{algorithm.name}` weighs clients by their examples, which the aggregator "
                "does not allow",
                fix=f"use {either(able)}",
            )
        if getattr(model.keras.outputs[0], "_keras_mask", None) is not None:
            raise BadInputError(
                "model: its output has a mask, which TFF drops, so that padding would count in the loss",
                fix="use `engine: fast`, or a layer that sums the positions up",
            )
        self._model, self._clients, self._algorithm, self._worker = model, clients, algorithm, worker
        self._rules = rules
        require_stateless_pass(model, label_spec(clients.labels))
        spec = self._dataset(np.zeros(0, np.int64)).element_spec
        try:
            self._process = learning_process(model, algorithm, rules, spec, aggregator)
        finally:
            # TFF copies the model in graphs of TensorFlow 1, for which Keras changes the base classes of all models and
            # layers of this process, so that none could be called. A copy made outside of them changes them back.
            tf.keras.models.clone_model(model.keras)
        with worker.call():
            self._template = self._process.initialize()

    def initial_state(self) -> RoundState:
        """Return the state before the first round."""
        return RoundState(
            round_number=0,
            weights=self._model.weights(),
            non_trainable=self._model.non_trainable(),
            server=_leaves(self._template),
        )

    def run_round(
        self, state: RoundState, cohort: IntArray, *, present: npt.NDArray[np.bool_] | None = None
    ) -> RoundResult:
        """Run one round; see `federated.contract.Engine`.

        A cohort of which nobody is present changes nothing without an aggregator of TFF, which needs a client.

        Raises:
            BadInputError: an empty cohort with an aggregator of TFF (a DP one would have to add its noise).
            PipelineError: the worker died or did not answer in time, or an op does not take a client's values.
        """
        cohort = np.asarray(cohort, np.int64)
        sending = cohort if present is None else cohort[np.asarray(present, np.bool_)]
        restored, clients = self._restored(state), [self._client(client) for client in sending]
        output = ran(lambda: self._next(restored, clients), where="a round", refusals=(grpc.RpcError,))
        after = output.state
        weights = after.global_model_weights
        sizes = np.diff(self._clients.offsets)[sending]
        size = registry.of(self._algorithm).bytes_sent(self._model.parameters)
        return RoundResult(
            state=RoundState(
                round_number=state.round_number + 1,
                weights=tuple(np.asarray(value) for value in weights.trainable),
                non_trainable=tuple(np.asarray(value) for value in weights.non_trainable),
                server=_leaves(after),
            ),
            metrics={"loss": float(output.metrics["client_work"]["train"]["loss"])},
            clients=len(sending),
            examples=int(sizes.sum()),
            bytes_down=size * len(cohort),
            bytes_up=size * len(sending),
        )

    def _next(self, state: Any, clients: list[Any]) -> Any:
        with self._worker.call():
            return self._process.next(state, clients)

    def _restored(self, state: RoundState) -> Any:
        restored = copy.copy(self._template)
        values = [state.server[_LEAF.format(i)] for i in range(len(state.server))]
        parts = tf.nest.pack_sequence_as([getattr(self._template, part) for part in _PARTS], values)
        weights = copy.copy(self._template.global_model_weights)
        weights = type(weights)(trainable=list(state.weights), non_trainable=list(state.non_trainable))
        fields = dict(zip(_PARTS, parts, strict=True))
        self._set_rates(fields, state.round_number)
        return type(restored)(global_model_weights=weights, **fields)

    def _set_rates(self, fields: dict[str, Any], round_number: int) -> None:
        # TFF keeps each learning rate in the state, so a schedule is one assignment a round.
        server, client = self._algorithm.server_optimizer, self._algorithm.client_optimizer
        if server.schedule is not None:
            fields["finalizer"]["learning_rate"] = np.float32(learning_rate(server, round_number))
        if client.schedule is not None:
            holder = self._rules.client_rate(fields["client_work"])
            holder["learning_rate"] = np.float32(learning_rate(client, round_number))

    def _client(self, client: int) -> Any:
        begin, end = self._clients.offsets[client], self._clients.offsets[client + 1]
        return self._dataset(np.arange(begin, end))

    def _dataset(self, rows: IntArray) -> Any:
        columns = self._model.columns(self._clients.features)
        inputs = [
            np.reshape(column[rows], [len(rows), *spec.shape[1:]]).astype(spec.dtype.as_numpy_dtype)
            for column, spec in zip(columns, self._model.input_specs, strict=True)
        ]
        labels: Array = self._clients.labels[rows]
        labels = labels.astype(np.float32) if labels.dtype.kind == "f" else labels
        named: Any = inputs[0]
        if len(inputs) > 1:
            named = dict(zip(self._model.input_names, inputs, strict=True))
        batches = tf.data.Dataset.from_tensor_slices((named, labels)).batch(self._algorithm.batch_size)
        return batches.repeat(self._algorithm.local_epochs)


def _rules_of(algorithm: FederatedAlgorithm) -> TffRules:
    rules = registry.of(algorithm).tff
    if rules is None:
        raise BadInputError(f"federated.algorithm: `{algorithm.name}` does not run on `engine: tff`", fix="use fast")
    return rules


def _leaves(state: Any) -> dict[str, Array]:
    values = tf.nest.flatten([getattr(state, part) for part in _PARTS])
    return {_LEAF.format(i): np.asarray(value) for i, value in enumerate(values)}
