"""How a module of the framework is started in a process of its own: never with the working folder on its path.

`python -m`, and `-c` without more, look for every module in the working folder first, where a user's files lie: a
`json.py` there would be run. What a user put into PYTHONPATH is the user's own, and stays.
"""

from __future__ import annotations

import multiprocessing.util
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from privacy_pipeline.processes import die_with_parent

_ALONE = "import sys; del sys.path[0]; "
_BEAM_WORKER = "apache_beam.runners.worker.sdk_worker_main"


def arguments_of(module: str) -> list[str]:
    """Return what to type behind an interpreter, this one or another, to run a module as a program; its arguments
    follow.

    Args:
        module: dotted name.
    """
    return ["-c", f"{_ALONE}import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"]


def command_of(module: str) -> list[str]:
    """Return the command that runs a module as a program; its arguments follow.

    Args:
        module: dotted name.
    """
    return [sys.executable, *arguments_of(module)]


def command_calling(module: str, function: str) -> list[str]:
    """Return the command that calls a function of a module; its arguments follow.

    Args:
        module: dotted name.
        function: a name in it.
    """
    return [sys.executable, "-c", f"{_ALONE}from {module} import {function}; {function}()"]


def ending_with_us(command: Sequence[str]) -> list[str]:
    """Return the command for a program that is killed when this process ends, however it ends; to be started by this
    process.

    Args:
        command: of the program, which does not ask for that itself.
    """
    return [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]


def leave_working_folder() -> None:
    """Take the working folder off this process's path, where it is as such, and not by its name in PYTHONPATH."""
    sys.path[:] = [path for path in sys.path if path]


def isolate_spawned() -> None:
    """Let no new process of `multiprocessing`, its tracker included, look for modules in the working folder."""
    stock: Callable[..., int] = multiprocessing.util.spawnv_passfds
    if hasattr(stock, "is_isolated"):
        return

    def spawnv_passfds(path: Any, args: list[str], passfds: Any) -> int:
        at = args.index("-c") + 1
        return stock(path, [*args[:at], _ALONE + args[at], *args[at + 1 :]], passfds)

    spawnv_passfds.is_isolated = True  # type: ignore[attr-defined]
    multiprocessing.util.spawnv_passfds = spawnv_passfds  # type: ignore[assignment]


def isolate_beam() -> None:
    """Let no worker process of Beam's look for modules in the working folder."""
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    stock = SubprocessSDKEnvironment.from_command_string

    def from_command_string(cls: Any, command_string: str) -> Any:
        if command_string.endswith(f" -m {_BEAM_WORKER}"):
            command_string = shlex.join(command_of(_BEAM_WORKER))
        return stock(command_string)

    if not hasattr(stock, "is_isolated"):
        from_command_string.is_isolated = True  # type: ignore[attr-defined]
        SubprocessSDKEnvironment.from_command_string = classmethod(from_command_string)
