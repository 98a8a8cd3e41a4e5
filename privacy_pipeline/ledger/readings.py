"""What a ledger answers without a write: budgets, entries, the journal, and whether it is what was written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.audit import records
from privacy_pipeline.ledger.audit.records import JournalRecord
from privacy_pipeline.ledger.charging.charges import find, newest
from privacy_pipeline.ledger.charging.composition import composition_of
from privacy_pipeline.ledger.charging.shares import ShareStatus, shares_of
from privacy_pipeline.ledger.charging.unprotected import UnprotectedRun, unprotected_runs
from privacy_pipeline.ledger.state.budgets import status_of, train_budgets
from privacy_pipeline.ledger.state.entries import Budgets, Entry, State
from privacy_pipeline.ledger.state.registration import TRAIN, from_row
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.high_water import NEWEST_FIX, put_back
from privacy_pipeline.ledger.storage.journal import Receipt, current_key
from privacy_pipeline.ledger.storage.lineage import Lineage, lineage_of
from privacy_pipeline.pictures.budgets import budgets_html
from privacy_pipeline.pictures.fragment import paragraph

if TYPE_CHECKING:
    from privacy_pipeline.accounting.record import Composition
    from privacy_pipeline.ledger.audit.verify import Verification
    from privacy_pipeline.ledger.storage.keys import PublicKey


class LedgerReadings:
    """The part of a ledger that only reads."""

    def __init__(self, engine: sa.Engine) -> None:
        given: object = engine
        if not isinstance(given, sa.Engine):
            fix = 'Ledger.open("sqlite:///ledger/ledger.db")'
            raise BadInputError(f"ledger: {type(given).__name__} is not an engine; open a ledger by its URL", fix=fix)
        self._engine = engine

    @property
    def name(self) -> str:
        """The ledger's URL without its password."""
        return schema.name(self._engine.url)

    def require_registered(self, dataset: str | None) -> None:
        """Refuse the name of a dataset that is not registered, where an empty answer would look like no spending.

        Raises:
            BadInputError: it is not registered.
        """
        with schema.transaction(self._engine, write=False) as connection:
            _require(connection, dataset)

    def status(self, dataset: str | None = None) -> Budgets:
        """Return all budgets, or that of one dataset; empty where the dataset is not registered."""
        table = schema.budgets
        query = sa.select(table).order_by(table.c.dataset, table.c.id)
        if dataset is not None:
            query = query.where(table.c.dataset == dataset)
        with schema.transaction(self._engine, write=False) as connection:
            rows = connection.execute(query).mappings().all()
            spans = [from_row(row) for row in connection.execute(sa.select(schema.registrations)).mappings()]
        governs = {row["dataset"]: row["policy"] for row in rows if row["split"] == TRAIN}
        found = [status_of({**row, "policy": row["policy"] or governs.get(row["dataset"])}) for row in rows]
        older = {span.dataset for span in spans if span.older}
        unbound = {span.dataset for span in spans if span.older and span.division is None}
        return Budgets(replace(one, older=one.dataset in older, unbound=one.dataset in unbound) for one in found)

    def shares(self, dataset: str | None = None) -> list[ShareStatus]:
        """Return what the shares of each budget's policy come to."""
        table = schema.budgets
        query = sa.select(table).order_by(table.c.dataset, table.c.id)
        if dataset is not None:
            query = query.where(table.c.dataset == dataset)
        with schema.transaction(self._engine, write=False) as connection:
            return [share for row in connection.execute(query).mappings() for share in shares_of(row)]

    def entries(self, dataset: str) -> list[Entry]:
        """Return all entries of a dataset's budgets, the oldest first, expired ones included."""
        return self.history(dataset=dataset, limit=None)[::-1]

    def entry(self, entry_id: int) -> Entry | None:
        """Return one entry by its number, or None where there is none."""
        with schema.transaction(self._engine, write=False) as connection:
            return find(connection, entry_id)

    def history(self, *, dataset: str | None = None, limit: int | None = 50) -> list[Entry]:
        """Return entries, the newest first, expired ones included.

        Args:
            dataset: only of this dataset; none where it is not registered.
            limit: the largest number of them; None for all.
        """
        with schema.transaction(self._engine, write=False) as connection:
            return newest(connection, dataset=dataset, limit=limit)

    def records(self, *, dataset: str | None = None, limit: int | None = 50) -> list[JournalRecord]:
        """Return records of the journal, of every kind, the newest first.

        Args:
            dataset: only of this dataset, and those about the ledger as a whole, such as a change of its key.
            limit: the largest number of them; None for all.

        Raises:
            BadInputError: the dataset is not registered.
            LedgerError: a record is damaged.
        """
        with schema.transaction(self._engine, write=False) as connection:
            _require(connection, dataset)
            return records.newest(connection, dataset=dataset, limit=limit)

    def unsalted_records(self) -> list[int]:
        """Return the numbers of journal records whose hashes must not leave; see `records.unsalted`."""
        with schema.transaction(self._engine, write=False) as connection:
            return records.unsalted(connection)

    def unprotected_runs(self, dataset: str) -> list[UnprotectedRun]:
        """Return the runs without a guarantee on a dataset, the oldest first; each once."""
        with schema.transaction(self._engine, write=False) as connection:
            return unprotected_runs(connection, dataset)

    def settled(self, entry_ids: Collection[int]) -> set[int]:
        """Return the entries under which no run can go on: committed, expired or unknown."""
        table, settled = schema.entries, set(entry_ids)
        query = sa.select(table.c.id).where(table.c.id.in_(settled))
        with schema.transaction(self._engine, write=False) as connection:
            open_ones = query.where(table.c.state.in_((State.RESERVED.value, State.STARTED.value)))
            return settled - set(connection.scalars(open_ones))

    def composition(self, entry_id: int) -> Composition:
        """Return an entry among the counted ones that were reserved before it, by RDP at the cap's delta.

        Once the entry is committed, with the receipt of the commit.

        Raises:
            BadInputError: there is no such entry, or it expired.
            AccountingError: an entry before it, or it itself, has no finite epsilon.
        """
        with schema.transaction(self._engine, write=False) as connection:
            return composition_of(connection, entry_id)

    def verify(
        self,
        *,
        receipts: Sequence[Receipt] = (),
        public_key: PublicKey | None = None,
        accepted: Collection[str] = (),
        reprice: bool = True,
    ) -> Verification:
        """Return whether the ledger is what its writers wrote; see `verify.verify`."""
        from privacy_pipeline.ledger.audit.verify import verify

        return verify(self._engine, receipts=receipts, public_key=public_key, accepted=accepted, reprice=reprice)

    def lineage(self, *, at: Sequence[int] = ()) -> Lineage:
        """Return which ledger it is; see `lineage_of`.

        Args:
            at: numbers of journal records whose hashes are asked for.
        """
        with schema.transaction(self._engine, write=False) as connection:
            return lineage_of(connection, at)

    def put_back(self) -> str:
        """Return why this is an older state of the ledger than this host has seen, or ""; see `high_water`."""
        return put_back(self._engine, current_key)

    def require_newest(self) -> None:
        """Refuse to rely on a ledger that every write would refuse, because it is older than this host has seen it.

        Raises:
            LedgerError: it is, or what was seen cannot be read.
        """
        if told := self.put_back():
            raise schema.LedgerError(told, fix=NEWEST_FIX)

    def _repr_html_(self) -> str:
        """Return the budgets for a notebook, and why this may be an older state than the host has seen."""
        told = self.put_back()
        return (paragraph(f"not the newest: {told}", bold=True) if told else "") + budgets_html(self.status())


def _require(connection: sa.Connection, dataset: str | None) -> None:
    """Refuse the name of a dataset that is not registered."""
    if dataset is not None and not train_budgets(connection, dataset):
        raise BadInputError(f"dataset {dataset} is not registered in the ledger", fix="privacy-pipeline budget status")
