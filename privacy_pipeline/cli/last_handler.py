"""Report an unexpected failure of a command: one line, a log, and where to report it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NoReturn

from privacy_pipeline.errors import ExitCode, PipelineError
from privacy_pipeline.text.secret_text import masked
from privacy_pipeline.text.shown_text import in_json, visible
from privacy_pipeline.version import __version__

DEBUG = "--debug"
VARIABLE = "PRIVACY_PIPELINE_DEBUG"
_PACKAGE = "privacy_pipeline"


def run(command: Callable[[], None]) -> None:
    """Run a command; an exception that it did not turn into its own error ends in one line and exit code 1.

    With `--debug` before the command, or PRIVACY_PIPELINE_DEBUG set, the traceback is shown instead.
    """
    if sys.argv[1:2] == [DEBUG]:
        del sys.argv[1]
        os.environ[VARIABLE] = "1"
    try:
        command()
    except SystemExit:
        raise
    except KeyboardInterrupt:
        _tell("interrupted", "", ExitCode.ERROR)
    except BaseException as error:  # noqa: BLE001 (the only place that catches everything: nothing is done after it)
        if os.environ.get(VARIABLE):
            sys.stderr.write(_traceback(error))
            sys.exit(int(ExitCode.ERROR))
        if isinstance(error, PipelineError):
            _tell(error.message, error.fix, error.exit_code)
        _tell(*_unforeseen(error), ExitCode.ERROR)


def _tell(message: str, fix: str, exit_code: ExitCode) -> NoReturn:
    """End the process with what went wrong: as text on standard error, or as JSON on standard output."""
    if "--json" in sys.argv:
        told = json.dumps({"error": message, "fix": fix, "exit_code": int(exit_code)}, indent=2)
        sys.stdout.write(in_json(told) + "\n")
    else:
        sys.stderr.write(visible(f"error: {message}" + (f"\n  fix: {fix}" if fix else ""), lines=True) + "\n")
    sys.exit(int(exit_code))


def _unforeseen(error: BaseException) -> tuple[str, str]:
    """Return the message of an exception, and what to do."""
    text = "".join(traceback.format_exception_only(type(error), error)).partition(": ")[2]  # also where str() fails
    said = "".join(c if c.isprintable() else " " for c in masked(text))[:300].strip()
    what = type(error).__name__ + (f": {said}" if said else "")
    return (
        f"{what} (an error of privacy-pipeline itself)",
        f"report it with the file {_log(error)}, which may hold names of your files and values; "
        f"{DEBUG} before the command shows where it happened",
    )


def _traceback(error: BaseException) -> str:
    return visible(masked("".join(traceback.format_exception(error))), lines=True)


def _log(error: BaseException) -> str:
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix="privacy-pipeline-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{_PACKAGE} {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
            stream.write(_traceback(error))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        return "(none: no temporary file can be written)"
    return name
