"""Children of a process that has imported nothing but what they need.

A test process has long imported TensorFlow and JAX, whose threads do not survive a fork: now and then a child of it
dies of a signal before it does anything.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["privacy_pipeline.ledger.ledger", "tests.ledger.priced"])


def clean_process(target: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process, not yet started, that calls `target` in the caller's environment of now."""
    return CLEAN.Process(target=_in_environment, args=(dict(os.environ), target, args))


def _in_environment(environment: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args)
