"""Register data, its caps and policies in a ledger; what is registered stays.

A digest of data leaves a ledger only covered (`covered_digests`); within it, digests are plain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.covered_digests import covered, id_of, is_covered
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.charging import unions
from privacy_pipeline.ledger.readings import LedgerReadings
from privacy_pipeline.ledger.state.budgets import check_cap, find_registration, train_budgets
from privacy_pipeline.ledger.state.cap_changes import apply_policy, change_cap
from privacy_pipeline.ledger.state.registering import register
from privacy_pipeline.ledger.state.registration import Registration, from_row
from privacy_pipeline.ledger.state.unit_digests import are_same, digest_units, digests_of, stored_digests
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.digest_secret import covering, ledger_secret
from privacy_pipeline.ledger.write_transactions import writing
from privacy_pipeline.spans import Span, span_key

if TYPE_CHECKING:
    from privacy_pipeline.ledger.state.policy import Policy
    from privacy_pipeline.ledger.state.unit_digests import Array


class LedgerRegistrations(LedgerReadings):
    """The part of a ledger that registers data and states what is registered."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self._unions: dict[tuple[str, Span], unions.Union | None] = {}  # what is registered stays
        self._secret: bytes | None = None

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

    def registrations(self) -> list[Registration]:
        """Return all registered spans, in the order of their registration."""
        table = schema.registrations
        with schema.transaction(self._engine, write=False) as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.id)).mappings().all()
        return [self._shown(from_row(row)) for row in rows]

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
