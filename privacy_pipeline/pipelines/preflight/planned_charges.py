"""The charges of a run's nodes, known before any data is read. Imports no TFX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.accounting.tuning import purpose_of
from privacy_pipeline.components.dp_evaluator.charged import release_of
from privacy_pipeline.components.dp_statistics import charged as dp_statistics
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema import schema_reader
from privacy_pipeline.ledger.state.registration import EVAL, TRAIN
from privacy_pipeline.pipelines.nodes import DP_EVALUATOR, DP_STATISTICS, TRAINER
from privacy_pipeline.releases.evaluation import PURPOSE as EVALUATE
from privacy_pipeline.releases.statistics import PURPOSE as PREPROCESS

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.entries import Forecast
    from privacy_pipeline.ledger.state.registration import Registration


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The charge that one node will request from the ledger.

    Attributes:
        node: the node.
        purpose: the share of the budget that pays.
        split: the split whose units are charged.
        plan: what is charged.
        what: the charge in words, as the subject of a sentence.
        fix: how to make it cost less.
    """

    node: str
    purpose: str
    split: str
    plan: ChargedPlan
    what: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class PlannedCharge:
    """The charge that one node will request, with the ledger's forecast."""

    ask: Ask
    forecast: Forecast


def asked(
    config: PipelineConfig, *, features: FeaturePlan | None, plan: MechanismPlan | None, registration: Registration
) -> list[Ask]:
    """Return all charges that a run will request from the ledger, in the order of its nodes.

    Args:
        config: the config.
        features: the feature plan of its schema.
        plan: the mechanism of the training; None where it claims nothing.
        registration: the registered dataset.

    Raises:
        BadInputError: the config asks for something that has no plan.
        BudgetRefusedError: the registration has no split to charge.
    """
    found = []
    request = dp_statistics.request_of(config, features=features, span=registration.span)
    if request is not None:
        noisy = dp_statistics.release_of(request, registration=registration).plan
        fix = "a smaller `preprocessing.dp.epsilon`"
        what = "its DP statistics"
        found.append(Ask(node=DP_STATISTICS, purpose=PREPROCESS, split=TRAIN, plan=noisy, what=what, fix=fix))
    if plan is not None:
        fix = "more noise or fewer epochs (`training`)"
        purpose, what = purpose_of(config), "this run" if plan.tuning is None else "this run, all trials together,"
        found.append(Ask(node=TRAINER, purpose=purpose, split=TRAIN, plan=plan, what=what, fix=fix))
    if config.evaluation.dp is not None:
        release = release_of(config, domains=slice_domains(config), registration=registration)
        fix = "a smaller `evaluation.dp.epsilon`"
        what = "its DP evaluation"
        found.append(Ask(node=DP_EVALUATOR, purpose=EVALUATE, split=EVAL, plan=release.plan, what=what, fix=fix))
    return found


def slice_domains(config: PipelineConfig) -> dict[str, tuple[str, ...]]:
    """Return the public values of the columns that a DP evaluation slices by; columns without a domain are left out.

    Raises:
        BadInputError: the schema cannot be read, or a domain in it is not usable.
    """
    path = config.dataset.schema_path
    if path == "infer":
        raise ValueError("an inferred schema has no public domains")
    columns = {column for group in config.evaluation.slices for column in group}
    return schema_reader.public_domains(schema_path=path, columns=sorted(columns), label=config.dataset.label)


def forecast(ledger: Ledger, asks: Iterable[Ask], registration: Registration) -> tuple[PlannedCharge, ...]:
    """Return the ledger's forecast for all charges; each one counts as spent for later charges to the same split.

    Args:
        ledger: the ledger.
        asks: the charges, in the order in which they will be requested.
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
