"""The page of all commands, their arguments and options, from the command line itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from privacy_pipeline.cli.lazy import LazyCommand
from privacy_pipeline.cli.main import app
from tools.references.layout import GENERATED, page, table

_INTRODUCTION = """\
Every command. `--help` after any of them prints the same. `--json` is for scripts, `--markdown` for reports;
[exit codes](exit_codes.md) are the same for all commands. `privacy-pipeline --install-completion` completes names in
the shell, and `privacy-pipeline --debug COMMAND` shows the traceback of an error that nobody foresaw."""


def commands_page() -> str:
    """Return the page."""
    parts = [
        part for name, command in _commands(get_command(app), "privacy-pipeline") for part in _parts(name, command)
    ]
    return page("# Command line", GENERATED, _INTRODUCTION, *parts)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the full name of each command and group below a group, and what it is."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        real = command.listed.load() if isinstance(command, LazyCommand) else command
        yield f"{path} {name}", real
        if hasattr(real, "commands"):
            yield from _commands(real, f"{path} {name}")


def _parts(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        yield f"## {name.rpartition(' ')[2]}"
        yield command.help or ""
        return
    depth = "##" if name.count(" ") == 1 else "###"
    yield f"{depth} `{name}`"
    context = command.context_class(command, info_name=name)
    shown = [param for param in command.params if not param.hidden]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    words = [_argument(param) for param in arguments]
    options = ["[OPTIONS]"] if len(shown) > len(arguments) else []
    yield "```text\n" + " ".join([name, *options, *words]) + "\n```"
    yield re.sub(r"[ \t]*\n[ \t]*", "\n", command.help or "")
    rows = [param.get_help_record(context) for param in shown]
    if rows:
        yield table(("argument or option", "meaning"), [(f"`{_plain(first)}`", _plain(text)) for first, text in rows])


def _argument(param: Any) -> str:
    word = (param.metavar or param.name.upper()).strip("[]")
    several = f"{word}..." if param.nargs == -1 else word
    return several if param.required else f"[{several}]"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
