"""Evaluation over clients: the spread of each metric and not only its mean; personalization before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from federated.algorithms import registry
from federated.contract import Array, Clients, FloatArray, IntArray, RoundState
from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from privacy_pipeline.config.extensions import either
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.tracing import as_it_is
from privacy_pipeline.errors import BadInputError

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class ClientMetrics:
    """Metrics of each client that has examples. Exact values: outside of any guarantee.

    Attributes:
        clients: client indices, int64 [n].
        examples: int64 [n].
        accuracy: float32 [n].
        loss: float32 [n], mean over the client's examples.
    """

    clients: IntArray
    examples: IntArray
    accuracy: FloatArray
    loss: FloatArray

    def summary(self) -> dict[str, dict[str, float]]:
        """Return, for each metric, `mean` over clients, `mean_by_examples`, `std` and quantiles (`q05`, `q50`, ...)."""
        return {
            name: _distribution(values, self.examples)
            for name, values in {"accuracy": self.accuracy, "loss": self.loss}.items()
        }


@dataclass(frozen=True, kw_only=True)
class Personalization:
    """Clients' own held-out examples, before and after fine-tuning on their other ones.

    Attributes:
        before: with the global weights.
        after: with each client's own weights.
    """

    before: ClientMetrics
    after: ClientMetrics

    def summary(self) -> dict[str, Any]:
        """Return summaries of both, the spread of the gain in accuracy, and the share of clients that lose accuracy."""
        gain = self.after.accuracy - self.before.accuracy
        return {
            "before": self.before.summary(),
            "after": self.after.summary(),
            "gain": _distribution(gain, self.before.examples),
            "worse_off": float(np.mean(gain < 0)),
        }


class Evaluator:
    """Evaluates one model on clients.

    Args:
        model: architecture and loss.
        clients: examples of all clients.
    """

    def __init__(self, model: FederatedModel, clients: Clients) -> None:
        self._model, self._clients = model, clients
        self._columns = model.columns(clients.features)
        self._graph = tf.function(as_it_is(self._rows), reduce_retracing=True, autograph=False)

    def evaluate(self, weights: tuple[Array, ...], clients: IntArray | None = None) -> ClientMetrics:
        """Return the metrics of each client under the same weights.

        Args:
            weights: trainable weights.
            clients: client indices; default: all. Clients without examples are left out.

        Raises:
            BadInputError: no client with examples.
        """
        chosen = np.arange(self._clients.num_clients) if clients is None else np.asarray(clients, np.int64)
        offsets = np.asarray(self._clients.offsets)
        counts = offsets[chosen + 1] - offsets[chosen]
        chosen, counts = chosen[counts > 0], counts[counts > 0]
        if not len(chosen):
            raise BadInputError("evaluation: no client has examples", fix="evaluate other clients")
        self._model.assign(weights)
        begins = np.cumsum(counts) - counts
        rows: IntArray = np.arange(counts.sum(), dtype=np.int64) + np.repeat(offsets[chosen] - begins, counts)
        correct, losses = self._predict(rows)
        return ClientMetrics(
            clients=chosen,
            examples=counts,
            accuracy=(np.add.reduceat(correct, begins) / counts).astype(np.float32),
            loss=(np.add.reduceat(losses, begins) / counts).astype(np.float32),
        )

    def _predict(self, rows: IntArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        parts = []
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[begin : begin + _ROWS_AT_ONCE]
            inputs = [
                tf.constant(
                    column[part].reshape([len(part), *spec.shape[1:]]).astype(spec.dtype.as_numpy_dtype, copy=False)
                )
                for column, spec in zip(self._columns, self._model.input_specs, strict=True)
            ]
            labels = self._clients.labels[part]
            labels = labels.astype(np.float32, copy=False) if labels.dtype.kind == "f" else labels
            parts.append([value.numpy() for value in self._graph(inputs, tf.constant(labels))])
        correct, losses = zip(*parts, strict=True)
        return np.concatenate(correct).astype(np.float64), np.concatenate(losses).astype(np.float64)

    def _rows(self, inputs: Any, labels: Any) -> Any:
        predictions = self._model.predict(inputs, training=False)
        return self._model.correct(labels, predictions), self._model.losses(labels, predictions)


def personalize(
    *,
    model: FederatedModel,
    clients: Clients,
    algorithm: FederatedAlgorithm,
    state: RoundState,
    chosen: IntArray,
    held_out: float = 0.5,
) -> Personalization:
    """Fine-tune the global weights on each client alone, and evaluate on that client's held-out examples.

    A client's last examples are held out. Fine-tuning takes the algorithm's client optimizer, batches and epochs
    (FedProx' term included); clients with fewer than two examples are left out.

    Args:
        model: architecture and loss.
        clients: examples of all clients.
        algorithm: local training.
        state: weights to start from.
        chosen: client indices.
        held_out: share of a client's examples that is held out, at least one; one remains to train on.

    Raises:
        BadInputError: no client has two examples, or the algorithm has no local training.
    """
    if not registry.of(algorithm).trains_alone:
        able = either([name for name, other in registry.REGISTRY.items() if other.trains_alone])
        raise BadInputError(
            f"personalization: `{algorithm.name}` has no local training of a client alone", fix=f"use {able}"
        )
    offsets = np.asarray(clients.offsets)
    chosen = np.asarray(chosen, np.int64)
    counts = offsets[chosen + 1] - offsets[chosen]
    chosen, counts = chosen[counts >= 2], counts[counts >= 2]
    if not len(chosen):
        raise BadInputError("personalization: no client has two examples", fix="evaluate other clients")
    tests = np.clip(np.round(counts * held_out).astype(np.int64), 1, counts - 1)
    train = _Part(clients, offsets[chosen], offsets[chosen + 1] - tests)
    test = _Part(clients, offsets[chosen + 1] - tests, offsets[chosen + 1])
    alone = algorithm.model_copy(
        update={
            "server_optimizer": algorithm.server_optimizer.model_copy(
                update={"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "schedule": None}
            )
        }
    )
    engine = FastEngine(model=model, clients=train, algorithm=alone)
    evaluator = Evaluator(model, test)
    before = evaluator.evaluate(state.weights)
    start = replace(engine.initial_state(), weights=state.weights, round_number=state.round_number)
    own = [
        evaluator.evaluate(engine.run_round(start, np.array([client])).state.weights, np.array([client]))
        for client in range(len(chosen))
    ]
    after = ClientMetrics(
        clients=chosen,
        examples=before.examples,
        accuracy=np.concatenate([one.accuracy for one in own]),
        loss=np.concatenate([one.loss for one in own]),
    )
    return Personalization(before=replace(before, clients=chosen), after=after)


class _Part:
    """A run of rows of some clients, without a copy of those that are not taken."""

    def __init__(self, clients: Clients, begins: IntArray, ends: IntArray) -> None:
        rows = np.concatenate([np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)])
        self.features: Mapping[str, Array] = {name: column[rows] for name, column in clients.features.items()}
        self.labels: Array = clients.labels[rows]
        self.offsets: IntArray = np.concatenate([[0], np.cumsum(ends - begins)]).astype(np.int64)

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        return len(self.offsets) - 1

    def examples_of(self, client: int) -> tuple[Mapping[str, Array], Array]:
        """Return the features and labels of one client."""
        rows = slice(self.offsets[client], self.offsets[client + 1])
        return {name: column[rows] for name, column in self.features.items()}, self.labels[rows]


def _distribution(values: npt.NDArray[Any], examples: IntArray) -> dict[str, float]:
    spread = {f"q{round(100 * q):02d}": float(np.quantile(values, q)) for q in QUANTILES}
    return {
        "mean": float(values.mean()),
        "mean_by_examples": float(np.average(values, weights=examples)),
        "std": float(values.std()),
        **spread,
    }
