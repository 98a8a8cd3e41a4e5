"""Private evaluation of shares that lie in the servers' stores: read there, computed on, and written there.

No value passes through the process that runs this module. Every operation that touches a share is placed on a server,
which `require_placement` proves on the finished graph; a call takes the name of a batch and gives three flags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tf_encrypted.protocol.aby3.aby3_tensors import ABY3PrivateTensor, ShareType

from privacy_pipeline.encrypted.model import shares
from privacy_pipeline.encrypted.model.layers import Shape
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.worker import layers
from privacy_pipeline.encrypted.worker.layers import SharedWeights
from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3, forget_memoized, require_secure_randomness
from privacy_pipeline.encrypted.worker.shares import held_of
from privacy_pipeline.errors import PipelineError

HALVES = 2
_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Where each server's store is, as that server sees it; a deployed server works inside of its own: "." is it."""

    roots: tuple[Path, ...] = (Path(),) * shares.SERVERS


def require_secure_servers(protocol: SecureABY3) -> None:
    """Draw on every server as if to share: the module is loaded there, and what it draws is not constant.

    Raises:
        PipelineError: names the server and what is wrong.
    """
    for server in protocol.servers:
        try:
            with tf.device(server.device_name):
                require_secure_randomness()
        except tf.errors.OpError as error:
            raise PipelineError(f"{server.name} cannot draw secure randomness: {why(error)}") from None
        except PipelineError as error:
            raise PipelineError(f"{server.name}: {error.message}", fix=error.fix) from None


def load_weights(protocol: SecureABY3, model: PrivateModel, stores: Stores) -> Mapping[str, list[list[Any]]]:
    """Return the shares of all weights as variables on the servers that hold them, [server][half] by "layer/role".

    Variables and no plain tensors: TensorFlow fetches a small tensor to the driver to make it a constant of the graph.
    """
    return {
        f"{layer.name}/{role}": _each(
            protocol, lambda s, h, n=layer.name, r=role, t=shape: _weight(stores.roots[s], n, r, h, t)
        )
        for layer in model.layers
        for role, shape in layer.weights.items()
    }


def _weight(root: Path, layer: str, role: str, number: int, shape: Shape) -> Any:
    path = root / shares.half(shares.weight_stem(layer, role), number)
    return tf.Variable(_read(tf.constant(str(path)), shape), trainable=False)


class StoredPredictor:
    """One compiled graph, which evaluates a batch in the stores.

    Args:
        protocol: the current protocol.
        model: the network; its weights are not read.
        weights: of `load_weights`.
        stores: where the servers read and write.
        bucket: rows of every batch.

    Raises:
        PipelineError: a share would leave the servers, or the graph cannot be built.
    """

    def __init__(
        self,
        protocol: SecureABY3,
        model: PrivateModel,
        weights: Mapping[str, list[list[Any]]],
        *,
        stores: Stores,
        bucket: int,
    ) -> None:
        self._protocol, self._model, self._weights = protocol, model, weights
        self._stores, self._bucket = stores, bucket
        self._threads = ThreadPoolExecutor(shares.SERVERS)
        forget_memoized()
        # Not tf.function: it would run all stateful operations one after the other, across servers. Here each runs
        # because a flag depends on it.
        signature = [tf.TensorSpec([], tf.string) for _ in protocol.servers]
        self._graph = tf.compat.v1.wrap_function(self._evaluate, signature)
        forget_memoized()
        require_placement(self._graph.graph, {server.device_name for server in protocol.servers})
        self._warm_up()

    @property
    def graph(self) -> Any:
        """The traced function, to be counted and inspected."""
        return self._graph

    def __call__(self, batch: str) -> None:
        """Evaluate one batch; when it returns, all servers have written their shares of the answer.

        Raises:
            PipelineError: the id of the batch is none, or a server failed.
        """
        shares.output_stem(batch)
        try:
            # Three round trips: to all servers at once, the call, and back.
            names = list(self._threads.map(lambda server: _name_on(server, batch), self._protocol.servers))
            done = list(self._threads.map(lambda flag: bool(flag.numpy()), self._graph(*names)))
        except tf.errors.OpError as error:
            raise PipelineError(f"the servers could not evaluate the batch: {why(error)}") from None
        if done != [True] * shares.SERVERS:
            raise PipelineError("a server did not finish the batch")

    def _evaluate(self, *batches: Any) -> list[Any]:
        held = {
            name: self._private(_each(self._protocol, lambda s, h, p=pairs: p[s][h].read_value()))
            for name, pairs in self._weights.items()
        }
        weights = SharedWeights(tensors=held)
        values: dict[str, Any] = {}
        for one in self._model.inputs:
            shape = (self._bucket, *shares.encoded_shape(one))
            read = _each(
                self._protocol,
                lambda s, h, n=one.name, t=shape: _read(self._path(batches[s], s, shares.input_stem("_", n), h), t),
            )
            values[one.name] = self._private(read)
        for layer in self._model.layers:
            given = [values[name] for name in layer.inputs]
            values[layer.name] = layers.evaluate(self._protocol, layer, given, weights)
        return self._written(values[self._model.output], batches)

    def _private(self, found: list[list[Any]]) -> Any:
        factory = self._protocol.default_factory
        wrapped = [[factory.tensor(value, encode=False) for value in pair] for pair in found]
        return ABY3PrivateTensor(self._protocol, wrapped, True, ShareType.ARITHMETIC)

    def _written(self, value: Any, batches: tuple[Any, ...]) -> list[Any]:
        done, held = [], held_of(value)
        for number, server in enumerate(self._protocol.servers):
            with tf.device(server.device_name):
                written: list[Any] = []
                for part in range(HALVES):  # the second after the first: a reader waits for the driver's word
                    path = self._path(batches[number], number, shares.output_stem("_"), part)
                    with tf.control_dependencies(written):
                        written = [tf.io.write_file(path, raw_bytes(held[number][part]))]
                with tf.control_dependencies(written):
                    done.append(tf.constant(True))
        return done

    def _path(self, batch: Any, server: int, stem: Path, number: int) -> Any:
        """Return the path of a file of the batch: the stem was made for the batch "_"."""
        before, after = str(self._stores.roots[server] / shares.half(stem, number)).rsplit("/_.", 1)
        return tf.strings.join([f"{before}/", batch, f".{after}"])

    def _warm_up(self) -> None:
        """Send the graph to the servers by a first call on zeros, so that no query has to wait for it."""
        batch = f"cluster-up-{self._bucket}"
        for one in self._model.inputs:
            shape = (self._bucket, *shares.encoded_shape(one))
            for number, server in enumerate(self._protocol.servers):
                with tf.device(server.device_name):
                    for part in range(HALVES):
                        path = self._stores.roots[number] / shares.half(shares.input_stem(batch, one.name), part)
                        tf.io.write_file(str(path), raw_bytes(tf.zeros(shape, tf.int64)))
        self(batch)


def _name_on(server: Any, batch: str) -> Any:
    with tf.device(server.device_name):
        return tf.identity(tf.constant(batch))


def _each(protocol: SecureABY3, make: Any) -> list[list[Any]]:
    found: list[list[Any]] = []
    for number, server in enumerate(protocol.servers):
        with tf.device(server.device_name):
            found.append([make(number, part) for part in range(HALVES)])
    return found


def _read(path: Any, shape: Shape) -> Any:
    return tf.reshape(tf.io.decode_raw(tf.io.read_file(path), tf.int64), shape)


def raw_bytes(value: Any) -> Any:
    """Return the bytes of an int64 tensor in C order, as `tf.io.decode_raw` reads them.

    A serialized tensor ends with its content (field 4 of tensorflow.TensorProto, the last that is filled in).
    """
    count = _BYTES * math.prod(value.shape.as_list())
    return tf.strings.substr(tf.io.serialize_tensor(value), -count, count)


def require_placement(graph: Any, servers: set[str]) -> None:
    """Refuse a graph in which anything but a server could see what a server holds.

    Args:
        graph: the finished graph; functions that it calls are not looked into, so it may call none.
        servers: their devices.

    Raises:
        PipelineError: names the operation.
    """
    for operation in graph.get_operations():
        if any(attr.HasField("func") for attr in operation.node_def.attr.values()):
            raise PipelineError(f"operation {operation.name} calls a function, where shares could leave the servers")
        if operation.device in servers:
            continue
        if any(tensor.op.device in servers for tensor in operation.inputs):
            raise PipelineError(f"operation {operation.name} would take shares off the servers")


def why(error: tf.errors.OpError) -> str:
    """Return TensorFlow's error without the trace that it puts before it, as one line."""
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    nodes = [number for number, line in enumerate(lines) if line.startswith("Node: ")]
    after = [line for line in lines[nodes[-1] + 1 if nodes else 0 :] if "root error(s) found" not in line]
    return after[0] if after else type(error).__name__
