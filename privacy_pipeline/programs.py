"""How a module of the framework is started in a process of its own."""

from __future__ import annotations

import sys


def command_of(module: str) -> list[str]:
    """The command that runs a module as a program; its arguments follow.

    Not `python -m`, which looks for every module in the working folder first, where a user's modules lie.

    Args:
        module: dotted name.
    """
    start = (
        f"import sys; del sys.path[0]; import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", start]
