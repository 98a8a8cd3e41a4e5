"""Keras models and engines of `dp_sgd.py`: plain `fit`, this package's engine, TensorFlow Privacy's two."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.dp_sgd_shapes import HEADS, INNER, SEQUENCE, TASKS, VOCABULARY, WIDTH
from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private

_Layers = tf.keras.layers
_WARM_STEPS = 3

# Returns examples a second over a number of steps.
Timed = Callable[[int], float]


def _cnn() -> list[Any]:
    return [
        _Layers.Conv2D(16, 8, strides=2, padding="same", activation="relu", input_shape=(28, 28, 1)),
        _Layers.MaxPool2D(2, 1),
        _Layers.Conv2D(32, 4, strides=2, padding="valid", activation="relu"),
        _Layers.MaxPool2D(2, 1),
        _Layers.Flatten(),
        _Layers.Dense(32, activation="relu"),
        _Layers.Dense(10),
    ]


def _perceptron(width: int, *units: int) -> list[Any]:
    hidden = [_Layers.Dense(size, activation="relu") for size in units[:-1]]
    return [_Layers.InputLayer((width,)), *hidden, _Layers.Dense(units[-1])]


def _transformer() -> Any:
    tokens = _Layers.Input((SEQUENCE,), dtype="int32")
    values = _Layers.Embedding(VOCABULARY, WIDTH)(tokens)
    for _ in range(2):
        attended = _Layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(values, values)
        values = _Layers.LayerNormalization()(values + attended)
        inner = _Layers.Dense(WIDTH)(_Layers.Dense(INNER, activation="relu")(values))
        values = _Layers.LayerNormalization()(values + inner)
    return tf.keras.Model(tokens, _Layers.Dense(10)(_Layers.GlobalAveragePooling1D()(values)))


SEQUENTIAL: dict[str, Callable[[], list[Any]]] = {
    "mnist-cnn": _cnn,
    "mlp": lambda: _perceptron(784, 256, 256, 10),
    "adult": lambda: _perceptron(432, 64, 32, 1),
}


def make_model(name: str) -> Any:
    """Return a fresh model that is not compiled."""
    return tf.keras.Sequential(SEQUENTIAL[name]()) if name in SEQUENTIAL else _transformer()


def make_loss(name: str, reduction: str = "auto") -> Any:
    """Return the loss for a model."""
    losses = tf.keras.losses
    kind = losses.BinaryCrossentropy if TASKS[name].classes == 1 else losses.SparseCategoricalCrossentropy
    return kind(from_logits=True, reduction=reduction)


class Clock(tf.keras.callbacks.Callback):
    """Measures the seconds between the end of the warm-up and the end of the last batch."""

    sets_no_weights = True

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.begin = self.end = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Read the clock."""
        self.seen += 1
        self.end = time.perf_counter()
        if self.seen == _WARM_STEPS:
            self.begin = self.end


def _keras_fit(model: Any, x: Any, y: Any, batch: int) -> Timed:
    def run(steps: int) -> float:
        clock = Clock()
        index = np.arange((steps + _WARM_STEPS) * batch) % len(x)
        model.fit(x[index], y[index], batch_size=batch, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
        return steps * batch / (clock.end - clock.begin)

    return run


def plain(name: str, x: Any, y: Any, batch: int) -> Timed:
    """Return Keras without privacy: batches in order, from memory."""
    model = make_model(name)
    model.compile("sgd", make_loss(name))
    return _keras_fit(model, x, y, batch)


def _ours(name: str, x: Any, y: Any, batch: int, sampling: str) -> Timed:
    model = make_model(name)
    store = ExampleStore.from_arrays(x, y)

    def run(steps: int) -> float:
        plan = PrivacyPlan.calibrated(
            units=len(x),
            expected_batch_size=batch,
            steps=steps + _WARM_STEPS,
            noise_multiplier=1.0,
            delta=1e-5,
            clipping_norm=1.0,
            sampling=sampling,
        )
        clock = Clock()
        # Count expected examples: the drawn numbers are hidden from callers, and over many steps the two agree.
        make_private(model, plan, optimizer="sgd", loss=make_loss(name)).fit(store, callbacks=[clock])
        return steps * batch / (clock.end - clock.begin)

    return run


def ours(name: str, x: Any, y: Any, batch: int) -> Timed:
    """Return the engine of this package: Poisson batches, drawn and fed as in training, noise from ChaCha20."""
    return _ours(name, x, y, batch, "poisson")


def ours_truncated(name: str, x: Any, y: Any, batch: int) -> Timed:
    """Return the same with truncated Poisson batches, padded to one shape."""
    return _ours(name, x, y, batch, "truncated_poisson")


def tfp_sequential(name: str, x: Any, y: Any, batch: int) -> Timed:
    """Return DPSequential as in TensorFlow Privacy's tutorial, without a layer registry."""
    from tensorflow_privacy import DPSequential

    model = DPSequential(l2_norm_clip=1.0, noise_multiplier=1.0, num_microbatches=batch, layers=SEQUENTIAL[name]())
    model.compile("sgd", make_loss(name, "none"))
    return _keras_fit(model, x, y, batch)


def tfp_vectorized(name: str, x: Any, y: Any, batch: int) -> Timed:
    """Return TensorFlow Privacy's vectorised optimizer."""
    from tensorflow_privacy import VectorizedDPKerasSGDOptimizer

    model = make_model(name)
    optimizer = VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=1.0, noise_multiplier=1.0, num_microbatches=batch, learning_rate=0.01
    )
    model.compile(optimizer, make_loss(name, "none"))
    return _keras_fit(model, x, y, batch)


ENGINES: dict[str, Callable[[str, Any, Any, int], Timed]] = {
    "plain Keras": plain,
    "ours": ours,
    "ours, truncated": ours_truncated,
    "TF Privacy DPSequential": tfp_sequential,
    "TF Privacy vectorized": tfp_vectorized,
}
