"""The one order in which a node or an experiment spends budget: reserve, compose, check, start, run, commit, stamp.

- Reserve before any row is read: two runs at the same time cannot both take what is left of a budget.
- Compose next: what the record states of the budget before and after this plan is what the reservation was granted on.
- Check what can be checked without a row: noise, model, memory, disk. A failure here gives the reservation back.
- Start, and note that beside the data, before anything is computed from a row: from then on the plan counts for ever,
  whatever happens to the process, and a ledger that is put back to before the start is found.
- Run.
- Commit the event of what ran. It may raise the charge; it never lowers it.
- Stamp the compositions with the receipts of the commit, which a record carries so that a changed journal is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Composition
    from privacy_pipeline.ledger.charging.grants import Grant


class Charging:
    """A charge in progress. Made by `charged`.

    Attributes:
        grant: the reservation, one entry for each budget that the spans belong to.
    """

    def __init__(self, grant: Grant, planned: tuple[Composition, ...], note: Callable[[], object]) -> None:
        self.grant = grant
        self._planned = planned
        self._note = note

    def start(self) -> None:
        """Start the charge; to be called right before anything is computed from a row.

        Raises:
            BudgetRefusedError, LedgerError: see `Grant.start`; nothing may be read.
        """
        self.grant.start()
        self._note()

    def commit(self, event: DpEvent) -> tuple[Composition, ...]:
        """Commit what ran, and return the compositions with the receipts of the commit, the first entry's first.

        Args:
            event: the event of what was executed.

        Raises:
            AccountingError, BadInputError, BudgetRefusedError, LedgerError: see `Grant.commit`; the charge stands.
        """
        self.grant.commit(event)
        return tuple(
            made.model_copy(update={"journal_seq": receipt.seq, "journal_hash": receipt.hash, "key_id": receipt.key_id})
            for made, receipt in zip(self._planned, self.grant.receipts, strict=True)
        )


@contextmanager
def charged(
    reservation: AbstractContextManager[Grant],
    *,
    composition: Callable[[int], Composition],
    note: Callable[[], object] = lambda: None,
) -> Iterator[Charging]:
    """Charge a plan for the length of a `with` block, in the order that this module states.

    Args:
        reservation: of the plan (`Ledger.spend`).
        composition: what an entry and all before it cost together (`Ledger.composition`).
        note: called after the start, and where a killed attempt goes on under its own; writes down beside the data how
            far the ledger is (`pins.note_again`).

    Raises:
        BudgetRefusedError, AccountingError, LedgerError: see `Ledger.spend`; nothing was read.
    """
    with reservation as grant:
        planned = tuple(composition(entry) for entry in grant.entry_ids)
        if grant.continued:
            note()  # the attempt that started it may have been killed before its note
        yield Charging(grant, planned, note)
