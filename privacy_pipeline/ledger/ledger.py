"""The budget ledger: what each registered dataset may spend over all runs, and what it has spent.

One budget covers one dataset, its train split and its privacy unit. The spans of a dataset share that budget, except
those whose units are proven to be in no other span (`unit_digests`). A run over several spans charges each budget that
one of them belongs to, or none (`reservation`). Events are stored with their Renyi vectors, and
epsilon is a view of them. A grant is given by a Renyi filter (`renyi_filter`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.ledger.charging.admission import check_plan, check_principal, forecast_of, paying_budgets
from privacy_pipeline.ledger.charging.budget_check import check_budget
from privacy_pipeline.ledger.charging.entries import expire
from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken
from privacy_pipeline.ledger.charging.request import TRAINING, Request
from privacy_pipeline.ledger.charging.reservation import committed, continued, reserve
from privacy_pipeline.ledger.charging.unprotected import Use, known_by_files, known_by_rows, record, require_allowed
from privacy_pipeline.ledger.opening import open_engine
from privacy_pipeline.ledger.registrations import LedgerRegistrations
from privacy_pipeline.ledger.state.entries import Forecast, State, price
from privacy_pipeline.ledger.state.registration import Division
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import ZERO, accept_imports
from privacy_pipeline.ledger.storage.principal import principal
from privacy_pipeline.ledger.write_transactions import rotate, writing
from privacy_pipeline.spans import Span

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.ledger.state.unit_digests import Array


class Ledger(LedgerRegistrations):
    """A budget ledger in SQLite or PostgreSQL. Safe to use from several processes at once.

    A notebook shows its budgets as a table and as bars.

    >>> import privacy_pipeline as pp
    >>> ledger = pp.Ledger.open("sqlite:///new/ledger.db", create=True)
    >>> ledger.status()
    []
    """

    @classmethod
    def open(cls, url: str, *, create: bool = False, existing_key: bool = False) -> Ledger:
        """Open a ledger.

        Args:
            url: SQLAlchemy URL.
            create: make the ledger, and its folder, where there is none.
            existing_key: a ledger that is made takes the key that is there; without this, a key without its ledger is
                an error, because a ledger that was deleted must not begin again with nothing spent.

        Raises:
            BadInputError: there is no ledger at the URL, or the URL is not usable.
            LedgerError: the database is corrupt, cannot be written, is of another version, or is gone.
        """
        return cls(open_engine(url, create=create, existing_key=existing_key))

    @classmethod
    def migrate(cls, url: str, *, accept: bool = False) -> Ledger:
        """Bring a ledger to this format now, rather than with the next write.

        Args:
            url: SQLAlchemy URL.
            accept: records, signed, that what was imported from a format without signatures is known to be right; an
                old ledger is then imported even where a key is there already.

        Raises:
            BadInputError: there is no ledger at the URL; with `accept`, nothing was imported.
            LedgerError: the ledger does not verify, or cannot be written.
        """
        ledger = cls(open_engine(url, create=False, accept=accept))
        with writing(ledger._engine) as journal:
            if accept:
                accept_imports(journal)
        return ledger

    @contextmanager
    def spend(
        self,
        *,
        dataset: str,
        span: Span,
        data_digest: str,
        split: str,
        run_id: str,
        node: str,
        plan: ChargedPlan,
        purpose: str = TRAINING,
        division: Division | None = None,
        continues: ResumeToken | None = None,
    ) -> Iterator[Grant]:
        """Reserve the cost of a plan for the length of a `with` block.

        In the block: `grant.start()` right before anything is computed from the data, `grant.commit(event)` after it.
        A block that is left without a start gives its reservation back; once started, the entry counts in full for
        ever. The same run, node and plan again goes on with a reservation that was never started, and is charged
        again otherwise: fresh noise on the same data costs again.

        Args:
            dataset: registered name of the dataset.
            span: registered span; or several, ascending, which one run reads together: each budget that one of them
                belongs to is charged, once, or none is.
            data_digest: digest of the data that the run will read (`ResolvedSource.digest`), plain or covered.
            split: split that the run will read.
            run_id: the run.
            node: the node of the run.
            plan: the plan whose event is charged.
            purpose: share of the budget that pays.
            division: how the run divides rows into splits; it has to be what was registered.
            continues: resume token of an attempt that was killed after its start. If its entry is the one of this run,
                node, plan and data, the grant goes on (`Grant.continued`, started already) and nothing is charged.

        Raises:
            BudgetRefusedError: unregistered or different data, a plan that does not fit the registration, or a budget
                that does not suffice.
            AccountingError: the plan's event cannot be added by RDP.
            LedgerError: the ledger cannot be read or written.
        """
        request = Request(
            dataset=dataset,
            span=span,
            data_digest=self._plain(data_digest, self._union(dataset, span)),
            split=split,
            run_id=run_id,
            node=node,
            plan=plan,
            purpose=purpose,
            division=division,
        )
        grant = None if continues is None else continued(self._engine, request, continues)
        grant = grant or reserve(self._engine, request)
        try:
            yield grant
        except BaseException:
            # The block's own error matters more than one of the release: then the reservation just goes on counting.
            with suppress(schema.LedgerError):
                grant.release()
            raise
        grant.release()

    def committed(
        self,
        *,
        dataset: str,
        span: Span,
        data_digest: str,
        split: str,
        run_id: str,
        node: str,
        plan: ChargedPlan,
        resume_token: ResumeToken,
    ) -> int | None:
        """Return the entry that a killed attempt of a run committed before its result was written.

        Args:
            dataset, span, data_digest, split, run_id, node, plan: as in `spend`.
            resume_token: resume token of the attempt.

        Returns:
            The entry; None where it is not that of this very run, node, plan and data, or is not committed.

        Raises:
            AccountingError, LedgerError: see `spend`.
        """
        request = Request(
            dataset=dataset,
            span=span,
            data_digest=self._plain(data_digest, self._union(dataset, span)),
            split=split,
            run_id=run_id,
            node=node,
            plan=plan,
        )
        return committed(self._engine, request, resume_token)

    def expire_reserved(self, run_id: str) -> int:
        """Give back what a dead run reserved and never started; it counts until then.

        Args:
            run_id: the run. If it is alive after all, it can no longer start.

        Returns:
            The number of entries that expired.
        """
        table = schema.entries
        idle = (table.c.run_id == run_id, table.c.state == State.RESERVED.value)
        with writing(self._engine) as journal:
            rows = journal.connection.execute(sa.select(table).where(*idle).order_by(table.c.id)).mappings().all()
            for row in rows:
                expire(journal, row)
        return len(rows)

    def zero(self, *, dataset: str, run_id: str, node: str, paid_by: int | None) -> None:
        """Record that a node was served from cache, and spent nothing.

        Args:
            dataset: registered name.
            run_id, node: what was served.
            paid_by: entry that paid for what was served; an entry that this ledger does not have is left out.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        with writing(self._engine) as journal:
            table = schema.entries
            known = journal.connection.scalar(sa.select(table.c.id).where(table.c.id == paid_by))
            journal.append(ZERO, {"dataset": dataset, "run_id": run_id, "node": node, "paid_by": known})

    def require_allowed(self, use: Use) -> list[str]:
        """Check a use of data against the policies of what it reads; see `unprotected.require_allowed`."""
        use = replace(use, data_digest=self._plain(use.data_digest))
        with schema.transaction(self._engine, write=False) as connection:
            return require_allowed(connection, use)

    def run_unprotected(self, use: Use, *, run_id: str, rows: Callable[[bytes], Array] | None = None) -> list[str]:
        """Journal a run without a guarantee before it reads registered data.

        Args:
            use: what it reads, and by what.
            run_id: the run.
            rows: digests the rows under a secret. It is called where these very files are not registered, and rows
                are: data that was edited is the same people's, whatever it is named.

        Returns:
            The registered datasets that it reads; none, and nothing is written, where the data is not registered.

        Raises:
            BudgetRefusedError: the policy of one of them does not allow it.
            LedgerError: the journal cannot be written, so the run must not begin.
        """
        use = replace(use, data_digest=self._plain(use.data_digest))
        with schema.transaction(self._engine, write=False) as connection:
            if rows is not None and not known_by_files(connection, use):
                use = replace(use, same_rows=known_by_rows(connection, rows, self.digest_secret))
            if not require_allowed(connection, use):
                return []
        with writing(self._engine) as journal:
            return record(journal, use, run_id=run_id)

    def forecast(
        self,
        plan: ChargedPlan,
        *,
        dataset: str,
        span: Span,
        split: str,
        purpose: str = TRAINING,
        before: Sequence[tuple[str, ChargedPlan]] = (),
    ) -> Forecast:
        """Return what a plan would do to the budget, by the same rule as a reservation; nothing is written.

        Args:
            plan: the plan.
            dataset: registered name of the dataset.
            span: registered span, or several.
            split: split that the plan reads.
            purpose: share of the budget that would pay.
            before: purpose and plan of what the same budget will have paid by then; it counts as spent.

        Raises:
            BudgetRefusedError: the data is not registered, the plan does not fit the registration, or the policy does
                not allow this user to spend.
            AccountingError: the plan's event cannot be added by RDP.
        """
        cost = price(plan.event, plan.relation)
        earlier = [(other_purpose, price(other.event, other.relation)) for other_purpose, other in before]
        union = self._union(dataset, span)
        with schema.transaction(self._engine, write=False) as connection:
            registered, budgets = paying_budgets(connection, dataset=dataset, span=span, split=split, union=union)
            check_principal(connection, budgets, principal())
            check_plan(plan, registered, split=split)
            checked = [check_budget(connection, budget, purpose, cost, before=earlier) for budget in budgets]
        return forecast_of(checked)

    def rotate_key(self, *, lost: bool = False) -> tuple[str, str]:
        """Give the ledger a new key; see `write_transactions.rotate`."""
        return rotate(self._engine, lost=lost)
