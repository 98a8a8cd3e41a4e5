"""Train a network on handwritten digits with differential privacy, without a pipeline.

The privacy unit is one image. Accuracy is measured on images that take no part in the guarantee: they count as public.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from privacy_pipeline.dp import PrivacyPlan, make_private


def main() -> None:
    """Train, and print what is guaranteed and how good the model is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--epochs", type=float, default=40.0)
    asked = parser.parse_args()

    digits = load_digits()
    images, labels = (digits.images[..., None] / 16).astype(np.float32), digits.target
    x, y, public_x, public_y = images[:1400], labels[:1400], images[1400:], labels[1400:]

    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="tanh"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    plan = PrivacyPlan.calibrated(
        units=len(x),
        expected_batch_size=350,
        epochs=asked.epochs,
        epsilon=asked.epsilon,
        delta=1e-5,
        clipping_norm=1.0,
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    execution = make_private(model, plan, optimizer=tf.keras.optimizers.Adam(0.01), loss=loss).fit(x, y)
    accuracy = float(np.mean(np.argmax(model.predict(public_x, verbose=0), axis=-1) == public_y))
    print(execution)
    print(f"accuracy on public images: {accuracy:.3f}")


if __name__ == "__main__":
    main()
