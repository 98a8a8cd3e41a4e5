"""Keep the privacy histories of weights by the digest of the weights: in this process, and in the user's folder.

A digest reveals nothing of single rows that the weights themselves do not reveal.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value

FOLDER = "PRIVACY_PIPELINE_HISTORIES"  # an environment variable
_KNOWN: dict[str, PrivacyHistory] = {}


def digest_of(weights: Sequence[Any]) -> str:
    """Return the SHA-256 over the values of weights, in any order: formats do not all keep the order.

    Args:
        weights: arrays or variables.
    """
    each = []
    for weight in weights:
        values = np.ascontiguousarray(weight)
        each.append(hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(each)).encode()).hexdigest()


def folder() -> Path:
    """Return the folder of histories: that of the variable `FOLDER`, or one in the user's data folder."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "privacy_pipeline" / "histories"


def recalled(digest: str) -> PrivacyHistory | None:
    """Return the history of the weights with a digest; None where none is known.

    Raises:
        BadInputError: the file of the history is damaged.
    """
    held = _on_disk(digest)
    known = _KNOWN.get(digest)
    if held is None or known is None:
        return known if held is None else held
    return known.together(held)


def remember(digest: str, history: PrivacyHistory, *, write: bool = True) -> None:
    """Keep the history of weights, beside one that is known of the same bits.

    Args:
        digest: of the weights.
        history: theirs.
        write: whether other processes are to find it.

    Warns where the folder cannot be written: another process then does not find the history, and asks for it.
    """
    known = recalled(digest)
    history = history if known is None else known.together(history)
    _KNOWN[digest] = history
    if not write:
        return
    try:
        history.save(_path(digest))
    except BadInputError as error:
        warnings.warn(
            f"the privacy history of the weights could not be written: {error.message}; set {FOLDER} to a folder that "
            "can be written, or save `execution.privacy_history` with the weights",
            stacklevel=2,
        )


def _path(digest: str) -> Path:
    return folder() / f"{digest}.json"


def _on_disk(digest: str) -> PrivacyHistory | None:
    path = _path(digest)
    try:
        text = path.read_text()
    except OSError:
        return None
    try:
        return PrivacyHistory.from_json(json_value(text))
    except (ValueError, BadInputError):
        raise BadInputError(
            f"{path}: the privacy history of these weights is damaged",
            fix="give what is known of the weights as `history`, and remove the file",
        ) from None
