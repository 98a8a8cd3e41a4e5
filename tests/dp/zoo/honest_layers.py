"""Honest models of Keras layers: none mixes rows, so each should train, and the fast way."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.dp.zoo.kit import ROWS, WIDTH, Made, Zoo, adds_to, between, normal, targets, whole

L = tf.keras.layers
ZOO: Zoo = {}
honest = adds_to(ZOO)


def of_sequence(*layers: Any, steps: int = 5, width: int = 3) -> Made:
    """Layers on a sequence of numbers."""
    model = tf.keras.Sequential([L.Input((steps, width)), *layers, L.Flatten(), L.Dense(1)])
    return Made(model, normal(steps, width), targets())


def of_image(*layers: Any, side: int = 4, channels: int = 2) -> Made:
    model = tf.keras.Sequential([L.Input((side, side, channels)), *layers, L.Flatten(), L.Dense(1)])
    return Made(model, normal(side, side, channels), targets())


def of_tokens(*layers: Any, steps: int = 4, high: int = 6) -> Made:
    """Layers on token ids; 0 is padding, and no row is padding alone."""
    x = whole(high, steps)
    x[:, 0] = 1 + x[:, 0] % (high - 1)
    model = tf.keras.Sequential([L.Input((steps,), dtype=tf.int32), *layers, L.Dense(1)])
    return Made(model, x, targets(), high=high)


@honest
def perceptron() -> Made:
    return between([L.Dense(5, "relu"), L.Dense(3, "gelu")])


@honest
def residual_perceptron() -> Made:
    given = L.Input((WIDTH,))
    found = L.Dense(WIDTH, "relu")(given)
    for _ in range(2):
        found = L.Add()([found, L.Dense(WIDTH, "tanh")(L.LayerNormalization()(found))])
    return Made(tf.keras.Model(given, L.Dense(1)(found)), normal(WIDTH), targets())


@honest
def lstm() -> Made:
    return of_sequence(L.LSTM(2))


@honest
def gru() -> Made:
    return of_sequence(L.GRU(2, return_sequences=True))


@honest
def simple_rnn() -> Made:
    return of_sequence(L.SimpleRNN(3))


@honest
def bidirectional_lstm() -> Made:
    return of_sequence(L.Bidirectional(L.LSTM(2)))


@honest
def masked_lstm() -> Made:
    return of_tokens(L.Embedding(6, 2, mask_zero=True), L.LSTM(2))


@honest
def masked_numbers() -> Made:
    made = of_sequence(L.Masking(0.0), L.GRU(2))
    made.x[::2, 3:] = 0.0
    return made


@honest
def transformer_block() -> Made:
    given = L.Input((4, 4))
    found = L.Add()([given, L.MultiHeadAttention(2, 2)(given, given)])
    found = L.LayerNormalization()(found)
    found = L.LayerNormalization()(L.Add()([found, L.Dense(4)(L.Dense(6, "relu")(found))]))
    return Made(tf.keras.Model(given, L.Dense(1)(L.GlobalAveragePooling1D()(found))), normal(4, 4), targets())


@honest
def causal_attention() -> Made:
    given = L.Input((4, 3))
    found = L.MultiHeadAttention(1, 3)(given, given, use_causal_mask=True)
    return Made(tf.keras.Model(given, L.Dense(1)(L.Flatten()(found))), normal(4, 3), targets())


@honest
def attention_layer() -> Made:
    given = L.Input((4, 3))
    found = L.Attention()([L.Dense(3)(given), L.Dense(3)(given)])
    return Made(tf.keras.Model(given, L.Dense(1)(L.Flatten()(found))), normal(4, 3), targets())


@honest
def u_net() -> Made:
    given = L.Input((4, 4, 1))
    first = L.Conv2D(2, 3, padding="same", activation="relu")(given)
    low = L.Conv2D(3, 3, padding="same", activation="relu")(L.MaxPooling2D(2)(first))
    lower = L.UpSampling2D(2)(L.Conv2D(2, 1)(L.AveragePooling2D(2)(low)))
    up = L.Conv2DTranspose(2, 2, strides=2)(L.Concatenate()([low, lower]))
    found = L.Conv2D(1, 1)(L.Concatenate()([first, up]))
    return Made(tf.keras.Model(given, found), normal(4, 4, 1), normal(4, 4, 1, seed=3))


@honest
def residual_block() -> Made:
    given = L.Input((4, 4, 2))
    found = L.ReLU()(L.GroupNormalization(2)(L.Conv2D(4, 3, padding="same", use_bias=False)(given)))
    found = L.GroupNormalization(2)(L.Conv2D(4, 3, padding="same", use_bias=False)(found))
    found = L.ReLU()(L.Add()([L.Conv2D(4, 1)(given), found]))
    return Made(tf.keras.Model(given, L.Dense(1)(L.GlobalAveragePooling2D()(found))), normal(4, 4, 2), targets())


@honest
def depthwise() -> Made:
    return of_image(L.DepthwiseConv2D(2, depth_multiplier=2))


@honest
def separable() -> Made:
    return of_image(L.SeparableConv2D(3, 2, padding="same"))


@honest
def grouped_and_strided() -> Made:
    return of_image(L.Conv2D(4, 2, strides=2, groups=2, activation="elu"))


@honest
def dilated_image() -> Made:
    return of_image(L.Conv2D(2, 2, dilation_rate=2, padding="same"))


@honest
def causal_convolution() -> Made:
    return of_sequence(L.Conv1D(2, 2, padding="causal", activation="relu"))


@honest
def dilated_convolution() -> Made:
    """Dilation may become space_to_batch, which puts parts of a row into rows of their own and back."""
    return of_sequence(L.Conv1D(2, 2, dilation_rate=2, padding="causal"))


@honest
def volume() -> Made:
    model = tf.keras.Sequential([L.Input((3, 3, 3, 1)), L.Conv3D(2, 2), L.GlobalMaxPooling3D(), L.Dense(1)])
    return Made(model, normal(3, 3, 3, 1), targets())


@honest
def pooling_and_padding() -> Made:
    return of_image(L.ZeroPadding2D(1), L.MaxPooling2D(2), L.Cropping2D(1), L.Conv2D(2, 1), side=6)


@honest
def layer_normalization() -> Made:
    return between([L.LayerNormalization(), L.Dense(3)])


@honest
def group_normalization() -> Made:
    return of_image(L.Conv2D(4, 1), L.GroupNormalization(2))


@honest
def unit_normalization() -> Made:
    return between([L.UnitNormalization(), L.Dense(3, "tanh")])


@honest
def frozen_batch_normalization() -> Made:
    return between([L.BatchNormalization(trainable=False), L.Dense(3)])


@honest
def public_normalization() -> Made:
    given = [L.Input((WIDTH,)), L.Normalization(mean=0.5, variance=2.0), L.Dense(1)]
    return Made(tf.keras.Sequential(given), normal(WIDTH), targets())


@honest
def parametric_relu() -> Made:
    return between([L.PReLU(), L.LeakyReLU(), L.Dense(2), L.ThresholdedReLU(0.1)])


@honest
def softmax_head() -> Made:
    model = tf.keras.Sequential([L.Input((WIDTH,)), L.Dense(3, "softmax")])
    labels = (np.arange(ROWS) % 3).astype(np.int32)
    return Made(model, normal(WIDTH), labels, "sparse_categorical_crossentropy", classes=3)


@honest
def cosine_of_two_inputs() -> Made:
    a, b = L.Input((3,), name="a"), L.Input((3,), name="b")
    near = L.Dot(1, normalize=True)([L.Dense(2)(a), L.Dense(2)(b)])
    return Made(tf.keras.Model({"a": a, "b": b}, L.Dense(1)(near)), {"a": normal(3), "b": normal(3, seed=1)}, targets())


@honest
def several_inputs_and_outputs() -> Made:
    a, b = L.Input((3,), name="a"), L.Input((2,), dtype=tf.int32, name="b")
    found = L.Concatenate()([L.Dense(3, "relu")(a), L.Flatten()(L.Embedding(5, 2)(b))])
    model = tf.keras.Model({"a": a, "b": b}, {"one": L.Dense(1)(found), "two": L.Dense(3)(found)})
    labels = {"one": targets(), "two": normal(3, seed=4)}
    return Made(model, {"a": normal(3), "b": whole(5, 2)}, labels, {"one": "mse", "two": "mae"}, high=5)


@honest
def shared_layers() -> Made:
    a, b = L.Input((3,)), L.Input((3,))
    shared = L.Dense(3, "tanh")
    found = L.Concatenate()([shared(a), shared(b), shared(shared(a))])
    return Made(tf.keras.Model([a, b], L.Dense(1)(found)), (normal(3), normal(3, seed=1)), targets())


@honest
def nested_models() -> Made:
    inner = tf.keras.Sequential([L.Input((WIDTH,)), L.Dense(3, "relu"), L.Dense(WIDTH)])
    return between([inner, inner])


@honest
def time_distributed() -> Made:
    return of_sequence(L.TimeDistributed(L.Dense(2, "relu")))


@honest
def time_distributed_convolution() -> Made:
    layers = [L.Input((2, 4, 4, 1)), L.TimeDistributed(L.Conv2D(2, 2)), L.Flatten(), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), normal(2, 4, 4, 1), targets())


@honest
def embedding_bag() -> Made:
    return of_tokens(L.Embedding(6, 3, mask_zero=True), L.GlobalAveragePooling1D())


@honest
def merges() -> Made:
    given = L.Input((WIDTH,))
    a, b = L.Dense(3)(given), L.Dense(3, "sigmoid")(given)
    found = L.Concatenate()([L.Multiply()([a, b]), L.Maximum()([a, b]), L.Average()([a, b]), L.Subtract()([a, b])])
    return Made(tf.keras.Model(given, L.Dense(1)(found)), normal(WIDTH), targets())


@honest
def reshaped_and_permuted() -> Made:
    return between([L.Reshape((2, 2)), L.Permute((2, 1)), L.Dense(2), L.Flatten()])


@honest
def repeated_vector() -> Made:
    return between([L.RepeatVector(3), L.Conv1D(2, 2), L.Flatten()])


# --- random in training ------------------------------------------------------------------------------------------


@honest(random=True)
def dropout() -> Made:
    return between([L.Dropout(0.5), L.Dense(3)])


@honest(random=True)
def gaussian_noise() -> Made:
    return between([L.GaussianNoise(0.3), L.Dense(3)])


@honest(random=True)
def gaussian_and_alpha_dropout() -> Made:
    return between([L.GaussianDropout(0.3), L.Dense(3, "selu"), L.AlphaDropout(0.3)])


@honest(random=True)
def spatial_dropout() -> Made:
    return of_sequence(L.Conv1D(4, 2), L.SpatialDropout1D(0.5))


@honest(random=True)
def lstm_with_dropout() -> Made:
    return of_sequence(L.LSTM(2, dropout=0.3))


class _Sampling(L.Layer):  # type: ignore[misc]
    """The sampling of a variational autoencoder, as Keras' own example has it; it draws in inference mode too."""

    def call(self, inputs: Any) -> Any:
        mean, spread = inputs
        return mean + tf.exp(0.5 * spread) * tf.keras.backend.random_normal(tf.shape(mean))


@honest(random=True)
def variational_autoencoder() -> Made:
    inputs = L.Input([WIDTH])
    hidden = L.Dense(8, "relu")(inputs)
    drawn = _Sampling()([L.Dense(2)(hidden), L.Dense(2)(hidden)])
    model = tf.keras.Model(inputs, L.Dense(WIDTH)(L.Dense(8, "relu")(drawn)))
    return Made(model, normal(WIDTH), targets(WIDTH))


# --- preprocessing -----------------------------------------------------------------------------------------------

WORDS = ("red", "green", "blue", "", "no such word")


def _words() -> Any:
    return np.array([WORDS[place % 4] for place in range(ROWS)], object)[:, None]


def of_words(*layers: Any) -> Made:
    model = tf.keras.Sequential([L.Input((1,), dtype=tf.string), *layers, L.Flatten(), L.Dense(1)])
    return Made(model, _words(), targets(), words=WORDS)


@honest(fast=False)
def string_lookup() -> Made:
    return of_words(L.StringLookup(vocabulary=["red", "green", "blue"]), L.Embedding(4, 2))


@honest(fast=False)
def hashing() -> Made:
    return of_words(L.Hashing(5), L.Embedding(5, 2))


@honest(fast=False)
def integer_lookup() -> Made:
    layers = [L.Input((2,), dtype=tf.int64), L.IntegerLookup(vocabulary=[3, 5, 7]), L.Embedding(4, 2)]
    model = tf.keras.Sequential([*layers, L.Flatten(), L.Dense(1)])
    return Made(model, whole(9, 2).astype(np.int64), targets(), high=9)


@honest
def discretization() -> Made:
    layers = [L.Input((2,)), L.Discretization(bin_boundaries=[-0.5, 0.0, 0.5]), L.Embedding(4, 2), L.Flatten()]
    return Made(tf.keras.Sequential([*layers, L.Dense(1)]), normal(2), targets())


@honest
def one_hot_encoding() -> Made:
    layers = [L.Input((1,), dtype=tf.int32), L.CategoryEncoding(4, output_mode="one_hot"), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), whole(4, 1), targets(), high=4)


@honest
def multi_hot_encoding() -> Made:
    layers = [L.Input((3,), dtype=tf.int32), L.CategoryEncoding(5, output_mode="multi_hot"), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), whole(5, 3), targets(), high=5)


@honest
def rescaled_image() -> Made:
    return of_image(L.Rescaling(2.0, offset=-1.0), L.CenterCrop(2, 2), L.Conv2D(2, 2))
