"""Commands that are imported when they are called: `--help` and completion read names and help from a table alone."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

if TYPE_CHECKING:
    from typer._click.core import Command, Context


_PACKAGE = "privacy_pipeline.cli"


@dataclass(frozen=True)
class Listed:
    """A command, or a group of commands, that is not imported yet.

    Attributes:
        name: what a person types.
        home: `module:function` of a command, or `module:app` of a group (a `typer.Typer`), below this package.
        help: the first sentence of its help; a test compares it with what `home` names.
        hidden: the help does not list it.
    """

    name: str
    home: str
    help: str
    hidden: bool = False

    def load(self) -> Command:
        """Import the command."""
        module, _, attribute = self.home.partition(":")
        found = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), attribute)
        if isinstance(found, typer.Typer):
            command: Command = get_group(found)
        else:
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(self.name)(found)
            command = get_command(single)
        command.name = self.name
        return command


class LazyCommand(TyperCommand):
    """Stands for a command in a group's list, and makes way for the real one where that is called."""

    def __init__(self, listed: Listed) -> None:
        super().__init__(name=listed.name, help=listed.help, hidden=listed.hidden)
        self.listed = listed

    def make_context(self, info_name: str | None, args: list[str], parent: Context | None = None, **extra: Any) -> Any:
        """Return the context of the real command."""
        return self.listed.load().make_context(info_name, args, parent=parent, **extra)


def group_of(table: Sequence[Listed]) -> type[TyperGroup]:
    """Return the class of a group (`typer.Typer(cls=...)`) whose commands are those of a table.

    Args:
        table: the commands, in the order of the help.
    """

    class LazyGroup(TyperGroup):
        def __init__(self, **attrs: Any) -> None:
            super().__init__(**attrs)
            self.commands = {listed.name: LazyCommand(listed) for listed in table}

    return LazyGroup
