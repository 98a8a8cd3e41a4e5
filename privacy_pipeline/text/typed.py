"""Commands that are printed for a person to type or paste: the one home of their quoting."""

from __future__ import annotations

import shlex
from pathlib import Path


def typed(*words: str | Path, program: str = "privacy-pipeline") -> str:
    """Return a command as a POSIX shell takes it: one word a word, whatever is in it.

    Args:
        words: subcommand, options and paths; a path that begins with a dash gets `./`, so that it is not an option.
        program: what is run.
    """
    return shlex.join([program, *(_word(word) for word in words)])


def quoted(path: Path) -> str:
    """Quote one path within a command, or within advice that names one."""
    return shlex.quote(_word(path))


def _word(word: str | Path) -> str:
    text = str(word)
    return f"./{text}" if isinstance(word, Path) and text.startswith("-") else text
