"""Kills a registration, or a change of the key, before each call that may write, one after the other.

    python -m tests.e2e.kills.each_call FOLDER register|rotate [EVERY]

A process of its own, which forks for each kill. It prints what did not hold, a JSON list, after the number of kills.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.files.file_rights import keep_to_this_user
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.e2e.kills import invariants
from tests.e2e.kills.commands import Place
from tests.pipelines.projects import write_project

_WRITING = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "write", "pwrite", "fsync", "fchmod", "commit")
Action = Callable[[PipelineConfig], None]


def register(config: PipelineConfig) -> None:
    """Registers the dataset of a project."""
    register_dataset(config=config, epsilon=10.0, delta=1e-5)


def rotate(config: PipelineConfig) -> None:
    """Gives its ledger a new key."""
    Ledger.open(config.ledger).rotate_key()


def calls_of(action: Action, config: PipelineConfig, *, kill_at: int = 0) -> int:
    """Does it in a process of its own, which dies right before the call of that number.

    Returns:
        How many calls there were; 0 where it died.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        keep_to_this_user()
        seen = 0

        def count(_frame: Any, event: str, called: Any) -> None:
            nonlocal seen
            if event == "c_call" and getattr(called, "__name__", "") in _WRITING:
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(count)
            action(config)
            sys.setprofile(None)
            os.write(writing, str(seen).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return int(told or 0)


def problems(folder: Path, name: str, kill_at: int) -> tuple[int, list[str]]:
    """One kill in a new project, and what did not hold after it and after the next command.

    Returns:
        The calls of the command where it was not killed (0 where it was), and the problems.
    """
    shutil.rmtree(folder, ignore_errors=True)
    place = Place(folder, folder / "memory")
    config = write_project(folder)
    action, before = {"register": register, "rotate": rotate}[name], invariants.Books()
    if action is rotate:
        register(config)
        before = invariants.books(place)
    calls = calls_of(action, config, kill_at=kill_at)
    found = [*invariants.not_counted(place, before), *invariants.not_whole(place)]
    if not calls_of(action, config):
        found.append("the next command failed")
    found += [*invariants.not_counted(place, before), *invariants.not_whole(place), *invariants.left_behind(place)]
    key = keys.key_file(sa.make_url(config.ledger))
    if keys.public_file(key).exists() and keys.read_public(keys.public_file(key)) != keys.load_any(key).public:
        found.append("the public copy is of another key")
    if not invariants.books(place).spent:
        found.append("nothing is registered")
    return calls, [f"{name}, killed at call {kill_at}: {one}" for one in found]


def main() -> None:
    """Prints kills and problems."""
    folder, name, every = Path(sys.argv[1]) / "project", sys.argv[2], int(sys.argv[3])
    shutil.rmtree(folder, ignore_errors=True)
    register(write_project(folder))  # imports, once for all that is forked
    kills, at, found = 0, 1, list[str]()
    while True:
        calls, problem = problems(folder, name, at)
        found += problem
        if calls:
            break
        kills, at = kills + 1, at + every
    print(json.dumps({"kills": kills, "problems": found}))


if __name__ == "__main__":
    main()
