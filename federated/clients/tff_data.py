"""TFF's ClientData in and out, so that TFF's own datasets become a store and a store can feed TFF."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated.clients.origin import ClientOrigin
from federated.clients.store import ClientStore
from privacy_pipeline.errors import BadInputError

Array = NDArray[Any]


def from_client_data(
    client_data: Any, *, label: str, features: Iterable[str] | None = None, clients: Iterable[str] | None = None
) -> ClientStore:
    """Read TFF's ClientData into a store in memory; `write` puts it on disk.

    Args:
        client_data: a `tff.simulation.datasets.ClientData` whose datasets yield dictionaries of tensors, unbatched.
        label: name of the label among them.
        features: names of the others to keep; default: all that hold numbers.
        clients: identifiers to read; default: all.

    Raises:
        BadInputError: no such label or feature, a client without examples, or examples of different shapes.
    """
    spec = client_data.element_type_structure
    if not hasattr(spec, "keys"):
        raise BadInputError("the client data yields no dictionaries, so its features and label have no names")
    wanted = list(features) if features is not None else [n for n in spec if n != label and _is_number(spec[n])]
    for name in (label, *wanted):
        if name not in spec:
            raise BadInputError(f"the client data has no '{name}'; it has: {', '.join(spec)}")
    if not wanted:
        raise BadInputError("the client data has no feature that holds numbers")
    columns: dict[str, list[Array]] = {name: [] for name in (label, *wanted)}
    owners: list[Array] = []
    for client in client_data.client_ids if clients is None else clients:
        examples = list(client_data.create_tf_dataset_for_client(client).as_numpy_iterator())
        if not examples:
            raise BadInputError(f"client '{client}' has no examples", fix="leave it out")
        for name, pieces in columns.items():
            pieces.append(_stack(examples, name, client))
        owners.append(np.full(len(examples), str(client)))
    if not owners:
        raise BadInputError("the client data has no clients")
    arrays = {name: np.concatenate(pieces) for name, pieces in columns.items()}
    return ClientStore.from_arrays(
        keys_of_rows=np.concatenate(owners),
        labels=arrays.pop(label),
        features=arrays,
        origin=ClientOrigin(client_is="one client of a TFF dataset"),
    )


def to_client_data(store: ClientStore, *, label: str = "label") -> Any:
    """Return a TFF ClientData over a store; examples are dictionaries of the features and the label.

    Args:
        store: the clients; identifiers are their keys as texts.
        label: name that the label gets.

    Raises:
        BadInputError: a feature is called as the label.
    """
    import tensorflow as tf
    import tensorflow_federated as tff

    if label in store.features:
        raise BadInputError(f"'{label}' is the name of a feature", fix="give the label another name")
    numbers = {_text(key): client for client, key in enumerate(store.keys)}
    if len(numbers) < store.num_clients:
        raise BadInputError("two clients have the same key as a text, so TFF could not distinguish them")
    spec = {
        name: tf.TensorSpec(array.shape[1:], array.dtype)
        for name, array in {**store.features, label: store.labels}.items()
    }

    class StoreClientData(tff.simulation.datasets.ClientData):
        """Each dataset holds its own client's rows alone, so that it may travel to TFF's worker process."""

        @property
        def client_ids(self) -> list[str]:
            return list(numbers)

        @property
        def element_type_structure(self) -> Any:
            return spec

        @property
        def serializable_dataset_fn(self) -> Any:
            # A graph from identifier to rows would have to hold the whole population.
            raise BadInputError("the store makes no graph of all clients", fix="use create_tf_dataset_for_client")

        def create_tf_dataset_for_client(self, client_id: str) -> Any:
            if client_id not in numbers:
                raise BadInputError(f"there is no client '{client_id}'")
            features, labels = store.examples_of(numbers[client_id])
            return tf.data.Dataset.from_tensor_slices({**features, label: labels})

    return StoreClientData()


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def _is_number(spec: Any) -> bool:
    return bool(spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool)


def _stack(examples: list[dict[str, Array]], name: str, client: Any) -> Array:
    try:
        return np.asarray(np.stack([np.asarray(example[name]) for example in examples]))
    except ValueError:
        raise BadInputError(
            f"client '{client}': examples of '{name}' have different shapes", fix="pad them to one shape"
        ) from None
