"""The flat values of a summary that ML Metadata stores as properties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.reports.record.summary import METRICS, RunSummary, SliceMetrics
from privacy_pipeline.text.shown_text import visible


def metric_properties(summary: RunSummary) -> dict[str, str | int | float]:
    """Return the `RunMetrics` properties; a value that does not exist (an epsilon without DP) is left out."""
    record = summary.record
    overall = summary.overall
    found: dict[str, str | int | float | None] = {
        "run_id": summary.run_id,
        "pipeline": summary.pipeline,
        "backend": summary.backend,
        "training_guarantee": record.training_guarantee,
        "unit": visible(record.unit),
        "relation": record.relation,
        "accountant": record.guarantee.accountant if record.guarantee else None,
        "epsilon": _up(record.guarantee.epsilon) if record.guarantee else None,
        "delta": _up(record.guarantee.delta) if record.guarantee else None,
        "examples": public_examples(summary, overall),
        "blessed": int(summary.blessed),
        "cached_training": int(summary.training_run != summary.run_id),
    }
    found |= {name: overall.metrics.get(name) for name in METRICS}
    return {name: value for name, value in found.items() if value is not None}


def public_examples(summary: RunSummary, part: SliceMetrics) -> int | None:
    """Return the number of rows of a slice of the eval split; None where it is secret and has no noise."""
    if summary.dp_evaluation is not None:
        return part.examples
    (told,) = without_secret_counts([part], summary.record)
    return told.examples


def without_secret_counts(slices: Sequence[SliceMetrics], record: PrivacyRecord) -> list[SliceMetrics]:
    """Return exact slices, without their numbers of rows where the record's relation keeps those secret."""
    if record.relation != Relation.ADD_OR_REMOVE_ONE.value:
        return list(slices)
    return [part.model_copy(update={"examples": None}) for part in slices]


def shown(epsilon: float | None) -> str:
    """Return an epsilon for people: three decimals, rounded up, so that no table states less than was spent."""
    return "-" if epsilon is None else f"{math.ceil(epsilon * 1000 - 1e-9) / 1000:.3f}"


_ANY_DOUBLE = Context(prec=400)  # digits, more than the largest double has


def _up(number: float) -> float:
    """Return six significant digits and at most six decimals, rounded up: ML Metadata keeps no more of a float.

    ML Metadata would round an epsilon down, and a small delta to 0. An infinite epsilon stays infinite.
    """
    if math.isinf(number):
        return number
    decimals = 6 if number < 1 else max(0, 5 - math.floor(math.log10(number)))
    return float(Decimal(repr(number)).quantize(Decimal(1).scaleb(-decimals), ROUND_CEILING, _ANY_DOUBLE))
