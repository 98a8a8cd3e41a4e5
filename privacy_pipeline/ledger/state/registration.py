"""What the ledger records of a registered dataset span. Facts, fixed once they are registered."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.config.models.dataset import DatasetConfig, KeyedUnit
from privacy_pipeline.covered_digests import is_covered
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.spans import Span, span_key, span_of, span_words, spans_of

TRAIN = "train"
EVAL = "eval"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """Size of one split; public under zero-out.

    Attributes:
        rows: rows of the split.
        units: privacy units that own them.
    """

    rows: int
    units: int

    def __post_init__(self) -> None:
        if not 0 <= self.units <= self.rows:
            raise BadInputError(f"a split of {self.rows} rows cannot have {self.units} privacy units")


@dataclass(frozen=True, kw_only=True)
class Division:
    """How rows come into the splits; a run has to divide them so too.

    Attributes:
        buckets: `hash_split` of the config; None where each split has files of its own.
        key: column whose hash decides; None where that of the whole row does.
        patterns: `dataset.input`, for information: which files a split has is in the digest of the data.
    """

    buckets: Mapping[str, int] | None = None
    key: str | None = None
    patterns: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def told(self) -> str:
        """In words, for messages."""
        if self.buckets is None:
            return "files of their own for each split"
        parts = ":".join(str(self.buckets[split]) for split in sorted(self.buckets, reverse=True))
        return f"hash_split {parts} by {self.key or 'the whole row'}"


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One span of a dataset as it was registered, or several together (`unions`), which nobody registers as one.

    Attributes:
        dataset: name of the dataset; its spans share one budget.
        span: number of the span, the numbers of several, or None for a dataset without spans.
        unit: "row", or the key column that names the privacy unit.
        contribution_bound: rows of one unit that training may use.
        relation: neighbouring relation of every guarantee on this dataset.
        splits: size of each split; fixed from here on.
        columns: columns of the data.
        digest: SHA-256 of the data, hexadecimal, within the ledger; as it leaves that, covered (`covered_digests`).
        registered: time of registration, UTC, ISO 8601.
        division: how rows come into the splits; None in registrations of formats before 5.
        id_space: numbering that the units' keys belong to; keys of different spaces are different people.
        reasons: why somebody declared a space of its own (`id_space`), or that rows which occur elsewhere too are those
            of other people (`distinct_rows`).
        older: whether a version before format 5 registered it; it has a division once it was registered again.
    """

    dataset: str
    span: Span
    unit: str
    contribution_bound: int
    relation: Relation
    splits: Mapping[str, SplitCount]
    columns: tuple[str, ...]
    digest: str
    registered: str = field(compare=False)
    division: Division | None = None
    id_space: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    older: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.dataset)
        if not is_covered(self.digest) and not _DIGEST.fullmatch(self.digest):
            raise BadInputError(f"digest of dataset {self.dataset} is not a hexadecimal SHA-256")
        for span in spans_of(self.span):
            if span is not None and span < 0:
                raise BadInputError(f"span {span} of dataset {self.dataset} is negative")
        if self.contribution_bound < 1 or (self.unit == "row" and self.contribution_bound != 1):
            raise BadInputError(f"contribution bound {self.contribution_bound} does not fit the unit {self.unit!r}")
        if not self.unit or TRAIN not in self.splits or self.splits[TRAIN].units < 1:
            raise BadInputError(f"dataset {self.dataset} needs a privacy unit and a train split with at least one unit")
        if self.unit == "row" and any(split.rows != split.units for split in self.splits.values()):
            raise BadInputError(f"dataset {self.dataset}: where the unit is a row, a split has as many units as rows")

    @property
    def public_splits(self) -> Mapping[str, SplitCount] | None:
        """Sizes of the splits as they may leave; None where the relation keeps the number of units secret."""
        return self.splits if self.relation is Relation.ZERO_OUT else None

    @property
    def name(self) -> str:
        """Dataset and span, for messages."""
        return self.dataset if self.span is None else f"{self.dataset} ({span_words(self.span)})"


def division_of(dataset: DatasetConfig) -> Division:
    """Return how a config's dataset comes into the splits."""
    unit, patterns = dataset.privacy_unit, dataset.input
    return Division(
        buckets=None if dataset.hash_split is None else {str(split): n for split, n in dataset.hash_split.items()},
        key=unit.key if isinstance(unit, KeyedUnit) and dataset.hash_split is not None else None,
        patterns={"all": patterns} if isinstance(patterns, str) else {str(k): v for k, v in patterns.items()},
    )


def check_name(dataset: str) -> None:
    """Refuse what cannot be the name of a dataset.

    Raises:
        BadInputError: it is not of the form of a name.
    """
    if not _NAME.fullmatch(dataset):
        raise BadInputError(f"dataset name {dataset!r} is not of the form {_NAME.pattern}")


def differences(old: Registration, new: Registration) -> list[str]:
    """Return the names of the facts, the time of registration aside, in which two registrations differ."""
    facts = ("dataset", "span", "unit", "contribution_bound", "relation", "splits", "columns", "digest", "id_space")
    found = [name for name in facts if getattr(old, name) != getattr(new, name)]
    unlike = old.division is not None and new.division is not None and old.division != new.division
    return [*found, *(["division"] if unlike else [])]


def to_row(registration: Registration) -> dict[str, Any]:
    """Return the registration as columns of its table."""
    splits = {name: [split.rows, split.units] for name, split in registration.splits.items()}
    return {
        "dataset": registration.dataset,
        "span_key": span_key(registration.span),
        "unit": registration.unit,
        "contribution_bound": registration.contribution_bound,
        "relation": registration.relation.value,
        "splits": json.dumps(splits, sort_keys=True),
        "columns": json.dumps(list(registration.columns)),
        "digest": registration.digest,
        "registered": registration.registered,
        "details": details_of(registration),
    }


def details_of(registration: Registration) -> str | None:
    """Return what format 5 registers more, as JSON; None where it is nothing."""
    division = registration.division
    details: dict[str, Any] = {}
    if division is not None:
        buckets = None if division.buckets is None else dict(division.buckets)
        details["division"] = {"buckets": buckets, "key": division.key, "patterns": dict(division.patterns)}
    if registration.id_space:
        details["id_space"] = registration.id_space
    if registration.reasons:
        details["reasons"] = dict(registration.reasons)
    if registration.older:
        details["older"] = True
    return json.dumps(details, sort_keys=True) if details else None


def from_row(row: Mapping[Any, Any]) -> Registration:
    """Return the registration that `to_row` wrote."""
    splits = json_value(row["splits"])
    return Registration(
        dataset=row["dataset"],
        span=span_of(row["span_key"]),
        unit=row["unit"],
        contribution_bound=row["contribution_bound"],
        relation=Relation(row["relation"]),
        splits={name: SplitCount(rows=rows, units=units) for name, (rows, units) in splits.items()},
        columns=tuple(json_value(row["columns"])),
        digest=row["digest"],
        registered=row["registered"],
        **_details(row["details"]),
    )


def _details(text: str | None) -> dict[str, Any]:
    details: dict[str, Any] = {} if text is None else json_value(text)
    if "division" in details:
        details["division"] = Division(**details["division"])
    return details
