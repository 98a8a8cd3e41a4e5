"""DpEvents as JSON: what the ledger and the privacy record store, and the events that training runs imply.

Only the event classes of dp_accounting 0.6 and the package's own ones (`OWN`) are known. An unknown class, an unknown
field or a value out of range is an error in both directions: an event that is read back wrongly would be a wrong
epsilon for ever after.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from pydantic import JsonValue

_TYPE = "type"


def _number(value: Any, *, low: float, high: float = math.inf, open_low: bool = False) -> float:
    """Return a finite-or-infinite float in range; NaN and bool are out of every range."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, (str, bytes)):
        raise BadInputError(f"a number is needed in a DpEvent, found {value!r}")
    number = float(value)
    if not (low < number if open_low else low <= number) or not number <= high:
        raise BadInputError(f"a DpEvent holds {number!r}, which is out of its range")
    return number


def _positive(value: Any) -> float:
    # Zero noise is not a mechanism: a run without noise is a NonPrivateDpEvent.
    return _number(value, low=0.0, open_low=True)


def _not_negative(value: Any) -> float:
    return _number(value, low=0.0)


def _any_size(value: Any) -> float:
    return _number(value, low=-math.inf)


def _probability(value: Any) -> float:
    return _number(value, low=0.0, high=1.0)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 0:
        raise BadInputError(f"a whole number of 0 or more is needed in a DpEvent, found {value!r}")
    return int(value.__index__())


def _at_least_one(value: Any) -> int:
    if _count(value) < 1:
        raise BadInputError(f"a whole number of 1 or more is needed in a DpEvent, found {value!r}")
    return _count(value)


def _many(one: Callable[[Any], float]) -> Callable[[Any], list[float]]:
    def check(value: Any) -> list[float]:
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
            raise BadInputError(f"a list of numbers is needed in a DpEvent, found {value!r}")
        return [one(item) for item in value]

    return check


def _counts(value: Any) -> int | list[float]:
    return _many(_count)(value) if hasattr(value, "__iter__") else _count(value)


# Markers for fields that hold events; every other field has a function that checks and normalises its value.
_EVENT, _EVENTS = "event", "list of events"
_INTEGER_NOISE = {
    "share_variance": _positive,
    "shares": _at_least_one,
    "dimension": _at_least_one,
    "squared_norm": _count,
}
# The package's own events, and the modules that hold them.
OWN = {
    "TotalVariationDpEvent": "privacy_pipeline.accounting.total_variation",
    "SkellamSumDpEvent": "privacy_pipeline.accounting.integer_noise",
    "DiscreteGaussianSumDpEvent": "privacy_pipeline.accounting.integer_noise",
}
_SPEC: dict[str, dict[str, Any]] = {
    "NoOpDpEvent": {},
    "NonPrivateDpEvent": {},
    "UnsupportedDpEvent": {},
    "RandomizedResponseDpEvent": {"noise_parameter": _probability, "num_buckets": _count},
    "GaussianDpEvent": {"noise_multiplier": _positive},
    "LaplaceDpEvent": {"noise_multiplier": _positive},
    "DiscreteLaplaceDpEvent": {"noise_parameter": _positive, "sensitivity": _count},
    "SelfComposedDpEvent": {"event": _EVENT, "count": _count},
    "ComposedDpEvent": {"events": _EVENTS},
    "PoissonSampledDpEvent": {"sampling_probability": _probability, "event": _EVENT},
    "SampledWithReplacementDpEvent": {"source_dataset_size": _count, "sample_size": _count, "event": _EVENT},
    "SampledWithoutReplacementDpEvent": {"source_dataset_size": _count, "sample_size": _count, "event": _EVENT},
    "SingleEpochTreeAggregationDpEvent": {"noise_multiplier": _positive, "step_counts": _counts},
    "RepeatAndSelectDpEvent": {"event": _EVENT, "mean": _positive, "shape": _not_negative},
    "MixtureOfGaussiansDpEvent": {
        "standard_deviation": _positive,
        "sensitivities": _many(_any_size),
        "sampling_probs": _many(_probability),
    },
    "ZCDpEvent": {"rho": _not_negative, "xi": _not_negative},
    "TotalVariationDpEvent": {"distance": _probability},
    "SkellamSumDpEvent": _INTEGER_NOISE,
    "DiscreteGaussianSumDpEvent": _INTEGER_NOISE,
    "TruncatedSubsampledGaussianDpEvent": {
        "dataset_size": _count,
        "sampling_probability": _probability,
        "truncated_batch_size": _count,
        "noise_multiplier": _positive,
    },
}


def _spec(name: object) -> dict[str, Any]:
    if not isinstance(name, str) or name not in _SPEC:
        raise BadInputError(f"unknown DpEvent {name!r}", fix=f"known events: {', '.join(sorted(_SPEC))}")
    return _SPEC[name]


def _plain(value: Any) -> Any:
    """Return a number as JSON, which has no infinity (RepeatAndSelect's shape may be one): it becomes a word."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {math.inf: "inf", -math.inf: "-inf"}.get(value, value)


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_plain(item) for item in value]
    return {"inf": math.inf, "-inf": -math.inf}.get(value, value) if isinstance(value, str) else value


def _class(name: str) -> Any:
    return getattr(importlib.import_module(OWN.get(name, "dp_accounting.dp_event")), name)


def to_json(event: DpEvent) -> JsonValue:
    """Return an event as JSON: its class name under `type`, and its fields.

    Args:
        event: any event of dp_accounting's `dp_event` module, or one of `OWN`.

    Raises:
        BadInputError: the event's class is unknown, or one of its values is out of range.
    """
    name = type(event).__name__
    spec = _spec(name)
    if type(event) is not _class(name):
        raise BadInputError(f"{type(event)!r} is not dp_accounting's {name}")
    fields: dict[str, Any] = {_TYPE: name}
    for field, check in spec.items():
        value = getattr(event, field)
        if check is _EVENT:
            fields[field] = to_json(value)
        elif check is _EVENTS:
            fields[field] = [to_json(part) for part in value]
        else:
            fields[field] = _plain(check(value))
    return fields


def from_json(value: JsonValue) -> DpEvent:
    """Return the event that `to_json` wrote.

    Args:
        value: the JSON value.

    Raises:
        BadInputError: anything but a known event with exactly its fields, all in range.
    """
    if not isinstance(value, dict):
        raise BadInputError(f"a DpEvent is a JSON object, found {value!r}")
    name = value.get(_TYPE)
    spec = _spec(name)
    if set(value) != {_TYPE, *spec}:
        raise BadInputError(f"{name} has the fields {sorted(spec)}, found {sorted(set(value) - {_TYPE})}")
    fields: dict[str, Any] = {}
    for field, check in spec.items():
        held: Any = value[field]
        if check is _EVENT:
            fields[field] = from_json(held)
        elif check is _EVENTS:
            if not isinstance(held, list):
                raise BadInputError(f"{name}.{field} is a list of events, found {held!r}")
            fields[field] = [from_json(part) for part in held]
        else:
            fields[field] = check(_from_plain(held))
    return _class(str(name))(**fields)


def canonical(event: DpEvent) -> str:
    """Return the event as one deterministic line of JSON: equal events give equal text."""
    return json.dumps(to_json(event), sort_keys=True, separators=(",", ":"), allow_nan=False)


def event_hash(event: DpEvent) -> str:
    """Return the SHA-256 of the canonical text."""
    return hashlib.sha256(canonical(event).encode()).hexdigest()


def gaussian_passes(*, noise_multiplier: float, epochs: int) -> DpEvent:
    """Return the event of DP-SGD over full passes, without amplification by sampling.

    In each pass every privacy unit is in at most one batch, and the partition into batches does not depend on the
    data. Under zero-out a unit then moves one noisy sum of each pass, by at most the clipping norm, and leaves every
    other batch as it is: parallel composition (McSherry 2009, "Privacy Integrated Queries", theorem 4) makes a pass
    one Gaussian mechanism, and passes compose. Under add-or-remove-one the partition itself could depend on how many
    units there are, so this event describes a fixed partition under zero-out only.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        epochs: passes over the data.

    Raises:
        BadInputError: noise or epochs out of range.
    """
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent

    return SelfComposedDpEvent(GaussianDpEvent(_positive(noise_multiplier)), _count(epochs))


def poisson_gaussian(*, sampling_probability: float, noise_multiplier: float, steps: int) -> DpEvent:
    """Return the event of DP-SGD over Poisson samples (Abadi et al. 2016; Mironov, Talwar and Zhang 2019).

    Args:
        sampling_probability: chance of each unit to be in a batch, independently for each unit and step.
        noise_multiplier: standard deviation of the noise over the clipping norm.
        steps: optimizer updates.

    Raises:
        BadInputError: a number out of range.
    """
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

    gaussian = GaussianDpEvent(_positive(noise_multiplier))
    return SelfComposedDpEvent(PoissonSampledDpEvent(_probability(sampling_probability), gaussian), _count(steps))
