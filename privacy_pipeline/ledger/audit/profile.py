"""The privacy profile of a fixed set of events: epsilon at many deltas, by PLD over all of them together."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.accountants import curve, weigh
from privacy_pipeline.accounting.events import from_json
from privacy_pipeline.accounting.loss_distribution import reason_without_pld
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.state.entries import price

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from pydantic import JsonValue

MOST_EVENTS = 100


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a set of events guarantees together.

    Attributes:
        epsilon: by PLD at `delta`; None where there is no PLD figure.
        missing: why there is none, or why RDP's stands in its place; empty where there is one.
        epsilon_rdp: by RDP at `delta`, computed from the events.
        curve: (epsilon, delta) points by PLD.
    """

    epsilon: float | None
    missing: str
    epsilon_rdp: float
    curve: tuple[tuple[float, float], ...]


def composed(texts: Sequence[str]) -> DpEvent:
    """Return all events as one; equal ones are counted, which composes them faster.

    Args:
        texts: each event as JSON text, keys sorted.

    Raises:
        BadInputError: an event is malformed or unknown.
    """
    from dp_accounting import ComposedDpEvent, SelfComposedDpEvent

    counts = Counter(texts)
    parts: list[Any] = []
    for text, count in sorted(counts.items()):
        event = from_json(json_value(text))
        parts.append(event if count == 1 else SelfComposedDpEvent(event, count))
    return parts[0] if len(parts) == 1 else ComposedDpEvent(parts)


def profile(events: Sequence[JsonValue], *, relation: Relation, delta: float, deltas: Sequence[float]) -> Profile:
    """Return the PLD over all events where it supports each of them.

    Sound for a set of runs that was fixed beforehand. The ledger enforces its cap by a Renyi filter instead, because
    runs are chosen after the results of earlier ones were seen.

    Args:
        events: the events as JSON, at least one.
        relation: neighbouring relation.
        delta: delta of the headline.
        deltas: where the curve is evaluated.

    Raises:
        AccountingError: RDP does not support an event.
        BadInputError: an event is malformed.
    """
    texts = tuple(sorted(json.dumps(event, sort_keys=True) for event in events))
    return _profile(texts, relation, delta, tuple(deltas))


@functools.lru_cache(maxsize=32)  # seconds for the same few events
def _profile(texts: tuple[str, ...], relation: Relation, delta: float, deltas: tuple[float, ...]) -> Profile:
    event = composed(texts)
    epsilon_rdp = price(event, relation).epsilon(delta)
    missing = reason_without_pld(event, relation)
    if missing is None and len(set(texts)) > MOST_EVENTS:
        missing = f"more than {MOST_EVENTS} different events: PLD over all of them takes too long"
    if missing is not None:
        return Profile(epsilon=None, missing=missing, epsilon_rdp=epsilon_rdp, curve=())
    bound = weigh(event, relation, delta=delta, epsilon_rdp=epsilon_rdp)
    if bound.accountant == "rdp":
        return Profile(epsilon=None, missing=bound.why or "", epsilon_rdp=epsilon_rdp, curve=())
    points = curve(event, bound, relation=relation, deltas=deltas)
    return Profile(epsilon=bound.epsilon, missing="", epsilon_rdp=epsilon_rdp, curve=tuple(points))
