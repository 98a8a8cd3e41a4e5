"""Run the worker process of a run, and keep the run's state on disk up to date. Imports no TFX."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence

from privacy_pipeline.errors import ExitCode
from privacy_pipeline.pipelines.execution import events
from privacy_pipeline.pipelines.nodes import nodes_of
from privacy_pipeline.pipelines.workspace.run_state import Failure, NodeState, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.processes.programs import command_of

OnEvent = Callable[[events.Event, RunState], None]
_LARGEST_MESSAGE = 1 << 20


def now() -> str:
    """Return the present moment in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def execute(*, folder: RunFolder, state: RunState, on_event: OnEvent) -> RunState:
    """Execute the run in `folder` and return its final state.

    Whatever ends this call (an exception, Ctrl-C), no process of the run outlives it.

    Args:
        folder: the run, its spec written.
        state: state to start from; nodes that are done there are not run again.
        on_event: called after each event with the state so far.
    """
    with folder.lock():
        state.status, state.failure, state.ended = "running", None, None
        order = nodes_of(folder.read_spec().config)
        for name in order:
            node = state.nodes.setdefault(name, NodeState())
            if node.status not in ("done", "cached"):
                state.nodes[name] = NodeState()
        folder.write_state(state)
        failures = _follow(folder, state, on_event)
        _conclude(folder, state, failures, order)
        folder.write_state(state)
    return state


def _follow(folder: RunFolder, state: RunState, on_event: OnEvent) -> list[events.NodeFailed]:
    failures: list[events.NodeFailed] = []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, open(folder.log, "a") as log:
        with theirs:
            worker = _start(folder, theirs, log.fileno())
        try:
            while message := ours.recv(_LARGEST_MESSAGE):
                event = events.parse(message)
                _apply(event, state, failures)
                if not isinstance(event, events.Progress):
                    folder.write_state(state)
                on_event(event, state)
            worker.wait()
        finally:
            _stop(worker)
    if worker.returncode != 0 and not failures:
        failures.append(_silent_death(worker.returncode))
    return failures


def _start(folder: RunFolder, channel: socket.socket, log: int) -> subprocess.Popen[bytes]:
    arguments = [str(folder.path), str(channel.fileno()), str(os.getpid())]
    command = [*command_of("privacy_pipeline.pipelines.execution.worker"), *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[channel.fileno()],
        env=environment,
        start_new_session=True,
    )


def _stop(worker: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _apply(event: events.Event, state: RunState, failures: list[events.NodeFailed]) -> None:
    if isinstance(event, events.NodeStarted):
        state.nodes[event.node] = NodeState(status="running")
    elif isinstance(event, events.NodeEnded):
        status = "cached" if event.cached else "done"
        state.nodes[event.node] = NodeState(status=status, seconds=round(event.seconds, 3), detail=event.detail)
    elif isinstance(event, events.NodeFailed):
        failures.append(event)
        if event.node:
            state.nodes[event.node] = NodeState(status="failed", detail=event.message)


def _silent_death(code: int) -> events.NodeFailed:
    why = f"killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return events.NodeFailed(node="", message=f"the worker process was {why}", fix="", exit_code=int(ExitCode.ERROR))


def _conclude(folder: RunFolder, state: RunState, failures: list[events.NodeFailed], order: Sequence[str]) -> None:
    state.ended = now()
    if failures:
        for node in state.nodes.values():
            if node.status == "running":  # it died with the worker
                node.status = "failed"
        # The node that comes first in the pipeline explains the ones behind it.
        first = min(failures, key=lambda f: order.index(f.node) if f.node in order else -1)
        state.status = "failed"
        state.failure = Failure(
            node=first.node or None, message=first.message, fix=first.fix, exit_code=first.exit_code
        )
        return
    for name, node in state.nodes.items():
        if node.status == "waiting":
            state.nodes[name] = NodeState(status="skipped")
    summary = folder.read_summary()
    state.status = "not_blessed" if summary is not None and not summary.blessed else "done"
