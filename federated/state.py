"""What a client's pass may keep: nothing. No state leaves a client but through its update.

Statistics that a layer takes from rows (batch normalisation), what `adapt` read, tables, counters: federated averaging
has no rule for them that a clipped update would cover, and left at their first values they would not be those of the
trained weights. Layers with such state are refused, with a guarantee and without. Frozen ones keep their first values.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.checks.validator import state_problems
from privacy_pipeline.dp.graphs.graph_state import require_stateless
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.errors import BadInputError

_RANDOM = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
)


def require_no_state(keras_model: Any) -> None:
    """Refuse layers that keep state which training moves or data taught, and layers that draw random numbers.

    Args:
        keras_model: built Keras model.

    Raises:
        BadInputError: naming the layer, and what to use instead.
    """
    for layer in keras_model._flatten_layers(include_self=False):
        if type(layer).__name__ in _RANDOM:
            raise BadInputError(
                f"model: layer '{layer.name}' draws random numbers that a resumed round cannot draw again",
                fix="leave it out",
            )
    for problem in state_problems(keras_model):
        raise BadInputError(
            f"model: layer '{problem.layer}': {problem.message}; federated training does not average such state",
            fix=problem.instead,
        )


def require_stateless_pass(model: Any, labels: tf.TensorSpec) -> None:
    """Refuse a model or a loss that keeps, shows or draws anything in a pass, forward or backward.

    Args:
        model: `federated.model.FederatedModel`.
        labels: of one row each, [rows, ...].

    Raises:
        BadInputError: naming op, layer and what to use instead.
    """

    def run(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model.losses(targets, model.predict(inputs, training=True)))
        gradients = tape.gradient(total, model.keras.trainable_weights)
        return gradients, model.losses(targets, model.predict(inputs, training=False))

    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in model.input_specs]
    graph = Traced(run, specs, labels).concrete.graph
    require_stateless(graph, model=model.keras, draws=False)
