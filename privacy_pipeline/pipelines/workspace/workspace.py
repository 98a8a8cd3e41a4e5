"""The workspace on disk: ML Metadata, artifacts, pushed models, and one folder for each run."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import private_copy
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import require_room
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.file_rights import private_folder, refuse_folder_of_others, refuse_if_others_may_replace
from privacy_pipeline.files.literal_paths import require_utf8
from privacy_pipeline.pipelines.workspace.moved import as_of_now
from privacy_pipeline.pipelines.workspace.run_state import RunSpec, RunState
from privacy_pipeline.reports.record.summary import RunSummary

STATE_FILE = "run.json"
SPEC_FILE = "spec.json"
LOG_FILE = "log.txt"
SUMMARY_FILE = "summary.json"

_IN_USE = ".in_use"  # lock in the folder of the runs: executing runs share it, pruning holds it alone
RUN_NAME = re.compile(r"\d{8}-r(\d+)-.*")


_Model = TypeVar("_Model", bound=BaseModel)


class RunFolder:
    """Folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / LOG_FILE

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.path.name

    def read_state(self) -> RunState:
        """Return the state on disk; a run whose process is gone counts as interrupted."""
        state = self._read(RunState, STATE_FILE)
        if state.status == "running" and not self.is_locked():
            state.status = "interrupted"
        return state

    def write_state(self, state: RunState) -> None:
        """Replace the state on disk atomically."""
        _replace(self.path / STATE_FILE, state.model_dump_json(indent=2))

    def read_spec(self) -> RunSpec:
        """Return the spec the run was started with."""
        return self._read(RunSpec, SPEC_FILE)

    def write_spec(self, spec: RunSpec) -> None:
        """Write the spec."""
        _replace(self.path / SPEC_FILE, spec.model_dump_json(indent=2, by_alias=True))

    def read_summary(self) -> RunSummary | None:
        """Return the summary of a run that reached RunMetrics."""
        return self._read(RunSummary, SUMMARY_FILE) if (self.path / SUMMARY_FILE).exists() else None

    def _read(self, kind: type[_Model], name: str) -> _Model:
        """Return a file of the run, with paths of where the workspace lies now."""
        path, spec = self.path / name, self.path / SPEC_FILE
        try:
            known = spec.read_bytes() if spec.exists() else b""
            return kind.model_validate_json(as_of_now(path.read_bytes(), spec=known, folder=self.path.absolute()))
        except (OSError, ValidationError) as error:
            raise BadInputError(
                f"{path}: cannot be read as a {kind.__name__} of this version",
                fix=f"remove the folder {path.parent} if the run is no longer needed",
            ) from error

    def read_list(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of a JSON file beside the run; none if there is no file.

        Raises:
            BadInputError: the file cannot be read.
        """
        path = self.path / name
        if not path.exists():
            return []
        try:
            found: list[dict[str, Any]] = json_value(path.read_text())
        except ValueError as error:
            raise BadInputError(f"{path}: is not JSON", fix="remove it; what it holds can be made again") from error
        return found

    def write_summary(self, summary: RunSummary) -> None:
        """Write the summary."""
        _replace(self.path / SUMMARY_FILE, summary.model_dump_json(indent=2))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for this process; the operating system releases the lock however the process ends.

        Raises:
            PipelineError: another process executes this run, or prunes the workspace.
        """
        with open(self.path.parent / _IN_USE, "a") as shared, open(self.path / "lock", "w") as file:
            _take(shared, fcntl.LOCK_SH, f"{self.path.parents[1]} is being pruned by another process", "wait for it")
            busy = f"run {self.run_id} is being executed by another process"
            _take(file, fcntl.LOCK_EX, busy, "wait for it, or stop it first")
            yield

    def is_locked(self) -> bool:
        """Whether a living process executes this run."""
        return is_held(self.path / "lock")


def is_held(lock: Path) -> bool:
    """Whether a living process holds a lock alone; False where there is no such file."""
    try:
        with lock.open() as file:
            # Shared, so that two onlookers do not take each other for the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def held_alone(root: Path) -> Iterator[None]:
    """Keep all runs from being executed in a workspace, until the block ends.

    Raises:
        PipelineError: a run is executing now and may read what the block removes.
    """
    for folder in run_folders(root):  # runs of an older version do not share the lock
        if folder.is_locked():
            raise PipelineError(f"run {folder.run_id} is in progress", fix="wait for it, or stop it first")
    with open(root / "runs" / _IN_USE, "a") as shared:
        _take(shared, fcntl.LOCK_EX, f"{root}: a run is in progress, or another process prunes it", "wait for it")
        yield


def _take(file: IO[str], how: int, why: str, fix: str) -> None:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PipelineError(why, fix=fix) from None


class Workspace:
    """Everything that runs leave behind, below one folder."""

    def __init__(self, config: PipelineConfig) -> None:
        self.root = config.workspace.absolute()
        self.runs = self.root / "runs"
        self._config = config

    @property
    def reading(self) -> Path:
        """Folder of the private copy of the data that a command reads."""
        return self.root / private_copy.FOLDER

    @property
    def pipeline_root(self) -> Path:
        """Artifacts of the pipeline."""
        return self.root / "pipelines" / self._config.pipeline

    @property
    def push_directory(self) -> Path:
        """Folder of the blessed models."""
        directory = self._config.push.directory
        return directory.absolute() if directory else self.root / "pushed" / self._config.pipeline

    @property
    def metadata_path(self) -> Path | None:
        """The SQLite file of ML Metadata, where it is one."""
        metadata = self._config.metadata
        if metadata.kind != "sqlite":
            return None
        return metadata.path.absolute() if metadata.path else self.root / "metadata.db"

    def prepare(self) -> None:
        """Make the folders; check that they can be written, and that no other user can put files there.

        Raises:
            BadInputError: a folder cannot be written, or another user can write to it or replace it.
        """
        require_utf8(self.root)
        refuse_if_others_may_replace(self.root)
        here = Path.cwd()
        try:
            for folder in (self.runs, self.pipeline_root.parent, self.root):
                if (
                    folder != here and folder not in here.parents
                ):  # a project inside the workspace keeps its permissions
                    private_folder(folder)
                    refuse_folder_of_others(folder)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        # The store decides which models are baselines and what is served from cache, and pushed models are run.
        refuse_if_others_may_replace(self.push_directory / "a model")
        if self.metadata_path is not None:
            refuse_if_others_may_replace(self.metadata_path)
        metadata = () if self.metadata_path is None else (self.metadata_path.parent,)
        for folder in (self.runs, self.pipeline_root, self.push_directory, *metadata):
            require_room(folder, 0, fix="free space or give write permission, or set another `workspace`")

    def new_run(self) -> RunFolder:
        """Return a new run folder with a name that sorts by time: the day, and the run's number on that day.

        Reports name runs, and a time of day would reveal how long the run before took (`published.without_times`).
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        day = datetime.date.today().strftime("%Y%m%d")
        named = (RUN_NAME.fullmatch(path.name) for path in self.runs.glob(f"{day}-*"))
        number = 1 + max((int(found[1]) for found in named if found), default=0)
        path = self.runs / f"{day}-r{number:04d}-{secrets.token_hex(2)}"
        path.mkdir()
        return RunFolder(path)


def _cannot_write(folder: Path, error: OSError) -> BadInputError:
    return BadInputError(
        f"{folder}: cannot be written ({error.strerror})",
        fix="free space or give write permission, or set another `workspace`",
    )


def run_folders(root: Path) -> list[RunFolder]:
    """Return the run folders of a workspace, oldest first."""
    runs = root / "runs"
    if not runs.is_dir():
        return []
    return [RunFolder(p) for p in sorted(runs.iterdir()) if (p / STATE_FILE).exists()]


def readable_runs(root: Path) -> list[tuple[RunFolder, RunState]]:
    """Yield run folders with their states, oldest first; a broken folder does not block the others."""
    found = []
    for folder in run_folders(root):
        with contextlib.suppress(BadInputError):
            found.append((folder, folder.read_state()))
    return found


def find_run(root: Path, name: str) -> RunFolder:
    """Return a run by its id, by a prefix of it that no other run has, or by a pipeline's name (its newest run).

    Raises:
        BadInputError: no run, or more than one, fits.
    """
    folders = run_folders(root)
    exact = [f for f in folders if f.run_id == name]
    found = exact or [f for f in folders if f.run_id.startswith(name)]
    if not found:
        found = [folder for folder, state in readable_runs(root) if state.pipeline == name][-1:]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInputError(f"{name!r} fits {len(found)} runs", fix="give more of the run id; `privacy-pipeline runs`")
    raise BadInputError(f"no run {name!r} in {root}", fix="`privacy-pipeline runs` lists them")


def newest_config(root: Path, *, dataset: str) -> PipelineConfig:
    """Return the config of the newest run on a dataset.

    Args:
        root: the workspace.
        dataset: name of the dataset.

    Raises:
        BadInputError: no run in the workspace reads it.
    """
    for folder, _ in reversed(readable_runs(root)):
        config = folder.read_spec().config
        if config.dataset.name == dataset:
            return config
    raise BadInputError(f"{root} has no run on dataset {dataset!r}", fix="name a config in place of the dataset")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # the error of a failed write lacks the path
