"""Where an attempt to train keeps its key, its checkpoints and the resume token of its charge, until it is committed.

A training that is killed goes on from there under the charge it has: with the same key on the same data it adds the
same noise to the same sums. One folder, rights 0700, for each run, node and plan; one process at a time. No TensorFlow.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privacy_pipeline.errors import BudgetRefusedError, PipelineError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.file_rights import make_folders

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken

ROOT = ".attempts"
_LOCK, _RESUME_TOKEN, _ENGINE = "lock", "ticket.json", "engine"  # as killed attempts of earlier versions have them


@dataclass(frozen=True)
class Attempt:
    """The folder of an attempt, held by this process alone. Made by `held`.

    Attributes:
        folder: the folder.
        run_id: the run.
    """

    folder: Path
    run_id: str

    @property
    def state_dir(self) -> Path:
        """The engine's part of the folder."""
        return self.folder / _ENGINE

    def resume_token(self) -> ResumeToken | None:
        """Return the resume token of an attempt that can go on; None where there is none, or its key or checkpoint is
        lost.
        """
        from privacy_pipeline.ledger.charging.grants import ResumeToken

        held = _read(self.folder)
        if held is None or not _has_state(self.folder):
            return None
        return ResumeToken(entry_id=int(held["entry_id"]), token=str(held["token"]))

    @property
    def charge(self) -> str:
        """A digest of the resume token that lies here, for what a key is bound to; empty where there is none."""
        held = _read(self.folder)
        return "" if held is None else hashlib.sha256(f"{held['entry_id']} {held['token']}".encode()).hexdigest()

    def begin(self, grant: Grant) -> None:
        """Remove what was there, and keep the resume token of a new charge. Call it before the grant is started."""
        self.destroy()
        resume_token = {
            "run_id": self.run_id,
            "entry_id": grant.resume_token.entry_id,
            "token": grant.resume_token.token,
        }
        path = self.folder / _RESUME_TOKEN
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(resume_token, stream)
            stream.flush()
            os.fsync(stream.fileno())

    def destroy(self) -> None:
        """Overwrite and remove key and checkpoints, and remove the resume token; the key first."""
        from privacy_pipeline.dp.training.run_state import destroy_state

        destroy_state(self.state_dir)
        (self.folder / _RESUME_TOKEN).unlink(missing_ok=True)


@contextlib.contextmanager
def held(root: Path, *, run_id: str, node: str, plan: ChargedPlan) -> Iterator[Attempt]:
    """Hold the folder of an attempt for this process; the operating system lets go when the process ends.

    Args:
        root: folder of all attempts of a pipeline, or of one run of an experiment.
        run_id: the run.
        node: the node that trains.
        plan: the plan.

    Raises:
        PipelineError: another process trains with this key.
    """
    name = hashlib.sha256(f"{run_id}\n{node}\n{plan.digest()}".encode()).hexdigest()[:32]
    with _locked(root / name) as locked:
        if not locked:
            raise PipelineError(
                f"the training of run {run_id} is being executed by another process",
                fix="wait for it, or stop it first",
            )
        yield Attempt(root / name, run_id)


def charged(root: Path) -> set[int]:
    """Return the numbers of the ledger entries whose resume tokens lie here.

    Args:
        root: folder of all attempts of a pipeline.
    """
    resume_tokens = [_read(folder) for folder in root.iterdir()] if root.is_dir() else []
    return {int(resume_token["entry_id"]) for resume_token in resume_tokens if resume_token is not None}


def of_runs(root: Path, runs: Collection[str]) -> set[Path]:
    """Return the folders of the attempts of some runs that can still be continued.

    Args:
        root: folder of all attempts of a pipeline.
        runs: ids of the runs.
    """
    resume_tokens = {folder: _read(folder) for folder in root.iterdir()} if root.is_dir() else {}
    return {
        folder
        for folder, resume_token in resume_tokens.items()
        if resume_token is not None and resume_token["run_id"] in runs
    }


def wipe(root: Path, settled: Collection[int]) -> None:
    """Destroy the keys that attempts left behind whose charge is committed or given back.

    Args:
        root: folder of all attempts of a pipeline.
        settled: numbers of those ledger entries.
    """
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        resume_token = _read(folder)
        if resume_token is None or int(resume_token["entry_id"]) not in settled:
            continue
        with _locked(folder) as locked:
            if locked:
                Attempt(folder, str(resume_token["run_id"])).destroy()


def clear(root: Path) -> None:
    """Destroy all attempts of a run whose result is written: none of them is needed any more.

    Args:
        root: folder of all attempts of one run. One that a process holds stays: it finds the result, and ends.
    """
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        with _locked(folder) as locked:
            if locked:
                Attempt(folder, "").destroy()


def can_continue(root: Path, run_id: str) -> bool:
    """Whether a killed training of a run left all that it takes to go on without a new charge."""
    for folder in root.iterdir() if root.is_dir() else []:
        resume_token = _read(folder)
        if resume_token is not None and resume_token["run_id"] == run_id and _has_state(folder):
            return True
    return False


def require_continued(grant: Grant, resumed_at: int | None) -> None:
    """Refuse a training that started over under the charge of an earlier one.

    Raises:
        BudgetRefusedError: fresh noise ran that nobody paid for.
    """
    if grant.continued and resumed_at is None:
        raise BudgetRefusedError(
            f"the training was to resume under ledger entry {grant.entry_id}, but started over; its model is not used",
            fix="start a new run; it is charged",
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Take the folder's lock if it is free. Its file stays: a lock on a removed file would keep nobody out."""
    make_folders(folder)
    with open(folder / _LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _has_state(folder: Path) -> bool:
    from privacy_pipeline.dp.training.run_state import has_state

    return has_state(folder / _ENGINE)


def _read(folder: Path) -> dict[str, str | int] | None:
    try:
        held = json_value((folder / _RESUME_TOKEN).read_text())
    except (OSError, ValueError):
        return None
    kinds = {"run_id": str, "entry_id": int, "token": str}
    whole = isinstance(held, dict) and all(isinstance(held.get(name), kind) for name, kind in kinds.items())
    return held if whole else None
