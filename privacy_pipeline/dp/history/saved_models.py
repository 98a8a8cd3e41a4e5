"""Saves a model with its privacy history inside, and takes it up on load: on another machine too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.history import saved_history
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.history.history_store import digest_of, remember
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.literal_paths import literal

_DIGEST = "weights"


def load_model(path: Path | str, **keras: Any) -> Any:
    """Return a Keras model, as `tf.keras.models.load_model` loads it; the next `make_private` finds its privacy
    history.

    Args:
        path: what `PrivateModel.save` wrote. A model without a history is loaded too; `make_private` asks for it.
        keras: other arguments of `tf.keras.models.load_model`.

    Raises:
        BadInputError: the history in the file is damaged, or that of other weights.
    """
    model = tf.keras.models.load_model(_readable(path), **keras)
    _take_up(model, Path(path))
    return model


def load_weights(model: Any, path: Path | str) -> None:
    """Put saved weights into a model; the next `make_private` finds their privacy history.

    Args:
        model: built Keras model.
        path: what `PrivateModel.save_weights` wrote.

    Raises:
        BadInputError: the history in the file is damaged, or that of other weights.
    """
    model.load_weights(_readable(path))
    _take_up(model, Path(path))


def save_history(model: Any, path: Path | str, history: PrivacyHistory) -> None:
    """Put a history, bound to the model's weights, into what Keras has just written to `path`.

    Raises:
        BadInputError: the file cannot be written.
    """
    bound = {_DIGEST: digest_of(model.weights), **history.to_json()}
    saved_history.write(Path(path), json.dumps(bound, indent=1) + "\n")


def _readable(path: Path | str) -> Path | str:
    """Return the path as TensorFlow reads it; what is not on this machine's disk stays as it is."""
    return path if "://" in str(path) else str(literal(Path(path)))


def _take_up(model: Any, path: Path) -> None:
    text = saved_history.read(path)
    if text is None:
        return
    history, digest = PrivacyHistory.load(path), digest_of(model.weights)
    if json_value(text).get(_DIGEST, digest) != digest:
        raise BadInputError(
            f"{path}: the privacy history in it is that of other weights",
            fix="load it with tf.keras, and give make_private what is known of these weights as `history`",
        )
    remember(digest, history)
