"""The engine of a run: a multi-layer perceptron under the algorithm that the experiment names."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from federated.clients.store import ClientStore
from federated.contract import Array, RoundState
from federated.experiments.config import ExperimentConfig
from federated.experiments.run import Simulation
from privacy_pipeline.errors import BadInputError


def build(
    config: ExperimentConfig, clients: ClientStore, aggregator: Any | None, *, width: int, seed: int
) -> Simulation:
    """The fast engine, or TFF's; see `federated.experiments.run.Build`.

    Raises:
        BadInputError: the engine does not offer what is asked for.
    """
    import tensorflow as tf

    from federated.model import FederatedModel

    model = FederatedModel(
        perceptron(width=width, hidden_units=config.model.hidden_units, seed=seed),
        loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
    )
    combine = None if aggregator is None else aggregator(model.shapes)
    return Simulation(engine=_engine(config, clients, model, combine), predict=logits)


def perceptron(*, width: int, hidden_units: list[int], seed: int) -> Any:
    """Dense layers with ReLU and one logit, float32 [batch, 1]; the same seed gives the same weights.

    Args:
        width: numbers of an example's features.
        hidden_units: widths of the hidden layers; none is logistic regression.
        seed: of the initial weights.
    """
    import tensorflow as tf

    inputs = tf.keras.Input(shape=(width,), name="features")
    outputs = inputs
    for units in hidden_units:
        outputs = tf.keras.layers.Dense(units, activation="relu")(outputs)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(1, name="logit")(outputs))
    generator = np.random.default_rng(seed)
    for variable in model.trainable_weights:
        limit = math.sqrt(6 / sum(variable.shape)) if len(variable.shape) > 1 else 0.0  # Glorot and Bengio 2010
        variable.assign(generator.uniform(-limit, limit, variable.shape).astype(np.float32))
    return model


def logits(state: RoundState, features: dict[str, Array]) -> Array:
    """Logits of a perceptron, float32 [rows, 1], in NumPy: evaluation needs no graph."""
    values = np.asarray(features["features"], np.float32)
    pairs = list(zip(state.weights[::2], state.weights[1::2], strict=True))
    for place, (kernel, bias) in enumerate(pairs):
        values = values @ kernel + bias
        if place < len(pairs) - 1:
            values = np.maximum(values, 0)
    return values


def _engine(config: ExperimentConfig, clients: ClientStore, model: Any, aggregator: Any | None) -> Any:
    from federated.fast.engine import FastEngine

    if config.algorithm.engine == "fast":
        return FastEngine(model=model, clients=clients, algorithm=config.algorithm, aggregator=aggregator)
    try:
        tff_engine = importlib.import_module("federated.tff_engine.engine").TffEngine
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"algorithm.engine: `tff` cannot be used here: the module '{error.name}' is missing", fix="use `fast`"
        ) from None
    return tff_engine(model=model, clients=clients, algorithm=config.algorithm, aggregator=aggregator)
