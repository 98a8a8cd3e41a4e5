"""Shares that a share server holds: of weights, of waiting requests and of their answers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privacy_pipeline.encrypted.model.layers import Shape
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.shares import Held, encoded_shape, half, weight_stem

INT64 = 8  # bytes


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Weights that this server holds shares of.

    Attributes:
        identifier: of this one sharing: shares of two sharings do not fit together.
        model: the architecture.
        digest: sha256 of the architecture file.
    """

    identifier: str
    model: PrivateModel
    digest: str

    def request_bytes(self, rows: int) -> int:
        """Return the size of both shares of all inputs of this many rows."""
        return 2 * INT64 * rows * sum(math.prod(encoded_shape(one)) for one in self.model.inputs)

    def output_shape(self) -> Shape:
        """Return the shape of one row of the answer."""
        return self.model.shapes()[self.model.output]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Shares of one request's inputs by input name, each [rows, ...]."""

    rows: int
    held: Mapping[str, Held]
    size: int  # bytes
    owner: str
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Shares of the answer to one request, [rows, ...]."""

    held: Held
    size: int  # bytes
    owner: str
    since: float = field(default_factory=time.monotonic)


def is_complete(folder: Path, model: PrivateModel) -> bool:
    """Whether every weight has two files of the right size."""
    for layer in model.layers:
        for role, shape in layer.weights.items():
            for number in range(2):
                file = half(folder / weight_stem(layer.name, role), number)
                if not file.is_file() or file.stat().st_size != INT64 * math.prod(shape):
                    return False
    return True
