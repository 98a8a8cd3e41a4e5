"""The engine of a run: a multi-layer perceptron under the algorithm that the experiment names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.clients.store import ClientStore
from federated.contract import Array, RoundState
from federated.experiments.config import ExperimentConfig
from federated.experiments.simulation import Simulation
from federated.silos.plan import SiloPlan
from federated.silos.records import SiloRecords
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from federated.model import FederatedModel
    from federated.silos.engine import SiloEngine


def build(
    config: ExperimentConfig, clients: ClientStore, aggregator: Any | None, *, width: int, seed: int
) -> Simulation:
    """Return the fast engine, or TFF's; see `federated.experiments.simulation.Build`.

    Raises:
        BadInputError: the engine does not offer what is asked for.
    """
    model = _model(config, width=width, seed=seed)
    if config.algorithm.engine == "tff":
        return _tff(config, clients, model, aggregator)
    from federated.fast.engine import FastEngine

    combine = None if aggregator is None else aggregator(model.shapes)
    engine = FastEngine(model=model, clients=clients, algorithm=config.algorithm, aggregator=combine)
    return Simulation(engine=engine, predict=logits, model=model)


def build_silos(
    config: ExperimentConfig, records: SiloRecords, plan: SiloPlan, key: RunKey, *, width: int, seed: int
) -> tuple[Simulation, SiloEngine]:
    """Return the engine in which each silo trains by DP-SGD.

    Args:
        config: the settings.
        records: the records of the silos.
        plan: what was reserved.
        key: the run's key.
        width: numbers of an example's features.
        seed: of the initial weights.

    Raises:
        PipelineError: the records are not those of the plan.
    """
    from federated.silos.engine import SiloEngine

    model = _model(config, width=width, seed=seed)
    engine = SiloEngine(model=model, records=records, plan=plan, algorithm=config.algorithm, key=key)
    return Simulation(engine=engine, predict=logits, model=model), engine


def _model(config: ExperimentConfig, *, width: int, seed: int) -> FederatedModel:
    from federated.model import FederatedModel

    return FederatedModel(
        perceptron(width=width, hidden_units=config.model.hidden_units, seed=seed),
        loss=tasks.of(config.data.dataset).loss(),
    )


def _tff(config: ExperimentConfig, clients: ClientStore, model: Any, aggregator: Any | None) -> Simulation:
    """Return TFF's runtime, with a worker process that ends with the run."""
    from federated.tff_engine.engine import TffEngine
    from federated.tff_engine.worker import TffWorker

    if aggregator is not None:  # refused by ExperimentConfig
        raise BadInputError("a guarantee needs `engine: fast`, whose sampling and noise are those that are accounted")
    worker = TffWorker()
    worker.start()
    engine = TffEngine(model=model, clients=clients, algorithm=config.algorithm, worker=worker)
    return Simulation(engine=engine, predict=logits, model=model, close=worker.close)


def perceptron(*, width: int, hidden_units: list[int], seed: int) -> Any:
    """Return dense layers with ReLU and one logit, float32 [batch, 1]; the same seed gives the same weights.

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
    """Return the logits of a perceptron, float32 [rows, 1], in NumPy: evaluation needs no graph."""
    values = np.asarray(features["features"], np.float32)
    pairs = list(zip(state.weights[::2], state.weights[1::2], strict=True))
    for place, (kernel, bias) in enumerate(pairs):
        values = values @ kernel + bias
        if place < len(pairs) - 1:
            values = np.maximum(values, 0)
    return values
