"""One private step without noise and clipping moves the weights as Keras' own: masks, weights, several outputs.

The fast cases run the step without compiling it, by the rules alone; the slow ones compile what the engine chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tests.dp.keras_updates import ROWS, Case, Make, check, filled, values

L, LOSSES = tf.keras.layers, tf.keras.losses
R = LOSSES.Reduction
CLASSES, STEPS, WORDS = 3, 5, 6
SPARSE = LOSSES.SparseCategoricalCrossentropy
SUMMED = SPARSE(from_logits=True, reduction=R.SUM)

AFTER, BEFORE = "after", "before"


def words(padding: str = AFTER) -> NDArray[np.int64]:
    """Sequences of 5, 3 and 2 words; 0 is padding."""
    found = np.random.default_rng(5).integers(1, WORDS, (ROWS, STEPS)).astype(np.int64)
    for row, length in enumerate((5, 3, 2)):
        if padding == AFTER:
            found[row, length:] = 0
        else:
            found[row, : STEPS - length] = 0
    return found


def holes() -> NDArray[np.int64]:
    """Sequences with a 0 in their midst."""
    found = words()
    found[0, 1] = found[1, 0] = 0
    return found


def labels() -> NDArray[np.int64]:
    return np.random.default_rng(6).integers(0, CLASSES, (ROWS, STEPS)).astype(np.int64)


def numbers(padding: str = AFTER) -> NDArray[np.float32]:
    """Steps of numbers that are 0 where a word is missing."""
    return values(STEPS, 4) * (words(padding) > 0)[..., None].astype(np.float32)


# --- masks through layers ------------------------------------------------------------------------------------------


def tagged(*layers: Any, x: Any = None, weights: Any = None) -> Case:
    """A class for each step of masked words."""
    model = tf.keras.Sequential(
        [L.Input((STEPS,), dtype="int64"), L.Embedding(WORDS, 4, mask_zero=True), *layers, L.Dense(CLASSES)]
    )
    given = {} if weights is None else {"sample_weight": weights}
    x = words() if x is None else x
    return Case(model=filled(model), x=x, y=labels(), loss=SPARSE(from_logits=True), weights=given)


def read(*layers: Any, x: Any = None) -> Case:
    """A number for each sequence of masked words."""
    model = tf.keras.Sequential(
        [L.Input((STEPS,), dtype="int64"), L.Embedding(WORDS, 4, mask_zero=True), *layers, L.Dense(1)]
    )
    return Case(model=filled(model), x=words() if x is None else x, y=values(1, seed=3))


def steps(kind: Any, **more: Any) -> Any:
    return kind(3, return_sequences=True, **more)


def masked_numbers() -> Case:
    model = tf.keras.Sequential([L.Input((STEPS, 4)), L.Masking(), steps(L.LSTM), L.Dense(CLASSES, "softmax")])
    return Case(model=filled(model), x=numbers(BEFORE), y=labels(), loss="sparse_categorical_crossentropy")


def attention(layer: Any) -> Make:
    def make() -> Case:
        given = L.Input((STEPS,), dtype="int64")
        hidden = L.Embedding(WORDS, 4, mask_zero=True)(given)
        mixed = layer()(hidden)
        model = tf.keras.Model(given, L.Dense(CLASSES)(L.Add()([hidden, mixed])))
        return Case(model=filled(model), x=words(), y=labels(), loss=SPARSE(from_logits=True))

    return make


class SelfAttention(L.Layer):
    """Attention of a sequence to itself, under its mask."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.supports_masking = inner, True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if isinstance(self.inner, L.MultiHeadAttention):
            return self.inner(inputs, inputs)
        return self.inner([inputs, inputs], mask=[mask, mask])


def joined() -> Case:
    """Two masked sequences side by side; the mask of the sum is that of both."""
    given, more = L.Input((STEPS,), dtype="int64"), L.Input((STEPS,), dtype="int64")
    table = L.Embedding(WORDS, 4, mask_zero=True)
    both = L.Concatenate()([steps(L.GRU)(table(given)), table(more)])
    model = tf.keras.Model([given, more], L.Dense(CLASSES)(both))
    return Case(model=filled(model), x=(words(), holes()), y=labels(), loss=SPARSE(from_logits=True))


MASKS: dict[str, Make] = {
    "LSTM": lambda: tagged(steps(L.LSTM)),
    "LSTM with holes": lambda: tagged(steps(L.LSTM), x=holes()),
    "LSTM, padded before": lambda: tagged(steps(L.LSTM), x=words(BEFORE)),
    "LSTM with zeros for padding": lambda: tagged(steps(L.LSTM, zero_output_for_mask=True), steps(L.LSTM)),
    "LSTM backwards": lambda: tagged(steps(L.LSTM, go_backwards=True), x=holes()),
    "LSTM unrolled": lambda: tagged(steps(L.LSTM, unroll=True), x=holes()),
    "LSTM to a number": lambda: read(L.LSTM(3), x=holes()),
    "GRU": lambda: tagged(steps(L.GRU), x=holes()),
    "GRU, reset before": lambda: tagged(steps(L.GRU, reset_after=False), x=words(BEFORE)),
    "GRU to a number": lambda: read(steps(L.GRU), L.GRU(3)),
    "SimpleRNN": lambda: tagged(steps(L.SimpleRNN)),
    "Bidirectional LSTM": lambda: tagged(L.Bidirectional(steps(L.LSTM)), x=holes()),
    "Bidirectional GRU to a number": lambda: read(L.Bidirectional(L.GRU(3), merge_mode="mul")),
    "TimeDistributed": lambda: tagged(L.TimeDistributed(L.Dense(3, "tanh"))),
    "layers that pass masks on": lambda: tagged(L.Dense(4, "elu"), L.LayerNormalization(), L.Activation("tanh")),
    "mean over words": lambda: read(L.GlobalAveragePooling1D()),
    "Masking": masked_numbers,
    "Attention": attention(lambda: SelfAttention(L.Attention(use_scale=True))),
    "MultiHeadAttention": attention(lambda: SelfAttention(L.MultiHeadAttention(2, 3))),
    "two masks": joined,
}

SLOW = {
    *("GRU to a number", "LSTM unrolled", "LSTM with zeros for padding", "LSTM, padded before", "SimpleRNN"),
    "Bidirectional GRU to a number",
}

# --- weights -------------------------------------------------------------------------------------------------------

OF_EXAMPLES = np.array([0.5, 2.0, 1.5], np.float32)
OF_STEPS = np.abs(values(STEPS, seed=8))
WEIGHTS: dict[str, Any] = {
    "no weights": None,
    "of examples": OF_EXAMPLES,
    "of examples, a column": OF_EXAMPLES[:, None],
    "of steps": OF_STEPS,
    "of examples, whole numbers": np.array([3, 1, 2]),
}
WEIGHTED_LOSSES: dict[str, tuple[Any, bool]] = {
    "sparse": (SPARSE(from_logits=True), True),
    "sparse, summed": (SUMMED, True),
    "sparse, a class ignored": (SPARSE(from_logits=True, ignore_class=2), True),
    "squared": ("mse", False),
    "huber, not reduced": (LOSSES.Huber(reduction=R.NONE), False),
}


def weighted(kind: str, weights: str, *, masked: bool) -> Case:
    loss, sparse = WEIGHTED_LOSSES[kind]
    model = tf.keras.Sequential([L.Input((STEPS, 4)), *([L.Masking()] if masked else []), L.Dense(CLASSES)])
    y = np.where(np.arange(STEPS) == 0, 1, labels()) if sparse else values(STEPS, CLASSES, seed=3)
    given = {} if WEIGHTS[weights] is None else {"sample_weight": WEIGHTS[weights]}
    return Case(model=filled(model), x=numbers(), y=y, loss=loss, weights=given)


BY_CLASS = {0: 0.5, 1: 1.2, 2: 3.0}
HOT = np.eye(CLASSES, dtype=np.float32)
ORDERED = np.array([0, 2, 1])
CLASS_WEIGHTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "numbers": (SPARSE(from_logits=True), ORDERED, {}),
    "numbers in a column": (SPARSE(from_logits=True), ORDERED[:, None], {}),
    "one-hot": (LOSSES.CategoricalCrossentropy(from_logits=True), HOT[ORDERED], {}),
    "with weights of examples": (SPARSE(from_logits=True), ORDERED, {"sample_weight": OF_EXAMPLES}),
    "summed": (SUMMED, ORDERED, {"sample_weight": OF_EXAMPLES}),
}


def by_class(kind: str) -> Case:
    loss, y, more = CLASS_WEIGHTS[kind]
    model = tf.keras.Sequential([L.Input((4,)), L.Dense(4, "tanh"), L.Dense(CLASSES)])
    return Case(model=filled(model), x=values(4), y=y, loss=loss, weights={**more, "class_weight": BY_CLASS})


# --- several outputs -----------------------------------------------------------------------------------------------


def in_dict(tags: Any, size: Any) -> Any:
    return {"tags": tags, "size": size}


def in_list(tags: Any, size: Any) -> Any:
    return [tags, size]


def outputs(form: Callable[[Any, Any], Any]) -> Any:
    """A masked class for each step, named "tags", and a number, named "size", of the same words."""
    given = L.Input((STEPS,), dtype="int64")
    hidden = L.Embedding(WORDS, 4, mask_zero=True)(given)
    tags = L.Dense(CLASSES, name="tags")(L.Dense(4, "tanh")(hidden))
    size = L.Dense(1, name="size")(L.GlobalAveragePooling1D()(hidden))
    return filled(tf.keras.Model(given, form(tags, size)))


TAGS, SIZE = SPARSE(from_logits=True), LOSSES.MeanSquaredError()
Y = {"tags": labels(), "size": values(1, seed=3)}
LISTED = (Y["tags"], Y["size"])
DENSE_Y = {"tags": HOT[labels()], "size": Y["size"]}


def several(form: Callable[[Any, Any], Any], y: Any, loss: Any, loss_weights: Any = None, weights: Any = None) -> Make:
    def make() -> Case:
        given = {} if weights is None else {"sample_weight": weights}
        return Case(model=outputs(form), x=words(), y=y, loss=loss, loss_weights=loss_weights, weights=given)

    return make


BOTH = {"tags": TAGS, "size": SIZE}
OUTPUTS: dict[str, Make] = {
    "dicts": several(in_dict, Y, BOTH),
    "dicts with weights": several(in_dict, Y, BOTH, {"tags": 0.3, "size": 2.0}),
    "dicts, one weight": several(in_dict, Y, BOTH, {"size": 2.0}),
    "lists": several(in_list, LISTED, [TAGS, SIZE]),
    "lists with weights": several(in_list, LISTED, [TAGS, SIZE], [0.3, 2.0]),
    "a list of outputs, dicts by name": several(in_list, Y, BOTH, {"tags": 0.3, "size": 2.0}),
    "one loss for both": several(in_dict, DENSE_Y, "huber"),
    "one loss for a list": several(in_list, (DENSE_Y["tags"], Y["size"]), "mse", [0.3, 2.0]),
    "one sums and one does not": several(
        in_dict, Y, {"tags": SPARSE(from_logits=True, reduction=R.SUM), "size": "mae"}
    ),
    "weights of examples for both": several(in_dict, Y, BOTH, None, OF_EXAMPLES),
    "weights of their own": several(in_dict, Y, BOTH, None, {"tags": OF_STEPS, "size": OF_EXAMPLES}),
    "weights in a list": several(in_list, LISTED, [TAGS, SIZE], [0.3, 2.0], (OF_STEPS, OF_EXAMPLES)),
}


# --- tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow_but("mean over words", "layers that pass masks on", "MultiHeadAttention", "TimeDistributed")
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_moves_as_in_keras(kind: str) -> None:
    check(MASKS[kind]())


@pytest.mark.slow_but(
    "sparse-no weights-mask",
    "sparse-of steps-no mask",
    "sparse, a class ignored-of steps-mask",
    "squared-of steps-mask",
    "huber, not reduced-of steps-no mask",
)
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", WEIGHTED_LOSSES)
def test_weights_move_as_in_keras(kind: str, weights: str, masked: bool) -> None:
    check(weighted(kind, weights, masked=masked))


@pytest.mark.slow_but("numbers", "summed")
@pytest.mark.parametrize("kind", CLASS_WEIGHTS)
def test_weights_of_classes_move_as_in_keras(kind: str) -> None:
    check(by_class(kind))


@pytest.mark.slow_but("dicts", "weights in a list")
@pytest.mark.parametrize("kind", OUTPUTS)
def test_several_outputs_move_as_in_keras(kind: str) -> None:
    check(OUTPUTS[kind]())


@pytest.mark.slow
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_moves_as_in_keras_by_the_way_that_fit_chooses(kind: str) -> None:
    check(MASKS[kind](), chosen=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OUTPUTS)
def test_several_outputs_move_as_in_keras_by_the_way_that_fit_chooses(kind: str) -> None:
    check(OUTPUTS[kind](), chosen=True)
