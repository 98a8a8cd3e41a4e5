"""The budget ledger: what each registered dataset may spend over all runs, and what it has spent.

One budget covers one dataset, its train split and its privacy unit. The spans of a dataset share that budget, except
those whose units are proven to be in no other span (`unit_digests`). A run over several spans charges each budget that
one of them belongs to, or none (`reservation`). Events are stored with their Renyi vectors, and
epsilon is a view of them. A grant is given by a Renyi filter (`renyi_filter`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.covered_digests import covered, id_of, is_covered
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.audit import records
from privacy_pipeline.ledger.audit.records import JournalRecord
from privacy_pipeline.ledger.charging import unions
from privacy_pipeline.ledger.charging.admission import check_plan, check_principal, forecast_of, paying_budgets
from privacy_pipeline.ledger.charging.budget_check import check_budget
from privacy_pipeline.ledger.charging.charges import find, newest
from privacy_pipeline.ledger.charging.composition import composition_of
from privacy_pipeline.ledger.charging.entries import expire
from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken
from privacy_pipeline.ledger.charging.request import TRAINING, Request
from privacy_pipeline.ledger.charging.reservation import continued, reserve
from privacy_pipeline.ledger.charging.shares import ShareStatus, shares_of
from privacy_pipeline.ledger.charging.unprotected import (
    UnprotectedRun,
    Use,
    known_by_files,
    known_by_rows,
    record,
    require_allowed,
    unprotected_runs,
)
from privacy_pipeline.ledger.opening import open_engine
from privacy_pipeline.ledger.state.budgets import (
    apply_policy,
    change_cap,
    check_cap,
    find_registration,
    register,
    status_of,
    train_budgets,
)
from privacy_pipeline.ledger.state.entries import BudgetStatus, Entry, Forecast, State, price
from privacy_pipeline.ledger.state.registration import TRAIN, Division, Registration, from_row
from privacy_pipeline.ledger.state.unit_digests import are_same, digest_units, digests_of, stored_digests
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.digest_secret import covering, ledger_secret
from privacy_pipeline.ledger.storage.high_water import NEWEST_FIX, put_back
from privacy_pipeline.ledger.storage.journal import ZERO, Receipt, accept_imports, current_key
from privacy_pipeline.ledger.storage.lineage import Lineage, lineage_of
from privacy_pipeline.ledger.storage.principal import principal
from privacy_pipeline.ledger.write_transactions import rotate, writing
from privacy_pipeline.spans import Span, span_key

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.accounting.record import Composition
    from privacy_pipeline.ledger.audit.verify import Verification
    from privacy_pipeline.ledger.state.policy import Policy
    from privacy_pipeline.ledger.state.unit_digests import Array
    from privacy_pipeline.ledger.storage.keys import PublicKey


class Ledger:
    """A budget ledger in SQLite or PostgreSQL. Safe to use from several processes at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._unions: dict[tuple[str, Span], unions.Union | None] = {}  # what is registered stays
        self._secret: bytes | None = None

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

    def register(
        self,
        registration: Registration,
        *,
        epsilon: float,
        delta: float,
        policy: Policy | None = None,
        units: Iterable[str] | Mapping[str, Iterable[str]] | None = None,
        rows: Mapping[str, Array] | None = None,
        disjoint: bool = False,
    ) -> None:
        """Register a dataset span; the first span of a dataset opens its budget. The same facts again change nothing.

        Args:
            registration: the facts; splits are fixed from here on.
            epsilon: cap that all runs on the dataset together may reach.
            delta: delta of the cap.
            policy: applied in the same transaction; if it cannot be applied, nothing is registered.
            units: keys of the span's units, where they are known, by split or all together; kept as digests. Only by
                split can the units of spans that have some in common be counted together later.
            rows: digests of the span's rows by split (under `digest_secret`), or all together by `unit_digests.ALL`;
                they are compared with those of other datasets.
            disjoint: gives the span a budget of its own, under the same cap and policy, if these units are in no other
                span. Else the spans share one.

        Raises:
            BadInputError: the span is registered with other facts, the dataset has another unit, relation or cap, the
                data is registered under another dataset, cap or policy do not fit, or a unit would have two budgets.
            LedgerError: the ledger cannot be written.
        """
        check_cap(epsilon, delta)
        secret = self.digest_secret()
        registration = replace(registration, digest=self._plain(registration.digest))
        if is_covered(registration.digest) and not isinstance(registration.span, tuple):
            raise BadInputError("a ledger keeps plain digests", fix="register what `plain_digest` gives")
        digests = None
        if units is not None or rows is not None:
            digests = digests_of(units=units, rows=rows, secret=secret)
        with writing(self._engine) as journal:
            register(journal, registration, epsilon=epsilon, delta=delta, digests=digests, disjoint=disjoint)
            if policy is not None:
                apply_policy(journal, policy)

    def set_cap(self, dataset: str, *, epsilon: float, delta: float) -> None:
        """Change the cap of a dataset's budget. What is spent stays spent.

        A cap may change after results were seen, and costs no delta (`renyi_filter`). It is counted in
        `BudgetStatus.cap_changes`.

        Args:
            dataset: name of the dataset.
            epsilon: new cap.
            delta: delta of the new cap; it stays once a run was charged.

        Raises:
            BadInputError: the dataset is not registered, the cap is out of range or above the budget's ceiling, or the
                delta is another one after a run was charged.
            LedgerError: the ledger cannot be written.
        """
        check_cap(epsilon, delta)
        with writing(self._engine) as journal:
            budgets = train_budgets(journal.connection, dataset)
            if not budgets:
                raise BadInputError(f"dataset {dataset} is not registered in the ledger", fix=schema.REGISTER_FIX)
            for budget in budgets:
                if (budget["epsilon"], budget["delta"]) != (epsilon, delta):
                    change_cap(journal, budget, epsilon=epsilon, delta=delta)

    def apply_policy(self, policy: Policy) -> None:
        """Give a dataset's budget a policy; a change of it counts as a change of the cap (see `set_cap`).

        Raises:
            BadInputError: the dataset is not registered, or with another unit; or as for `set_cap`.
            LedgerError: the ledger cannot be written.
        """
        with writing(self._engine) as journal:
            apply_policy(journal, policy)

    def registration(self, name: str, span: Span) -> Registration | None:
        """Return what is registered for a span of a dataset, or None; for several spans, what they are together.

        Its digest is covered, as it may leave.

        Raises:
            BudgetRefusedError: one of several spans is not registered, or they cannot be read together (`unions`).
        """
        with schema.transaction(self._engine, write=False) as connection:
            if not isinstance(span, tuple):
                found = find_registration(connection, name, span)
                return None if found is None else self._shown(found)
        union = self._union(name, span)
        return None if union is None else self._shown(union.whole)

    def _shown(self, registration: Registration) -> Registration:
        """Return a registration as it may leave."""
        return replace(registration, digest=covering(self._engine.url)(registration.digest))

    def _plain(self, digest: str, union: unions.Union | None = None) -> str:
        """Return the registered digest that a covered one stands for; what stands for none is returned as it is."""
        if not is_covered(digest):
            return digest
        secret = self.digest_secret()
        with schema.transaction(self._engine, write=False) as connection:
            plain = connection.scalars(sa.select(schema.registrations.c.digest)).all()
        candidates = plain if union is None else [*plain, union.whole.digest]
        return next((one for one in candidates if covered(one, secret) == digest), digest)

    def _union(self, dataset: str, span: Span) -> unions.Union | None:
        """Return several spans together, read once: a forecast asks again and again."""
        if (dataset, span) not in self._unions:
            self._unions[dataset, span] = unions.of(self._engine, dataset, span)
        return self._unions[dataset, span]

    def registrations(self) -> list[Registration]:
        """Return all registered spans, in the order of their registration."""
        table = schema.registrations
        with schema.transaction(self._engine, write=False) as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.id)).mappings().all()
        return [self._shown(from_row(row)) for row in rows]

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
            continues: ticket of an attempt that was killed after its start. If its entry is the one of this very run,
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

    def require_registered(self, dataset: str | None) -> None:
        """Refuse the name of a dataset that is not registered, where an empty answer would look like no spending.

        Raises:
            BadInputError: it is not registered.
        """
        with schema.transaction(self._engine, write=False) as connection:
            _require(connection, dataset)

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

    def status(self, dataset: str | None = None) -> list[BudgetStatus]:
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
        return [replace(one, older=one.dataset in older, unbound=one.dataset in unbound) for one in found]

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
        earlier = [(paying, price(other.event, other.relation)) for paying, other in before]
        union = self._union(dataset, span)
        with schema.transaction(self._engine, write=False) as connection:
            registered, budgets = paying_budgets(connection, dataset=dataset, span=span, split=split, union=union)
            check_principal(connection, budgets, principal())
            check_plan(plan, registered, split=split)
            checked = [check_budget(connection, budget, purpose, cost, before=earlier) for budget in budgets]
        return forecast_of(checked)

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

    @property
    def name(self) -> str:
        """The ledger's URL without its password."""
        return schema.name(self._engine.url)

    def require_same_units(self, registration: Registration, keys: Mapping[str, Iterable[str]]) -> None:
        """Check the units of a run's splits against the registered ones, by content.

        Args:
            registration: of one span.
            keys: keys of the units of each split, as the run will divide them.

        Raises:
            BudgetRefusedError: a split has other units than the registered one.
            LedgerError: the ledger cannot be read.
        """
        with schema.transaction(self._engine, write=False) as connection:
            stored = stored_digests(connection, registration.dataset)
        known = stored.get((registration.dataset, span_key(registration.span)))
        if known is None or set(known.units) != set(keys):
            return  # registered without keys, or without stating which split they are in
        secret = self.digest_secret()
        if id_of(secret) != known.key_id:
            raise schema.LedgerError(
                f"{registration.name} was registered under another secret of digests", fix="restore it from a copy"
            )
        for split, digests in digest_units(keys, secret).items():
            if not are_same(digests, known.units[split]):
                raise BudgetRefusedError(
                    f"split {split!r} of {registration.name} would have other units than were registered",
                    fix="divide the data as it was registered (dataset.input, hash_split, privacy_unit.key)",
                )

    def digest_secret(self, *, first: bytes | None = None) -> bytes:
        """Return the secret that covers digests of the ledger's data (`digest_secret`); made with its first use.

        Args:
            first: what it is to be where there is none yet; a new one by default.

        Raises:
            LedgerError: it cannot be read or written, or is another one than `first`.
        """
        if self._secret is None:
            self._secret = ledger_secret(self._engine, first=first)
        if first is not None and self._secret != first:
            raise schema.LedgerError("somebody made this ledger meanwhile; nothing was written", fix="register again")
        return self._secret

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

    def rotate_key(self, *, lost: bool = False) -> tuple[str, str]:
        """Give the ledger a new key; see `write_transactions.rotate`."""
        return rotate(self._engine, lost=lost)


def _require(connection: sa.Connection, dataset: str | None) -> None:
    """Refuse the name of a dataset that is not registered."""
    if dataset is not None and not train_budgets(connection, dataset):
        raise BadInputError(f"dataset {dataset} is not registered in the ledger", fix="privacy-pipeline budget status")
