"""Tables with a key column: every value of the key is one client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated.clients.encoding import codes, encode, numbers
from federated.clients.origin import ClientOrigin
from federated.clients.splits import Split, split_rows
from federated.clients.store import ClientStore
from federated.silos.records import SiloRecords
from privacy_pipeline.data.reading.csv_rows import read_header
from privacy_pipeline.data.reading.csv_table import Cells, batches
from privacy_pipeline.data.schema.encoder import Texts
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.data.schema.unit_keys import KeyReader, keys_of
from privacy_pipeline.errors import BadInputError

FEATURES = "features"  # the one input that `encode` makes, named as in the pipeline's transform


def clients_from_table(
    table: Any, *, key: str, label: str, plan: FeaturePlan | None = None, features: Sequence[str] = (), name: str = ""
) -> ClientStore:
    """Make every value of the key column one client.

    Args:
        table: path of a CSV file, several paths, or a pandas data frame.
        key: column whose value names the client; never an input of a model.
        label: label column.
        plan: public domains and ranges: the columns become one float32 input `features`, [rows, width], and the label
            int64, [rows], 1 for the positive class, 0 for the others of its domain.
        features: without a plan: numeric columns that become one float32 input `features` as they are; the label
            becomes float32, [rows].
        name: of the table in messages; default: the file's path.

    Raises:
        BadInputError: a column is missing, a key or label is missing in a row, or a value is not a number; names table,
            column and row.
    """
    read = _read(table, name, {key: "the client's key"}, label=label, plan=plan, features=features)
    name = read.name
    return ClientStore.from_arrays(
        keys_of_rows=read.keys[key],
        features={FEATURES: read.features},
        labels=read.labels,
        origin=ClientOrigin(client_is=f"one value of the column '{key}' of {name}"),
    )


def silos_from_table(
    table: Any, *, silo: str, owner: str | None, label: str, plan: FeaturePlan, name: str = ""
) -> SiloRecords:
    """Make every value of a column one silo, with the owner of each of its rows.

    Args:
        table, label, plan, name: as in `clients_from_table`.
        silo: column whose value names the silo; never an input of a model.
        owner: column whose value names the user who owns a row; None where a row is its own privacy unit.

    Raises:
        BadInputError: as `clients_from_table`; also a user with rows in two silos.
    """
    roles = {silo: "the silo"} if owner is None else {owner: "the privacy unit's key", silo: "the silo"}
    read = _read(table, name, roles, label=label, plan=plan)
    name, owners = read.name, None
    if owner is not None:
        _, owners = np.unique(read.keys[owner], return_inverse=True)
    return SiloRecords.from_rows(
        silo_of_rows=read.keys[silo],
        features={FEATURES: read.features},
        labels=read.labels,
        owners=owners,
        origin=ClientOrigin(client_is=f"a silo: one value of the column '{silo}' of {name}"),
    )


def clients_by_rule(
    table: Any,
    *,
    rule: Split,
    label: str,
    plan: FeaturePlan | None = None,
    features: Sequence[str] = (),
    name: str = "",
) -> ClientStore:
    """Deal the rows of a table without a key out to synthetic clients.

    Args:
        table, label, plan, features, name: as in `clients_from_table`.
        rule: how rows are dealt out.

    Raises:
        BadInputError: as `clients_from_table`, or more clients than rows.
    """
    read = _read(table, name, {}, label=label, plan=plan, features=features)
    return split_rows(rule, features={FEATURES: read.features}, labels=read.labels)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """A table as arrays: features float32, [rows, width]; labels, [rows]; keys of rows by column, [rows]."""

    name: str
    features: NDArray[np.float32]
    labels: NDArray[Any]
    keys: dict[str, NDArray[Any]]


def _read(
    table: Any, name: str, roles: dict[str, str], *, label: str, plan: FeaturePlan | None, features: Sequence[str] = ()
) -> _Rows:
    """Read and encode a table piece by piece.

    Args:
        table: see `clients_from_table`.
        name: of the table; "" for the file's path.
        roles: what a key column is, in words, by its name.
        label, plan, features: see `clients_from_table`.
    """
    files = _files(table)
    name = name or (name_of(files) if files else "the table")
    keys: dict[str, list[Any]] = {column: [] for column in roles}
    encoded, labels, rows = [], [], 0
    for cells in _pieces(table, files):
        for column, role in roles.items():
            keys[column].append(_required(cells, column, name, role=role, first=rows + 1))
        if plan is None:
            encoded.append(_as_they_are(cells, features, name, first=rows + 1))
        else:
            encoded.append(encode(plan, cells, name=name, first=rows + 1))
        labels.append(_labels(cells, label, plan, name, first=rows + 1))
        rows += cells.num_rows
    if not rows:
        raise BadInputError(f"{name}: the table has no rows, so there are no clients")
    typed = {column: _typed(found, column, name) for column, found in keys.items()}
    return _Rows(name=name, features=np.concatenate(encoded), labels=np.concatenate(labels), keys=typed)


def name_of(files: Sequence[Path]) -> str:
    """Return the words for several files in messages."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def rows_of(files: Sequence[Path]) -> int:
    """Return how many rows files have.

    Raises:
        BadInputError: one cannot be read.
    """
    return sum(cells.num_rows for file in files for cells in batches(file=file, columns=read_header(file=file)[:1]))


def _files(table: Any) -> list[Path]:
    if isinstance(table, (str, Path)):
        return [Path(table)]
    return [Path(file) for file in table] if isinstance(table, (list, tuple)) else []


def _pieces(table: Any, files: Sequence[Path]) -> Iterator[Cells]:
    if not files:
        yield _cells_of_frame(table)
    for file in files:
        yield from batches(file=file)


def _cells_of_frame(frame: Any) -> Cells:
    """Return a pandas data frame as the cells that it would be written with; None and NaN are missing."""
    import pyarrow as pa

    def texts(values: Any) -> list[str]:
        gone = values.isna()
        if values.dtype.kind == "f" and bool((values[~gone] == np.floor(values[~gone])).all()):
            values = values.fillna(0).astype(np.int64)  # a column that once held NaN: 3.0 is 3
        return ["" if absent else str(value) for value, absent in zip(values, gone, strict=True)]

    arrays = [pa.array(texts(frame[column]), pa.string()) for column in frame.columns]
    return pa.RecordBatch.from_arrays(arrays, names=[str(column) for column in frame.columns])


def _required(cells: Cells, column: str, name: str, *, role: str, first: int) -> Any:
    """Return a column of texts without a missing one."""
    if column not in cells.schema.names:
        found = ", ".join(cells.schema.names)
        raise BadInputError(f"{name}: {role} '{column}' is missing; the columns are: {found}")
    values = cells.column(column)
    absent = np.flatnonzero(np.asarray(values.to_numpy(zero_copy_only=False) == ""))
    if absent.size:
        raise BadInputError(
            f"{name}: column '{column}' ({role}) is empty in row {first + int(absent[0])}",
            fix="remove rows without it, or fill it in",
        )
    return values


def _typed(columns: Sequence[Any], column: str, name: str) -> NDArray[Any]:
    """Return keys of rows as a registration counts them: whole numbers where all are, else texts as written."""
    reader = KeyReader()
    for values in columns:
        written = keys_of(values)
        if written is not None:  # `_required` has refused an empty one
            reader.add(written)
    if not reader.done().typed(column, Path(name)).are_integers:
        return np.concatenate([values.to_numpy(zero_copy_only=False).astype(str) for values in columns])
    texts = (Texts.of(values) for values in columns)
    return np.concatenate([one.spread(numbers(one, name=name, column=column, integer=True).values) for one in texts])


def _as_they_are(cells: Cells, features: Sequence[str], name: str, *, first: int) -> NDArray[np.float32]:
    """Return numeric columns without a plan, float32, [rows, columns]."""
    if not features:
        raise BadInputError(f"{name}: no feature is named", fix="give a schema, or name numeric columns")
    return np.stack([_plain(cells, column, name, role="a feature", first=first) for column in features], axis=1)


def _plain(cells: Cells, column: str, name: str, *, role: str, first: int) -> NDArray[np.float32]:
    texts = Texts.of(_required(cells, column, name, role=role, first=first))
    found = numbers(texts, name=name, column=column, first=first)
    if found.missing.any():
        row = first + int(np.flatnonzero(texts.spread(found.missing))[0])
        raise BadInputError(f"{name}: column '{column}' ({role}) has no value in row {row}")
    return np.asarray(texts.spread(found.values), np.float32)


def _labels(cells: Cells, label: str, plan: FeaturePlan | None, name: str, *, first: int) -> NDArray[Any]:
    if plan is None:
        return _plain(cells, label, name, role="the label", first=first)
    texts = Texts.of(_required(cells, label, name, role="the label", first=first))
    found = codes(texts, Column(name=label, kind="categorical", dtype=plan.label_dtype, domain=plan.label_domain))
    unknown = np.flatnonzero(texts.spread(found < 0))
    if unknown.size:
        row = int(unknown[0])
        raise BadInputError(
            f"{name}: column '{label}', row {first + row}: {texts.different[int(texts.places[row])].as_py()!r} is not "
            f"in the label's public domain: {', '.join(plan.label_domain)}"
        )
    positive = found == plan.label_domain.index(plan.positive_class)
    return np.asarray(texts.spread(positive), np.int64)
