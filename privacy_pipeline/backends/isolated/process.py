"""Runs a task in a process that sees what a list names (`jail`), and reads what it answers. No TensorFlow."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import privacy_pipeline
from privacy_pipeline.backends.isolated import environment, jail
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.processes.namespaces import FIX

SECONDS = 600.0  # of a build, TensorFlow's start included
MEMORY = 8 << 30  # bytes that a process of a build may allocate
MOST_ANSWERED = 1 << 30  # bytes
TASK = "/task.json"
REVIEWED = (
    "or have the module reviewed and set `trust: reviewed` under `model`; the record then lists it as not checked"
)
_MOST_SAID = 20_000  # bytes of what a build prints that are kept, of its end
_FRAMEWORK = Path(privacy_pipeline.__file__).resolve().parents[1]
# Not by `-m`, which would import modules of the folder the command was typed in.
_START = (
    f"import sys; sys.path[:0] = [{{framework!r}}, {{packages!r}}]; from {jail.__name__} import main; sys.exit(main())"
)
_VARIABLES = {
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class NoNamespacesError(BadInputError):
    """The kernel gives this process no namespaces of its own, so that nothing can be built away from the data."""


def run(program: str, *, task: Mapping[str, Any], files: Mapping[Path, bytes], folders: Collection[Path]) -> bytes:
    """Run a module of the framework where there is no data and no network.

    Args:
        program: dotted name of the module; its `main()` reads `TASK` and writes its answer to standard output.
        task: JSON values.
        files: contents by absolute path: all that it sees beside Python, the framework and the packages it needs.
        folders: where it imports modules from, before all others.

    Returns:
        What it answered; nothing is known of it but its length.

    Raises:
        NoNamespacesError: the kernel does not allow it.
        BadInputError: it took too long or too much memory, or ended without an answer.
    """
    packages = environment.packages()
    paths = [*map(str, folders), str(_FRAMEWORK), str(packages.folder)]
    code = f"import sys; sys.path[:0] = {paths!r}; from {program} import main; main()"
    cell = jail.Cell(
        shown=(*environment.shown(), *packages.shown, *environment.framework()),
        emptied=environment.emptied(),
        files={str(path): _encoded(content) for path, content in files.items()}
        | {TASK: _encoded(json.dumps(task).encode())},
        folder=os.getcwd(),
        command=(environment.python(), "-I", "-S", "-B", "-c", code),
        environment=_VARIABLES,
        memory=MEMORY,
        seconds=int(SECONDS),
    )
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryFile() as asked:
        asked.write(json.dumps(dataclasses.asdict(cell)).encode())
        asked.seek(0)
        return _answer(Path(root), asked)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _answer(root: Path, asked: IO[bytes]) -> bytes:
    start = _START.format(framework=str(_FRAMEWORK), packages=str(environment.packages().folder))
    process = subprocess.Popen(
        [environment.python(), "-I", "-S", "-B", "-c", start, str(os.getpid())],
        stdin=asked,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
        env={},
    )
    with process:
        try:
            answer, said = _read(process)
            code = process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            raise BadInputError("model: the build does not end after its answer", fix="end what it started") from None
        finally:
            process.kill()
    if code == jail.REFUSED:
        why = answer.decode(errors="replace").strip()
        raise NoNamespacesError(
            f"model: your module cannot be built away from the data: {why}", fix=f"{FIX}; {REVIEWED}"
        )
    if code != 0:
        raise BadInputError(f"model: the build {_end(code)}{_last(said)}", fix=_LESS)
    return answer


_SECONDS_TO_END = 10.0
_LESS = f"build less: a build may take {MEMORY >> 30} GiB and {SECONDS:.0f} s"


def _read(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Return all of standard output, and the end of standard error."""
    ends = time.monotonic() + SECONDS
    answer, said = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, kept in ((process.stdout, answer), (process.stderr, said)):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, kept)
        while selector.get_map():
            left = ends - time.monotonic()
            if left <= 0:
                raise BadInputError(f"model: the build took longer than {SECONDS:.0f} s", fix=_LESS)
            for key, _ in selector.select(left):
                part = os.read(key.fd, 1 << 20)
                key.data.extend(part)
                if not part:
                    selector.unregister(key.fileobj)
            del said[:-_MOST_SAID]
            if len(answer) > MOST_ANSWERED:
                raise BadInputError(
                    f"model: the build answers with more than {MOST_ANSWERED >> 30} GiB", fix="make a smaller model"
                )
    return bytes(answer), bytes(said)


def _end(code: int) -> str:
    if code > jail.SIGNALLED:
        return f"was killed by signal {code - jail.SIGNALLED}, as when memory or time runs out"
    return f"ended with status {code}"


def _last(said: bytes) -> str:
    lines = [line for line in printable(said.decode(errors="replace")).splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def printable(text: str) -> str:
    """Return a text without what moves a terminal's cursor."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)
