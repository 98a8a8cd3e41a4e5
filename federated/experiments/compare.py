"""Runs of an experiment side by side: one row for each setting, over its seeds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federated.experiments.binding import Earlier, bound, by_reason, earlier_runs, folders
from federated.experiments.config import Point
from federated.experiments.run_folder import RunFolder
from privacy_pipeline.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Evaluations of one setting, mean over its seeds.

    Attributes:
        rounds, accuracy: of each evaluation.
        epsilon: up to there; None without a guarantee.
        bytes_sent: both ways, up to there.
    """

    rounds: tuple[int, ...]
    accuracy: tuple[float, ...]
    epsilon: tuple[float, ...] | None
    bytes_sent: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Personalized:
    """Clients of the eval split with a model of their own; means over seeds, each client with the same weight.

    Attributes:
        clients: how many.
        before, after: mean accuracy on their held-out rows, with the global and with their own models.
        worse_off: share of clients that lose accuracy.
    """

    clients: int
    before: float
    after: float
    worse_off: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting over its seeds; means, with standard deviations over seeds (NaN for one seed).

    Attributes:
        name: the setting in words.
        settings: what the grid set.
        seeds: seeds of the finished runs.
        accuracy, accuracy_std, auc, auc_std: on the eval split.
        client_accuracy: 5, 25, 50, 75 and 95 % quantiles over clients.
        epsilon, delta, unit, relation: the guarantee of each run alone; None without one.
        runs_charged: how many runs with a guarantee; all of them spend.
        synthetic: the clients are not real persons or sites.
        megabytes: sent by clients and server in a run, 10^6 bytes.
        seconds: of a run; None with a guarantee, which keeps how many rows a client has.
        personalized: what fine-tuning on each client alone does; None where it was not asked for.
        curve: over the rounds.
    """

    name: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    accuracy: float
    accuracy_std: float
    auc: float
    auc_std: float
    client_accuracy: tuple[float, ...]
    epsilon: float | None
    delta: float | None
    unit: str | None
    relation: str | None
    runs_charged: int
    synthetic: bool
    megabytes: float
    seconds: float | None
    curve: Curve
    personalized: Personalized | None = None


def compare(points: Iterable[Point]) -> tuple[list[Row], list[Point]]:
    """Return the rows of the finished runs of the content of today, and the points that are not finished.

    A result on the same data and schema that other code or packages made is shown too, marked by `not_of_today`. A
    result on other data or another schema is none of the experiment's.

    Args:
        points: bound to their content, or not yet.

    Raises:
        BadInputError: none is finished.
    """
    groups: dict[str, list[tuple[Point, dict[str, Any], list[dict[str, Any]]]]] = {}
    given = list(points)
    missing = []
    for point, now in zip(given, bound(given), strict=True):
        folder, summary, _ = _found(now)
        if summary is None:
            missing.append(point)
            continue
        found = [line for line in folder.rounds() if "eval" in line]
        groups.setdefault(json.dumps(point.settings, sort_keys=True), []).append((point, summary, found))
    if not groups:
        raise BadInputError("no run of the experiment is finished", fix="privacy-pipeline federated sweep EXPERIMENT")
    return [_row(runs) for runs in groups.values()], missing


def not_of_today(points: Iterable[Point]) -> list[str]:
    """Return one line for each reason why results of earlier content are shown in a comparison, or left out of it."""
    shown: list[Earlier] = []
    left: list[Earlier] = []
    for point in bound(points):
        _, summary, earlier = _found(point)
        if earlier is not None:
            (left if summary is None else shown).append(earlier)
    lines = [f"{folders(runs)}: shown, though {why}" for why, runs in by_reason(shown)]
    return lines + [f"{folders(runs)}: not shown, since {why}" for why, runs in by_reason(left)]


def _found(point: Point) -> tuple[RunFolder, dict[str, Any] | None, Earlier | None]:
    """Return the result of a bound point and its folder; with the earlier run that it is of, or that is left out."""
    folder = RunFolder(point.folder)
    summary = folder.summary()
    if summary is not None:
        return folder, summary, None
    earlier = earlier_runs(point)
    usable = [run for run in earlier if run.same_data]
    if usable:
        folder = RunFolder(usable[-1].point.folder)
        return folder, folder.summary(), usable[-1]
    return folder, None, earlier[-1] if earlier else None


def setting_name(settings: dict[str, Any]) -> str:
    """Return a setting in words, of the whole row: each key, as short as distinguishes it from the others, and its
    whole value.
    """
    parts = [f"{short} {_shown(value)}" for short, value in zip(_short(list(settings)), settings.values(), strict=True)]
    return ", ".join(parts) or "as written"


def _short(keys: Sequence[str]) -> list[str]:
    """Return dotted keys without the parts in front that distinguish nothing."""

    def ending(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    short = []
    for key in keys:
        parts = next(n for n in range(1, key.count(".") + 2) if _alone(ending(key, n), [ending(k, n) for k in keys]))
        short.append(ending(key, parts))
    return short


def _alone(name: str, names: Sequence[str]) -> bool:
    return names.count(name) == 1


def _shown(value: Any) -> str:
    """Return a value of the grid, with all that it holds: two values that differ anywhere are written differently."""
    if isinstance(value, dict):
        inner = (_part(key, part) for key, part in value.items())
        return " ".join(inner) or "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None:
        return "none"
    is_plain = isinstance(value, str) and value != "none" and _PLAIN.fullmatch(value)
    return str(value) if is_plain else json.dumps(value)


def _part(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{key} ({_shown(value)})"
    return _shown(value) if key in ("name", "rule") else f"{key} {_shown(value)}"


_PLAIN = re.compile(r"(?!true$|false$|null$)[A-Za-z_][\w./:-]*")  # a text that is taken for nothing else


def _row(runs: Sequence[tuple[Point, dict[str, Any], list[dict[str, Any]]]]) -> Row:
    summaries = [summary for _, summary, _ in runs]
    first = summaries[0]
    private = [summary for summary in summaries if summary.get("epsilon") is not None]

    def mean(key: str) -> float:
        return float(np.mean([_number(summary[key]) for summary in summaries]))

    def spread(key: str) -> float:
        values = [_number(summary[key]) for summary in summaries]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    return Row(
        name=setting_name(runs[0][0].settings),
        settings=runs[0][0].settings,
        seeds=tuple(point.seed for point, _, _ in runs),
        accuracy=mean("accuracy"),
        accuracy_std=spread("accuracy"),
        auc=mean("auc"),
        auc_std=spread("auc"),
        client_accuracy=tuple(
            float(value) for value in np.mean([summary["client_accuracy"] for summary in summaries], axis=0)
        ),
        epsilon=max(summary["epsilon"] for summary in private) if private else None,
        delta=first.get("delta"),
        unit=first.get("unit"),
        relation=first.get("relation"),
        runs_charged=len(private),
        synthetic=bool(first["clients"]["synthetic"]),
        megabytes=(mean("bytes_up") + mean("bytes_down")) / 1e6,
        seconds=None if private else mean("seconds"),
        personalized=_personalized([summary["personalized"] for summary in summaries if "personalized" in summary]),
        curve=_curve([lines for _, _, lines in runs]),
    )


def _personalized(found: Sequence[dict[str, Any]]) -> Personalized | None:
    if not found:
        return None
    return Personalized(
        clients=max(one["clients"] for one in found),
        before=float(np.mean([one["before"]["accuracy"]["mean"] for one in found])),
        after=float(np.mean([one["after"]["accuracy"]["mean"] for one in found])),
        worse_off=float(np.mean([one["worse_off"] for one in found])),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _curve(runs: Sequence[list[dict[str, Any]]]) -> Curve:
    length = min(len(lines) for lines in runs)

    def mean(value: Any) -> tuple[float, ...]:
        return tuple(float(np.mean([value(lines[place]) for lines in runs])) for place in range(length))

    private = all("epsilon" in line for lines in runs for line in lines)
    return Curve(
        rounds=tuple(int(line["round"]) for line in runs[0][:length]),
        accuracy=mean(lambda line: line["eval"]["accuracy"]),
        epsilon=mean(lambda line: line["epsilon"]) if private else None,
        bytes_sent=mean(lambda line: line["bytes_up"] + line["bytes_down"]),
    )
