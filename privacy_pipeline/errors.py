"""Errors that a person can act on, and the exit codes they end a command with."""

from __future__ import annotations

from enum import IntEnum

from privacy_pipeline.text.secret_text import masked

LONGEST_MESSAGE, LONGEST_FIX = 1400, 500  # bytes; what a person still reads


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    ERROR = 1
    BAD_INPUT = 2
    NOT_BLESSED = 3
    BUDGET_REFUSED = 4


class PipelineError(Exception):
    """An error with one clear line and, where there is one, the next thing to type.

    Both are kept short, and passwords in them are masked.

    Args:
        message: What is wrong, naming the file and field.
        fix: What to change, or the next command to type.
    """

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, *, fix: str = "") -> None:
        self.message = brief(masked(message), most=LONGEST_MESSAGE)
        self.fix = brief(masked(fix), most=LONGEST_FIX)
        super().__init__(self.message)


class BadInputError(PipelineError):
    """The config, the schema or the data is not usable."""

    exit_code = ExitCode.BAD_INPUT


class BudgetRefusedError(PipelineError):
    """The ledger does not grant the budget that a run asks for."""

    exit_code = ExitCode.BUDGET_REFUSED


def brief(text: str, *, most: int) -> str:
    """Return a text of at most `most` bytes of UTF-8: long lines lose their middle, of many lines the last are counted.

    Args:
        text: what somebody else's file may have made long.
        most: the largest number of bytes, 100 or more.
    """
    if _size(text) <= most:
        return text
    lines = text.split("\n")
    if len(lines) == 1:
        return _without_middle(text, most=most)
    kept: list[str] = []
    room = most - 40  # for the last line
    for line in lines:
        short = _without_middle(line, most=most // 2)
        room -= _size(short) + 1
        if room < 0:
            break
        kept.append(short)
    more = len(lines) - len(kept)
    return "\n".join([*kept, f"and {more} more lines"] if more else kept)


def _without_middle(line: str, *, most: int) -> str:
    if _size(line) <= most:
        return line
    content, part = line.encode("utf-8", "surrogatepass"), (most - 5) // 4
    start = content[: 3 * part].decode("utf-8", "ignore")
    return f"{start} ... {content[-part:].decode('utf-8', 'ignore')}"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
