"""Runs of federated experiments in a workspace, as far as pruning needs them. Imports neither NumPy nor TensorFlow.

Their folders hold no rows: clients are read from the files into memory. The weights of a run without a guarantee may
reveal rows, and lie in its checkpoint. Curves for TensorBoard are made from its rounds, which stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.pipelines.workspace.experiments import Experiment, experiments

# Files of a run's folder (`federated.experiments.run_folder`, which needs NumPy); all processes that execute the run
# share the lock.
_LOCK = "lock"
_CHECKPOINT, _TENSORBOARD, _SUMMARY, _POINT = "checkpoint.npz", "tensorboard", "summary.json", "point.json"
_ATTEMPTS = ".attempts"  # `dp.attempts.ROOT`, of a killed run with a guarantee: key, checkpoint and resume token
_DAY = 86_400


def names(root: Path) -> set[str]:
    """Return the names of the runs, by which they can be chosen."""
    return {one.name for one in _all(root)}


def datasets(root: Path) -> set[str]:
    """Return the names of the datasets that they train on."""
    return {_dataset(one) for one in _all(root)} - {""}


def meant(root: Path, *, names: Sequence[str], dataset: str | None, older_than: float | None) -> list[Experiment]:
    """Return the chosen runs; see `pruning.Criteria`."""
    found = []
    for one in _all(root):
        if names and one.name not in names:
            continue
        if dataset is not None and _dataset(one) != dataset:
            continue
        if older_than is not None and time.time() - _touched(one) < older_than * _DAY:
            continue
        if names or files(one):
            found.append(one)
    return found


def files(experiment: Experiment) -> list[Path]:
    """Return the files of a run to remove: its checkpoint, curves, the key of a killed one, partial files of a kill."""
    fixed = (experiment.path / _CHECKPOINT, experiment.path / _TENSORBOARD)
    killed = [path for path in sorted((experiment.path / _ATTEMPTS).glob("*/*")) if path.name != _LOCK]
    return [*(path for path in fixed if path.exists()), *killed, *sorted(experiment.path.glob(".*.*.*"))]


def facts(experiment: Experiment) -> dict[str, str]:
    """Return the report on a pruned run."""
    status = "done" if (experiment.path / _SUMMARY).exists() else "unfinished"
    return {
        "run_id": experiment.name,
        "pipeline": experiment.path.parent.name,
        "dataset": _dataset(experiment),
        "status": status,
    }


@contextlib.contextmanager
def held_idle(root: Path) -> Iterator[None]:
    """Keep runs of experiments from executing until the block ends; a run that is started meanwhile waits.

    Raises:
        PipelineError: a run is executing now.
    """
    with contextlib.ExitStack() as held:
        for one in _all(root):
            with contextlib.suppress(FileNotFoundError):
                lock = held.enter_context((one.path / _LOCK).open())
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise PipelineError(f"run {one.name} is in progress", fix="wait for it, or stop it first") from None
        yield


def _all(root: Path) -> list[Experiment]:
    found = {one.path: one for one in experiments(root)}
    return list(found.values())


def _dataset(experiment: Experiment) -> str:
    try:
        return experiment.dataset()
    except BadInputError:
        return ""


def _touched(experiment: Experiment) -> float:
    for name in (_SUMMARY, _POINT):
        if (experiment.path / name).exists():
            return (experiment.path / name).stat().st_mtime
    return time.time()
