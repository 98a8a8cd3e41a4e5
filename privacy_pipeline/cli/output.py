"""Where commands print to, and how they end."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from privacy_pipeline.cli.export import to_markdown
from privacy_pipeline.cli.shown import PlainConsole, escape
from privacy_pipeline.errors import LONGEST_MESSAGE, ExitCode, PipelineError, brief
from privacy_pipeline.text.shown_text import in_json, visible

if TYPE_CHECKING:
    from privacy_pipeline.pipelines.workspace.run_state import RunState
    from privacy_pipeline.reports.record.summary import RunSummary

# A pipe or a log file has no width of its own; tables need room.
_WIDTH = None if sys.stdout is not None and sys.stdout.isatty() else 120

# A path may contain the name of an emoji.
out = PlainConsole(highlight=False, emoji=False, width=_WIDTH)
err = PlainConsole(stderr=True, highlight=False, emoji=False, width=_WIDTH)


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    sys.stdout.write(in_json(json.dumps(value, indent=2, default=str)) + "\n")


def print_run(
    state: RunState, summary: RunSummary | None, *, audits: Sequence[Any] = (), attacks: Sequence[Any] = ()
) -> None:
    """Print a run's state, summary, audits and attacks as JSON."""
    facts = {"run": state.model_dump(mode="json"), "summary": summary.model_dump(mode="json") if summary else None}
    more = {"audits": list(audits), "attacks": list(attacks)}
    print_json({**facts, **{name: found for name, found in more.items() if found}})


def print_report(state: RunState) -> None:
    """Print where the report from the end of a run is, or why there is none."""
    if state.report:
        out.print(f"[dim]report {escape(state.report)}[/]", soft_wrap=True)
    if state.report_problem:
        err.print(f"[red]no report of the dataset:[/] {escape(state.report_problem)}", soft_wrap=True)


def print_table(table: Table, *, as_markdown: bool) -> None:
    """Print a table, drawn or as Markdown."""
    if as_markdown:
        sys.stdout.write(to_markdown(table) + "\n\n")
    else:
        out.print(table)


@contextmanager
def errors_as_exit_codes(*, as_json: bool, resume: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn an error that a person can act on into its message, the fix, and its exit code.

    Args:
        as_json: print it as JSON.
        resume: returns the command that continues what was interrupted; "" where nothing was started.
    """
    again = resume or (lambda: "")
    try:
        yield
    except PipelineError as error:
        command = "" if error.exit_code == ExitCode.BAD_INPUT else again()
        more = {"resume": command} if command else {}
        tell(message=error.message, fix=error.fix, exit_code=int(error.exit_code), as_json=as_json, **more)
        raise typer.Exit(int(error.exit_code)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the path and its permissions"
        fix = ", then ".join(part for part in (hint, again()) if part)
        message = brief(f"{where}{error.strerror or error}", most=LONGEST_MESSAGE)
        tell(message=message, fix=fix, exit_code=int(ExitCode.ERROR), as_json=as_json)
        raise typer.Exit(int(ExitCode.ERROR)) from error
    except KeyboardInterrupt:
        fix = again() or "privacy-pipeline runs"
        tell(message="interrupted", fix=fix, exit_code=int(ExitCode.ERROR), as_json=as_json)
        raise typer.Exit(int(ExitCode.ERROR)) from None


def tell(*, message: str, fix: str, exit_code: int, as_json: bool, **more: str) -> None:
    """Print what went wrong, as text on standard error or as JSON on standard output."""
    if as_json:
        print_json({"error": message, "fix": fix, "exit_code": exit_code, **more})
        return
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    if fix:
        err.print(f"  [bold]fix:[/] {escape(fix)}", soft_wrap=True)
    for name, value in more.items():
        err.print(f"  [bold]{name}:[/] {escape(value)}", soft_wrap=True)


_OLD_KEYS = {"enforced_epsilon": "held_epsilon"}  # what scripts of 0.1 read; kept for one release


def with_old_keys(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts for JSON with the names that 0.1 gave some of them, beside those of today."""
    old = {_OLD_KEYS[name]: value for name, value in facts.items() if name in _OLD_KEYS}
    return {**facts, **old}


def print_line(line: str, *, err: bool = False) -> None:
    """Print a line unchanged, however long, to standard output or error; it contains neither markup nor commands."""
    typer.echo(visible(line, lines=True), err=err)


def note(what: str) -> None:
    """Print, on standard error, what a person should know although it is not an error."""
    err.print(f"[yellow]note:[/] {escape(what)}", soft_wrap=True)
