"""Runs a reader on one input as a command would, and says what it did that no input may make it do."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from privacy_pipeline.cli import output, terminal

CPU_SECONDS = 2.0
DP_CHECK_SECONDS = 60.0
MEMORY = 1 << 30  # bytes beyond what the process has before it
LONGEST_MESSAGE = 2_000  # bytes
_LAST_RESORT = 120  # seconds of processor time, after which the system ends a process that hears no signal
_ROOT = Path(__file__).resolve().parents[2]
_OWN = (str(_ROOT / "privacy_pipeline"), str(_ROOT / "federated"))


class TooSlowError(BaseException):
    """The reader used up its processor time. No handler of the product may catch it."""


class WrongValueError(Exception):
    """A reader let something through that it promises to refuse."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input.

    Attributes:
        content: what is read, to be shown and kept.
        read: reads it.
        told: where it came from.
    """

    content: bytes
    read: Callable[[], object]
    told: str = ""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a reader did and should not have done.

    Attributes:
        kind: "traceback", "hang", "memory", "message" or "exit code".
        where: type and place of it, by which faults are told apart.
        detail: more of it.
    """

    kind: str
    where: str
    detail: str


class Watch:
    """Judges readers of one process, which takes their signals and limits.

    Args:
        codes: exit codes that a command may end with on these inputs, beside 0.
    """

    def __init__(self, *, codes: frozenset[int]) -> None:
        self._codes = codes
        self._apart = 0.0  # seconds in DP checks
        signal.signal(signal.SIGPROF, _too_slow)

    @contextlib.contextmanager
    def dp_check(self) -> Iterator[None]:
        """Time in here has a limit of its own."""
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, DP_CHECK_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            self._apart += time.process_time() - start

    def judge(self, case: Case) -> tuple[int, Fault | None]:
        """Exit code of a command that reads the case, and the fault if there is one."""
        screen = io.BytesIO()
        printed = io.TextIOWrapper(screen, encoding="utf-8", errors=terminal.FALLBACK)
        start, self._apart, code = time.process_time(), 0.0, 0
        with _console(printed), _limits():
            try:
                with output.errors_as_exit_codes(as_json=False):
                    case.read()
            except typer.Exit as done:
                code = done.exit_code
            except TooSlowError as error:
                return 0, Fault(
                    kind="hang", where=_place(error).split(":")[0], detail=f"over {CPU_SECONDS} s of processor time"
                )
            except MemoryError as error:
                return 0, Fault(kind="memory", where=_place(error), detail="1 GiB more is not enough")
            except BaseException as error:  # noqa: BLE001 - whatever ends a command otherwise is a fault
                detail = "".join(traceback.format_exception_only(type(error), error))
                return 0, Fault(kind="traceback", where=_place(error), detail=detail[:500])
        used = time.process_time() - start - self._apart
        printed.flush()
        return code, self._told(code, screen.getvalue(), used)

    def _told(self, code: int, screen: bytes, used: float) -> Fault | None:
        shown = screen[:200].decode("utf-8", "replace")
        if used > CPU_SECONDS:
            return Fault(kind="hang", where=shown[:60], detail=f"{used:.1f} s of processor time")
        if code and code not in self._codes:
            return Fault(kind="exit code", where=str(code), detail=shown)
        if code and not shown.removeprefix("error:").strip():
            return Fault(kind="message", where="empty", detail=shown)
        if len(screen) > LONGEST_MESSAGE:
            return Fault(kind="message", where="long", detail=f"{len(screen)} bytes: {shown}")
        return None


def _too_slow(*_: object) -> None:
    raise TooSlowError


@contextlib.contextmanager
def _console(printed: io.TextIOWrapper) -> Iterator[None]:
    usual = output.err
    output.err = Console(file=printed, highlight=False, width=120)
    try:
        yield
    finally:
        output.err = usual


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Processor time and memory of one input, counted from now."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    _, longest = resource.getrlimit(resource.RLIMIT_CPU)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + _LAST_RESORT, longest))
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY, most))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _place(error: BaseException) -> str:
    """Type of an error and the last line of the product that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(_OWN)] or frames
    return f"{type(error).__name__} at {os.path.relpath(own[-1].filename, _ROOT)}:{own[-1].lineno}"
