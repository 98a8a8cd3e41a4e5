"""The update of one private step, without noise and without clipping, beside the gradients of Keras' own step."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.clipping.gradients import BookKeeping
from privacy_pipeline.dp.clipping.groups import make_groups
from privacy_pipeline.dp.clipping.intercept import FallbackWarning
from privacy_pipeline.dp.noise.noise import total_size
from privacy_pipeline.dp.sampling.sources import Given, given_data
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.training.choice import Clipper
from privacy_pipeline.dp.training.from_keras.model_losses import ModelLosses
from privacy_pipeline.dp.training.program import Program, specs_of
from privacy_pipeline.dp.training.steps import clipper_of, program_of

ROWS = 3
COSINE, LENGTH = 1e-6, 1e-5
NORM = 1e9  # nothing is clipped
MEMORY = 2**20
PLAN = PrivacyPlan.calibrated(
    units=ROWS, expected_batch_size=ROWS, steps=1, noise_multiplier=1.0, delta=1e-5, clipping_norm=NORM
)
Gradients = list[NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with a loss, and its data.

    Attributes:
        model: the model, built.
        x: inputs of `ROWS` examples.
        y: their labels.
        loss: what Keras compiles the model with.
        loss_weights: of several outputs.
        weights: `sample_weight` and `class_weight` of `fit`.
    """

    model: Any
    x: Any
    y: Any
    loss: Any = "mse"
    loss_weights: Any = None
    weights: Mapping[str, Any] = field(default_factory=dict)


class Tied(tf.keras.Model):
    """Uses its embedding a second time as the output's kernel, past any layer's call."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.keras.layers.Embedding(5, 3)

    def call(self, inputs: Any) -> Any:
        return tf.matmul(tf.reduce_mean(self.table(inputs), 1), self.table.embeddings, transpose_b=True)


class Seen(tf.keras.optimizers.SGD):
    """Adds up the gradients that Keras' step hands to its optimizer, and leaves the weights as they are."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.total: dict[Any, NDArray[np.float64]] = {}

    def apply_gradients(self, grads_and_vars: Any, *given: Any, **more: Any) -> None:
        for gradient, variable in grads_and_vars:
            if gradient is not None:
                before = self.total.get(variable.ref(), 0.0)
                self.total[variable.ref()] = before + tf.convert_to_tensor(gradient).numpy().astype(np.float64)


def rows_of(nest: Any, rows: slice) -> Any:
    return tf.nest.map_structure(lambda values: values[rows], nest)


def keras_update(case: Case) -> Gradients:
    """The sum over the examples of the gradients that `train_on_batch` finds for each example alone."""
    seen = Seen()
    case.model.compile(seen, case.loss, loss_weights=case.loss_weights, run_eagerly=True)
    weights = dict(case.weights)
    for row in range(ROWS):
        cut = slice(row, row + 1)
        if "sample_weight" in case.weights:
            weights["sample_weight"] = rows_of(case.weights["sample_weight"], cut)
        case.model.train_on_batch(rows_of(case.x, cut), rows_of(case.y, cut), **weights)
    trained = case.model.trainable_variables
    return [seen.total.get(variable.ref(), np.zeros(variable.shape)) for variable in trained]


def private_program(case: Case, *, chosen: bool) -> tuple[Program, Given]:
    """The step that `fit` would compile, with the loss that the model was compiled with.

    Args:
        case: the case.
        chosen: whether the engine chooses the clipper, after its proof; else it is the book-keeping of the rules.
    """
    optimizer = tf.keras.optimizers.SGD(1.0)
    private = make_private(case.model, PLAN, optimizer=optimizer, memory_cap=MEMORY)
    given = given_data(case.x, case.y, **case.weights, most=ROWS)
    losses = private._losses_of(given)
    x, y = specs_of(given.store)
    clipper: Clipper
    if chosen:
        clipper = clipper_of(model=case.model, losses=losses, plan=PLAN, x=x, y=y, memory_cap=MEMORY)
    else:
        clipper = rules_of(case.model, losses)
    program = program_of(
        model=case.model,
        clipper=clipper,
        optimizer=optimizer,
        plan=PLAN,
        store=given.store,
        largest=ROWS,
        norm=None,
    )
    return program, given


def rules_of(model: Any, losses: ModelLosses) -> BookKeeping:
    """Book-keeping by the rules of the model's layers, before anything is proven of its rows."""
    variables = model.trainable_variables
    groups = make_groups(model, variables, norm=NORM, per_layer=False)
    return BookKeeping(model=model, losses=losses, variables=variables, groups=groups, memory_cap=MEMORY)


def private_update(case: Case, *, chosen: bool) -> Gradients:
    """What one private step takes away from the weights, times the batch size that it divides by."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        program, given = private_program(case, chosen=chosen)
    store: ExampleStore = given.store
    before = [variable.numpy().astype(np.float64) for variable in program.variables]
    noise = np.zeros(total_size([value.shape for value in before]), np.float32)
    batch = store.x, store.y, np.ones(ROWS, bool), noise, np.array([1, 2], np.int64)
    if chosen:
        program.run(*batch)
    else:
        program._whole(*tf.nest.map_structure(tf.constant, batch))
    return [ROWS * (old - new.numpy()) for old, new in zip(before, program.variables, strict=True)]


def flat(update: Gradients) -> NDArray[np.float64]:
    return np.concatenate([value.ravel() for value in update])


def require_equal(found: Gradients, right: Gradients) -> None:
    """Hold an update to Keras' own: as a whole, and for each variable, whose own part may be small."""
    one, other = flat(found), flat(right)
    length = float(np.linalg.norm(other))
    assert np.isfinite(length)
    assert length > 1e-3, "the case shows nothing"
    assert one @ other / np.linalg.norm(one) / length >= 1 - COSINE
    assert abs(np.linalg.norm(one) / length - 1) <= LENGTH
    for value, wanted in zip(found, right, strict=True):
        assert np.linalg.norm(value - wanted) <= 1e-3 * np.linalg.norm(wanted) + 1e-5 * length


def check(case: Case, *, chosen: bool = False) -> None:
    """One private step of a case moves the weights by Keras' gradients."""
    right = keras_update(case)
    require_equal(private_update(case, chosen=chosen), right)


def values(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(ROWS, *shape)).astype(np.float32)


def whole(limit: int, *shape: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, limit, (ROWS, *shape)).astype(np.int64)


def filled(model: Any) -> Any:
    """Random weights: those that start at constants would hide errors."""
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape, scale=0.4))
    return model


Make = Callable[[], Case]
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "dp_engine.md"


def named_in_guide(heading: str) -> set[str]:
    """The names in the first column of a table of the engine's guide, which the heading of that column tells.

    A name after "also" is that of a layer that holds the others.
    """
    _, _, below = GUIDE.read_text().partition(f"| {heading} |")
    rows = below.partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1].partition("also")[0])}
