"""Models of the tutorials of Opacus and of TensorFlow Privacy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tests.dp.tutorials.kit import SPARSE, Lesson, classified, whole, worded

L, K = tf.keras.layers, tf.keras.callbacks


def basic_block(x: Any, filters: int, stride: int) -> Any:
    y = L.GroupNormalization(2)(L.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x))
    y = L.GroupNormalization(2)(L.Conv2D(filters, 3, padding="same", use_bias=False)(L.ReLU()(y)))
    if stride != 1:
        x = L.GroupNormalization(2)(L.Conv2D(filters, 1, stride, use_bias=False)(x))
    return L.ReLU()(L.add([x, y]))


def resnet() -> Any:
    given = tf.keras.Input((8, 8, 3))
    x = L.ReLU()(L.GroupNormalization(2)(L.Conv2D(4, 3, padding="same", use_bias=False)(given)))
    x = basic_block(basic_block(x, 4, 1), 8, 2)
    return tf.keras.Model(given, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def tanh_cnn() -> Any:
    layers: list[Any] = [L.Input((12, 12, 1)), L.Conv2D(4, 8, 2, padding="same", activation="tanh"), L.MaxPool2D(2, 1)]
    layers += [L.Conv2D(4, 4, 2, activation="tanh"), L.MaxPool2D(1, 1), L.Flatten(), L.Dense(4, "tanh"), L.Dense(3)]
    return tf.keras.Sequential(layers)


def words() -> Any:
    layers = [L.Embedding(20, 4), L.GlobalAveragePooling1D(), L.Dense(4, "relu"), L.Dense(2)]
    return tf.keras.Sequential([L.Input((6,), dtype="int64"), *layers])


def names() -> Any:
    layers = [L.Embedding(20, 4, mask_zero=True), L.LSTM(4), L.Dense(3)]
    return tf.keras.Sequential([L.Input((6,), dtype="int64"), *layers])


class LowRank(L.Layer):
    """A frozen product with a low-rank one beside it that trains (Hu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.down, self.up = L.Dense(4, trainable=False), L.Dense(1, use_bias=False), L.Dense(4)

    def call(self, x: Any) -> Any:
        return self.frozen(x) + self.up(self.down(x))


def low_rank() -> Any:
    given = tf.keras.Input((6,), dtype="int64")
    x = LowRank()(L.Embedding(20, 4, trainable=False)(given))
    return tf.keras.Model(given, L.Dense(2)(L.GlobalAveragePooling1D()(L.Activation("gelu")(x))))


def language_model() -> Any:
    layers = [L.Embedding(20, 4), L.LSTM(4, return_sequences=True), L.Dense(20)]
    return tf.keras.Sequential([L.Input((6,), dtype="int64"), *layers])


PEERS = (
    Lesson(source="Opacus", name="CIFAR-10 with a ResNet", make=resnet, loss=SPARSE, data=classified(3, 8, 8, 3)),
    Lesson(source="Opacus", name="text classification on IMDB", make=words, loss=SPARSE, data=worded(20, 6, 2)),
    Lesson(source="Opacus", name="names by characters, an LSTM", make=names, loss=SPARSE, data=worded(20, 6, 3)),
    Lesson(source="Opacus", name="fine-tuning with low-rank layers", make=low_rank, loss=SPARSE, data=worded(20, 6, 2)),
    Lesson(
        source="TensorFlow Privacy",
        name="classification on MNIST",
        make=tanh_cnn,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none"),
        data=classified(3, 12, 12, 1),
    ),
    Lesson(
        source="TensorFlow Privacy",
        name="logistic regression on MNIST",
        make=lambda: tf.keras.Sequential([L.Input((6,)), L.Dense(3)]),
        loss=SPARSE,
        data=classified(3, 6),
    ),
    Lesson(
        source="TensorFlow Privacy",
        name="language model with an LSTM",
        make=language_model,
        loss=SPARSE,
        data=lambda: (whole(20, 6), whole(20, 6)),
    ),
)
