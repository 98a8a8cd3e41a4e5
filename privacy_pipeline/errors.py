"""Errors that a person can act on, and the exit codes they end a command with."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    ERROR = 1
    BAD_INPUT = 2
    NOT_BLESSED = 3
    BUDGET_REFUSED = 4


class PipelineError(Exception):
    """An error with one clear line and, where there is one, the next thing to type.

    Args:
        message: What is wrong, naming the file and field.
        fix: What to change, or the next command to type.
    """

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class BadInputError(PipelineError):
    """The config, the schema or the data is not usable."""

    exit_code = ExitCode.BAD_INPUT


class BudgetRefusedError(PipelineError):
    """The ledger does not grant the budget that a run asks for."""

    exit_code = ExitCode.BUDGET_REFUSED
