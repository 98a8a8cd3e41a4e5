"""Makes an environment from its lock: nothing is resolved, and every file is checked by its hash."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from privacy_pipeline.environments import place
from privacy_pipeline.environments.place import Kind
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import require_room
from privacy_pipeline.processes.programs import ending_with_us
from privacy_pipeline.text.typed import typed

_ROOM = {"pipeline": 6 << 30, "encrypted": 3 << 30}  # bytes, downloads included
_LAST_LINES = 5
_LONGEST = 1000  # characters of a reason
_ERROR = re.compile(r"(?i)error\b|[×✗]")


def make(kind: Kind, *, report: Callable[[str], None]) -> Path:
    """Make an environment, or mend one that is not whole; one that is whole stays.

    Args:
        kind: which.
        report: gets what is being done, a line each.

    Returns:
        Its interpreter.

    Raises:
        BadInputError: this is a checkout, Python is not 3.10, or there is no room.
        PipelineError: a package is not reached, or is not the one of the lock.
    """
    if place.is_checkout():
        raise BadInputError(
            "this is a checkout of the project, whose environments `make` makes",
            fix="make setup" if kind == "pipeline" else "make setup-encrypted",
        )
    if sys.version_info[:2] != (3, 10):
        raise BadInputError(
            f"the environments need Python 3.10, and this is {sys.version_info[0]}.{sys.version_info[1]}",
            fix="install the package with Python 3.10",
        )
    done = place.python(kind)
    if done is not None:
        report(f"{kind}: is set up in {done.parents[1]}")
        return done
    require_room(place.root(), _ROOM[kind], fix=f"free room, or set {place.VARIABLE} to a folder on another disk")
    with _alone(kind):
        return place.python(kind) or _made(kind, report)


def _made(kind: Kind, report: Callable[[str], None]) -> Path:
    started = time.monotonic()
    folder = place.root() / kind
    place.stamp_of(kind).unlink(missing_ok=True)
    uv = _uv(report)
    locked = place.lock(kind)
    count = sum(1 for line in locked.splitlines() if "==" in line and not line.lstrip().startswith("#"))
    report(f"{kind}: installing {count} packages into {folder}")
    if not (folder / "bin" / "python").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    with tempfile.TemporaryDirectory(dir=place.root()) as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(locked)
        options = ("--python", python, "--require-hashes", "--no-config", "--compile-bytecode")
        _run([uv, "pip", "sync", *options, requirements])
    _copy_own(Path(_answer([python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])))
    _write_command(python)
    place.stamp_of(kind).write_text(place.digest(kind))
    report(f"{kind}: done in {time.monotonic() - started:.0f} s")
    return python


def _uv(report: Callable[[str], None]) -> Path:
    """Return the program that installs, fetched by its hash into a folder of its own."""
    folder = place.root() / "uv"
    found = folder / "bin" / "uv"
    wanted = place.lock("uv")
    stamp = folder / "set-up"
    if found.exists() and stamp.exists() and stamp.read_text() == wanted:
        return found
    report("fetching uv")
    shutil.rmtree(folder, ignore_errors=True)
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    requirements = folder / "requirements.txt"
    requirements.write_text(wanted)
    options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--only-binary", ":all:")
    _run([folder / "bin" / "python", "-I", "-m", "pip", "install", *options, "-r", requirements])
    stamp.write_text(wanted)
    return found


def _copy_own(packages: Path) -> None:
    """Copy this package's installed files, so that both environments run the same code."""
    own = metadata.distribution(place.PACKAGE)
    here = Path(sysconfig.get_path("purelib")).resolve()
    for one in own.files or ():
        source = Path(str(own.locate_file(one))).resolve()
        if not source.is_relative_to(here) or source.suffix == ".pyc" or not source.is_file():
            continue
        target = packages / source.relative_to(here)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _write_command(python: Path) -> None:
    """Write the command of the environment, by which the installed one hands over to it."""
    command = python.with_name("privacy-pipeline")
    command.write_text(f"#!{python}\nfrom privacy_pipeline.cli.main import main\n\nmain()\n")
    command.chmod(0o700)


def _run(command: Sequence[str | Path]) -> None:
    """Run a program; a terminal shows its own progress, and its error becomes the exception's message."""
    # Settings of the user's shell for another project must not change what is installed.
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    shown = None if sys.stderr.isatty() else subprocess.PIPE
    words = ending_with_us([str(word) for word in command])
    done = subprocess.run(words, stderr=shown, stdout=subprocess.DEVNULL, text=True, env=kept, check=False)
    if done.returncode != 0:
        said = _reason(done.stderr or "") or f"{command[0]} ended with {done.returncode}"
        raise PipelineError(
            f"the environment is not set up: {said}",
            fix=f"see that the package index is reached, then {typed('setup')} again",
        )


def _reason(text: str) -> str:
    """Return the text from the line that names the error on, also where a program wraps it; else the last lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if _ERROR.match(line)), max(0, len(lines) - _LAST_LINES))
    return " ".join(lines[first:])[:_LONGEST]


def _answer(command: Sequence[str | Path]) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _alone(kind: Kind) -> Iterator[None]:
    place.root().mkdir(parents=True, exist_ok=True)
    with (place.root() / f"{kind}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
