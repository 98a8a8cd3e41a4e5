"""The budgets of a ledger at a glance, with what a person should know about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy_pipeline.api.targets import named
from privacy_pipeline.ledger.ledger import Ledger

if TYPE_CHECKING:
    from privacy_pipeline.api.configs import Given
    from privacy_pipeline.ledger.charging.shares import ShareStatus
    from privacy_pipeline.ledger.state.entries import Budgets


@dataclass(frozen=True, kw_only=True)
class Status:
    """The budgets of a ledger, or of one dataset.

    Attributes:
        budgets: the budgets.
        older: why the ledger is an older state than this host has seen; "" for the newest.
        shares: what the shares of their policies come to.
        unsalted: numbers of journal records whose hashes must not leave.
    """

    budgets: Budgets
    older: str
    shares: list[ShareStatus]
    unsalted: list[int]


def status(target: Given | None = None, *, ledger: str | None = None) -> Status:
    """Return what is spent and what is left of each budget.

    Args:
        target: dataset or config; None for all datasets.
        ledger: SQLAlchemy URL of the ledger; by default the config's, or the usual one.

    Raises:
        BadInputError: there is no ledger, the dataset is not registered, or the config is not valid.
        LedgerError: the ledger cannot be read.
    """
    asked = named(target, ledger=ledger)
    opened = Ledger.open(asked.ledger)
    opened.require_registered(asked.dataset)
    return Status(
        budgets=opened.status(dataset=asked.dataset),
        older=opened.put_back(),
        shares=opened.shares(asked.dataset),
        unsalted=opened.unsalted_records(),
    )
