"""The learning process of TFF that computes the config's algorithm."""

from __future__ import annotations

import collections
from typing import Any

import tensorflow as tf

from federated.model import FederatedModel
from federated.optimizers import Optimizer, learning_rate
from privacy_pipeline.config.federated_models import FederatedAlgorithm, OptimizerSection


def learning_process(model: FederatedModel, algorithm: FederatedAlgorithm, element_spec: Any, aggregator: Any) -> Any:
    """Build it with `tff.learning.algorithms`.

    Args:
        model: its architecture and loss; weights are set on the state.
        algorithm: names the process.
        element_spec: of a client's dataset: batches of (inputs, labels).
        aggregator: a TFF aggregation factory for unweighted updates; None: the mean of the algorithm's weighting.
    """
    import tensorflow_federated as tff

    algorithms = tff.learning.algorithms
    client, server = _optimizer(algorithm.client_optimizer), _optimizer(algorithm.server_optimizer)
    weighting = tff.learning.ClientWeighting
    weighted = weighting.NUM_EXAMPLES if algorithm.weighting == "examples" else weighting.UNIFORM

    def model_fn() -> Any:
        with tf.variable_creator_scope(_uncached):
            keras = tf.keras.models.clone_model(model.keras)
        return tff.learning.models.from_keras_model(keras, loss=_RowLoss(model), input_spec=element_spec, metrics=[])

    if algorithm.name == "fedsgd":
        return algorithms.build_fed_sgd(model_fn, server_optimizer_fn=server)
    if algorithm.name == "mimelite":
        return algorithms.build_weighted_mime_lite(
            model_fn, base_optimizer=client, server_optimizer=server, client_weighting=weighted
        )
    if algorithm.name == "fedprox":
        client = proximal(client, strength=algorithm.proximal_strength or 0.0)
    common = {"client_optimizer_fn": client, "server_optimizer_fn": server}
    if aggregator is not None:
        return algorithms.build_unweighted_fed_avg(model_fn, model_aggregator=aggregator, **common)
    return algorithms.build_weighted_fed_avg(model_fn, client_weighting=weighted, **common)


def _uncached(create: Any, **options: Any) -> Any:
    """Make a variable whose reads see what was assigned.

    Recurrent layers of Keras ask for a cached value, which in TFF's graphs is the one that the initializer gave: the
    weights of the server would never be used.
    """
    return create(**{**options, "caching_device": None})


def proximal(inner: Any, *, strength: float) -> Any:
    """Return a client optimizer of TFF that pulls the weights back to those it started from; FedAvg with it is FedProx.

    `build_weighted_fed_prox` of TFF 0.87 adds strength * (start - weights) to the gradient, which pushes them away:
    the term in Li et al., "Federated Optimization in Heterogeneous Networks" (equation 2), has the other sign.

    Args:
        inner: a `tff.learning.optimizers.Optimizer`.
        strength: the paper's mu.
    """
    import tensorflow_federated as tff

    class Proximal(tff.learning.optimizers.Optimizer):
        """Keeps the weights of its first step."""

        def initialize(self, specs: Any) -> Any:
            anchor = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
            return collections.OrderedDict(inner=inner.initialize(specs), anchor=anchor, started=tf.constant(False))

        def next(self, state: Any, weights: Any, gradients: Any) -> Any:
            kept = tf.nest.map_structure(lambda a, w: tf.where(state["started"], a, w), state["anchor"], weights)
            pulled = tf.nest.map_structure(lambda g, w, a: g + strength * (w - a), gradients, weights, kept)
            after, updated = inner.next(state["inner"], weights, pulled)
            return collections.OrderedDict(inner=after, anchor=kept, started=tf.constant(True)), updated

        def get_hparams(self, state: Any) -> Any:
            return inner.get_hparams(state["inner"])

        def set_hparams(self, state: Any, hparams: Any) -> Any:
            changed = inner.set_hparams(state["inner"], hparams)
            return collections.OrderedDict(inner=changed, anchor=state["anchor"], started=state["started"])

    return Proximal()


class _RowLoss(tf.keras.losses.Loss):
    """The model's loss per row; Keras averages it over a batch."""

    def __init__(self, model: FederatedModel) -> None:
        super().__init__()
        self._model = model

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the losses [rows]."""
        return self._model.losses(y_true, y_pred)


def _optimizer(section: OptimizerSection) -> Any:
    import tensorflow_federated as tff

    build = tff.learning.optimizers
    rate, resolved = learning_rate(section, 0), Optimizer(section)
    if section.name == "sgd":
        return build.build_sgdm(rate, momentum=section.momentum or None)
    if section.name == "adagrad":
        return build.build_adagrad(rate, initial_preconditioner_value=resolved.initial, epsilon=resolved.epsilon)
    moments = {"beta_1": section.beta_1, "beta_2": section.beta_2, "epsilon": resolved.epsilon}
    if section.name == "adam":
        return build.build_adam(rate, **moments)
    return build.build_yogi(rate, initial_preconditioner_value=resolved.initial, **moments)
