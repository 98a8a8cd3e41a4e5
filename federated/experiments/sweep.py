"""Runs many points, in this process or in several, and reports how far each is."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal

from federated.experiments.config import Point, point_from_json, point_to_json
from federated.experiments.run import run_point
from federated.experiments.run_folder import POINT, RunFolder
from federated.experiments.tracking import write_tensorboard
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes.programs import isolate_spawned

_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a run is.

    Attributes:
        point: the run.
        state: what it does.
        rounds: rounds done.
        summary: of a run that is done.
        error, fix, exit_code: of a run that failed.
    """

    point: Point
    state: Literal["waiting", "running", "done", "failed"]
    rounds: int = 0
    summary: dict[str, Any] | None = None
    error: str = ""
    fix: str = ""
    exit_code: int = 0


Watch = Callable[[Status], None]


def begun(points: Iterable[Point]) -> list[Point]:
    """Return bound points that were begun and are not done: what a `resume` goes on with."""
    folders = [(point, RunFolder(point.folder)) for point in points]
    return [point for point, folder in folders if (folder.path / POINT).exists() and folder.summary() is None]


def run_points(
    points: Sequence[Point],
    *,
    processes: int,
    watch: Watch,
    initializer: Callable[[int], None] | None = None,
    parent: int = 0,
) -> list[Status]:
    """Run all points; one that fails does not stop the others.

    Args:
        points: the runs, bound to their content (`binding.bound`); those that are done are taken as they are.
        processes: how many run at a time at most; with 1 all run in this process.
        watch: gets every change.
        initializer: called with `parent` in each new process, to end it with its parent.
        parent: process id of the caller.

    Returns:
        The last status of each, in the order of `points`.
    """
    for point in points:
        watch(Status(point=point, state="waiting"))
    if processes == 1:
        return [_told(_alone(point, watch), watch) for point in points]
    found: dict[str, Status] = {}
    start = None if initializer is None else functools.partial(initializer, parent)
    isolate_spawned()
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    with ProcessPoolExecutor(processes, mp_context=context, initializer=start) as pool:
        futures = {pool.submit(work, point_to_json(point)): point for point in points}
        pending: set[Future[Any]] = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    point = futures[future]
                    found[point.name] = _told(_outcome(future, point), watch)
                for future in pending:
                    if future.running():
                        rounds = RunFolder(futures[future].folder).rounds_done()
                        watch(Status(point=futures[future], state="running", rounds=rounds))
        finally:
            for future in pending:
                future.cancel()
    return [found[point.name] for point in points]


def work(text: str) -> dict[str, Any]:
    """Run one point in a process of its own; errors that a person can act on come back as values."""
    from federated.experiments.engines import build

    point = point_from_json(text)
    try:
        summary = run_point(point, build=build)
        write_tensorboard(RunFolder(point.folder))
    except PipelineError as error:
        return {"error": error.message, "fix": error.fix, "exit_code": int(error.exit_code)}
    return {"summary": summary}


def _alone(point: Point, watch: Watch) -> Status:
    from federated.experiments.engines import build

    def report(name: str, done: int, total: int) -> None:
        watch(Status(point=point, state="running", rounds=done))

    watch(Status(point=point, state="running"))
    try:
        summary = run_point(point, build=build, report=report)
        write_tensorboard(RunFolder(point.folder))
    except PipelineError as error:
        return _failed(point, error.message, error.fix, int(error.exit_code))
    return Status(point=point, state="done", rounds=summary["rounds"], summary=summary)


def _outcome(future: Future[Any], point: Point) -> Status:
    try:
        result = future.result()
    except BrokenProcessPool:
        return _failed(point, "its process died", "privacy-pipeline federated resume EXPERIMENT.yaml", 1)
    if "error" in result:
        return _failed(point, result["error"], result["fix"], result["exit_code"])
    return Status(point=point, state="done", rounds=result["summary"]["rounds"], summary=result["summary"])


def _failed(point: Point, error: str, fix: str, exit_code: int) -> Status:
    rounds = RunFolder(point.folder).rounds_done()
    return Status(point=point, state="failed", rounds=rounds, error=error, fix=fix, exit_code=exit_code)


def _told(status: Status, watch: Watch) -> Status:
    watch(status)
    return status
