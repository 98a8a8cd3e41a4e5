"""What a party's share server keeps: shares of the weights, of waiting requests, of batches and of answers.

Weights and batches are files, because the TensorFlow server reads them; requests and answers wait in memory. All of
them are shares, of which this server holds two of three, so that it learns nothing from them.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from privacy_pipeline.encrypted.model import model_format, shares
from privacy_pipeline.encrypted.model.model_format import ARCHITECTURE
from privacy_pipeline.encrypted.model.shares import Held, encoded_shape, half, input_stem, output_stem, weight_stem
from privacy_pipeline.encrypted.server.held_shares import INT64, Answer, Request, Sharing, is_complete
from privacy_pipeline.encrypted.transport.frames import BadMessageError
from privacy_pipeline.encrypted.transport.limits import KEEPING_BYTES, LARGEST_WAITING, SHARE

LARGEST_BUCKET = 1 << 16  # rows
KEPT_SECONDS = 600.0  # a request or an answer that nobody comes for
_SHARING, _PART = "sharing", "weights.part"


class Store:
    """One server's store. Not safe for threads.

    Args:
        folder: made with rights for its owner alone; weights of an earlier process are used again, batches are not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        shutil.rmtree(folder / _PART, ignore_errors=True)
        self.reset()
        self.sharing = self._found()
        self._requests: dict[str, Request] = {}
        self._answers: dict[str, Answer] = {}
        self._arriving: Counter[str] = Counter()  # bytes that came of requests that are not whole yet, by owner
        self._upload: Sharing | None = None

    def reset(self) -> None:
        """Drop all batches: of a driver that is gone."""
        shutil.rmtree(self.folder / "batches", ignore_errors=True)
        (self.folder / "batches").mkdir(mode=0o700)
        self._batches: dict[str, tuple[int, tuple[tuple[str, int], ...]]] = {}

    def begin_weights(self, *, sharing: str, architecture: bytes) -> Sharing:
        """Start to take weights, which replace the ones there are when they are whole.

        Raises:
            BadInputError: the architecture is not consistent.
        """
        model = model_format.parse_architecture(architecture)
        part = self.folder / _PART
        shutil.rmtree(part, ignore_errors=True)
        (part / "weights").mkdir(parents=True, mode=0o700)
        (part / "weights" / ARCHITECTURE).write_bytes(architecture)
        self._upload = Sharing(identifier=sharing, model=model, digest=model_format.digest_of(part / "weights"))
        return self._upload

    def weight_bytes(self, *, sharing: str, layer: str, role: str) -> int:
        """Return the size of both shares of one weight.

        Raises:
            BadMessageError: these weights are not being taken (any more), or the model has no such weight.
        """
        for one in self._uploading(sharing).model.layers:
            if one.name == layer and role in one.weights:
                return 2 * INT64 * math.prod(one.weights[role])
        raise BadMessageError("the model has no such weight")

    def put_weight(self, *, sharing: str, layer: str, role: str, content: bytes) -> None:
        """Take both shares of one weight, one after the other.

        Raises:
            BadMessageError: these weights are not being taken (any more).
        """
        self._uploading(sharing)
        stem = self.folder / _PART / weight_stem(layer, role)
        middle = len(content) // 2
        half(stem, 0).write_bytes(content[:middle])
        half(stem, 1).write_bytes(content[middle:])

    def commit_weights(self, *, sharing: str) -> None:
        """Use the weights that were sent.

        Raises:
            BadMessageError: some are missing.
        """
        upload = self._uploading(sharing)
        part = self.folder / _PART
        if not is_complete(part, upload.model):
            raise BadMessageError("not all weights were sent")
        (part / "weights" / _SHARING).write_text(sharing)
        self.sharing = None
        shutil.rmtree(self.folder / "weights", ignore_errors=True)
        (part / "weights").rename(self.folder / "weights")
        part.rmdir()
        self._upload, self.sharing = None, upload
        self._requests.clear()

    def _uploading(self, sharing: str) -> Sharing:
        if self._upload is None or self._upload.identifier != sharing:
            raise BadMessageError("other weights are being sent")
        return self._upload

    @contextlib.contextmanager
    def taking(self, owner: str) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a request while they come; those that are only announced take no room.

        Args:
            owner: number of the client's certificate, of which each has a part of the room.

        Yields:
            What takes the size of each piece.

        Raises:
            BadMessageError: (also by what is yielded) there is no room for more.
        """
        taken = 0

        def arrived(size: int) -> None:
            nonlocal taken
            taken += size
            self._arriving[owner] += size
            self._require_room(owner)

        try:
            arrived(KEEPING_BYTES)
            yield arrived
        finally:
            self._arriving[owner] -= taken
            if not self._arriving[owner]:
                del self._arriving[owner]

    def _require_room(self, owner: str) -> None:
        """Whether what waits and what comes fits; what nobody came for is dropped."""
        limit = time.monotonic() - KEPT_SECONDS
        self._requests = {name: one for name, one in self._requests.items() if one.since >= limit}
        self._answers = {name: one for name, one in self._answers.items() if one.since >= limit}
        waiting: list[Request | Answer] = [*self._requests.values(), *self._answers.values()]
        of_all = self._arriving.total() + sum(one.size + KEEPING_BYTES for one in waiting)
        of_owner = self._arriving[owner] + sum(one.size + KEEPING_BYTES for one in waiting if one.owner == owner)
        if of_all > LARGEST_WAITING:
            raise BadMessageError("too many requests wait")
        if of_owner > LARGEST_WAITING // SHARE:
            raise BadMessageError("too many requests of this client wait")

    def put_request(self, identifier: str, *, sharing: Sharing, rows: int, content: bytes, owner: str) -> None:
        """Keep the shares of a request: of each input in the model's order the first share, then the second.

        Raises:
            BadMessageError: there is a request with this id already, or the model changed meanwhile.
        """
        if self.sharing is not sharing:
            raise BadMessageError("the model changed")
        if identifier in self._requests or identifier in self._answers:
            raise BadMessageError("there is such a request already")
        held, start = {}, 0
        for one in sharing.model.inputs:
            shape = (rows, *encoded_shape(one))
            size = INT64 * math.prod(shape)
            pair = [shares.from_bytes(content[at : at + size], shape) for at in (start, start + size)]
            held[one.name] = (pair[0], pair[1])
            start += 2 * size
        self._requests[identifier] = Request(rows=rows, held=held, size=len(content), owner=owner)

    def form(self, batch: str, *, bucket: int, requests: Sequence[tuple[str, int]]) -> list[str]:
        """Write the shares of a batch: the requests one after the other, then zeros.

        Args:
            batch: its id.
            bucket: its rows.
            requests: id and rows of each request.

        Returns:
            Ids that are not waiting here with this number of rows; where there is one, nothing is written.

        Raises:
            BadMessageError: the requests do not fit.
        """
        if self.sharing is None:
            raise BadMessageError("there are no weights yet")
        missing = [name for name, rows in requests if name not in self._requests or self._requests[name].rows != rows]
        if missing:
            return missing
        padding = bucket - sum(rows for _, rows in requests)
        if padding < 0 or len({name for name, _ in requests}) != len(requests) or batch in self._batches:
            raise BadMessageError("the requests do not make such a batch")
        for one in self.sharing.model.inputs:
            zeros = np.zeros((padding, *encoded_shape(one)), np.int64)
            for number in range(2):
                rows = [self._requests[name].held[one.name][number] for name, _ in requests]
                content = shares.to_bytes(np.concatenate([*rows, zeros]))
                half(self.folder / input_stem(batch, one.name), number).write_bytes(content)
        self._batches[batch] = (bucket, tuple(requests))
        return []

    def finish(self, batch: str) -> None:
        """Cut the answer of a batch by request, and delete the batch.

        Raises:
            BadMessageError: there is no such batch, or no whole answer.
        """
        if batch not in self._batches or self.sharing is None:
            raise BadMessageError("there is no such batch")
        bucket, requests = self._batches[batch]
        shape = self.sharing.output_shape()
        files = [half(self.folder / output_stem(batch), number) for number in range(2)]
        if not all(file.is_file() and file.stat().st_size == INT64 * bucket * math.prod(shape) for file in files):
            raise BadMessageError("the batch has no answer")
        first, second = (shares.from_bytes(file.read_bytes(), (bucket, *shape)) for file in files)
        start = 0
        for name, rows in requests:
            held = (first[start : start + rows].copy(), second[start : start + rows].copy())
            request = self._requests.pop(name, None)
            if request is not None:  # else its client dropped it meanwhile
                self._answers[name] = Answer(held=held, size=2 * held[0].nbytes, owner=request.owner)
            start += rows
        self.discard(batch)

    def discard(self, batch: str) -> None:
        """Delete a batch; its requests wait on."""
        self._batches.pop(batch, None)
        for file in (self.folder / "batches").glob(f"{batch}.*"):
            file.unlink()

    def take(self, identifier: str, *, owner: str) -> Held | None:
        """Return the answer to a request of this client, which is gone then; None where there is none."""
        found = self._answers.get(identifier)
        if found is None or found.owner != owner:
            return None
        del self._answers[identifier]
        return found.held

    def drop(self, identifier: str, *, owner: str) -> None:
        """Drop a request of this client and its answer."""
        for held in (self._requests, self._answers):
            found = held.get(identifier)
            if found is not None and found.owner == owner:
                held.pop(identifier)

    def _found(self) -> Sharing | None:
        """Return the weights that an earlier process took; None where there are none, or not all."""
        folder = self.folder / "weights"
        if not (folder / _SHARING).is_file():
            return None
        model = model_format.load_architecture(folder)
        if not is_complete(self.folder, model):
            return None
        sharing = (folder / _SHARING).read_text()
        return Sharing(identifier=sharing, model=model, digest=model_format.digest_of(folder))
