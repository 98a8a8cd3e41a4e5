"""The folder of one run: settings, one JSON line for each round, a checkpoint, the summary and the privacy record."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated.contract import RoundState
from federated.driver.checkpoints import OpenCheckpoint, state_from
from federated.experiments.config import Point, point_from_json, point_to_json
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import require_room, write_atomically
from privacy_pipeline.files.bounded import json_value

POINT, ROUNDS, CHECKPOINT, SUMMARY, RECORD = (
    "point.json",
    "rounds.jsonl",
    "checkpoint.npz",
    "summary.json",
    "privacy_record.json",
)
LOCK = "lock"

_TAIL = 16_384  # bytes; several lines


@dataclass(frozen=True)
class RunFolder:
    """Files of one run; each is whole or absent, and `rounds.jsonl` never goes beyond what is kept of it.

    Attributes:
        path: the folder.
    """

    path: Path

    def begin(self, point: Point) -> None:
        """Write the settings and what the run is bound to, unless they are there.

        Raises:
            BadInputError: the folder holds another run, or cannot be written.
        """
        if (self.path / POINT).exists():
            return self.require(point)
        write_atomically(path=self.path / POINT, text=point_to_json(point) + "\n")

    def require(self, point: Point) -> None:
        """Refuse a folder that holds a run of other content, settings or seed, which is not used again.

        Raises:
            BadInputError: it does.
        """
        found = self.point()
        if (found.name, found.inputs) != (point.name, point.inputs):
            raise BadInputError(f"{self.path} holds a run of other content", fix="move it away, and run again")

    def require_writable(self, size: int) -> None:
        """Refuse a folder that has no room for what a run writes, before it costs anything.

        Args:
            size: bytes.

        Raises:
            BadInputError: it cannot be written, or its disk has less room.
        """
        require_room(self.path, size, fix="free space, or set another `folder`")

    def point(self) -> Point:
        """Return the settings.

        Raises:
            BadInputError: the folder holds no run.
        """
        try:
            return point_from_json((self.path / POINT).read_text(encoding="utf-8"))
        except BadInputError as error:
            raise BadInputError(f"{self.path / POINT}: {error.message}", fix=error.fix) from None
        except OSError as error:
            raise BadInputError(f"{self.path} holds no run of an experiment ({error.strerror})") from None

    @contextlib.contextmanager
    def in_progress(self) -> Iterator[None]:
        """Share the run's lock while it is executed, so that nothing of it is pruned meanwhile."""
        with (self.path / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, else None."""
        return _read_json(self.path / SUMMARY)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary; from here on the run is done."""
        write_atomically(path=self.path / SUMMARY, text=json.dumps(finite(summary), indent=1) + "\n")

    def rounds(self) -> list[dict[str, Any]]:
        """Return the rounds that were written; a line that was cut off by a kill does not count."""
        try:
            lines = (self.path / ROUNDS).read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [_value(line, self.path / ROUNDS) for line in lines if line.endswith("\n")]

    def rounds_done(self) -> int:
        """Return how many rounds were written, from the end of the file: cheap enough to ask now and then."""
        try:
            with (self.path / ROUNDS).open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - _TAIL))
                lines = stream.read().split(b"\n")
        except FileNotFoundError:
            return 0
        whole = lines[1 if len(lines) > 2 else 0 : -1]  # the first may be cut off, the last has no end
        return int(_value(whole[-1], self.path / ROUNDS)["round"]) if whole else 0

    def keep_rounds(self, number: int) -> None:
        """Cut `rounds.jsonl` to its first lines: those that the checkpoint covers."""
        kept = self.rounds()[:number]
        if len(kept) < number:
            raise BadInputError(f"{self.path / ROUNDS} lacks rounds that were made", fix="remove the run's folder")
        write_atomically(path=self.path / ROUNDS, text="".join(json.dumps(line) + "\n" for line in kept))

    @property
    def checkpoint(self) -> OpenCheckpoint:
        """The checkpoint of a run without a guarantee."""
        return OpenCheckpoint(path=self.path / CHECKPOINT)

    def restore(self) -> RoundState | None:
        """Return the state of the checkpoint, or None where there is none."""
        return state_from(*self.checkpoint.load()) if self.checkpoint.resumed else None

    def forget(self) -> None:
        """Remove what a run that starts over must not find."""
        for name in (ROUNDS, CHECKPOINT, SUMMARY, RECORD):
            (self.path / name).unlink(missing_ok=True)


class RoundLog:
    """Appends one JSON line for each round; `sync` makes them durable before a checkpoint that counts on them."""

    def __init__(self, folder: RunFolder) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        self._stream = (folder.path / ROUNDS).open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        self._stream.write(json.dumps(finite(line)) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Wait for the disk."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """End the log."""
        self._stream.close()


def finite(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _value(content: bytes | str, path: Path) -> Any:
    try:
        return json_value(content)
    except ValueError as error:
        raise BadInputError(f"{path}: is not JSON ({error})", fix="remove the run's folder") from None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = _value(path.read_bytes(), path)
    except FileNotFoundError:
        return None
    return found
