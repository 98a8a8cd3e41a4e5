"""Private prediction: the client shares a batch, three servers evaluate the network, the client alone learns the logit.

One compiled function a batch size holds all of it, the drawing of the masks' keys included: a call cannot go without.
Who runs this module drives the computation and could read every share; in a deployment that is a trusted role.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_encrypted as tfe
from numpy.typing import NDArray
from tf_encrypted.protocol.aby3.aby3_tensors import ABY3PrivateTensor, ShareType

from privacy_pipeline.encrypted.model import shares
from privacy_pipeline.encrypted.model.inputs import encode_inputs
from privacy_pipeline.encrypted.model.layers import Input, Shape
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.shares import encoded_shape
from privacy_pipeline.encrypted.worker import layers
from privacy_pipeline.encrypted.worker.layers import SharedWeights
from privacy_pipeline.encrypted.worker.parties import CLIENT, PARTIES, PROVIDER
from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3, activate, forget_memoized

ReadWeight = Callable[[str, Shape], Any]  # "layer/role" and its shape -> a float64 tensor, on the provider's device


def local_config() -> Any:
    """Return all five parties in this process: a simulation that protects nothing."""
    return tfe.LocalConfig(player_names=list(PARTIES), auto_add_unknown_players=False)


def share_weights(protocol: SecureABY3, model: PrivateModel, *, read: ReadWeight | None = None) -> SharedWeights:
    """Secret-share the weights once, by the provider, into variables on the servers.

    Args:
        protocol: of `activate`.
        model: the network.
        read: makes each weight on the provider's own device, for example from its file, so that the driver never holds
            it; by default `model.weights`.
    """
    given = read if read is not None else lambda name, shape: tf.constant(model.weights[name])
    shared, provider = {}, tfe.get_config().get_player(PROVIDER)
    for layer in model.layers:
        for role, shape in layer.weights.items():
            name = f"{layer.name}/{role}"
            with tf.device(provider.device_name):
                units = tf.cast(given(name, shape), tf.float64) * model.weight_scale(layer, role)
                value = _shared(protocol, tf.cast(tf.round(units), tf.int64), provider)
            shared[name] = tfe.define_private_variable(value)
    forget_memoized()
    return SharedWeights(tensors=shared)


def build(
    model: PrivateModel,
    batch: int,
    config: Any,
    *,
    protocol: SecureABY3 | None = None,
    weights: SharedWeights | None = None,
) -> PrivatePredictor:
    """Return a predictor for batches of one size.

    Args:
        model: the network; its weights are not read where `weights` is given.
        batch: rows of a call.
        config: `tfe.LocalConfig` or `tfe.RemoteConfig` with the PARTIES, connected.
        protocol: of an earlier `activate(config)`, to share it and the weights between batch sizes.
        weights: of an earlier `share_weights` under the same protocol.

    Raises:
        PipelineError: there is no secure randomness.
    """
    active = protocol if protocol is not None else activate(config)
    shared = weights if weights is not None else share_weights(active, model)
    return PrivatePredictor(active, model, shared, batch=batch, client=config.get_player(CLIENT))


class PrivatePredictor:
    """Calls of one compiled graph. Not safe for several threads at once, as TensorFlow's remote functions are not."""

    def __init__(
        self, protocol: SecureABY3, model: PrivateModel, weights: SharedWeights, *, batch: int, client: Any
    ) -> None:
        self.batch = batch
        self._protocol, self._model, self._weights, self._client = protocol, model, weights, client
        width = sum(_width(one) for one in model.inputs)
        forget_memoized()
        signature = tf.TensorSpec([batch, width], tf.int64)
        self._graph = tf.function(self._evaluate, autograph=False).get_concrete_function(signature)
        forget_memoized()

    @property
    def graph(self) -> Any:
        """The traced function, to be counted and inspected."""
        return self._graph

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Return the logits of one batch.

        Args:
            inputs: by name, each [batch, ...].

        Returns:
            What the network's last layer gives, [batch, ...]: no sigmoid or softmax is applied.

        Raises:
            BadInputError: a value is missing, has another shape, or is outside the range that can be encoded.
        """
        with tf.device(self._client.device_name):
            encoded = tf.constant(encode(self._model, inputs, batch=self.batch))
        logits: NDArray[np.float64] = self._graph(encoded).numpy()
        return logits

    def _evaluate(self, encoded: Any) -> Any:
        values = dict(self._shared_inputs(encoded))
        for layer in self._model.layers:
            given = [values[name] for name in layer.inputs]
            values[layer.name] = layers.evaluate(self._protocol, layer, given, self._weights)
        return self._revealed(values[self._model.output])

    def _shared_inputs(self, encoded: Any) -> Mapping[str, Any]:
        """Share all inputs as one matrix from the client, and cut it apart on the servers."""
        protocol, client = self._protocol, self._client
        with tf.device(client.device_name):
            matrix = _shared(protocol, tf.identity(encoded), client)
        found, start = {}, 0
        for one in self._model.inputs:
            end = start + _width(one)
            found[one.name] = layers.each_share(
                protocol,
                lambda x, a=start, b=end, one=one: tf.reshape(x[:, a:b], [x.shape[0], *encoded_shape(one)]),
                matrix,
            )
            start = end
        return found

    def _revealed(self, value: Any) -> Any:
        """Return a revealed value: its three shares meet at the client, and nowhere else."""
        with tf.device(self._client.device_name):
            first, second, third = (value.unwrapped[server][0].value for server in range(3))
            total = tf.cast(first + second + third, tf.float64)
            return total / self._model.scales()[self._model.output]


def encode(model: PrivateModel, inputs: Mapping[str, NDArray[Any]], *, batch: int) -> NDArray[np.int64]:
    """Return the rows of a batch in the ring as one matrix, integers as one-hot vectors; runs at the client.

    Raises:
        BadInputError: a value is missing, has another shape, or is outside its range.
    """
    columns = encode_inputs(model, inputs, rows=batch)
    parts = [shares.encode(columns[one.name], scale=one.scale).reshape(batch, -1) for one in model.inputs]
    return np.concatenate(parts, axis=1)


def _width(one: Input) -> int:
    return math.prod(encoded_shape(one))


def _shared(protocol: SecureABY3, ring: Any, owner: Any) -> Any:
    """Return integers of the ring, which TF-Encrypted does not encode once more, as a private value."""
    held = protocol._share(protocol.default_factory.tensor(ring, encode=False), ShareType.ARITHMETIC, owner)
    return ABY3PrivateTensor(protocol, held, True, ShareType.ARITHMETIC)
