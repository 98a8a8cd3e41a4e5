"""Chains of one command: it is killed, looked at, and the next command is killed too, until one runs to its end."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.e2e.kills import invariants
from tests.e2e.kills.commands import Ended, Moment, Place, run

_LONGEST = 5  # commands of a chain that may be killed
_ENOUGH = 10  # faults, after which nothing more is learned
_UNDISTURBED = 0.15  # how often a command is left alone


class Scenario(Protocol):
    """What is killed.

    Attributes:
        name: of the scenario.
        until: see `commands.run`.
        who: see `victims.WHO`.
    """

    name: str
    until: str
    who: tuple[str, ...]

    def fresh(self, root: Path) -> None:
        """Makes the folder of a chain."""

    def first(self, chance: random.Random) -> tuple[str, ...]:
        """The first command of a chain."""

    def after(self, place: Place, args: tuple[str, ...]) -> tuple[str, ...]:
        """The command that a person types after one that was killed."""

    def is_over(self, ended: Ended) -> bool:
        """Whether a command ended well, or says that there is nothing left to do."""

    def problems(self, place: Place, ended: Ended) -> Iterator[str]:
        """What more does not hold after any command."""


@dataclass
class Told:
    """What came of the kills of a scenario.

    Attributes:
        log: each command is written down there.
        hits: kills, by who was drawn.
        commands: commands that were run.
        faults: what did not hold, with the moment.
    """

    log: Path
    hits: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.hits.values())

    def note(self, ended: Ended, found: list[str]) -> None:
        """Counts a command, and writes it down."""
        self.commands += 1
        if ended.hit and ended.moment is not None:
            self.hits[ended.moment.who] += 1
        self.faults += [f"{ended.told}: {one}" for one in found]
        with self.log.open("a") as stream:
            stream.write(json.dumps({"kills": self.kills, "command": ended.told, "problems": found}) + "\n")


@dataclass
class _Draws:
    """Draws moments; what commands do on disk, and how long, is learned from those that ran to their end."""

    chance: random.Random
    who: tuple[str, ...]
    kinds: int = 0
    seconds: float = 0.0

    def moment(self, *, seen: int) -> Moment:
        """A moment, as a rule evenly over the kinds of events that are left; sometimes by time alone."""
        chance, who = self.chance, self.chance.choice(self.who)
        if chance.random() < 0.15:
            return Moment(0, chance.uniform(0, self.seconds), who)
        after = chance.randint(1, max(5, self.kinds - seen))
        return Moment(after, chance.choice([0.0, 0.0, chance.uniform(0, 0.003), chance.uniform(0, 0.5)]), who)

    def learn(self, ended: Ended, *, seen: int, seconds: float) -> None:
        """From a command that was not killed."""
        self.kinds, self.seconds = max(self.kinds, len(ended.kinds) + seen), max(self.seconds, seconds)


def killed(
    scenario: Scenario,
    *,
    kills: int,
    seed: int,
    folder: Path,
    log: Path,
) -> Told:
    """Kill a number of processes of a scenario, and return what did not hold.

    Args:
        scenario: what is killed.
        kills: how many.
        seed: of all that is drawn.
        folder: scratch.
        log: each command is written down there.
    """
    chance = random.Random(f"{scenario.name} {seed}")
    draws, told, number = _Draws(chance, scenario.who), Told(log), 0
    while not number or (told.kills < kills and len(told.faults) < _ENOUGH):
        number += 1
        with _place(folder / str(number)) as place:
            scenario.fresh(place.root)
            _chain(scenario, place, draws, told, undisturbed=number == 1, most=kills)
        shutil.rmtree(folder / str(number))
    return told


def _chain(scenario: Scenario, place: Place, draws: _Draws, told: Told, *, undisturbed: bool, most: int) -> None:
    args, before, seen = scenario.first(draws.chance), invariants.books(place), 0
    for step in range(_LONGEST + 1):
        whole = undisturbed or step == _LONGEST or told.kills >= most or draws.chance.random() < _UNDISTURBED
        began = time.monotonic()
        moment = None if whole else draws.moment(seen=seen)
        ended = run(place, *args, moment=moment, chance=draws.chance, until=scenario.until)
        found = [
            *invariants.not_told(ended),
            *invariants.not_counted(place, before),
            *invariants.not_whole(place),
            *scenario.problems(place, ended),
        ]
        if not ended.hit:
            draws.learn(ended, seen=seen, seconds=time.monotonic() - began)
        if scenario.is_over(ended):
            told.note(ended, [*found, *invariants.left_behind(place)])
            return
        if not ended.hit:
            found.append(f"the command does not end well: {ended.err[-1500:]}")
        told.note(ended, found)
        before, following = invariants.books(place), scenario.after(place, args)
        seen = len(ended.kinds) if following != args else 0
        args = following


@contextmanager
def _place(root: Path) -> Iterator[Place]:
    memory = Path(tempfile.mkdtemp(dir="/dev/shm"))  # the path of a Unix socket is short
    try:
        yield Place(root, memory)
    finally:
        shutil.rmtree(memory)
