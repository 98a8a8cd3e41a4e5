"""What a model does to rows, measured from outside: whoever proves something about a model does not help here.

Three measurements: whether an entry's losses and gradients in a batch are those of its rows alone (the engine has no
part in that), whether the engine refuses it, and how far one row moves the clipped sum that the engine would release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.clipping.groups import make_groups
from privacy_pipeline.dp.noise.masks import keyed_masks
from privacy_pipeline.dp.training.choice import choose_clipper
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss
from privacy_pipeline.errors import BadInputError
from tests.dp.zoo.kit import Entry, Made

NORM = 1.0
_PLAN = PrivacyPlan.calibrated(
    units=100, expected_batch_size=10, steps=1, noise_multiplier=1.0, delta=1e-5, clipping_norm=NORM
)
_SCALES = (0.0, 1e-3, 0.3, 1.0, 5.0, 30.0, 300.0, 1e4, 1e6, 1e20, 3e38)
_LABEL_SCALES = (0.0, 1.0, 100.0, 1e6)
_SEED = (3, 4)
SHOWN = 1e-2  # a relative difference that is no rounding


def rows_of(nest: Any) -> int:
    return len(tf.nest.flatten(nest)[0])


def taken(nest: Any, rows: Any) -> Any:
    return tf.nest.map_structure(lambda values: values[rows], nest)


def specs(nest: Any) -> Any:
    """Nest of `tf.TensorSpec` of data, with any number of rows."""
    return tf.nest.map_structure(lambda v: tf.TensorSpec([None, *v.shape[1:]], tf.as_dtype(v.dtype)), nest)


# --- the engine --------------------------------------------------------------------------------------------------


def clipper_of(model: Any, loss: Any, x: Any, y: Any) -> Any:
    """What the engine clips a model's rows with, chosen as `PrivateModel` chooses it.

    Raises:
        BadInputError: the engine refuses the model.
    """
    private = make_private(model, _PLAN, optimizer="sgd", loss=loss)
    return choose_clipper(
        model=model,
        losses=private._losses,
        groups=make_groups(model, model.trainable_variables, norm=NORM, per_layer=False),
        x=specs(x),
        y=specs(y),
        memory_cap=2**20,
    )


def kind_of(clipper: Any) -> str:
    """Which verdict the engine came to: "proven" or "not_proven"; "none" where it gives none."""
    verdict = getattr(clipper, "verdict", None)
    return "none" if verdict is None else str(verdict.kind)


def refused(model: Any, loss: Any, x: Any, y: Any) -> str | None:
    """The message with which the engine refuses a model; None if it takes it."""
    try:
        clipper_of(model, loss, x, y)
    except BadInputError as error:
        return str(error)
    return None


def clipped_sum_of(
    model: Any, loss: Any, x: Any, y: Any, *, training: bool = True, clipper: Any = None
) -> Callable[..., list[Any]]:
    """The clipped sum that the engine would release, of (x, y) and who is present, under the same masks at each call.

    Args:
        model: the model.
        loss: as `make_private` takes it.
        x: data, of which shapes and dtypes are looked at.
        y: labels.
        training: whether dropout and the like are on.
        clipper: what `clipper_of` gave, where it is at hand.
    """
    chosen = clipper_of(model, loss, x, y) if clipper is None else clipper

    @tf.function(input_signature=[specs(x), specs(y), tf.TensorSpec([None], tf.bool)], autograph=False)
    def run(a: Any, b: Any, present: Any) -> Any:
        with keyed_masks(model, tf.constant(_SEED, tf.int64)):
            return chosen.clipped(a, b, training=training, present=present, scale=1.0)[0]

    concrete = run.get_concrete_function()

    def call(a: Any, b: Any, present: Any = None) -> list[Any]:
        present = np.ones(rows_of(a), bool) if present is None else present
        return [value.numpy() for value in concrete(*tf.nest.map_structure(tf.convert_to_tensor, (a, b, present)))]

    return call


# --- neighbours --------------------------------------------------------------------------------------------------


def _drawn(values: Any, scale: float, high: int, words: Sequence[str], generator: np.random.Generator) -> Any:
    """One row's values: floats of about a scale, whole numbers and words of the ones there are."""
    shape = values.shape[1:]
    if values.dtype == object:
        return np.array(words, object)[generator.integers(0, len(words), shape)]
    if values.dtype.kind in "iu":
        extreme = {0.0: 0, 1e6: high - 1, 3e38: high - 1}.get(scale)
        drawn = generator.integers(0, high, shape) if extreme is None else np.full(shape, extreme)
        return drawn.astype(values.dtype)
    top = np.finfo(values.dtype).max
    return np.clip(generator.uniform(0.5, 1.0, shape) * generator.choice([-1.0, 1.0], shape) * scale, -top, top).astype(
        values.dtype
    )


def replaced(made: Made, x: Any, y: Any, row: int, *, scale: float, label: float | None, seed: int = 0) -> Any:
    """(x, y) with other values in one row.

    Args:
        made: the entry, for its ranges.
        x: inputs.
        y: labels.
        row: which row.
        scale: size of its inputs; negative for inputs as they are.
        label: size of its labels; None for labels as they are.
        seed: seed of the values.
    """
    generator = np.random.default_rng([seed, row])

    def changed(values: Any, size: float, high: int) -> Any:
        copy = np.array(values)
        copy[row] = _drawn(values, size, high, made.words, generator)
        return copy

    if scale >= 0:
        x = tf.nest.map_structure(lambda values: changed(values, scale, made.high), x)
    if label is not None:
        y = tf.nest.map_structure(lambda values: changed(values, label, made.classes), y)
    return x, y


def neighbours(made: Made, x: Any, y: Any, row: int, *, scales: Sequence[float] = _SCALES) -> Iterator[Any]:
    """(what was done, x, y) for many values of one row."""
    for scale in scales:
        yield f"row {row}: inputs of {scale:g}", *replaced(made, x, y, row, scale=scale, label=None)
    for label in _LABEL_SCALES:
        yield f"row {row}: labels of {label:g}", *replaced(made, x, y, row, scale=-1.0, label=label)
        yield f"row {row}: both of {label:g}", *replaced(made, x, y, row, scale=label, label=label, seed=1)


def _bases(made: Made) -> Iterator[Any]:
    """The data as it is, and with all rows like the first: rows that pull one way show mixing best."""
    yield made.x, made.y
    first = np.zeros(rows_of(made.x), int)
    yield taken(made.x, first), taken(made.y, first)


def distance(left: Sequence[Any], right: Sequence[Any]) -> float:
    """L2 distance of two sums, in clipping norms."""
    squares = [np.square(a.astype(np.float64) - b).sum() for a, b in zip(left, right, strict=True)]
    return float(np.sqrt(sum(squares))) / NORM


@dataclass
class Movement:
    """How far the released sum moved, in clipping norms, and where it moved most.

    Attributes:
        replaced: most that it moved when a row was replaced; at most 2 by the claim.
        removed: most that it moved when a row was left out, or was there as padding; at most 1 by the claim.
        where: what was done when it moved most by a replacement.
    """

    replaced: float = 0.0
    removed: float = 0.0
    where: str = ""

    def observe(self, moved: float, where: str) -> None:
        if not moved <= self.replaced:
            self.replaced, self.where = moved, where


def movement(made: Made, run: Callable[..., list[Any]], *, random: bool = False) -> Movement:
    """The largest movement of a clipped sum by one row, over many values of some rows.

    Args:
        made: the entry.
        run: as of `clipped_sum_of`.
        random: masks go by the row's place, so that a row is not taken out: the others would have other masks.
    """
    found = Movement()
    for x, y in _bases(made):
        count = rows_of(x)
        before = run(x, y)
        for row in (0, 3, count - 1):
            for what, a, b in neighbours(made, x, y, row):
                found.observe(distance(run(a, b), before), what)
            without = [run(x, y, np.arange(count) != row)]
            if not random:
                others = np.delete(np.arange(count), row)
                without.append(run(taken(x, others), taken(y, others)))
            found.removed = max(found.removed, *(distance(sums, before) for sums in without))
    return found


# --- rows alone --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Losses, and the gradient of their sum by each variable, of a batch."""

    losses: Any
    gradients: list[Any]


def seen(made: Made, x: Any, y: Any, *, random: bool = False) -> Seen:
    """Losses and gradients in training mode, by a tape; random layers draw the same at each call."""
    tf.random.set_seed(5)
    masks = partial(keyed_masks, made.model, tf.constant(_SEED, tf.int64)) if random else nullcontext
    opened: AbstractContextManager[None] = masks()
    function = per_example_loss(made.loss)
    variables = made.model.trainable_variables
    x, y = tf.nest.map_structure(tf.convert_to_tensor, (x, y))
    with opened, tf.GradientTape() as tape:
        losses = function(y, made.model(x, training=True))
        total = tf.reduce_sum(losses)
    zero = tf.UnconnectedGradients.ZERO
    found = tape.gradient(total, variables, unconnected_gradients=zero)
    return Seen(losses.numpy(), [tf.convert_to_tensor(g).numpy() for g in found])


def singles(made: Made, x: Any, y: Any) -> list[Seen]:
    """Each row alone."""
    return [seen(made, taken(x, [row]), taken(y, [row])) for row in range(rows_of(x))]


def _apart(found: Any, right: Any, size: Any) -> float:
    """Largest difference relative to a size; infinite where only one is finite, 0 where neither is."""
    fine, fine_right = np.isfinite(found), np.isfinite(right)
    if np.any(fine != fine_right):
        return float("inf")
    both = fine & fine_right
    difference = np.abs(np.where(both, found, 0.0) - np.where(both, right, 0.0))
    return float(np.max(difference / (np.abs(size) + 1e-6), initial=0.0))


def _largest(found: Sequence[Seen]) -> float:
    """The largest finite number in some gradients."""
    return max(float(np.max(np.abs(g[np.isfinite(g)]), initial=0.0)) for one in found for g in one.gradients)


def against_alone(made: Made, x: Any, y: Any) -> float:
    """How much losses and gradients in a batch differ from those of its rows alone, relative to their size."""
    whole, alone = seen(made, x, y), singles(made, x, y)
    right = np.concatenate([one.losses for one in alone])
    worst = _apart(whole.losses, right, right)
    # Relative to the largest of all: gradients that are 0 but for rounding tell nothing.
    size = _largest(alone)
    for place, gradient in enumerate(whole.gradients):
        total = np.sum([one.gradients[place] for one in alone], axis=0, dtype=np.float64)
        worst = max(worst, _apart(gradient, total, size))
    return worst


def influence(made: Made, x: Any, y: Any) -> float:
    """How much a row changes other rows' losses, and two rows each other's gradients, under the same masks."""
    one = {"scale": 3.0, "label": None, "seed": 2}
    with_first = replaced(made, x, y, 0, **one)
    with_last = replaced(made, x, y, rows_of(x) - 1, **one)
    with_both = replaced(made, *with_first, rows_of(x) - 1, **one)
    base, first, last, both = (seen(made, *data, random=True) for data in ((x, y), with_first, with_last, with_both))
    worst = _apart(first.losses[1:], base.losses[1:], base.losses[1:])
    size = _largest([base, first, last, both])
    for a, b, c, d in zip(base.gradients, first.gradients, last.gradients, both.gradients, strict=True):
        worst = max(worst, _apart(a + d, b + c, size))
    return worst


def mixes(entry: Entry, made: Made, *, scales: Sequence[float], rows: int) -> float:
    """How much an entry's rows depend on each other, for the first data of some that shows it: 0 but for rounding.

    Args:
        entry: the entry.
        made: what it built.
        scales: sizes of one row's values, each tried after the data as it is.
        rows: how many rows of the data are used.
    """
    x, y = taken(made.x, np.arange(rows)), taken(made.y, np.arange(rows))
    worst = 0.0
    for scale in (None, *scales):
        if scale is not None:
            x, y = replaced(made, x, y, 1, scale=scale, label=min(scale, 1e3))
        if not entry.random and _loss_alone(made, x, y) > SHOWN:
            return SHOWN * 2
        worst = max(worst, (influence if entry.random else against_alone)(made, x, y))
        if worst > SHOWN:
            break
    return worst


def _loss_alone(made: Made, x: Any, y: Any) -> float:
    """How much the loss of one row, in a batch, differs from its loss alone: enough to show most mixing, and quick."""
    function = per_example_loss(made.loss)
    whole, one = (
        function(b, made.model(a, training=True)).numpy()
        for a, b in (
            tf.nest.map_structure(tf.convert_to_tensor, data) for data in ((x, y), (taken(x, [2]), taken(y, [2])))
        )
    )
    return _apart(whole[2:3], one, one)


def clipped_by_hand(made: Made, x: Any, y: Any) -> list[Any]:
    """The clipped sum, from rows alone."""
    sums = [np.zeros(v.shape, np.float64) for v in made.model.trainable_variables]
    for one in singles(made, x, y):
        size = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in one.gradients))
        for held, gradient in zip(sums, one.gradients, strict=True):
            held += gradient * min(1.0, NORM / max(size, 1e-30))
    return sums
