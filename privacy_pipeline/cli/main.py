"""Entry point of `privacy-pipeline`. Imports stay light, so that `--help` answers in under a second."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from privacy_pipeline.cli import last_handler, output, terminal
from privacy_pipeline.cli.commands import setup_commands
from privacy_pipeline.cli.lazy import Listed, group_of
from privacy_pipeline.errors import LONGEST_MESSAGE, ExitCode, brief
from privacy_pipeline.files.file_rights import keep_to_this_user
from privacy_pipeline.processes.programs import leave_working_folder
from privacy_pipeline.version import __version__

COMMANDS = (
    Listed("run", "commands.run_commands:run", "Run a pipeline."),
    Listed("resume", "commands.run_commands:resume", "Continue a run that failed or was killed."),
    Listed(
        "check",
        "commands.run_commands:check",
        "Validate a config and its rows, examine its model and forecast its privacy cost.",
    ),
    Listed("runs", "commands.inspect_commands:runs", "List all runs with their utility and privacy."),
    Listed("show", "commands.inspect_commands:show", "Show one run."),
    Listed("diff", "commands.inspect_commands:diff", "Compare two runs."),
    Listed(
        "audit",
        "commands.audit_commands:audit",
        "Compare a plan's epsilon with an empirical lower bound, on made-up data only.",
    ),
    Listed("init", "commands.project_commands:init", "Write a commented starter config and schema for your own CSV."),
    Listed(
        "doctor",
        "commands.project_commands:doctor",
        "Print what is missing on this machine, and the command that fixes it.",
    ),
    Listed(
        "setup",
        "commands.setup_commands:setup",
        "Make the environment of pipelines (TFX, the demo's data) or of encrypted inference, from hash-pinned locks.",
    ),
    Listed(
        "demo",
        "commands.setup_commands:demo",
        "Run real census data through the whole pipeline, plain and with DP-SGD, and compare both.",
    ),
    Listed("data", "commands.data_commands:app", "Real data to start with."),
    Listed("encrypted", "commands.encrypted_commands:app", "Encrypted inference."),
    Listed("federated", "commands.federated_commands:app", "Federated simulation experiments."),
    Listed("budget", "budget.group:app", "The privacy budget of each dataset."),
    Listed("workspace", "commands.workspace_commands:app", "What runs leave on the disk."),
    Listed("config", "commands.project_commands:config_app", "The config file format."),
    # Spellings of 0.1, for one release.
    Listed(
        "serve", "commands.serving_commands:serve_as_before", "Call `encrypted serve`, where this moved.", hidden=True
    ),
    Listed(
        "predict",
        "commands.serving_commands:predict_as_before",
        "Call `encrypted predict`, where this moved.",
        hidden=True,
    ),
)


def _show_version(asked: bool) -> None:
    if asked:
        output.print_line(f"privacy-pipeline {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="privacy-pipeline",
    cls=group_of(COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(
    help="Privacy-preserving ML pipelines: one YAML file, swappable privacy backends, a budget ledger.\n\n"
    "Exit codes: 0 done, 1 error, 2 bad input or config, 3 not blessed, 4 budget refused. "
    "`privacy-pipeline --debug COMMAND` shows the traceback of an unexpected error.",
)
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line."""
    keep_to_this_user()
    leave_working_folder()
    terminal.prepare()
    try:
        last_handler.run(_command)
    except SystemExit as ended:
        sys.exit(terminal.exit_code(ended.code))


def _usage_told(command: Callable[[], int | None]) -> int:
    """Return the exit code of a command; arguments that it does not accept are reported like any other bad input."""
    try:
        return command() or 0
    except typer.Abort:
        output.err.print("aborted")
        return int(ExitCode.ERROR)
    except typer.TyperException as error:
        # A group that is named alone has printed its help.
        if type(error).__name__ != "NoArgsIsHelpError":
            path = getattr(getattr(error, "ctx", None), "command_path", app.info.name)
            output.tell(
                message=brief(error.format_message(), most=LONGEST_MESSAGE),
                fix=f"{path} --help",
                exit_code=error.exit_code,
                as_json="--json" in sys.argv,
            )
        return error.exit_code


def _command() -> None:
    setup_commands.hand_over()
    try:
        sys.exit(_usage_told(lambda: app(prog_name=app.info.name, standalone_mode=False)))
    except ModuleNotFoundError:
        needed = setup_commands.explained()
        if needed is None:
            raise
        setup_commands.offer(needed)
        raise needed from None
