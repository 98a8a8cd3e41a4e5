"""One private step without noise and clipping moves the weights as Keras' own gradients do, layer by layer.

The fast cases run the step without compiling it, by the rules alone; the slow ones compile what the engine chooses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import tensorflow as tf

from privacy_pipeline.dp import make_private
from privacy_pipeline.dp.clipping import registry
from privacy_pipeline.dp.clipping.intercept import find_targets
from privacy_pipeline.errors import BadInputError
from tests.dp.keras_updates import MEMORY, PLAN, Case, Make, Tied, check, filled, named_in_guide, values, whole
from tests.dp.tutorials.keras_guides import Recommender, TransformerBlock

L = tf.keras.layers
Layers = Callable[[], list[Any]]


def of(layers: Layers, *shape: int) -> Make:
    """Layers over numbers of a shape, then a linear read-out."""

    def make() -> Case:
        last = [L.Flatten(), L.Dense(2)]
        model = tf.keras.Sequential([L.Input(shape), *layers(), *last])
        return Case(model=filled(model), x=values(*shape), y=values(2, seed=3))

    return make


def of_words(layers: Layers, *shape: int) -> Make:
    """Layers over ids below 5, of which 0 may be padding, then a linear read-out."""

    def make() -> Case:
        model = tf.keras.Sequential([L.Input(shape, dtype="int64"), *layers(), L.Flatten(), L.Dense(2)])
        return Case(model=filled(model), x=whole(5, *shape), y=values(2, seed=3))

    return make


def states() -> Case:
    """An encoder whose last states are the first ones of a decoder."""
    first, second = L.Input((4, 2)), L.Input((3, 2))
    _, hidden, carry = L.LSTM(3, return_state=True)(first)
    told, state = L.GRU(3, return_state=True)(second, initial_state=hidden)
    said = L.LSTM(3)(second, initial_state=[hidden, carry])
    model = tf.keras.Model([first, second], L.Dense(2)(L.Concatenate()([told, state, said])))
    return Case(model=filled(model), x=(values(4, 2), values(3, 2, seed=2)), y=values(2, seed=3))


RULES: dict[str, Make] = {
    "Dense": of(lambda: [L.Dense(5, "gelu"), L.Dense(3, use_bias=False)], 4),
    "Dense on steps": of(lambda: [L.Dense(5, "tanh"), L.Dense(4, "softmax")], 3, 2),
    "Dense on places": of(lambda: [L.Dense(3, "selu")], 3, 2, 4),
    "EinsumDense": of(lambda: [L.EinsumDense("abc,cd->abd", (3, 4), "tanh", bias_axes="d")], 3, 2),
    "EinsumDense of a letter in all terms": of(lambda: [L.EinsumDense("abc,bcd->abd", (3, 4), bias_axes="bd")], 3, 2),
    "EinsumDense with dots": of(lambda: [L.EinsumDense("...x,xy->...y", 4)], 3, 2),
    "EinsumDense with a kernel turned around": of(lambda: [L.EinsumDense("abc,dc->abd", (3, 4), bias_axes="b")], 3, 2),
    "Embedding": of_words(lambda: [L.Embedding(5, 3)], 6),
    "Embedding of tables": of_words(lambda: [L.Embedding(5, 3)], 3, 2),
    "LayerNormalization": of(lambda: [L.LayerNormalization(), L.LayerNormalization(axis=1)], 4, 3),
    "LayerNormalization of two axes": of(lambda: [L.LayerNormalization(axis=[1, 2], scale=False)], 4, 3),
    "LayerNormalization without shift": of(lambda: [L.LayerNormalization(center=False, epsilon=0.1)], 4, 3),
    "GroupNormalization": of(lambda: [L.GroupNormalization(2), L.GroupNormalization(1, scale=False)], 3, 2, 4),
    "GroupNormalization of one channel": of(lambda: [L.GroupNormalization(-1, center=False)], 3, 2, 4),
    "Conv1D": of(lambda: [L.Conv1D(3, 2, activation="tanh"), L.Conv1D(2, 3, strides=2, padding="same")], 7, 2),
    "Conv1D, causal": of(lambda: [L.Conv1D(3, 3, padding="causal", dilation_rate=2)], 7, 2),
    "Conv1D in groups": of(lambda: [L.Conv1D(4, 3, groups=2, use_bias=False)], 7, 4),
    "Conv2D": of(lambda: [L.Conv2D(3, (2, 3), padding="same", activation="elu"), L.Conv2D(2, 3, strides=2)], 6, 5, 2),
    "Conv2D, dilated": of(lambda: [L.Conv2D(3, 2, dilation_rate=(2, 1), padding="same")], 6, 5, 2),
    "Conv2D in groups": of(lambda: [L.Conv2D(4, 2, groups=2)], 4, 4, 2),
    "Conv2D of many channels": of(lambda: [L.Conv2D(20, 3, strides=2)], 5, 5, 20),
    "DepthwiseConv2D": of(lambda: [L.DepthwiseConv2D((2, 3), depth_multiplier=2, activation="tanh")], 4, 5, 2),
    "DepthwiseConv2D, padded": of(lambda: [L.DepthwiseConv2D(2, padding="same", use_bias=False)], 4, 5, 2),
    "LSTM": of(lambda: [L.LSTM(3, return_sequences=True), L.LSTM(2)], 4, 2),
    "LSTM backwards": of(lambda: [L.LSTM(3, return_sequences=True, go_backwards=True)], 4, 2),
    "LSTM with other activations": of(lambda: [L.LSTM(3, "elu", "hard_sigmoid", use_bias=False, unroll=True)], 4, 2),
    "GRU": of(lambda: [L.GRU(3, return_sequences=True), L.GRU(2)], 4, 2),
    "GRU, reset before": of(lambda: [L.GRU(3, reset_after=False, go_backwards=True)], 4, 2),
    "GRU with other activations": of(lambda: [L.GRU(3, "elu", "hard_sigmoid", use_bias=False, unroll=True)], 4, 2),
    "states": states,
}


# --- layers without a rule ---------------------------------------------------------------------------------------


class Own(L.Layer):
    """A layer of a user's own, with a weight that it uses twice."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (shape[-1], shape[-1]))

    def call(self, inputs: Any) -> Any:
        return tf.matmul(tf.tanh(tf.matmul(inputs, self.kernel)), self.kernel)


def tied() -> Case:
    model = Tied()
    model(whole(5, 4))
    return Case(model=filled(model), x=whole(5, 4), y=values(5, seed=3))


def recommender() -> Case:
    model = Recommender()
    model(whole(7, 2))
    return Case(model=filled(model), x=whole(7, 2), y=values(1, seed=3))


def shared() -> Case:
    """One layer on two inputs, and twice in a row; one embedding of two inputs; a model within the model."""
    numbers, words, more = L.Input((3,)), L.Input((4,), dtype="int64"), L.Input((2,), dtype="int64")
    table, twice, inner = L.Embedding(5, 3), L.Dense(3, "tanh"), tf.keras.Sequential([L.Dense(4, "elu"), L.Dense(2)])
    looked = L.Concatenate(axis=1)([table(words), table(more)])
    parts = [twice(twice(numbers)), L.Flatten()(twice(looked)), L.Flatten()(inner(looked)), inner(numbers)]
    model = tf.keras.Model([numbers, words, more], L.Dense(2)(L.Concatenate()(parts)))
    x = values(3), whole(5, 4), whole(5, 2, seed=2)
    return Case(model=filled(model), x=x, y=values(2, seed=3))


def transformer() -> Case:
    """The block of a tutorial, whose dropout draws nothing."""
    block = TransformerBlock()
    block.dropout.rate = 0.0
    return of(lambda: [block], 4, 4)()


def attentive(layer: Callable[[Any, Any], Any]) -> Make:
    """Attention of one sequence to another one."""

    def make() -> Case:
        first, second = L.Input((4, 3)), L.Input((5, 3))
        made = layer(L.Dense(4)(first), L.Dense(4)(second))
        model = tf.keras.Model([first, second], L.Dense(2)(L.Flatten()(made)))
        return Case(model=filled(model), x=(values(4, 3), values(5, 3, seed=2)), y=values(2, seed=3))

    return make


def multi_head(first: Any, second: Any) -> Any:
    return L.MultiHeadAttention(2, 3, value_dim=2)(first, second, use_causal_mask=True)


def beside(layers: Layers, *shape: int) -> Make:
    """Layers without weights side by side, each behind the same layer with some."""

    def make() -> Case:
        given = L.Input(shape)
        hidden = L.Dense(4)(given)
        parts = [L.Flatten()(layer(hidden)) for layer in layers()]
        model = tf.keras.Model(given, L.Dense(2)(L.Concatenate()(parts)))
        return Case(model=filled(model), x=values(*shape), y=values(2, seed=3))

    return make


def merged() -> Case:
    given = L.Input((3,))
    both = [L.Dense(4, "tanh")(given), L.Dense(4)(given)]
    merges = [L.Add(), L.Average(), L.Maximum(), L.Minimum(), L.Multiply(), L.Subtract(), L.Dot(1), L.Concatenate()]
    model = tf.keras.Model(given, L.Dense(2)(L.Concatenate()([merge(both) for merge in merges])))
    return Case(model=filled(model), x=values(3), y=values(2, seed=3))


def flat_layers() -> list[Any]:
    kinds = [L.ELU(), L.LeakyReLU(), L.ReLU(), L.ThresholdedReLU(0.2), L.Softmax(), L.Activation("gelu"), L.Identity()]
    return [*kinds, L.UnitNormalization(), L.Lambda(tf.sin), L.Rescaling(2.0, 1.0), L.RepeatVector(2)]


def step_layers() -> list[Any]:
    pools = [L.AveragePooling1D(), L.MaxPooling1D(), L.GlobalAveragePooling1D(), L.GlobalMaxPooling1D()]
    moves = [L.Cropping1D(1), L.ZeroPadding1D(1), L.UpSampling1D(2), L.Permute((2, 1)), L.Reshape((8, 3))]
    return [*pools, *moves, L.Masking()]


def place_layers() -> list[Any]:
    pools = [L.AveragePooling2D(), L.MaxPooling2D(), L.GlobalAveragePooling2D(), L.GlobalMaxPooling2D()]
    return [*pools, L.Cropping2D(1), L.ZeroPadding2D(1), L.UpSampling2D(2), L.CenterCrop(2, 2), L.Resizing(3, 3)]


def volume_layers() -> list[Any]:
    pools = [L.AveragePooling3D(), L.MaxPooling3D(), L.GlobalAveragePooling3D(), L.GlobalMaxPooling3D()]
    return [*pools, L.Cropping3D(1), L.ZeroPadding3D(1), L.UpSampling3D(2)]


def both_ways(layer: Any, **more: Any) -> list[Any]:
    return [L.Bidirectional(layer, **more)]


NO_RULES: dict[str, Make] = {
    "own": of(lambda: [Own()], 3),
    "shared": shared,
    "block of a transformer": transformer,
    "Attention": attentive(lambda a, b: L.Attention(use_scale=True)([a, b])),
    "Attention by sums": attentive(lambda a, b: L.Attention(score_mode="concat")([a, b])),
    "AdditiveAttention": attentive(lambda a, b: L.AdditiveAttention()([a, b])),
    "MultiHeadAttention": attentive(multi_head),
    "PReLU": of(lambda: [L.PReLU(), L.PReLU(shared_axes=[1])], 3, 2),
    "TimeDistributed": of(lambda: [L.TimeDistributed(L.Dense(3, "tanh"))], 4, 2),
    "TimeDistributed of places": of(lambda: [L.TimeDistributed(L.Conv2D(2, 2))], 3, 3, 3, 2),
    "SeparableConv1D": of(lambda: [L.SeparableConv1D(3, 2, activation="tanh")], 5, 2),
    "SeparableConv2D": of(lambda: [L.SeparableConv2D(3, 2, depth_multiplier=2)], 4, 4, 2),
    "DepthwiseConv1D": of(lambda: [L.DepthwiseConv1D(2, depth_multiplier=2)], 5, 2),
    "Conv3D": of(lambda: [L.Conv3D(2, 2, activation="tanh")], 3, 3, 3, 2),
    "Conv1DTranspose": of(lambda: [L.Conv1DTranspose(3, 2, strides=2)], 4, 2),
    "Conv2DTranspose": of(lambda: [L.Conv2DTranspose(2, 3, padding="same")], 4, 4, 2),
    "Conv3DTranspose": of(lambda: [L.Conv3DTranspose(2, 2)], 2, 2, 2, 2),
    "LocallyConnected1D": of(lambda: [L.LocallyConnected1D(2, 2)], 4, 2),
    "LocallyConnected2D": of(lambda: [L.LocallyConnected2D(2, 2)], 3, 3, 2),
    "SimpleRNN": of(lambda: [L.SimpleRNN(3)], 4, 2),
    "Bidirectional SimpleRNN": of(lambda: both_ways(L.SimpleRNN(3), merge_mode="sum"), 4, 2),
    "Bidirectional LSTM": of(lambda: both_ways(L.LSTM(3, return_sequences=True)), 4, 2),
    "Bidirectional GRU": of(lambda: both_ways(L.GRU(3), backward_layer=L.GRU(2, go_backwards=True)), 4, 2),
    "cell of an RNN": of(lambda: [L.RNN(L.SimpleRNNCell(3), return_sequences=True)], 4, 2),
    "cells in a stack": of(lambda: [L.RNN([L.LSTMCell(3), L.GRUCell(2)])], 3, 2),
    "ConvLSTM1D": of(lambda: [L.ConvLSTM1D(2, 2)], 3, 4, 2),
    "ConvLSTM2D": of(lambda: [L.ConvLSTM2D(2, 2, return_sequences=True)], 3, 3, 3, 1),
    "ConvLSTM3D": of(lambda: [L.ConvLSTM3D(1, 2)], 2, 2, 2, 2, 1),
    "merges": merged,
    "numbers": beside(flat_layers, 3),
    "steps": beside(step_layers, 6, 3),
    "places": beside(place_layers, 4, 4, 3),
    "volumes": beside(volume_layers, 4, 4, 4, 2),
}
LAYERS = {**RULES, **NO_RULES}
# TensorFlow takes seconds to find that their loops have no vectorised form.
LOOPS = {
    *("Bidirectional SimpleRNN", "SimpleRNN", "cell of an RNN", "cells in a stack"),
    *("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
}
# The engine finds that the rules of their layers do not cover them.
WHOLE: dict[str, Make] = {"tied": tied, "recommender": recommender}

# Layers of Keras without a case. A random layer draws other numbers here than in Keras.
BASES = {"AbstractRNNCell", "InputLayer", "InputSpec", "Layer", "Wrapper"}
RANDOM = {
    *("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "RandomBrightness", "RandomContrast", "RandomCrop"),
    *("RandomFlip", "RandomHeight", "RandomRotation", "RandomTranslation", "RandomWidth", "RandomZoom"),
}
INPUTS = {  # of numbers and words, before any weight
    *("CategoryEncoding", "DenseFeatures", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup"),
    *("Normalization", "StringLookup", "TextVectorization"),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "ActivityRegularization": (lambda: L.ActivityRegularization(0.1), "a loss of its own"),
    "BatchNormalization": (L.BatchNormalization, "BatchNormalization"),
    "SpectralNormalization": (lambda: L.SpectralNormalization(L.Dense(2)), "updates variables"),
}


@cache
def made(kind: str) -> Case:
    return LAYERS[kind]()


@pytest.mark.slow_but("Dense", "Conv2D", "Embedding", "LayerNormalization", "EinsumDense")
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_moves_as_in_keras(kind: str) -> None:
    check(made(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*LAYERS, *WHOLE])
def test_a_layer_moves_as_in_keras_by_the_way_that_fit_chooses(kind: str) -> None:
    check({**LAYERS, **WHOLE}[kind](), chosen=True)


def classes_in(model: Any) -> Iterator[type]:
    yield from {type(layer) for layer in model._flatten_layers()}


def test_every_rule_has_a_case() -> None:
    ruled = set()
    for kind in RULES:
        model = made(kind).model
        targets = find_targets(model, model.trainable_variables, memory_cap=MEMORY)
        assert not targets.slow
        ruled |= {type(layer) for layer, _ in targets.rules.values()}
    assert ruled == rules()


def rules() -> set[type]:
    """Layers of Keras with a rule of the project's own; tests register others, also layers of theirs by such a rule."""
    own = {kind for kind, entry in registry._RULES.items() if entry.rule.__module__.startswith("privacy_pipeline.")}
    return {kind for kind in own if kind.__module__.partition(".")[0] == "keras"}


def test_the_guide_names_each_layer_with_a_rule() -> None:
    assert named_in_guide("layer with a clipping rule") == {kind.__name__ for kind in rules()}


def test_every_layer_of_keras_has_a_case_or_a_reason() -> None:
    covered = {kind for name in LAYERS for kind in classes_in(made(name).model)}
    kinds = {kind.__name__: kind for _, kind in inspect.getmembers(L, inspect.isclass)}
    left = {name for name, kind in kinds.items() if kind not in covered}
    assert left - BASES - RANDOM - INPUTS == set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_without_a_case_is_refused(name: str) -> None:
    make, says = REFUSED[name]
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(2), make()])
    with pytest.raises(BadInputError, match=says):
        make_private(model, PLAN, optimizer="sgd", loss="mse")
