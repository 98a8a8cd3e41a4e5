"""Entry point of `privacy-pipeline`. Imports stay light: `--help` answers in under a second."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from privacy_pipeline.cli import last_handler, output, terminal
from privacy_pipeline.cli.budget import (
    backup_commands,
    budget_commands,
    export_command,
    forecast_command,
    ledger_commands,
    publish_command,
    report_commands,
)
from privacy_pipeline.cli.commands import (
    audit_commands,
    data_commands,
    encrypted_commands,
    federated_commands,
    inspect_commands,
    project_commands,
    run_commands,
    serving_commands,
    setup_commands,
    workspace_commands,
)
from privacy_pipeline.errors import LONGEST_MESSAGE, ExitCode, brief
from privacy_pipeline.files.file_rights import keep_to_this_user
from privacy_pipeline.processes.programs import leave_working_folder

app = typer.Typer(
    name="privacy-pipeline",
    help="Privacy-preserving ML pipelines: one YAML file, swappable privacy backends, a budget ledger.\n\n"
    "Exit codes: 0 done, 1 error, 2 bad input or config, 3 not blessed, 4 budget refused. "
    "`privacy-pipeline --debug COMMAND` shows the traceback of an error that nobody foresaw.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
run_commands.add_to(app)
inspect_commands.add_to(app)
audit_commands.add_to(app)
project_commands.add_to(app)
serving_commands.add_to(app)
setup_commands.add_to(app)
app.add_typer(data_commands.app, name="data")
app.add_typer(encrypted_commands.app, name="encrypted")
app.add_typer(federated_commands.app, name="federated")
ledger_commands.add_to(budget_commands.app)
backup_commands.add_to(budget_commands.app)
forecast_command.add_to(budget_commands.app)
export_command.add_to(budget_commands.app)
report_commands.add_to(budget_commands.app)
publish_command.add_to(budget_commands.app)
app.add_typer(budget_commands.app, name="budget")
app.add_typer(workspace_commands.app, name="workspace")
app.add_typer(project_commands.config_app, name="config")


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
    """Return the exit code of a command; arguments that it does not take are told as any other bad input is."""
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
