"""The environment of TF-Encrypted: where its interpreter is, and programs run by it. No TensorFlow in here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from privacy_pipeline.environments import place
from privacy_pipeline.environments.place import how_to_set_up
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.processes.programs import ending_with_us
from privacy_pipeline.text.secret_text import without_passwords

VARIABLE = "PRIVACY_PIPELINE_ENCRYPTED_PYTHON"
ROOT = Path(__file__).resolve().parents[3]


def interpreter() -> Path:
    """Return the Python that has TF-Encrypted.

    It is $PRIVACY_PIPELINE_ENCRYPTED_PYTHON, `.venv-encrypted` of this checkout, or what `setup encrypted` made.

    Raises:
        BadInputError: there is none.
    """
    stated = os.environ.get(VARIABLE)
    if stated:
        return _existing(Path(stated), f"{VARIABLE}={stated}")
    there = found()
    if there is None:
        raise BadInputError("the environment of encrypted inference is not set up", fix=how_to_set_up("encrypted"))
    return there


def found() -> Path | None:
    """Return the interpreter that is used where no variable names one; None where there is none."""
    own = ROOT / ".venv-encrypted" / "bin" / "python"
    if place.is_checkout() and own.exists():  # never in the working folder, which runs no code
        return own
    return place.python("encrypted")


def _existing(path: Path, what: str) -> Path:
    if not path.exists():
        raise BadInputError(f"{what}: there is no such file", fix="give the interpreter of .venv-encrypted")
    return path


def variables() -> dict[str, str]:
    """Return the variables of a process there: this project's code on its path, no graphics card, few log lines.

    The ledger's password is not among them: a party computes, and connects to no database.
    """
    # An environment that `setup` made has a copy of the code; ROOT is then where packages of this one lie.
    own = [] if interpreter().is_relative_to(place.root()) else [str(ROOT)]
    paths = [*own, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": os.pathsep.join(paths)}
    return {**without_passwords(os.environ), **quiet}


def run(arguments: Sequence[str], *, timeout: float) -> str:
    """Run Python there with `arguments`, killed when it takes too long, or when this process ends.

    Args:
        arguments: after the interpreter, for example those of `programs.arguments_of` and "job.json".
        timeout: seconds.

    Returns:
        What it printed.

    Raises:
        PipelineError: it failed or took too long; the last line of its errors gives the reason.
    """
    command = ending_with_us([str(interpreter()), *arguments])
    try:
        done = subprocess.run(command, env=variables(), capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise PipelineError(f"encrypted inference did not end within {timeout:g} s", fix="raise the limit") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PipelineError(f"encrypted inference failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.stdout
