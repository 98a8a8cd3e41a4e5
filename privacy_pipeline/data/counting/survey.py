"""One reading of all rows before anything is started: what they hold, and whether the public schema allows it.

It refuses what a run would refuse, with file, line and column, and what ExampleGen would read otherwise than the schema
states. `check`, registration and experiments look at their data by it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data.counting.cells import first_bad
from privacy_pipeline.data.counting.counts import SplitCount, by_split
from privacy_pipeline.data.files import ResolvedSource
from privacy_pipeline.data.reading.csv_rows import read_header
from privacy_pipeline.data.reading.csv_table import Cells, mapped
from privacy_pipeline.data.schema import encoder
from privacy_pipeline.data.schema.encoder import WIDENING, Kind, Texts
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.data.schema.unit_keys import KeyReader, Keys, UnitKeys, keys_of, spelling_note
from privacy_pipeline.errors import BadInputError, PipelineError


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the rows of a dataset hold. All of it is computed from private data.

    Attributes:
        rows: of each group of files: a split, or `ALL` where a hash divides them.
        missing: cells without a value, by group and column.
        kinds: what ExampleGen reads each column as, by group.
        counts: rows and units of each split; None where rows have no key.
        notes: what a person should know of the keys although it is not an error.
    """

    rows: Mapping[str, int]
    missing: Mapping[str, Mapping[str, int]]
    kinds: Mapping[str, Mapping[str, Kind]]
    counts: Mapping[str, SplitCount] | None = None
    notes: tuple[str, ...] = ()


def survey(*, source: ResolvedSource, dataset: DatasetConfig, features: FeaturePlan) -> Survey | None:
    """Read all rows; None for TFRecord files, whose cells have types of their own.

    Args:
        source: the files.
        dataset: the config's section.
        features: columns with their public domains and ranges.

    Raises:
        BadInputError: a row cannot be read, a cell is one that the schema does not allow, a column is of another type
            than in the schema, or a unit has rows in both splits.
    """
    if dataset.format != "csv":
        return None
    columns = {column.name: column for column in features.columns}
    columns[features.label] = features.label_column
    key = features.unit_key
    said: dict[str, Kind] = {name: column.dtype for name, column in columns.items()}
    if key is not None and features.unit_key_dtype is not None:
        said[key] = features.unit_key_dtype
    found = {split: _Group() for split in source.files}
    for split, files in source.files.items():
        for file in files:
            for part in _parts(file, columns, key, features):
                found[split].add(part)
        _require_types(dataset, split, found[split].kinds, said)
    written = {split: group.keys.done() for split, group in found.items()} if key is not None else None
    return Survey(
        rows={split: group.rows for split, group in found.items()},
        missing={split: dict(group.missing) for split, group in found.items()},
        kinds={split: group.kinds for split, group in found.items()},
        counts=None if written is None or key is None else _counted(by_split(written, dataset, key)),
        notes=_notes(written or {}, key or ""),
    )


def require_readable(*, source: ResolvedSource, dataset: DatasetConfig) -> None:
    """Look at files without a schema. Refuse rows that do not fit the header; TFRecord files pass.

    Args:
        source: the files.
        dataset: the config's section.

    Raises:
        BadInputError: there is such a row, or different fractions in a column are equal in the 32 bits that ExampleGen
            keeps of each.
    """
    if dataset.format != "csv":
        return
    ends: dict[str, tuple[float, float]] = {}
    widest: Counter[str] = Counter()
    for file in (file for files in source.files.values() for file in files):
        for part in mapped(_ends, file=file, columns=read_header(file=file)):
            for name, (kind, low, high) in part.items():
                widest[name] = max(kind, widest[name])
                before = ends.get(name, (low, high))
                ends[name] = min(low, before[0]), max(high, before[1])
    for name, (low, high) in ends.items():
        why = encoder.coarse(low, high) if WIDENING[widest[name]] == "float" else None
        if why is not None:
            raise BadInputError(f"{dataset.path}: column '{name}': {why}", fix=encoder.TOO_COARSE)


def _ends(cells: Cells) -> dict[str, tuple[int, float, float]]:
    """Return the kind of each column, and its least and largest number."""
    found = {}
    for name in cells.schema.names:
        different = Texts.of(cells.column(name)).different
        low, high = encoder.ends_of(different) or (math.inf, -math.inf)
        found[name] = (int(encoder.kinds_of(different).max(initial=0)), low, high)
    return found


def _counted(keys: Mapping[str, UnitKeys]) -> dict[str, SplitCount]:
    return {split: SplitCount(rows=found.rows, units=len(found)) for split, found in keys.items()}


def _notes(written: Mapping[str, UnitKeys], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for keys in written.values() if (note := spelling_note(keys, key))))


@dataclass(frozen=True)
class _Part:
    """What some records hold."""

    rows: int
    missing: Counter[str]
    kinds: dict[str, int]
    keys: Keys | None
    bad: bool


@dataclass
class _Group:
    """What the files of one split hold so far."""

    rows: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    widest: dict[str, int] = field(default_factory=dict)
    keys: KeyReader = field(default_factory=KeyReader)

    def add(self, part: _Part) -> None:
        self.rows += part.rows
        self.missing.update(part.missing)
        for name, kind in part.kinds.items():
            self.widest[name] = max(kind, self.widest.get(name, 0))
        if part.keys is not None:
            self.keys.add(part.keys)

    @property
    def kinds(self) -> dict[str, Kind]:
        return {name: WIDENING[widest] for name, widest in self.widest.items()}


def _parts(file: Path, columns: Mapping[str, Column], key: str | None, features: FeaturePlan) -> Iterator[_Part]:
    header = read_header(file=file)
    present = {name: column for name, column in columns.items() if name in header or not column.optional}
    wanted = list(dict.fromkeys([*present, *([] if key is None else [key])]))
    look = partial(_part, columns=present, key=key, integer_keys=features.unit_key_dtype == "int")
    for part in mapped(look, file=file, columns=wanted):
        if part.bad:
            raise _refused(file, features)
        yield part


def _part(cells: Cells, *, columns: Mapping[str, Column], key: str | None, integer_keys: bool) -> _Part:
    missing: Counter[str] = Counter()
    kinds: dict[str, int] = {}
    bad = False
    for name, column in columns.items():
        texts = Texts.of(cells.column(name))
        absent, wrong = judged(column, texts)
        missing[name] = int(texts.spread(absent).sum())
        kinds[name] = int(encoder.kinds_of(texts.different).max(initial=0))
        bad = bad or bool(wrong.any())
    keys = None if key is None else keys_of(cells.column(key))
    if key is not None:
        kinds[key] = int(encoder.kinds_of(Texts.of(cells.column(key)).different).max(initial=0))
        bad = bad or keys is None or (integer_keys and not _are_integers(cells, key))
    return _Part(cells.num_rows, missing, kinds, keys, bad)


def _are_integers(cells: Cells, key: str) -> bool:
    return not encoder.integers(Texts.of(cells.column(key)).different).wrong.any()


def judged(column: Column, texts: Texts) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where the different texts of a column are missing, and where the column does not allow them.

    Args:
        column: its description in the schema.
        texts: its cells.
    """
    if column.dtype == "bytes":
        spelled = encoder.categories(texts.different, "bytes")
        missing = np.array([not text for text in spelled], np.bool_)
        wrong = np.zeros(len(missing), np.bool_)
    else:
        read = (encoder.integers if column.dtype == "int" else encoder.fractions)(texts.different)
        missing, wrong = read.missing, read.wrong
        if column.kind == "numeric":
            outside = np.zeros(len(missing), np.bool_)
            if column.minimum is not None:
                outside |= read.values < column.minimum
            if column.maximum is not None:
                outside |= read.values > column.maximum
            wrong = wrong | (outside & ~missing)
        spelled = encoder.categories(texts.different, column.dtype) if column.kind == "categorical" else []
    if column.kind == "categorical" and column.domain:
        domain = frozenset(value for value in column.domain if len(value.encode()) <= encoder.LONGEST_CATEGORY)
        wrong = wrong | np.array([bool(text) and text not in domain for text in spelled], np.bool_)
    return missing, wrong if column.optional else wrong | missing


def _refused(file: Path, features: FeaturePlan) -> Exception:
    cell = first_bad(file=file, features=features)
    if cell is None:
        return PipelineError(f"{file}: two readings of one file differ; nothing was started")
    where = f"{file}:{cell.line}: " + (f"column '{cell.column}': " if cell.column else "")
    return BadInputError(f"{where}{cell.why}", fix="correct the row, or the schema where it is wrong")


_FIXES: Mapping[tuple[Kind, str], str] = {
    ("int", "float"): "write INT in the schema, or write a decimal point (7.0) in at least one row",
    ("int", "bytes"): "write INT (is_categorical) in the schema, or spell at least one value with a letter",
    ("float", "bytes"): "write FLOAT in the schema, or spell at least one value with a letter",
}
_KINDS: Mapping[Kind, str] = {"int": "INT", "float": "FLOAT", "bytes": "BYTES", "empty": "empty"}


def _require_types(dataset: DatasetConfig, group: str, kinds: Mapping[str, Kind], types: Mapping[str, Kind]) -> None:
    """Refuse a column that ExampleGen, which reads no schema, would read as another type than the schema's."""
    for name, kind in kinds.items():
        said = types.get(name, kind)
        if kind not in ("empty", said):
            raise BadInputError(
                f"{dataset.path}: column '{name}' ({group}): ExampleGen reads its cells as {_KINDS[kind]}, the schema "
                f"has {_KINDS[said]}",
                fix=_FIXES.get((kind, said), "correct the rows, or the schema"),
            )
