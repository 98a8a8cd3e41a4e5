"""A command that is killed at a moment that is drawn, and what came of it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.encrypted import run_folder
from tests.e2e.kills import victims
from tests.e2e.kills.disk import Watch
from tests.encrypted.processes import marked

CLI = str(Path(sys.executable).with_name("privacy-pipeline"))
DEADLINE = 900.0  # seconds after which a command that was not killed itself counts as one that hangs
ORPHANS = 10.0


@dataclass(frozen=True)
class Place:
    """Where a command works: its folder, and folders of its own for temporary files and for parties in memory."""

    root: Path
    memory: Path

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def watched(self) -> list[Path]:
        """Folders in which a command writes."""
        return [self.root, self.memory]


@dataclass(frozen=True)
class Moment:
    """When a process is killed.

    Attributes:
        after: number of kinds of events that were seen on disk; a file that is written often counts once.
        delay: seconds after that.
        who: see `victims.WHO`.
    """

    after: int
    delay: float
    who: str


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        args: of the command.
        code: of the command; -9 where it was killed itself.
        out: standard output.
        err: standard error.
        moment: when something was to be killed.
        hit: command line of what was killed; "" where the command ended before.
        kinds: of events that were seen on disk.
        last: the last of them before the kill.
        orphans: what lived on.
    """

    args: tuple[str, ...]
    code: int
    out: str
    err: str
    moment: Moment | None
    hit: str
    kinds: frozenset[str]
    last: str
    orphans: dict[int, str]

    @property
    def told(self) -> str:
        """For a report of faults."""
        return f"{' '.join(self.args)}: {self.moment} hit {self.hit[:150]!r} after {self.last!r}; code {self.code}"


def run(
    place: Place, *args: str, moment: Moment | None = None, chance: random.Random | None = None, until: str = ""
) -> Ended:
    """Runs a command; with a moment, kills one of its processes then, and waits for the end of all.

    Args:
        place: where.
        args: of the command line.
        moment: when to kill, and whom; nobody without it.
        chance: draws the victim.
        until: a command that never ends by itself is told to end (SIGTERM) once it printed this.
    """
    mark, environment = marked()
    place.temporary.mkdir(exist_ok=True)
    environment |= {"TMPDIR": str(place.temporary), run_folder.VARIABLE: str(place.memory), "COLUMNS": "200"}
    watch = Watch(*place.watched)
    out, err = (place.root.with_name(f"{place.root.name}.{name}") for name in ("out", "err"))
    hit, known = "", dict[int, str]()

    def is_ready() -> bool:
        return bool(until) and until in out.read_text() + err.read_text()

    with out.open("w") as told, err.open("w") as said:
        process = subprocess.Popen([CLI, *args], cwd=place.root, stdout=told, stderr=said, env=environment)
    seen = _Seen(process, watch, limit=time.monotonic() + DEADLINE)
    try:
        if moment is not None and seen.until(lambda: len(seen.kinds) >= moment.after or is_ready()):
            time.sleep(moment.delay)
            known = victims.tree(mark, process.pid) if moment.who != "command" else {}
            hit = victims.kill(moment.who, mark=mark, root=process.pid, chance=chance or random.Random(0))
        last = seen.last
        seen.until(is_ready)
        if process.poll() is None and until:
            process.terminate()
        seen.until(lambda: False)
        assert process.poll() is not None, f"{args} hangs after {moment} hit {hit}: {err.read_text()[-2000:]}"
        left = victims.orphans(mark, {pid: line for pid, line in known.items() if pid != process.pid}, seconds=ORPHANS)
    finally:
        process.kill()
        code = process.wait()
        watch.close()
    return Ended(args, code, out.read_text(), err.read_text(), moment, hit, frozenset(seen.kinds), last, left)


class _Seen:
    """The kinds of events that a command has made on disk."""

    def __init__(self, process: subprocess.Popen[bytes], watch: Watch, *, limit: float) -> None:
        self.kinds: set[str] = set()
        self.last = ""
        self._process, self._watch, self._limit = process, watch, limit

    def until(self, condition: Callable[[], bool]) -> bool:
        """Takes events until a condition holds; False where the command ends before, or takes too long."""
        while self._process.poll() is None and time.monotonic() < self._limit:
            if condition():
                return True
            for kind in self._watch.kinds(until=self._limit):
                if kind not in self.kinds:
                    self.kinds.add(kind)
                    self.last = kind
                    if condition():
                        return True
        return False
