"""Silos of the tests, and what a private step of one must look like; each check refuses its broken twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import stats

from federated.model import FederatedModel
from federated.silos.engine import SiloEngine
from federated.silos.plan import SiloPlan
from federated.silos.records import SiloRecords
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.randomness import RunKey

SIZES = {"east": 40, "north": 120, "west": 80}
Q = 0.1
_UNLIKELY = 1e-6


def plan_of(**changed: Any) -> SiloPlan:
    """A plan over 240 records in three silos, a tenth of them a step."""
    given: dict[str, Any] = {
        "silos": SIZES,
        "sampling_probability": Q,
        "rounds": 4,
        "local_steps": 3,
        "delta": 1e-5,
        "clipping_norm": 0.5,
        "noise_multiplier": 1.0,
        **changed,
    }
    return SiloPlan.calibrated(**given)


def records_of(*, owners: Any = None, sizes: dict[str, int] | None = None, features: int = 4) -> SiloRecords:
    """Records of the silos, in a mixed order; the label follows the first features."""
    names = np.repeat(list(sizes or SIZES), list((sizes or SIZES).values()))
    rng = np.random.default_rng(2)
    rng.shuffle(names)
    x = rng.normal(size=(names.size, features)).astype(np.float32)
    y = (x[:, 0] + 0.5 * x[:, 1] + 0.2 * rng.normal(size=names.size) > 0).astype(np.int64)
    return SiloRecords.from_rows(silo_of_rows=names, features={"x": x}, labels=y, owners=owners)


def model_of(*, features: int = 4, hidden: int = 5, seed: int = 3) -> FederatedModel:
    """A small network whose output is a logit."""
    tf.keras.utils.set_random_seed(seed)
    inputs = tf.keras.Input((features,), name="x")
    middle = tf.keras.layers.Dense(hidden, activation="tanh")(inputs)
    return FederatedModel(
        tf.keras.Model(inputs, tf.keras.layers.Dense(1)(middle)),
        loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
    )


def algorithm_of(*, rate: float = 0.5, **more: Any) -> FederatedAlgorithm:
    """Plain local steps."""
    return FederatedAlgorithm.model_validate({"client_optimizer": {"learning_rate": rate}, **more})


def engine_of(plan: SiloPlan, cls: Any = SiloEngine, *, seed: int = 1, **changed: Any) -> Any:
    """An engine with a fixed key, so that the tests repeat."""
    given: dict[str, Any] = {
        "model": model_of(),
        "records": records_of(),
        "plan": plan,
        "algorithm": algorithm_of(),
        "key": RunKey.from_seed(seed),
        **changed,
    }
    return cls(**given)


def everyone(engine: Any) -> np.ndarray:
    """The cohort of every round."""
    return np.arange(len(engine._silos))


def samples_of(engine: Any, place: int, steps: int) -> list[np.ndarray]:
    """Units that a silo draws in each step."""
    reader = engine._silos[place].steps.reader
    return [reader.read(step).index for step in range(steps)]


def check_samples(batches: Sequence[np.ndarray], *, units: int, probability: float) -> None:
    """Batches are Poisson samples: binomial sizes of mean probability * units, every unit equally often."""
    steps = len(batches)
    sizes = np.array([batch.size for batch in batches], float)
    mean, spread = units * probability, units * probability * (1 - probability)
    assert abs(sizes.mean() - mean) < 5.5 * np.sqrt(spread / steps), f"mean batch {sizes.mean():.2f}, not {mean:.2f}"
    chi2 = ((sizes - mean) ** 2).sum() / spread
    assert _UNLIKELY < stats.chi2.cdf(chi2, steps) < 1 - _UNLIKELY, f"batch sizes vary by {sizes.var():.2f}"
    shares = np.bincount(np.concatenate(batches), minlength=units)
    chi2 = ((shares - steps * probability) ** 2).sum() / (steps * probability * (1 - probability))
    assert _UNLIKELY < stats.chi2.cdf(chi2, units) < 1 - _UNLIKELY, "some records come more often"


def check_noise(moves: np.ndarray, *, stddev: float) -> None:
    """Moves of a silo's weights [steps, numbers] that no record caused are Gaussian of one scale, anew in each step."""
    chi2 = (moves**2).sum() / stddev**2
    assert _UNLIKELY < stats.chi2.cdf(chi2, moves.size) < 1 - _UNLIKELY, f"noise of {moves.std():.4g}, not {stddev:.4g}"
    assert stats.kstest(moves.ravel() / stddev, "norm").pvalue > _UNLIKELY
    if len(moves) > 1:
        correlated = np.corrcoef(moves)[np.triu_indices(len(moves), 1)]
        assert abs(correlated).max() < 6 / np.sqrt(moves.shape[1]), "steps share noise"
