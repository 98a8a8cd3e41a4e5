"""The result of a DP evaluation, as the summary and the privacy record of a run hold it."""

from __future__ import annotations

from privacy_pipeline.accounting.record import DataAccess, PrivacyRecord
from privacy_pipeline.releases.evaluation import DpEvaluation
from privacy_pipeline.reports.record.data_accesses import EVALUATION_ACCESS
from privacy_pipeline.reports.record.properties import shown
from privacy_pipeline.reports.record.summary import SliceMetrics


def slices_of(evaluation: DpEvaluation) -> list[SliceMetrics]:
    """Return the metrics of every slice with their intervals, the overall slice first; a noisy row count is rounded.

    Args:
        evaluation: what was released.
    """
    return [
        SliceMetrics(
            name=part.name,
            examples=round(part.examples.value or 0.0),
            metrics={"auc": None, **{metric: estimate.value for metric, estimate in part.metrics.items()}},
            intervals={metric: (estimate.low, estimate.high) for metric, estimate in part.metrics.items()},
        )
        for part in evaluation.slices
    ]


def with_evaluation(record: PrivacyRecord, evaluation: DpEvaluation) -> PrivacyRecord:
    """Return the record with the evaluation among the data accesses that are covered.

    The trainer cannot foresee how its model will be evaluated, and lists the evaluation as not covered.

    Args:
        record: the trainer's record.
        evaluation: what was released.
    """
    access = DataAccess(what=EVALUATION_ACCESS, covered=True, detail=_detail(evaluation))
    places = [i for i, known in enumerate(record.data_accesses) if known.what == EVALUATION_ACCESS]
    accesses = list(record.data_accesses)
    if places:
        accesses[places[0]] = access
    else:
        accesses.append(access)
    return record.model_copy(update={"data_accesses": accesses})


def _detail(evaluation: DpEvaluation) -> str:
    unit = evaluation.unit
    both = "" if unit == "row" else f"; whose `{unit}` is in both splits is charged in both budgets, which add up"
    return (
        f"noisy confusion counts of the eval split, epsilon {shown(evaluation.epsilon)} at delta "
        f"{evaluation.delta:.0e} (RDP), unit {unit}, {evaluation.relation}, at most {evaluation.contribution_bound} "
        f"row(s) a unit; charged to budget {evaluation.budget}, ledger entry {evaluation.ledger_entry}{both}"
    )
