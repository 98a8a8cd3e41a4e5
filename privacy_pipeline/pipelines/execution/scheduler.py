"""Run the nodes of a compiled pipeline, each in a forked child of a process that has already imported TFX.

Why forks: TFX's own local runner executes one node after another in one process, so that global state of TensorFlow
leaks between nodes and nothing overlaps. A fork costs milliseconds; a new process would repeat the imports.
The parent must not have started TensorFlow's runtime, nor hold a connection to ML Metadata.
"""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, partial_run_utils

from privacy_pipeline.errors import ExitCode, PipelineError
from privacy_pipeline.pipelines.execution.details import describe
from privacy_pipeline.pipelines.execution.events import Event, NodeEnded, NodeFailed, NodeStarted
from privacy_pipeline.pipelines.workspace.metadata_handle import DISK_IS_FULL, Handle
from privacy_pipeline.processes.die_with_parent import die_with_parent
from privacy_pipeline.text.secret_text import masked

# The words of the operating system, and of SQLite below ML Metadata.
_FULL = ("No space left", DISK_IS_FULL)
_GOES_ON = ("ModelRun",)  # the curves of a training, which continues as well
# How a process ends that runs out of memory: by the kernel's killer, by a C++ library, by a page it cannot get.
_OF_MEMORY = (signal.SIGKILL, signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)
_NO_MEMORY = ("bad_alloc", "Cannot allocate memory")
_LONGEST = 10_000  # a message has to fit the socket's buffer
_FORK = multiprocessing.get_context("fork")
Emit = Callable[[Event], None]


def run_nodes(*, pipeline: Any, done: frozenset[str], workers: int, emit: Emit, counts: bool = True) -> bool:
    """Run all nodes in dependency order, independent ones side by side.

    After a failure, nodes that do not depend on the failed one still run, so that the failure that explains the others
    (bad data, found by ExampleValidator) is reported too.

    Args:
        pipeline: compiled pipeline, run id filled in.
        done: nodes that an earlier attempt of this run finished.
        workers: number of nodes that run at the same time.
        emit: receives the events.
        counts: whether to show the number of rows.

    Returns:
        Whether every node succeeded.
    """
    nodes = {n.pipeline_node.node_info.id: n.pipeline_node for n in pipeline.nodes}
    waiting = [n for n in nodes if n not in done and not nodes[n].execution_options.HasField("skip")]
    finished = set(nodes) - set(waiting)
    running: dict[Any, tuple[str, ForkProcess]] = {}
    failed: set[str] = set()
    while waiting or running:
        blocked = {n for n in waiting if any(u in failed for u in nodes[n].upstream_nodes)}
        failed |= blocked
        waiting = [n for n in waiting if n not in blocked]
        for name in [n for n in waiting if set(nodes[n].upstream_nodes) <= finished]:
            if len(running) < workers:
                waiting.remove(name)
                process = _start(name, nodes[name], pipeline, emit, counts)
                running[process.sentinel] = (name, process)
        if not running:
            break  # the remaining nodes wait for nodes that failed
        for sentinel in multiprocessing.connection.wait(list(running)):
            name, process = running.pop(sentinel)
            process.join()
            (finished if process.exitcode == 0 else failed).add(name)
            if process.exitcode not in (0, 1):
                emit(_killed(name, process.exitcode))
    return not failed


def _start(name: str, node: Any, pipeline: Any, emit: Emit, counts: bool) -> ForkProcess:
    emit(NodeStarted(node=name))
    process = _FORK.Process(target=_child, args=(name, node, pipeline, emit, counts, os.getpid()), name=name)
    process.start()
    return process


def _killed(name: str, code: int | None) -> NodeFailed:
    why = f"killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
    hint = " (out of memory?)" if code is not None and -code in _OF_MEMORY else ""
    return NodeFailed(node=name, message=f"{name} was {why}{hint}", fix="", exit_code=int(ExitCode.ERROR))


def _child(name: str, node: Any, pipeline: Any, emit: Emit, counts: bool, parent: int) -> None:
    die_with_parent(parent)
    started = time.monotonic()
    with failure_told(name, emit):
        info, cached = _launch(name, node, pipeline)
        detail = describe(name, info, counts=counts) if info is not None else ""
        emit(NodeEnded(node=name, cached=cached, seconds=time.monotonic() - started, detail=detail))


def _launch(name: str, node: Any, pipeline: Any) -> tuple[Any, bool]:
    deployment = runner_utils.extract_local_deployment_config(pipeline)
    which = deployment.metadata_connection_config.WhichOneof("connection_config")
    connection = getattr(deployment.metadata_connection_config, which)
    base = pipeline.runtime_spec.snapshot_settings.HasField("base_pipeline_run_strategy")
    if base and node.execution_options.run.perform_snapshot:  # a run up to a node builds on no earlier one
        with Handle(connection) as handle:
            partial_run_utils.snapshot(handle, pipeline)
    info = _Launcher(
        pipeline_node=node,
        mlmd_connection=Handle(connection),
        pipeline_info=pipeline.pipeline_info,
        pipeline_runtime_spec=pipeline.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, name),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
    ).launch()
    if info is None or not info.execution_id:
        raise PipelineError(f"{name} was skipped by TFX: its inputs could not be resolved")
    state = _state(connection, info.execution_id)
    if state not in (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED):
        raise PipelineError(f"{name} did not complete: {metadata_store_pb2.Execution.State.Name(state)}")
    return _with_outputs(info, connection), state == metadata_store_pb2.Execution.CACHED


class _Launcher(launcher.Launcher):
    """Begin each execution in empty folders.

    TFX continues the execution of a node that was killed, in the folders that it wrote to. The files that it left there
    would count as part of the result: half of a model, or a file of examples that is in no list.
    """

    def _run_executor(self, execution_info: Any) -> Any:
        made = [artifact for found in execution_info.output_dict.values() for artifact in found]
        folders = [artifact.uri for artifact in made if not artifact.is_external and artifact.type_name not in _GOES_ON]
        for folder in filter(os.path.isdir, (*folders, execution_info.tmp_dir)):
            shutil.rmtree(folder)
        os.makedirs(execution_info.tmp_dir, exist_ok=True)
        return super()._run_executor(execution_info)


def _state(connection: Any, execution_id: int) -> int:
    with Handle(connection) as handle:
        state: int = handle.store.get_executions_by_id([execution_id])[0].last_known_state
        return state


def _with_outputs(info: Any, connection: Any) -> Any:
    from tfx.orchestration.portable.mlmd import execution_lib

    with Handle(connection) as handle:
        info.output_dict = execution_lib.get_output_artifacts(handle, info.execution_id)
    return info


class failure_told:  # noqa: N801 (used as a function)
    """Emit the failure of the block it guards, and raise the exception again, so that its traceback reaches the log."""

    def __init__(self, node: str, emit: Emit) -> None:
        self._node = node
        self._emit = emit

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._emit(failure(self._node, error))


def failure(node: str, error: BaseException) -> NodeFailed:
    """Return the event that describes a failure in one line."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (PipelineError, OSError, MemoryError)):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, PipelineError):
        return NodeFailed(node=node, message=cause.message, fix=cause.fix, exit_code=int(cause.exit_code))
    text = masked(str(error))
    if (
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or any(sign in text for sign in _NO_MEMORY)
    ):
        return NodeFailed(
            node=node,
            message=f"{node}: no memory left",
            fix="free memory, or raise the limit, then resume",
            exit_code=int(ExitCode.ERROR),
        )
    if (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)) or any(
        sign in text for sign in _FULL
    ):
        return NodeFailed(
            node=node,
            message=f"{node}: no space left on the disk",
            fix="free space, then resume",
            exit_code=int(ExitCode.ERROR),
        )
    first = text.strip().splitlines()[0] if text.strip() else ""
    return NodeFailed(
        node=node, message=f"{node}: {type(error).__name__}: {first}"[:500], fix="", exit_code=int(ExitCode.ERROR)
    )


def fd_emitter(fd: int) -> Emit:
    """Send events through a SOCK_SEQPACKET socket, one message per event, so that children can share it."""

    def emit(event: Event) -> None:
        if isinstance(event, NodeFailed) and len(event.message) > _LONGEST:
            event = event.model_copy(update={"message": event.message[:_LONGEST] + "\n  ... (more in the log)"})
        os.write(fd, event.model_dump_json().encode())

    return emit
