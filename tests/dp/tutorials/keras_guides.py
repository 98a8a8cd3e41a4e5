"""Models of the guides and code examples of Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.dp.tutorials.kit import (
    BINARY,
    ROWS,
    SLOWER,
    SPARSE,
    Lesson,
    binary,
    classified,
    floats,
    generator,
    whole,
    worded,
)

L, K = tf.keras.layers, tf.keras.callbacks


def sequential() -> Any:
    return tf.keras.Sequential([L.Input((6,)), L.Dense(8, "relu"), L.Dropout(0.2), L.Dense(3)])


def convnet() -> Any:
    layers = [L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dropout(0.5), L.Dense(3)]
    return tf.keras.Sequential([L.Input((8, 8, 1)), *layers])


def toy_resnet() -> Any:
    given = tf.keras.Input((8, 8, 3))
    first = L.MaxPooling2D(2)(L.Conv2D(4, 3, activation="relu")(given))
    x = L.Conv2D(4, 3, activation="relu", padding="same")(first)
    x = L.add([L.Conv2D(4, 3, activation="relu", padding="same")(x), first])
    return tf.keras.Model(given, L.Dense(3)(L.Dropout(0.5)(L.GlobalAveragePooling2D()(x))))


def tickets() -> Any:
    title, body = tf.keras.Input((5,), dtype="int64", name="title"), tf.keras.Input((7,), dtype="int64", name="body")
    tags = tf.keras.Input((4,), name="tags")
    parts = [L.LSTM(4)(L.Embedding(20, 3)(title)), L.LSTM(3)(L.Embedding(20, 3)(body)), tags]
    joined = L.concatenate(parts)
    outputs = {"priority": L.Dense(1, name="priority")(joined), "department": L.Dense(3, name="department")(joined)}
    return tf.keras.Model({"title": title, "body": body, "tags": tags}, outputs)


def ticket_data() -> tuple[Any, Any]:
    x = {"title": whole(20, 5), "body": whole(20, 7), "tags": floats(4)}
    return x, {"priority": whole(2, 1).astype(np.float32), "department": whole(3)}


def bidirectional() -> Any:
    layers = [L.Embedding(20, 4), L.Bidirectional(L.LSTM(3, return_sequences=True)), L.Bidirectional(L.LSTM(3))]
    return tf.keras.Sequential([L.Input((6,), dtype="int64"), *layers, L.Dense(1)])


class TransformerBlock(L.Layer):
    """Attention and a feed-forward part, each with a shortcut and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.forward = L.MultiHeadAttention(2, 4), tf.keras.Sequential([L.Dense(8, "relu"), L.Dense(4)])
        self.first, self.second = L.LayerNormalization(epsilon=1e-6), L.LayerNormalization(epsilon=1e-6)
        self.dropout = L.Dropout(0.1)

    def call(self, x: Any, training: Any = None) -> Any:
        x = self.first(x + self.dropout(self.attention(x, x), training=training))
        return self.second(x + self.dropout(self.forward(x), training=training))


class TokenAndPosition(L.Layer):
    """Ids to vectors, plus the vector of their position."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = L.Embedding(20, 4), L.Embedding(6, 4)

    def call(self, x: Any) -> Any:
        return self.tokens(x) + self.positions(tf.range(6))


def transformer() -> Any:
    given = tf.keras.Input((6,), dtype="int64")
    pooled = L.GlobalAveragePooling1D()(TransformerBlock()(TokenAndPosition()(given)))
    return tf.keras.Model(given, L.Dense(2)(L.Dropout(0.1)(pooled)))


def words_conv() -> Any:
    layers = [L.Embedding(20, 4), L.Dropout(0.5), L.Conv1D(4, 3, activation="relu"), L.GlobalMaxPooling1D()]
    return tf.keras.Sequential([L.Input((8,), dtype="int64"), *layers, L.Dense(4, "relu"), L.Dense(1)])


def xception(normal: Any) -> Any:
    given = tf.keras.Input((8, 8, 3))
    x = L.RandomRotation(0.1)(L.RandomFlip("horizontal")(given))
    x = L.Activation("relu")(normal()(L.Conv2D(4, 3, strides=2, padding="same")(L.Rescaling(1 / 255.0)(x))))
    inner = normal()(L.SeparableConv2D(4, 3, padding="same")(x))
    x = L.add([L.MaxPooling2D(3, strides=1, padding="same")(inner), L.Conv2D(4, 1, padding="same")(x)])
    return tf.keras.Model(given, L.Dense(1)(L.Dropout(0.25)(L.GlobalAveragePooling2D()(x))))


def unet() -> Any:
    given = tf.keras.Input((8, 8, 1))
    down = L.Conv2D(4, 3, padding="same", activation="relu")(given)
    low = L.SeparableConv2D(4, 3, padding="same", activation="relu")(L.MaxPooling2D(2)(down))
    up = L.UpSampling2D(2)(L.Conv2DTranspose(4, 3, padding="same", activation="relu")(low))
    return tf.keras.Model(given, L.Conv2D(2, 1)(L.concatenate([up, down])))


def structured(normal: Any, *, text: bool = False) -> Any:
    age, kind = tf.keras.Input((1,), name="age"), tf.keras.Input((1,), dtype="string" if text else "int64", name="kind")
    number = L.StringLookup(vocabulary=["a", "b", "c"])(kind) if text else kind
    coded = L.CategoryEncoding(4, output_mode="one_hot")(number)
    hidden = L.Dense(8, "relu")(L.concatenate([normal()(age), coded]))
    return tf.keras.Model({"age": age, "kind": kind}, L.Dense(1)(L.Dropout(0.5)(hidden)))


def structured_data(*, text: bool = False) -> tuple[Any, Any]:
    kinds = whole(4, 1)
    found = np.array(["a", "b", "c", "?"])[kinds] if text else kinds
    return {"age": floats(1), "kind": found}, whole(2, 1).astype(np.float32)


def public() -> Any:
    return L.Normalization(axis=None, mean=0.0, variance=1.0)


def adapted() -> Any:
    layer = L.Normalization(axis=None)
    layer.adapt(floats(1))
    return layer


class Autoencoder(tf.keras.Model):  # type: ignore[misc]
    """Encoder and decoder of a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tf.keras.Sequential([L.Dense(2, "relu")])
        self.decoder = tf.keras.Sequential([L.Dense(6, "sigmoid")])

    def call(self, x: Any) -> Any:
        return self.decoder(self.encoder(x))


def built(model: Any, *shape: int) -> Any:
    model.build((None, *shape))
    return model


class VariationalAutoencoder(Autoencoder):
    """Stands for the guide's model, which has a `train_step` of its own."""

    def train_step(self, data: Any) -> Any:
        raise AssertionError("private training refuses the model before it would run this")


class Recommender(tf.keras.Model):  # type: ignore[misc]
    """Dot products of users' and films' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.films = L.Embedding(9, 3), L.Embedding(7, 3)
        self.user_bias, self.film_bias = L.Embedding(9, 1), L.Embedding(7, 1)

    def call(self, x: Any) -> Any:
        match = tf.reduce_sum(self.users(x[:, 0]) * self.films(x[:, 1]), axis=1, keepdims=True)
        return match + self.user_bias(x[:, 0]) + self.film_bias(x[:, 1])


def wide_and_deep() -> Any:
    given = tf.keras.Input((6,))
    deep = L.Dense(4, "relu")(L.Dense(8, "relu")(given))
    return tf.keras.Model(given, L.Dense(1)(L.concatenate([given, deep])))


def siamese() -> Any:
    left, right = tf.keras.Input((6,), name="left"), tf.keras.Input((6,), name="right")
    tower = tf.keras.Sequential([L.Dense(8, "tanh"), L.Dense(3)])
    distance = L.Lambda(lambda both: tf.norm(both[0] - both[1] + 1e-6, axis=1, keepdims=True))
    return tf.keras.Model([left, right], distance([tower(left), tower(right)]))


def contrastive(labels: Any, distances: Any) -> Any:
    near, far = tf.square(distances), tf.square(tf.maximum(1.0 - distances, 0.0))
    return tf.reduce_mean((1.0 - labels) * near + labels * far, axis=-1)


class ActivityRegularization(L.Layer):
    """The layer by which a guide shows `add_loss`."""

    def call(self, x: Any) -> Any:
        self.add_loss(1e-2 * tf.reduce_sum(x))
        return x


def transfer() -> Any:
    base = tf.keras.Sequential([L.Input((8, 8, 3)), L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D()])
    base.trainable = False
    given = tf.keras.Input((8, 8, 3))
    return tf.keras.Model(given, L.Dense(1)(L.Dropout(0.2)(base(given, training=False))))


def schedule(epoch: int, rate: float) -> float:
    return rate if epoch < 1 else rate * 0.5


GUIDES = (
    Lesson(
        source="Keras",
        name="the Sequential model",
        make=sequential,
        loss=SPARSE,
        data=classified(3, 6),
        callbacks=lambda folder: [K.EarlyStopping("val_loss", patience=2), K.TensorBoard(folder)],
    ),
    Lesson(
        source="Keras",
        name="simple convnet on MNIST",
        make=convnet,
        loss=SPARSE,
        data=classified(3, 8, 8, 1),
        callbacks=lambda folder: [K.ModelCheckpoint(f"{folder}/best.keras", save_best_only=True)],
    ),
    Lesson(source="Keras", name="toy ResNet", make=toy_resnet, loss=SPARSE, data=classified(3, 8, 8, 3)),
    Lesson(
        source="Keras",
        name="tickets: three inputs, two outputs",
        make=tickets,
        loss={"priority": BINARY, "department": SPARSE},
        data=ticket_data,
    ),
    Lesson(
        source="Keras",
        name="bidirectional LSTM on IMDB",
        make=bidirectional,
        loss=BINARY,
        data=binary(worded(20, 6, 2)),
    ),
    Lesson(
        source="Keras",
        name="text classification with a transformer",
        make=transformer,
        loss=SPARSE,
        data=worded(20, 6, 2),
        outcome=SLOWER,
    ),
    Lesson(source="Keras", name="1D convnet on words", make=words_conv, loss=BINARY, data=binary(worded(20, 8, 2))),
    Lesson(
        source="Keras",
        name="image classification from scratch",
        make=lambda: xception(L.BatchNormalization),
        loss=BINARY,
        data=binary(classified(2, 8, 8, 3)),
        outcome="layer 'batch_normalization",
        why="BatchNormalization mixes examples; `validate(model, fix=True)` puts GroupNormalization in its place",
    ),
    Lesson(
        source="Keras",
        name="the same with GroupNormalization",
        make=lambda: xception(lambda: L.GroupNormalization(2)),
        loss=BINARY,
        data=binary(classified(2, 8, 8, 3)),
        outcome=SLOWER,
    ),
    Lesson(
        source="Keras",
        name="U-net for segmentation",
        make=unet,
        loss=SPARSE,
        data=lambda: (floats(8, 8, 1), whole(2, 8, 8)),
        outcome=SLOWER,
    ),
    Lesson(
        source="Keras",
        name="structured data, adapted layers",
        make=lambda: structured(adapted),
        loss=BINARY,
        data=structured_data,
        outcome="layer 'normalization",
        why="`adapt` read private rows without noise; give public means, or those of a charged release",
    ),
    Lesson(
        source="Keras",
        name="structured data, strings",
        make=lambda: structured(public, text=True),
        loss=BINARY,
        data=lambda: structured_data(text=True),
        outcome="'x.kind' holds values of type",
        why="the example store holds numbers; look strings up before `fit`, in a public vocabulary",
    ),
    Lesson(
        source="Keras",
        name="structured data, public means and numbers of categories",
        make=lambda: structured(public),
        loss=BINARY,
        data=structured_data,
    ),
    Lesson(
        source="Keras",
        name="autoencoder, a subclass",
        make=lambda: built(Autoencoder(), 6),
        loss="mse",
        data=lambda: (floats(6), floats(6)),
    ),
    Lesson(
        source="Keras",
        name="variational autoencoder",
        make=lambda: built(VariationalAutoencoder(), 6),
        loss="mse",
        data=lambda: (floats(6), floats(6)),
        outcome="model 'variational_autoencoder",
        why="its own `train_step` would not run; put its losses into one loss of the outputs",
    ),
    Lesson(
        source="Keras",
        name="collaborative filtering",
        make=lambda: built(Recommender(), 2),
        loss="mse",
        data=lambda: (np.stack([whole(9), whole(7)], 1), generator().uniform(0, 1, (ROWS, 1)).astype(np.float32)),
        callbacks=lambda folder: [K.CSVLogger(f"{folder}/log.csv"), K.TerminateOnNaN()],
        more={"history": "public"},
        why='with `history="public"`, since weights without a bias do not show that they are new',
    ),
    Lesson(
        source="Keras",
        name="wide and deep",
        make=wide_and_deep,
        loss="mse",
        data=lambda: (floats(6), floats(1)),
        callbacks=lambda folder: [K.LearningRateScheduler(schedule)],
    ),
    Lesson(
        source="Keras",
        name="Siamese network, contrastive loss",
        make=siamese,
        loss=contrastive,
        data=lambda: ({"left": floats(6), "right": floats(6)[::-1].copy()}, whole(2, 1).astype(np.float32)),
    ),
    Lesson(
        source="Keras",
        name="timeseries with an LSTM",
        make=lambda: tf.keras.Sequential([L.Input((6, 2)), L.LSTM(4), L.Dense(1)]),
        loss="mse",
        data=lambda: (floats(6, 2), floats(1)),
        callbacks=lambda folder: [K.ReduceLROnPlateau("val_loss", patience=1)],
    ),
    Lesson(
        source="Keras",
        name="layers with `add_loss`",
        make=lambda: tf.keras.Sequential([L.Input((6,)), L.Dense(4), ActivityRegularization(), L.Dense(3)]),
        loss=SPARSE,
        data=classified(3, 6),
        outcome="layer 'activity_regularization",
        why="it sums over the batch; a loss of the outputs can hold such a term, one number an example",
    ),
    Lesson(
        source="Keras",
        name="transfer learning, a frozen base",
        make=transfer,
        loss=BINARY,
        data=binary(classified(2, 8, 8, 3)),
    ),
)
