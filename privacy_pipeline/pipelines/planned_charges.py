"""What the nodes of a run will charge, known before any data is read. No TFX in here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.accounting.registration import TRAIN
from privacy_pipeline.config.models import PipelineConfig
from privacy_pipeline.pipelines.nodes import TRAINER

if TYPE_CHECKING:
    from privacy_pipeline.accounting.ledger import Ledger
    from privacy_pipeline.accounting.ledger_entries import Forecast
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.accounting.registration import Registration


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one node will ask of the ledger.

    Attributes:
        node: the node.
        purpose: share of the budget that pays.
        split: split whose units are charged.
        plan: what is charged.
        what: the spending in words, as the subject of a sentence.
        fix: how it could be made to cost less.
    """

    node: str
    purpose: str
    split: str
    plan: ChargedPlan
    what: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class PlannedCharge:
    """What one node will ask, and what the ledger says to it."""

    ask: Ask
    forecast: Forecast


def asked(config: PipelineConfig, *, plan: MechanismPlan | None, registration: Registration) -> list[Ask]:
    """All that a run will ask of the ledger, in the order of its nodes.

    Args:
        config: the config.
        plan: the mechanism of the training; None where it claims nothing.
        registration: the registered dataset.

    Raises:
        BadInputError: the config asks for something that has no plan.
        BudgetRefusedError: the registration has no split to charge.
    """
    del config, registration  # the training alone is charged so far
    found = []
    if plan is not None:
        fix = "more noise or fewer epochs (`training`)"
        found.append(Ask(node=TRAINER, purpose="train", split=TRAIN, plan=plan, what="this run", fix=fix))
    return found


def forecast(ledger: Ledger, asks: Iterable[Ask], registration: Registration) -> tuple[PlannedCharge, ...]:
    """What the ledger says to all of it; what comes first counts as spent for what is charged to the same split after.

    Args:
        ledger: the ledger.
        asks: what will be asked, in this order.
        registration: the registered dataset.

    Raises:
        BudgetRefusedError: a split has no budget, or a plan does not fit the registration.
        AccountingError: RDP does not support an event.
    """
    found: list[PlannedCharge] = []
    for ask in asks:
        before = [(done.ask.purpose, done.ask.plan) for done in found if done.ask.split == ask.split]
        said = ledger.forecast(
            ask.plan,
            dataset=registration.dataset,
            span=registration.span,
            split=ask.split,
            purpose=ask.purpose,
            before=before,
        )
        found.append(PlannedCharge(ask=ask, forecast=said))
    return tuple(found)
