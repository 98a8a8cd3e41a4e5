"""What the key of a federated run is bound to: the same noise on another sum would give away their difference."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federated.clients.store import ClientStore
from privacy_pipeline.config.models.federated import FederatedAlgorithm

if TYPE_CHECKING:
    from federated.model import FederatedModel
    from federated.privacy.plan import FederatedPlan
    from federated.silos.plan import SiloPlan

_DIGEST_ROWS = 1 << 16


def binding_of(
    *,
    plan: FederatedPlan | SiloPlan,
    algorithm: FederatedAlgorithm,
    clients: ClientStore,
    more: str,
    model: FederatedModel | None = None,
    owners: NDArray[np.int64] | None = None,
) -> str:
    """Return the digest of all that decides a run beside its key and the weights it starts from.

    Args:
        plan: the plan.
        algorithm: what a round computes.
        clients: the data.
        more: what the caller adds to that.
        model: the model; None where `more` decides it.
        owners: number of the user who owns each row, [rows], where the plan looks at it.
    """
    from privacy_pipeline.dp.training.checkpoints import machine_facts

    held = [
        plan.digest(),
        algorithm.model_dump_json(),
        _digest(clients, owners),
        None if model is None else model_digest(model),
        more,
        machine_facts(),
    ]
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def model_digest(model: FederatedModel) -> str:
    """Return digests of what a model computes, for any weights of its own.

    Its weights are in each checkpoint. What else it reads is not: a large constant, or a variable that Keras does not
    list. Both count by value.
    """
    from privacy_pipeline.dp.training.checkpoints import captured_digest, graph_digest

    graph, own = _forward(model), {id(variable) for variable in model.keras.weights}
    others = [variable for variable in graph.variables if id(variable) not in own]
    shapes = [tuple(variable.shape) for variable in model.keras.weights]
    return f"{graph_digest(graph)} {captured_digest(graph, variables=others)} {shapes}"


def _forward(model: FederatedModel) -> Any:
    """Return the graph of the model alone: names of layers vary from call to call, what they compute does not."""
    from privacy_pipeline.dp.graphs.tracing import Traced

    def forward(*inputs: Any) -> Any:
        return model.predict(list(inputs), training=True)

    return Traced(forward, *model.input_specs).concrete.graph


def _digest(clients: ClientStore, owners: NDArray[np.int64] | None) -> str:
    digest = hashlib.sha256()
    arrays = {**clients.features, "labels": clients.labels, "offsets": clients.offsets}
    if owners is not None:
        arrays["owners"] = owners
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        for start in range(0, array.shape[0], _DIGEST_ROWS):
            digest.update(np.ascontiguousarray(array[start : start + _DIGEST_ROWS]).data)
    return digest.hexdigest()
