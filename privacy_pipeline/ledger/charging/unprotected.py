"""Runs on registered data that claim no guarantee: whether they are allowed, and the journal's record that they ran.

Their releases are covered by no epsilon and charged to nothing, so they are journalled: a report counts them from
there. Whether they may run is a property of the registration, by its policy, and not of the config that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.covered_digests import id_of
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.state.budgets import find_budget
from privacy_pipeline.ledger.state.overlaps import many_in_common
from privacy_pipeline.ledger.state.policy import Policy, stored_policy
from privacy_pipeline.ledger.state.unit_digests import stored_digests
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import UNPROTECTED, Writer
from privacy_pipeline.ledger.storage.principal import principal
from privacy_pipeline.spans import Span, span_key

if TYPE_CHECKING:
    from privacy_pipeline.ledger.state.unit_digests import Array


@dataclass(frozen=True, kw_only=True)
class Use:
    """A use of data that a run is about to make.

    Attributes:
        dataset, span: what the config names.
        data_digest: SHA-256 of the files: under another name they are the same data.
        backend: what trains.
        guarantee: whether the run claims one.
        same_rows: registered datasets that have many rows in common with it (`known_by_rows`).
    """

    dataset: str
    span: Span
    data_digest: str
    backend: str
    guarantee: bool
    same_rows: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UnprotectedRun:
    """One run that the journal holds.

    Attributes:
        seq: number of the record.
        at: time, UTC, ISO 8601.
        run_id: the run.
        backend: what trained.
        principal: who ran it.
    """

    seq: int
    at: str
    run_id: str
    backend: str
    principal: str


def owners(connection: sa.Connection, use: Use) -> list[str]:
    """Return the registered datasets that the data of a use belongs to, by name, by files, or by its rows."""
    table = schema.registrations
    named = sa.or_(
        table.c.dataset == use.dataset, table.c.digest == use.data_digest, table.c.dataset.in_(use.same_rows)
    )
    query = sa.select(table.c.dataset).where(named).distinct().order_by(table.c.dataset)
    return [str(name) for name in connection.scalars(query)]


def known_by_files(connection: sa.Connection, use: Use) -> bool:
    """Return whether these very files are registered, so that it is clear whose data they are."""
    table = schema.registrations
    query = sa.select(table.c.id).where(table.c.digest == use.data_digest)
    return connection.scalar(query.limit(1)) is not None


def known_by_rows(
    connection: sa.Connection, rows: Callable[[bytes], Array], secret: Callable[[], bytes]
) -> tuple[str, ...]:
    """Return the registered datasets that have many rows in common with data whose files nobody registered.

    Args:
        connection: a transaction.
        rows: digests the rows of the data under a secret; called only if there are registered rows.
        secret: of the ledger.

    Raises:
        LedgerError: rows are registered, and nothing can be compared with them.
    """
    stored = {key: found for key, found in stored_digests(connection).items() if found.rows}
    if not stored:
        return ()
    own = secret()
    if {found.key_id for found in stored.values()} != {id_of(own)}:
        raise schema.LedgerError(
            "rows were registered under another secret of digests, so nothing shows whether this data is among them",
            fix="restore ledger_units.key from a copy",
        )
    mine = rows(own)
    return tuple(sorted({name for (name, _), found in stored.items() if many_in_common(mine, found.every_row)}))


def require_allowed(connection: sa.Connection, use: Use) -> list[str]:
    """Check a use against the policies of the datasets that it reads.

    Returns:
        The datasets.

    Raises:
        BudgetRefusedError: a policy asks for a guarantee, allows other backends, or names other people.
    """
    found = owners(connection, use)
    for dataset in found:
        budget = find_budget(connection, dataset)
        policy = stored_policy(budget["policy"]) if budget is not None else None
        if policy is not None:
            check_use(policy, backend=use.backend, guarantee=use.guarantee)
    return found


def check_use(policy: Policy, *, backend: str | None, guarantee: bool) -> None:
    """Check one use against one policy.

    Args:
        policy: of the dataset's registration.
        backend: what trains; None for a release that trains nothing.
        guarantee: whether the run claims one.

    Raises:
        BudgetRefusedError: it is not allowed.
    """
    told = f"the policy of dataset {policy.dataset}"
    if policy.may_spend is not None and principal() not in policy.may_spend:
        raise BudgetRefusedError(
            f"{principal()} may not use dataset {policy.dataset}",
            fix=f"ask one of {', '.join(policy.may_spend)}, or the owner of the policy",
        )
    if policy.require_guarantee and not guarantee:
        raise BudgetRefusedError(
            f"{told} asks for a guarantee of every run, and this one claims none",
            fix="train with noise and without a seed (`training.backend: dp_sgd`), or ask the owner of the policy",
        )
    if backend is not None and policy.allowed_backends is not None and backend not in policy.allowed_backends:
        raise BudgetRefusedError(
            f"{told} does not allow backend {backend!r}",
            fix=f"one of {', '.join(policy.allowed_backends)}, or ask the owner of the policy",
        )


def record(writer: Writer, use: Use, *, run_id: str) -> list[str]:
    """Check a use without a guarantee, and journal it for each registered dataset that it reads.

    Returns:
        The datasets; none where the data is not registered.

    Raises:
        BudgetRefusedError: see `require_allowed`.
    """
    found = require_allowed(writer.connection, use)
    for dataset in found:
        about = {"dataset": dataset, "named": use.dataset, "span_key": span_key(use.span)}
        writer.append(UNPROTECTED, {**about, "run_id": run_id, "backend": use.backend})
    return found


def unprotected_runs(connection: sa.Connection, dataset: str) -> list[UnprotectedRun]:
    """Return the runs without a guarantee that the journal holds for a dataset, the oldest first; each once.

    Raises:
        LedgerError: a record is damaged.
    """
    table, found = schema.journal, dict[str, UnprotectedRun]()
    for row in connection.execute(sa.select(table).where(table.c.kind == UNPROTECTED).order_by(table.c.seq)).mappings():
        run = _run(row, dataset)
        if run is not None:
            found.setdefault(run.run_id, run)
    return list(found.values())


def _run(row: Mapping[Any, Any], dataset: str) -> UnprotectedRun | None:
    try:
        body = json_value(row["body"])
        if body["dataset"] != dataset:
            return None
        told = {name: str(body[name]) for name in ("run_id", "backend", "principal")}
    except (ValueError, KeyError, TypeError) as error:
        raise schema.LedgerError(f"journal record {row['seq']} is damaged") from error
    return UnprotectedRun(seq=row["seq"], at=row["at"], **told)
