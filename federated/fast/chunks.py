"""From clients of a cohort to padded arrays of local batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federated.contract import Array, Clients, IntArray
from federated.model import FederatedModel
from privacy_pipeline.errors import BadInputError

_FEWEST_STEPS = 8  # clients with up to this many local batches share a chunk


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Examples of c clients in S local batches of b rows; see `federated.fast.local.ChunkTensors`."""

    inputs: list[Array]
    labels: Array
    counts: npt.NDArray[np.int32]
    present: npt.NDArray[np.float32]


class Chunker:
    """Cuts cohorts into chunks.

    Clients of a chunk differ in their local batches by a factor of two at most, so that at most half of the work is
    padding whatever one giant client does; within a cohort the order is by size, then by index.

    Args:
        model: names and types of the inputs.
        clients: the examples.
        batch_size: rows of a local batch.
        largest: clients of a chunk, at most.
        rows: padded rows of a chunk, at most (but one client always fits).

    Raises:
        BadInputError: the clients' features do not fit the model's inputs.
    """

    def __init__(self, model: FederatedModel, clients: Clients, *, batch_size: int, largest: int, rows: int) -> None:
        self._columns = [
            _shaped(name, column, spec.shape.as_list()[1:])
            for name, column, spec in zip(
                model.input_names, model.columns(clients.features), model.input_specs, strict=True
            )
        ]
        self._types = [spec.dtype.as_numpy_dtype for spec in model.input_specs]
        self.labels = clients.labels
        self._offsets = np.asarray(clients.offsets, np.int64)
        if not len(self.labels):
            raise BadInputError("clients: there are no examples", fix="check the table the clients come from")
        self._batch_size, self._largest, self._rows = batch_size, largest, rows
        self.clients = clients.num_clients

    def chunks(self, cohort: IntArray, present: npt.NDArray[np.bool_]) -> Iterator[Chunk]:
        """Yield the chunks of a cohort.

        Args:
            cohort: client indices, int64 [n].
            present: bool [n], whether a client sends its update.
        """
        counts = self._offsets[cohort + 1] - self._offsets[cohort]
        steps = np.maximum(1, -(-counts // self._batch_size))
        bucket = np.maximum(_FEWEST_STEPS, 2 ** np.ceil(np.log2(steps)).astype(np.int64))
        order = np.lexsort((cohort, counts, bucket))
        begin = 0
        for end in self._ends(bucket[order], steps[order]):
            chosen = order[begin:end]
            yield self._chunk(cohort[chosen], counts[chosen], int(steps[chosen].max()), present[chosen])
            begin = end

    def _ends(self, buckets: IntArray, steps: IntArray) -> Iterator[int]:
        begin = 0
        while begin < len(buckets):
            same = int(np.searchsorted(buckets, buckets[begin], side="right"))
            per_client = int(steps[same - 1]) * self._batch_size
            end = min(same, begin + max(1, min(self._largest, self._rows // per_client)))
            yield end
            begin = end

    def _chunk(self, chosen: IntArray, counts: IntArray, steps: int, present: npt.NDArray[np.bool_]) -> Chunk:
        # Padding repeats a client's last row: made-up rows could give losses that are not numbers, which no mask heals.
        last = np.maximum(counts - 1, 0)
        within = np.minimum(np.arange(steps * self._batch_size)[np.newaxis, :], last[:, np.newaxis])
        start = np.minimum(self._offsets[chosen], len(self.labels) - 1)
        rows = (start[:, np.newaxis] + within).reshape(len(chosen), steps, self._batch_size).swapaxes(0, 1)
        return Chunk(
            inputs=[
                column[rows].astype(kind, copy=False) for column, kind in zip(self._columns, self._types, strict=True)
            ],
            labels=_single(self.labels[rows]),
            counts=counts.astype(np.int32),
            present=present.astype(np.float32),
        )


def _shaped(name: str, column: Array, shape: list[int | None]) -> Array:
    own = list(column.shape[1:])
    if own == [] and shape == [1]:
        return column[:, np.newaxis]
    if len(own) != len(shape) or any(b is not None and a != b for a, b in zip(own, shape, strict=True)):
        raise BadInputError(f"clients: feature '{name}' has shape {own}, the model takes {shape}", fix="reshape it")
    return column


def _single(labels: Array) -> Array:
    return labels.astype(np.float32, copy=False) if labels.dtype.kind == "f" else labels
