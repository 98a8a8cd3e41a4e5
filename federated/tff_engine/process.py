"""The learning process of TFF that computes what the config's algorithm names."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from federated.algorithms.algorithm import TffParts, TffRules
from federated.model import FederatedModel
from federated.optimizers import Optimizer, learning_rate
from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection


def learning_process(
    model: FederatedModel, algorithm: FederatedAlgorithm, rules: TffRules, element_spec: Any, aggregator: Any
) -> Any:
    """Build it with `tff.learning.algorithms`.

    Args:
        model: its architecture and loss; weights are set on the state.
        algorithm: the section of the config.
        rules: of the algorithm that the section names.
        element_spec: of a client's dataset: batches of (inputs, labels).
        aggregator: a TFF aggregation factory for unweighted updates; None: the mean of the algorithm's weighting.
    """
    import tensorflow_federated as tff

    weighting = tff.learning.ClientWeighting

    def model_fn() -> Any:
        with tf.variable_creator_scope(_uncached):
            keras = tf.keras.models.clone_model(model.keras)
        return tff.learning.models.from_keras_model(keras, loss=_RowLoss(model), input_spec=element_spec, metrics=[])

    parts = TffParts(
        model_fn=model_fn,
        client=_optimizer(algorithm.client_optimizer),
        server=_optimizer(algorithm.server_optimizer),
        weighting=weighting.NUM_EXAMPLES if algorithm.weighting == "examples" else weighting.UNIFORM,
        aggregator=aggregator,
    )
    return rules.process(algorithm, parts)


def _uncached(create: Any, **options: Any) -> Any:
    """Make a variable whose reads see what was assigned.

    Recurrent layers of Keras ask for a cached value, which in TFF's graphs is the one that the initializer gave: the
    weights of the server would never be used.
    """
    return create(**{**options, "caching_device": None})


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
