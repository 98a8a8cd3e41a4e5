"""What a checkpoint of rounds holds, and where it lies: with the key under a guarantee, else in a file. No TensorFlow.

One form for every run: the arrays of `arrays_of`, saved by `dp.training.run_state.RunState` (rights 0600, authenticated
under the run's key) or by `OpenCheckpoint`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from federated.contract import Array, RoundState
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_bytes_atomically
from privacy_pipeline.files.bounded_arrays import read_archive

_STEP = "step"


class Checkpoints(Protocol):
    """Where a run keeps its last checkpoint: a `RunState` or an `OpenCheckpoint`."""

    @property
    def resumed(self) -> bool:
        """Whether there is a checkpoint to go on from."""

    def save(self, step: int, arrays: Mapping[str, Array]) -> None:
        """Replace the checkpoint, as a whole or not at all.

        Args:
            step: rounds that were made.
            arrays: what goes on from there, by name.
        """

    def load(self) -> tuple[int, dict[str, Array]]:
        """Return the rounds that were made, and the arrays, as they were saved."""


@dataclass(frozen=True, kw_only=True)
class OpenCheckpoint:
    """The checkpoint of a run without a guarantee: a file beside its results, with no secret in it.

    Attributes:
        path: the file; it need not exist.
    """

    path: Path

    @property
    def resumed(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.path.exists()

    def save(self, step: int, arrays: Mapping[str, Array]) -> None:
        """Replace the checkpoint; see `Checkpoints`.

        Raises:
            PipelineError: it cannot be written.
        """
        stream = io.BytesIO()
        np.savez(stream, **{**arrays, _STEP: np.array(step, np.int64)})
        write_bytes_atomically(path=self.path, content=stream.getvalue())

    def load(self) -> tuple[int, dict[str, Array]]:
        """Return the rounds that were made, and the arrays.

        Raises:
            BadInputError: it cannot be read, or holds something else.
        """
        found = read_archive(self.path, fix="remove the run's folder")
        if _STEP not in found:
            raise BadInputError(f"{self.path}: this is not a checkpoint", fix="remove the run's folder")
        return int(found.pop(_STEP)), found


def arrays_of(state: RoundState) -> dict[str, Array]:
    """Return all arrays of a state, by name."""
    arrays: dict[str, Any] = {}
    for kind, parts in (("weights", state.weights), ("non_trainable", state.non_trainable)):
        arrays |= {f"{kind}.{place}": np.asarray(part) for place, part in enumerate(parts)}
    for kind, named in (("server", state.server), ("aggregator", state.aggregator)):
        arrays |= {f"{kind}.{name}": np.asarray(part) for name, part in named.items()}
    return arrays


def state_from(step: int, arrays: Mapping[str, Array]) -> RoundState:
    """Return the state that `arrays_of` gave the arrays of; others among them are left out.

    Args:
        step: rounds that were made.
        arrays: by name.
    """
    return RoundState(
        round_number=step,
        weights=_listed(arrays, "weights"),
        non_trainable=_listed(arrays, "non_trainable"),
        server=_named(arrays, "server"),
        aggregator=_named(arrays, "aggregator"),
    )


def _listed(arrays: Mapping[str, Array], kind: str) -> tuple[Array, ...]:
    places = sorted(int(place) for place in _named(arrays, kind))
    return tuple(arrays[f"{kind}.{place}"] for place in places)


def _named(arrays: Mapping[str, Array], kind: str) -> dict[str, Array]:
    return {name.removeprefix(f"{kind}."): part for name, part in arrays.items() if name.startswith(f"{kind}.")}
