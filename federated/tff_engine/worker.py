"""TFF's worker process: started by us, bounded in time, and gone when the command is, however it ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from federated.tff_engine import closed
from privacy_pipeline.encrypted.run_folder import run_folder
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes.namespaces import FIX
from privacy_pipeline.processes.programs import command_of

_START_SECONDS = 60.0
_MESSAGE_BYTES = 2 * 1000 * 1000 * 1000
_PORT = 10_000  # in a namespace of its own, where nobody else listens
_TAIL = 300  # characters of the worker's log that an error shows


class TffWorker:
    """One `worker_binary`, which nobody else can reach (`closed`), and the TFF context that computes in it.

    TFF's own start-up leaves the worker behind when the interpreter ends first, restarts a dead one without a word, and
    waits for ever. Here a dead worker is an error, and so is one that does not answer in time.

    Start it in a thread that lives as long as it: the kernel counts the thread that started a child as its parent.

    Args:
        timeout: seconds that a call may take before the worker is killed.
        concurrent_clients: clients computed at the same time; default: as many as there are processors.
    """

    def __init__(self, *, timeout: float = 600.0, concurrent_clients: int | None = None) -> None:
        self.timeout = timeout
        self._concurrent = concurrent_clients or os.cpu_count() or 1
        self._process: subprocess.Popen[bytes] | None = None
        self._kept = contextlib.ExitStack()
        self._log: Path | None = None
        self._timed_out = False
        self._context: Any = None
        self._channel: Any = None
        self._stub: Any = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, or None where none runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the worker and wait until it answers.

        Raises:
            PipelineError: it ends, or does not answer within a minute.
        """
        import grpc
        import tensorflow_federated as tff
        from tensorflow_federated.python.core.impl.executors import remote_executor_grpc_stub

        atexit.register(self.close)
        folder = self._kept.enter_context(run_folder("tff"))
        self._log, path = folder / "log", folder / "socket"
        binary = str(Path(tff.__file__).parent / "data" / "worker_binary")
        options = [f"--port={_PORT}", f"--max_concurrent_computation_calls={self._concurrent}"]
        command = [*command_of("federated.tff_engine.closed"), str(os.getpid()), str(path), str(_PORT)]
        with self._log.open("wb") as stream:
            # A pipe of ours in the worker's hands would keep `command | tail` waiting.
            self._process = subprocess.Popen(
                [*command, binary, *options], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        sizes = ("grpc.max_message_length", "grpc.max_receive_message_length", "grpc.max_send_message_length")
        self._channel = grpc.insecure_channel(f"unix:{path}", [(name, _MESSAGE_BYTES) for name in sizes])
        self._stub = remote_executor_grpc_stub.RemoteExecutorGrpcStub(self._channel)
        deadline = time.monotonic() + _START_SECONDS
        while not self._stub.is_ready:
            self._check_alive()
            if time.monotonic() > deadline:
                self.close()
                raise PipelineError(
                    f"federated: TFF's worker did not answer within {_START_SECONDS:.0f} s of its start",
                    fix="use `engine: fast`",
                )
            time.sleep(0.05)
        self._context = self._make_context()

    def close(self) -> None:
        """End the worker; does nothing where none runs."""
        atexit.unregister(self.close)
        process, self._process, self._context = self._process, None, None
        if process is not None:
            process.kill()
            process.wait()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._log = None
        self._kept.close()

    def __enter__(self) -> TffWorker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Let TFF computations inside run in this worker, for `timeout` seconds at most.

        Raises:
            PipelineError: the worker is dead, or was killed because it did not answer in time.
        """
        from tensorflow_federated.python.core.impl.context_stack import context_stack_impl

        self._check_alive()
        watchdog = threading.Timer(self.timeout, self._kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            with context_stack_impl.context_stack.install(self._context):
                yield
        finally:
            watchdog.cancel()

    def _kill(self) -> None:
        self._timed_out = True
        if self._process is not None:
            self._process.kill()

    def _check_alive(self) -> None:
        if self._process is not None and self._process.poll() is None and not self._timed_out:
            return
        if self._timed_out:
            raise PipelineError(
                f"federated: TFF's worker did not answer within {self.timeout:g} s and was killed",
                fix="resume the run, with a longer timeout or fewer clients per round",
            )
        status = "is not running" if self._process is None else f"ended with status {self._process.returncode}"
        tail = self._log.read_text(errors="replace")[-_TAIL:].strip() if self._log is not None else ""
        said = f" and printed last: {' '.join(tail.split())}" if tail else ""
        refused = self._process is not None and self._process.returncode == closed.REFUSED
        fix = f"use `engine: fast`, or {FIX}" if refused else "resume the run"
        raise PipelineError(f"federated: TFF's worker {status}{said}", fix=fix)

    def _make_context(self) -> Any:
        from tensorflow_federated.python.core.backends.native import compiler
        from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation
        from tensorflow_federated.python.core.impl.execution_contexts import sync_execution_context
        from tensorflow_federated.python.core.impl.executor_stacks import python_executor_stacks
        from tensorflow_federated.python.core.impl.executors import remote_executor
        from tensorflow_federated.python.core.impl.types import placements

        def executor(cardinalities: Any) -> Any:
            # TFF calls this again for every try after an error, for ever; a dead worker ends that.
            self._wait_for_death()
            cardinalities.setdefault(placements.CLIENTS, 0)
            made = remote_executor.RemoteExecutor(self._stub, stream_structs=False)
            made.set_cardinalities(cardinalities)
            return made

        return sync_execution_context.SyncExecutionContext(
            executor_fn=python_executor_stacks.ResourceManagingExecutorFactory(executor_stack_fn=executor),
            compiler_fn=compiler.desugar_and_transform_to_native,
            transform_args=tensorflow_computation.transform_args,
            transform_result=tensorflow_computation.transform_result,
        )

    def _wait_for_death(self) -> None:
        # The connection breaks a moment before the kernel reports that the process ended.
        deadline = time.monotonic() + 1.0
        while not self._stub.is_ready and time.monotonic() < deadline:
            self._check_alive()
            time.sleep(0.02)
        self._check_alive()
