"""Output to a terminal: text that it cannot encode, or that nobody reads any more, does not end a command."""

from __future__ import annotations

import codecs
import locale
import os
import sys
from typing import Any, TextIO

from privacy_pipeline.errors import ExitCode
from privacy_pipeline.text.secret_text import masked_by_look

FALLBACK = "privacy_pipeline.ascii"
_DRAWN = str.maketrans(
    {
        **dict.fromkeys("─━═╌┄╴╶╸╺", "-"),
        **dict.fromkeys("│┃║", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┡┩╇╈┣┫┳┻╋╔╗╚╝╠╣╦╩╬┠┨┯┷┿╂╞╡╪╤╧", "+"),
        "✓": "ok",
        "✗": "x",
        "·": ".",
        "…": "...",
        "•": "*",
        "–": "-",
        "—": "-",
        "→": "->",
        "≤": "<=",
        "≥": ">=",
        "×": "x",
        "±": "+-",
        **dict.fromkeys("‘’", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "*"),
    }
)


def prepare() -> None:
    """Make this process work in UTF-8, whatever the locale, and keep its output from ending a command.

    With another locale, Python restarts in its UTF-8 mode, because TensorFlow accepts only paths in UTF-8. The terminal
    keeps its own encoding; characters that it lacks fall back to ASCII.
    """
    _open_closed()
    if _needs_utf8():
        _begin_again()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.reconfigure(errors=FALLBACK)
        setattr(sys, name, Unbroken(stream))


def exit_code(of_command: str | int | None) -> str | int | None:
    """Flush the output; report if it could not be written, and return the exit code of the process.

    Args:
        of_command: exit code of the command, which ran whether its output was written or not.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    lost = sys.stdout.lost if isinstance(sys.stdout, Unbroken) else None
    if lost is None:
        return of_command
    sys.stderr.write(
        f"error: standard output cannot be written ({lost.strerror}); the command continued without it, and ended with "
        f"exit code {of_command or 0}\n  fix: free space, or send the output elsewhere\n"
    )
    return of_command or int(ExitCode.ERROR)


def _open_closed() -> None:
    """Open streams that were closed when the process started: a file of ours would become standard output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def _needs_utf8() -> bool:
    used = {sys.getfilesystemencoding(), locale.getpreferredencoding(False)}
    return any(codecs.lookup(name).name != "utf-8" for name in used)


def _begin_again() -> None:
    if sys.flags.utf8_mode:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Unbroken:
    """A stream whose reader may go away, or whose disk may be full: what is written then is dropped.

    Args:
        stream: a text stream with a file descriptor.

    Attributes:
        lost: why output was dropped that a reader waits for; None where nothing was dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write, without passwords, or drop."""
        try:
            self._stream.write(masked_by_look(text))
            return len(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.lost = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Handle encoding errors: replace drawings and signs by ASCII, and anything else as `backslashreplace` does.

    Raises:
        UnicodeError: it is not about encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    shown = lacking.translate(_DRAWN).encode("ascii", "backslashreplace").decode("ascii")
    return shown, error.end


codecs.register_error(FALLBACK, in_ascii)
