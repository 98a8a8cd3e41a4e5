"""Children of a process that has imported nothing but what they need.

A test process has long imported TensorFlow and JAX, whose threads do not survive a fork: now and then a child of it
dies of a signal before it does anything.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["privacy_pipeline.ledger.ledger", "tests.ledger.priced"])


def clean_process(target: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process, not yet started, that calls `target` in the caller's environment of now."""
    with pytest.MonkeyPatch.context() as patched:
        # Where the worker ran in this process, the server does not look into its folder; installed is another `tests`.
        patched.setenv("PYTHONPATH", str(ROOT))
        forkserver.ensure_running()
    return CLEAN.Process(target=_in_environment, args=(dict(os.environ), target, args))


def _in_environment(environment: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)
