"""Canaries: made-up units whose influence on training shows in the result.

White-box: orthogonal canaries, each with a coordinate of its own, so that one step shows all of them at once with the
noise of one coordinate each (Nasr et al. 2023, arXiv 2302.07956; Steinke et al. 2023, arXiv 2305.08846, section 6).
Black-box: rows with random labels, which nothing but their own presence makes a model predict.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

# Length of a canary's gradient before clipping, in clipping norms: far above 1, so that the bound binds, and so far
# that a canary that slips through unclipped stands out of any noise.
SCALE = 1e4


def orthogonal_model(count: int) -> Any:
    """Return a model in which canary number i moves weight i alone: an embedding of one column, zero at the start.

    Args:
        count: number of canaries.

    Returns:
        Keras model from int32 [batch] to float32 [batch, 1].
    """
    number = tf.keras.Input((), dtype="int32")
    own = tf.keras.layers.Embedding(count, 1, embeddings_initializer="zeros", name="canaries")(number)
    return tf.keras.Model(number, own, name="orthogonal_canaries")


def linear_loss(norm: float) -> Any:
    """Return each canary's loss under `orthogonal_model`: its gradient is `SCALE * norm` long for label 1, else 0.

    Descent raises the weight of a canary with label 1. Label 0 is a unit that was zeroed out.

    Args:
        norm: the clipping norm.
    """

    def loss(labels: Any, outputs: Any) -> Any:
        return -SCALE * norm * tf.cast(labels, outputs.dtype)[:, 0] * outputs[:, 0]

    return loss


def coin_flips(count: int) -> NDArray[np.bool_]:
    """Draw which canaries are in: bool [count], each with probability 1/2, from the operating system's entropy."""
    return np.random.default_rng().integers(0, 2, count).astype(bool)


def weighted_loss(loss: Any) -> Any:
    """Return a loss of labels [batch, 2] in which the second column weighs the example: 0 for a unit that was zeroed
    out.

    Args:
        loss: function of (labels [batch, 1], outputs) that gives the loss of each example, [batch].
    """

    def weighted(labels: Any, outputs: Any) -> Any:
        # A zero weight must stop the gradient even of a loss that is not finite.
        return tf.math.multiply_no_nan(loss(labels[:, :1], outputs), labels[:, 1])

    return weighted
