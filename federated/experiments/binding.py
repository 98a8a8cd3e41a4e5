"""Binds the runs of an experiment to the content that they come from, and finds what earlier content left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from federated.experiments.config import ExperimentConfig, Point, point_from_json
from federated.experiments.data import source_of
from federated.experiments.inputs import Inputs
from federated.experiments.run_folder import POINT, SUMMARY, RunFolder
from privacy_pipeline.covered_digests import secret_in
from privacy_pipeline.data import private_copy
from privacy_pipeline.data.schema import schema_reader
from privacy_pipeline.data.source import ResolvedSource, folders_of
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger import pins
from privacy_pipeline.processes.installed import environment_hash, hash_of_framework

_BINDING = 8  # hexadecimal digits of the inputs' digest in a name


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A run of the same settings and seed that came from other content, or from content that it does not name.

    Attributes:
        point: the run; it keeps its name and folder.
        changed: what changed since, in words; empty where its folder does not state what it came from.
    """

    point: Point
    changed: tuple[str, ...]

    @property
    def why(self) -> str:
        """Why it is not used again."""
        if not self.changed:
            return "it is of an older version, which kept no digests of what a run comes from"
        return f"{' and '.join(self.changed)} changed since"

    @property
    def same_data(self) -> bool:
        """Whether it is a result on the data and the schema of today, made by other code."""
        return bool(self.changed) and not {"the data", "the schema"} & set(self.changed)


def bound(points: Iterable[Point]) -> list[Point]:
    """Return points whose names, and so folders, hold a digest of all that a run of them comes from today.

    Args:
        points: settings and seeds, as `load_experiment` gives them; one that is bound already stays as it is.

    Raises:
        BadInputError: a file of the data or the schema cannot be read, or the folder of runs cannot be written.
        BudgetRefusedError: the data, or the folder of runs, belongs to another ledger.
    """
    found: dict[str, Inputs] = {}
    made = []
    for point in points:
        if point.inputs is not None:
            made.append(point)
            continue
        # The rows of a grid mostly read the same files.
        key = json.dumps([point.config.data.model_dump(mode="json"), point.config.ledger])
        if key not in found:
            found[key] = inputs_of(point.config)
        made.append(_named(point, found[key]))
    return made


def inputs_of(config: ExperimentConfig, source: ResolvedSource | None = None) -> Inputs:
    """Return the digests of all that a run of these settings would come from now.

    Args:
        config: the settings.
        source: the files of its data; looked up if None.

    Raises:
        BadInputError, BudgetRefusedError: see `bound`.
    """
    dataset = config.data.dataset
    if dataset.schema_path == "infer":  # refused by DataSection
        raise BadInputError("an experiment needs a curated public schema")
    ledger = pins.open_pinned(config.ledger, data=folders_of(dataset), workspace=config.folder)
    secret = secret_in(config.folder) if ledger is None else ledger.digest_secret()
    try:
        schema = schema_reader.schema_bytes(dataset.schema_path)
    except OSError as error:
        raise BadInputError(f"{dataset.schema_path}: cannot be read ({error.strerror})") from None
    return Inputs(
        data=(source or source_of(config.data)).digest(secret),
        schema=hashlib.sha256(schema).hexdigest(),
        code=hash_of_framework(),
        packages=environment_hash(),
    )


def inputs_in(point: Point) -> Inputs:
    """Return what a bound point comes from.

    Raises:
        ValueError: it is not bound.
    """
    if point.inputs is None:
        raise ValueError(f"the point {point.name} is not bound to its content")
    return point.inputs


def require_unchanged(point: Point, source: ResolvedSource) -> None:
    """Refuse to begin with other files than those that the run is bound to.

    Args:
        point: the run, bound to its content.
        source: a private copy of the files, which is all that the run will read.

    Raises:
        BadInputError: something changed since the run was bound.
    """
    changed = inputs_of(point.config, source).changed_since(inputs_in(point))
    if changed:
        raise BadInputError(
            f"run {point.name}: {' and '.join(changed)} changed while the command ran", fix="run the command again"
        )


def reading(config: ExperimentConfig) -> Path:
    """Return where a command keeps the private copy of the data that it reads."""
    return config.folder / private_copy.FOLDER


def earlier_runs(point: Point, *, finished: bool = True) -> list[Earlier]:
    """Return runs of a bound point's settings and seed that came from other content, newest last.

    Args:
        point: the point.
        finished: of those with a result; else of those that were begun and left.
    """
    now = inputs_in(point)
    if not point.folder.parent.is_dir():
        return []
    settings, seed = point.name.split("-", 1)[0], f"-s{point.seed}"
    beside = [
        folder
        for folder in point.folder.parent.iterdir()
        if folder.name.startswith(f"{settings}-") and folder.name.endswith(seed) and folder.name != point.name
    ]
    found = []
    for folder in sorted(beside, key=lambda folder: folder.stat().st_mtime):
        stored = _stored(folder) if (folder / SUMMARY).is_file() == finished else None
        if stored is not None:
            changed = () if stored.inputs is None else tuple(now.changed_since(stored.inputs))
            found.append(Earlier(point=stored, changed=changed))
    return found


def told_again(points: Sequence[Point]) -> list[str]:
    """Return one line for each reason why runs that were finished once are made again; their results stay."""
    waiting = [point for point in points if RunFolder(point.folder).summary() is None]
    newest = [found[-1] for point in waiting if (found := earlier_runs(point))]
    return [f"{folders(runs)}: not used again, since {why}; it stays there" for why, runs in by_reason(newest)]


def told_begun(points: Sequence[Point]) -> list[str]:
    """Return one line for each reason why runs that were begun on other content are not gone on with."""
    left = [run for point in points for run in earlier_runs(point, finished=False)]
    return [f"{folders(runs)}: begun, and not gone on with, since {why}" for why, runs in by_reason(left)]


def by_reason(runs: Iterable[Earlier]) -> list[tuple[str, list[Earlier]]]:
    """Return the runs grouped by the reason why they are not used again, in words."""
    reasons: dict[str, list[Earlier]] = {}
    for run in runs:
        reasons.setdefault(run.why, []).append(run)
    return list(reasons.items())


def folders(runs: Sequence[Earlier]) -> str:
    """Return the folder of the first of some runs, and how many more there are."""
    return f"{runs[0].point.folder}" + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")


def _named(point: Point, inputs: Inputs) -> Point:
    settings, seed = point.name.split("-", 1)[0], point.seed
    return replace(point, inputs=inputs, name=f"{settings}-{inputs.digest()[:_BINDING]}-s{seed}")


def _stored(folder: Path) -> Point | None:
    """Return the point of a run's folder as it was written, wherever the folder lies now; None where it cannot
    be read.
    """
    try:
        found = point_from_json((folder / POINT).read_text(encoding="utf-8"))
    except (OSError, BadInputError):
        return None
    at = found.config.model_copy(update={"folder": folder.parents[1], "experiment": folder.parent.name})
    return replace(found, config=at, name=folder.name)
