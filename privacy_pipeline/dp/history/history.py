"""The privacy history of weights: which private trainings made them, and what these cost together. No TensorFlow.

Trainings on the same rows compose. Weights carry their history from one training to the next: `make_private` finds it
by the weights' own bits (see `history_store`), so that it outlives a save and a load in every format that keeps them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.events import from_json, to_json
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.history import saved_history
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_VERSION = 1
Origin = Literal["initial", "public", "none"]
ORIGINS = ("initial", "public", "none")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One private training, or the part of it that was made so far.

    Attributes:
        id: of the training; a part of it and the whole of it have the same one.
        event: DpEvent of the steps that were made; a non-private one where the seed was fixed.
        steps: how many.
        relation: neighbouring relation of the event.
        unit: what is protected, "example" or "user".
        data: name of the data, as somebody gave it. Not a digest: the bits of private rows do not leave.
    """

    id: str
    event: DpEvent
    steps: int
    relation: Relation
    unit: str
    data: str

    def to_json(self) -> dict[str, Any]:
        """Return the phase as JSON values."""
        more = {"id": self.id, "steps": self.steps, "unit": self.unit, "data": self.data}
        return {**more, "relation": self.relation.value, "event": to_json(self.event)}

    @classmethod
    def from_json(cls, value: Any) -> Phase:
        """Return a phase from JSON values.

        Raises:
            KeyError, TypeError, ValueError, BadInputError: they are not those of a phase.
        """
        return cls(
            id=str(value["id"]),
            event=from_json(value["event"]),
            steps=int(value["steps"]),
            relation=Relation(value["relation"]),
            unit=str(value["unit"]),
            data=str(value["data"]),
        )


@dataclass(frozen=True)
class PrivacyHistory:
    """What was done to weights that concerns privacy.

    Attributes:
        phases: private trainings.
        origin: what the weights were before the first phase: as their initializers made them ("initial"), made from
            public data alone, as the user stated ("public"), or made from data that nothing protects ("none").
    """

    phases: tuple[Phase, ...] = ()
    origin: Origin = "initial"

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise BadInputError(f"a privacy history has no origin {self.origin!r}", fix=f"one of {', '.join(ORIGINS)}")

    def with_phase(self, phase: Phase) -> PrivacyHistory:
        """Return the history with one more phase; a longer part of a phase replaces a shorter one."""
        return PrivacyHistory(_united([*self.phases, phase]), self.origin)

    def together(self, *others: PrivacyHistory) -> PrivacyHistory:
        """Return what weights cost that were made from several others, or several models that are all released.

        A phase that they share, such as the training of a common base, counts once.
        """
        every = [self, *others]
        origin: Origin = next((o for o in ("none", "public") if any(one.origin == o for one in every)), "initial")
        return PrivacyHistory(_united([phase for one in every for phase in one.phases]), origin)

    @property
    def event(self) -> DpEvent:
        """The DpEvent of all phases; a non-private one if a seed was fixed, or nothing protects the origin."""
        from dp_accounting import ComposedDpEvent, NonPrivateDpEvent, NoOpDpEvent

        events = [phase.event for phase in self.phases]
        if self.origin == "none" or any(isinstance(event, NonPrivateDpEvent) for event in events):
            return NonPrivateDpEvent()
        if len(events) == 1:
            return events[0]
        return ComposedDpEvent(events) if events else NoOpDpEvent()

    @property
    def mixes(self) -> bool:
        """Whether phases protect different units, or under different neighbouring relations."""
        return len({(phase.relation, phase.unit) for phase in self.phases}) > 1

    def epsilon(self, delta: float) -> float:
        """Return epsilon of all phases together, for a unit that took part in each of them.

        Args:
            delta: delta of the guarantee.

        Raises:
            BadInputError: phases protect different units, or under different neighbouring relations.
            AccountingError: no accountant gives one.
        """
        from dp_accounting import NonPrivateDpEvent, NoOpDpEvent

        event = self.event
        if isinstance(event, NonPrivateDpEvent):
            return math.inf
        if isinstance(event, NoOpDpEvent):
            return 0.0
        kinds = {(phase.relation, phase.unit) for phase in self.phases}
        if len(kinds) > 1:
            told = " and ".join(sorted(f"{unit} under {relation.value}" for relation, unit in kinds))
            raise BadInputError(f"one epsilon does not cover phases that protect {told}", fix="state each phase's own")
        return epsilon_of(event, delta=delta, relation=self.phases[0].relation)

    def to_json(self) -> dict[str, Any]:
        """Return the history as JSON values."""
        phases = [phase.to_json() for phase in self.phases]
        return {"version": _VERSION, "origin": self.origin, "phases": phases}

    @classmethod
    def from_json(cls, value: Any) -> PrivacyHistory:
        """Return a history from JSON values.

        Raises:
            BadInputError: they are not those of a history.
        """
        try:
            if value["version"] != _VERSION or value["origin"] not in ORIGINS:
                raise ValueError
            return cls(tuple(Phase.from_json(phase) for phase in value["phases"]), value["origin"])
        except (KeyError, TypeError, ValueError):
            raise BadInputError("it is not a privacy history") from None

    def save(self, path: Path) -> None:
        """Write the history, to go with the weights to another machine.

        Args:
            path: a saved model or saved weights in any format of Keras, which keep the history inside of them (see
                `saved_history`); or a new file, JSON.

        Raises:
            BadInputError: the file cannot be written.
        """
        saved_history.write(Path(path), json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> PrivacyHistory:
        """Read what `save` wrote.

        Raises:
            BadInputError: the file is missing, or does not hold a history.
        """
        text = saved_history.read(Path(path))
        if text is None:
            raise BadInputError(
                f"{path}: no privacy history was saved with these weights",
                fix="save the model with `PrivateModel.save`, or call `execution.privacy_history.save(path)` after it",
            )
        try:
            return cls.from_json(json_value(text))
        except ValueError:
            raise BadInputError(f"{path}: it cannot be read as a privacy history") from None
        except BadInputError as error:
            raise BadInputError(f"{path}: {error.message}") from None


def _united(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return phases by their id, in the order of their first part; the part with the most steps stands for a phase."""
    found: dict[str, Phase] = {}
    for phase in phases:
        held = found.get(phase.id)
        found[phase.id] = phase if held is None or phase.steps >= held.steps else held
    return tuple(found.values())
