"""What a command says where it fails in a way that nobody foresaw: one line, a log, and where to report it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from privacy_pipeline.errors import ExitCode, PipelineError
from privacy_pipeline.secret_text import masked
from privacy_pipeline.shown_text import visible

DEBUG = "--debug"
VARIABLE = "PRIVACY_PIPELINE_DEBUG"
_PACKAGE = "privacy_pipeline"


def run(command: Callable[[], None]) -> None:
    """Run a command; an exception that it did not turn into an error of its own ends in one line and exit code 1.

    With `--debug` before the command, or PRIVACY_PIPELINE_DEBUG set, the traceback is shown instead.
    """
    if sys.argv[1:2] == [DEBUG]:
        del sys.argv[1]
        os.environ[VARIABLE] = "1"
    try:
        command()
    except Exception as error:  # noqa: BLE001 (the one place where everything is caught: nothing is done after it)
        if os.environ.get(VARIABLE):
            sys.stderr.write(_traceback(error))
            sys.exit(int(ExitCode.ERROR))
        sys.stderr.write(_told(error) + "\n")
        sys.exit(int(error.exit_code if isinstance(error, PipelineError) else ExitCode.ERROR))


def _told(error: Exception) -> str:
    if isinstance(error, PipelineError):
        return visible(f"error: {error.message}" + (f"\n  fix: {error.fix}" if error.fix else ""), lines=True)
    said = "".join(c if c.isprintable() else " " for c in masked(str(error)))[:300].strip()
    what = type(error).__name__ + (f": {said}" if said else "")
    return (
        f"error: {what} (an error of privacy-pipeline itself)\n"
        f"  fix: report it with the file {_log(error)}, which may name files and values of yours; "
        f"{DEBUG} before the command shows where it happened"
    )


def _traceback(error: Exception) -> str:
    return visible(masked("".join(traceback.format_exception(error))), lines=True)


def _log(error: Exception) -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="privacy-pipeline-error-", suffix=".log")
    except OSError:
        return "(none: no temporary file can be written)"
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(f"{_PACKAGE} {_version()}, Python {platform.python_version()}, {platform.platform()}\n")
        stream.write(_traceback(error))
    return name


def _version() -> str:
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        return "not installed"
