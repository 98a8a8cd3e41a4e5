"""Counts the privacy units of each silo in the training split: public numbers, fixed when a dataset is registered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from privacy_pipeline.config.models.dataset import DatasetConfig, KeyedUnit
from privacy_pipeline.data.files import ALL, ResolvedSource
from privacy_pipeline.data.reading.csv_rows import read_header, rows
from privacy_pipeline.data.reading.csv_table import batches
from privacy_pipeline.data.schema.unit_keys import as_int, split_of
from privacy_pipeline.errors import BadInputError

TRAIN = "train"


def count_silos(*, source: ResolvedSource, dataset: DatasetConfig, column: str) -> dict[str, int] | None:
    """Return units of each silo by its name; whole numbers are named as Python writes them, as ExampleGen reads them.

    Args:
        source: the files.
        dataset: the config's section.
        column: whose value names a row's silo.

    Returns:
        None where only ExampleGen can find them: TFRecord files, and rows without a key that are split by their hash.

    Raises:
        BadInputError: a row cannot be read, lacks its silo or key, or a unit has rows in two silos.
    """
    unit = dataset.privacy_unit
    keyed = isinstance(unit, KeyedUnit)
    if dataset.format != "csv" or (dataset.hash_split is not None and not keyed):
        return None
    files = source.files[TRAIN] if dataset.hash_split is None else source.files[ALL]
    key = unit.key if isinstance(unit, KeyedUnit) else None
    found = Counter(pair for file in files for pair in _pairs(file, column, key))
    silos = _names({silo for silo, _ in found})
    if key is None:
        counts: Counter[str] = Counter()
        for (silo, _), number in found.items():
            counts[silos[silo]] += number
        return dict(counts)
    owners = _typed({owner for _, owner in found})
    homes: dict[int | str, str] = {}
    for silo, owner in found:
        home = homes.setdefault(owners[owner], silos[silo])
        if home != silos[silo]:
            raise BadInputError(
                f"{dataset.path}: '{key}' {owner} has rows in the silos {home} and {silos[silo]} ('{column}'): both "
                "would release something of it, and one alone is accounted for",
                fix="keep all rows of a unit in one silo",
            )
    buckets = dataset.hash_split
    inside = (
        home for owner, home in homes.items() if buckets is None or split_of(value=owner, buckets=buckets) == TRAIN
    )
    return dict(Counter(inside))


def _pairs(file: Path, column: str, key: str | None) -> Iterator[tuple[str, str]]:
    """Return silo and owner of each row, as they are written; "" for the owner where a row is its own unit."""
    names = [column] if key in (None, column) else [column, str(key)]
    for cells in batches(file=file, columns=names):
        silos = cells.column(column).to_pylist()
        owners = [""] * len(silos) if key is None else cells.column(key).to_pylist()
        if "" in silos or (key is not None and "" in owners):
            raise _without(file, column, key)
        yield from zip(silos, owners, strict=True)


def _without(file: Path, column: str, key: str | None) -> BadInputError:
    """Return the error that names the first row that lacks its silo or its key."""
    header = read_header(file=file)
    place, owner = header.index(column), None if key is None else header.index(key)
    line, silo = next(
        (row.line, row.cells[place])
        for row in rows(file=file)
        if not row.cells[place] or (owner is not None and not row.cells[owner])
    )
    return BadInputError(
        f"{file}:{line}: '{key if silo else column}' is empty: the row has no {'privacy unit' if silo else 'silo'}",
        fix="fill it in, or remove the row",
    )


def _typed(texts: set[str]) -> dict[str, int | str]:
    """Return whole numbers where all are, else texts: 07 and 7 are one int, two texts."""
    numbers = {text: as_int(text) for text in texts}
    whole = {text: number for text, number in numbers.items() if number is not None}
    return dict(whole) if len(whole) == len(texts) else {text: text for text in texts}


def _names(texts: set[str]) -> dict[str, str]:
    return {text: str(value) for text, value in _typed(texts).items()}
