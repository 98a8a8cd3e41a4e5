"""Tables with a key column: every value of the key is one client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federated.clients.encoding import encode, missing, numbers
from federated.clients.origin import ClientOrigin
from federated.clients.splits import Split, split_rows
from federated.clients.store import ClientStore
from federated.silos.records import SiloRecords
from privacy_pipeline.data.features import FeaturePlan
from privacy_pipeline.errors import BadInputError

FEATURES = "features"  # the one input that `encode` makes, named as in the pipeline's transform


def read_csv(path: Path) -> Any:
    """A CSV file with a header as a pandas data frame of texts; an empty cell is "".

    Raises:
        BadInputError: the file cannot be read, or is no CSV.
    """
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, pd.errors.ParserError) as error:  # EmptyDataError and UnicodeDecodeError are ValueErrors
        raise BadInputError(f"{path}: no CSV with a header ({error})") from None


def clients_from_table(
    table: Any, *, key: str, label: str, plan: FeaturePlan | None = None, features: Sequence[str] = (), name: str = ""
) -> ClientStore:
    """Makes every value of the key column one client.

    Args:
        table: path of a CSV file, or a pandas data frame.
        key: column whose value names the client; never an input of a model.
        label: label column.
        plan: public domains and ranges: the columns become one float32 input `features`, [rows, width], and the label
            int64, [rows], 1 for the positive class, 0 for the others of its domain.
        features: without a plan: numeric columns that become one float32 input `features` as they are; the label
            becomes float32, [rows].
        name: of the table in messages; default: the file's path.

    Raises:
        BadInputError: a column is missing, a key or label is missing in a row, or a value is no number; names table,
            column and row.
    """
    frame, name = _frame(table, name)
    inputs, labels = _arrays(frame, label=label, plan=plan, features=features, name=name)
    return ClientStore.from_arrays(
        keys_of_rows=_keys(frame, key, name, role="the client's key"),
        features=inputs,
        labels=labels,
        origin=ClientOrigin(client_is=f"one value of the column '{key}' of {name}"),
    )


def silos_from_table(
    table: Any, *, silo: str, owner: str | None, label: str, plan: FeaturePlan, name: str = ""
) -> SiloRecords:
    """Makes every value of a column one silo, which knows whose each of its rows is.

    Args:
        table, label, plan, name: as in `clients_from_table`.
        silo: column whose value names the silo; never an input of a model.
        owner: column whose value names the user who owns a row; None where a row is its own privacy unit.

    Raises:
        BadInputError: as `clients_from_table`; also a user with rows in two silos.
    """
    frame, name = _frame(table, name)
    inputs, labels = _arrays(frame, label=label, plan=plan, features=(), name=name)
    owners = None
    if owner is not None:
        _, owners = np.unique(_keys(frame, owner, name, role="the privacy unit's key"), return_inverse=True)
    return SiloRecords.from_rows(
        silo_of_rows=_keys(frame, silo, name, role="the silo"),
        features=inputs,
        labels=labels,
        owners=owners,
        origin=ClientOrigin(client_is=f"a silo: one value of the column '{silo}' of {name}"),
    )


def _keys(frame: Any, column: str, name: str, *, role: str) -> NDArray[Any]:
    """A column of keys: whole numbers where all are, else texts."""
    keys = _required(frame, column, name, role=role)
    whole = keys.str.fullmatch(r"-?\d{1,18}").all()
    return np.asarray(keys.astype(np.int64).to_numpy() if whole else keys.to_numpy(str))


def clients_by_rule(
    table: Any,
    *,
    rule: Split,
    label: str,
    plan: FeaturePlan | None = None,
    features: Sequence[str] = (),
    name: str = "",
) -> ClientStore:
    """Deals the rows of a table without a key out to synthetic clients.

    Args:
        table, label, plan, features, name: as in `clients_from_table`.
        rule: how rows are dealt out.

    Raises:
        BadInputError: as `clients_from_table`, or more clients than rows.
    """
    frame, name = _frame(table, name)
    inputs, labels = _arrays(frame, label=label, plan=plan, features=features, name=name)
    return split_rows(rule, features=inputs, labels=labels)


def _frame(table: Any, name: str) -> tuple[Any, str]:
    if isinstance(table, (str, Path)):
        return read_csv(Path(table)), name or str(table)
    return table, name or "the table"


def _required(frame: Any, column: str, name: str, *, role: str) -> Any:
    """A column as texts, without a missing value."""
    if column not in frame.columns:
        found = ", ".join(map(str, frame.columns))
        raise BadInputError(f"{name}: {role} '{column}' is missing; the columns are: {found}")
    values = frame[column]
    absent = np.flatnonzero(missing(values))
    if absent.size:
        raise BadInputError(
            f"{name}: column '{column}' ({role}) is empty in {absent.size:,} of {len(values):,} rows, first in row "
            f"{int(absent[0]) + 1}",
            fix="remove these rows or fill them in",
        )
    if values.dtype.kind == "f" and bool((values == np.floor(values)).all()):
        values = values.astype(np.int64)  # a column that once held NaN: 3.0 is the key 3
    return values.astype(str).str.strip()


def _arrays(
    frame: Any, *, label: str, plan: FeaturePlan | None, features: Sequence[str], name: str
) -> tuple[Mapping[str, ArrayLike], NDArray[Any]]:
    if not len(frame):
        raise BadInputError(f"{name}: the table has no rows, so there are no clients")
    labels = _required(frame, label, name, role="the label")
    if plan is not None:
        unknown = np.flatnonzero(~labels.isin(plan.label_domain))
        if unknown.size:
            row = int(unknown[0])
            raise BadInputError(
                f"{name}: column '{label}', row {row + 1}: {labels.iloc[row]!r} is not in the label's public domain: "
                f"{', '.join(plan.label_domain)}"
            )
        return {FEATURES: encode(plan, frame, name=name)}, (labels == plan.positive_class).to_numpy(np.int64)
    columns = []
    for column in features:
        texts = _required(frame, column, name, role="a feature")
        columns.append(numbers(texts, name=name, column=column))
    if not columns:
        raise BadInputError(f"{name}: no feature is named", fix="give a schema, or name numeric columns")
    return {FEATURES: np.stack(columns, axis=1)}, numbers(labels, name=name, column=label)
