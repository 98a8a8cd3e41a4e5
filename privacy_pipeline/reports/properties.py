"""The flat values of a summary that ML Metadata stores as properties."""

from __future__ import annotations

import math

from privacy_pipeline.reports.summary import METRICS, RunSummary


def metric_properties(summary: RunSummary) -> dict[str, str | int | float]:
    """Names and values of the `RunMetrics` properties; what does not exist (an epsilon without DP) is left out."""
    record = summary.record
    overall = summary.overall
    found: dict[str, str | int | float | None] = {
        "run_id": summary.run_id,
        "pipeline": summary.pipeline,
        "backend": summary.backend,
        "training_guarantee": record.training_guarantee,
        "unit": record.unit,
        "relation": record.relation,
        "accountant": record.guarantee.accountant if record.guarantee else None,
        "epsilon": _up(record.guarantee.epsilon) if record.guarantee else None,
        "delta": record.guarantee.delta if record.guarantee else None,
        "examples": overall.examples,
        "blessed": int(summary.blessed),
        "cached_training": int(summary.training_run != summary.run_id),
    }
    found |= {name: overall.metrics.get(name) for name in METRICS}
    return {name: value for name, value in found.items() if value is not None}


def shown(epsilon: float | None) -> str:
    """An epsilon for people: three decimals, rounded up, so that no table states less than was spent."""
    return "-" if epsilon is None else f"{math.ceil(epsilon * 1000 - 1e-9) / 1000:.3f}"


def _up(epsilon: float) -> float:
    """Six significant digits, rounded up: ML Metadata keeps no more, and would round a guarantee down."""
    if epsilon <= 0:
        return epsilon
    scale = 10.0 ** (5 - math.floor(math.log10(epsilon)))
    return math.ceil(epsilon * scale) / scale
