"""The group of the commands `privacy-pipeline budget`."""

from __future__ import annotations

import typer

from privacy_pipeline.cli.lazy import Listed, group_of

COMMANDS = (
    Listed("register", "budget.budget_commands:register", "Register the dataset of a config."),
    Listed("status", "budget.budget_commands:status", "Show what is spent and what is left of each budget."),
    Listed("init", "budget.ledger_commands:init", "Write a starter policy for a dataset's budget."),
    Listed("apply", "budget.ledger_commands:apply", "Apply a policy to the budget of a registered dataset."),
    Listed("history", "budget.ledger_commands:history", "List what was charged, the newest first."),
    Listed("expire", "budget.ledger_commands:expire", "Give back what a dead run reserved and never started."),
    Listed("verify", "budget.ledger_commands:verify", "Verify the ledger."),
    Listed("rotate-key", "budget.ledger_commands:rotate_key", "Give the ledger a new signing key."),
    Listed("migrate", "budget.ledger_commands:migrate", "Bring an older ledger to the present format now."),
    Listed("move", "budget.ledger_commands:move", "Move a ledger to another database, under the same key."),
    Listed(
        "pin",
        "budget.ledger_commands:pin",
        "Note in the data's folder and in the workspace which ledger they belong to, as `register` does.",
    ),
    Listed("backup", "budget.backup_commands:backup", "Copy the ledger while it is in use."),
    Listed(
        "restore", "budget.backup_commands:restore", "Restore the ledger from a backup, and print what would be lost."
    ),
    Listed(
        "forecast",
        "budget.forecast_command:forecast",
        "Print how many more runs of a config fit its budget, and what noise fits the rest.",
    ),
    Listed("export", "budget.export_command:export", "Export all entries."),
    Listed("report", "budget.report_commands:report", "Write a report on a dataset over all its runs."),
    Listed("report-schema", "budget.report_commands:report_schema", "Print the JSON Schema of the report."),
    Listed("publish", "budget.publish_command:publish", "Write what may be published."),
)

app = typer.Typer(cls=group_of(COMMANDS), help="The privacy budget of each dataset.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep this a group."""
