"""Programs that run in the environment of TF-Encrypted, each once, and print one JSON document."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.errors import BadInputError

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def encrypted_python() -> Path:
    """The interpreter; the environment is made where there is none."""
    try:
        return environment.interpreter()
    except BadInputError:
        subprocess.run(["make", "setup-encrypted"], cwd=environment.ROOT, check=True)
        return environment.interpreter()


@cache
def _run(name: str, *arguments: str) -> Any:
    printed = environment.run([str(PROGRAMS / name), *arguments], timeout=300)
    return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="session")
def program(encrypted_python: Path) -> Callable[..., Any]:
    """Runs a program of this folder there, once a session for the same arguments."""
    return _run
