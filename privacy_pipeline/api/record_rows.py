"""A run's record and summary as labels and texts, for the command line and for notebooks."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.reports.record.properties import public_examples, shown
from privacy_pipeline.reports.record.summary import METRICS, RunSummary, SliceMetrics
from privacy_pipeline.reports.record.tuning_record import procedure


def number(value: float | None, digits: int = 4) -> str:
    """Return a metric, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def audit_text(audit: JsonValue) -> str:
    """Return one audit in words, with its seconds; empty for an audit without bounds."""
    if not isinstance(audit, dict) or not {"kind", "lower_bound", "upper_bound", "canaries"} <= set(audit):
        return ""
    took = audit.get("seconds")
    told = "" if not isinstance(took, (int, float)) else f", {took:.1f} s"
    return (
        f"{audit['kind']}: epsilon at least {audit['lower_bound']:.3f}, at most {audit['upper_bound']:.3f}, on "
        f"{audit['canaries']:,} made-up canaries{told}"
    )


def privacy_rows(record: PrivacyRecord) -> list[tuple[str, str]]:
    """Return the privacy record as label and text; an epsilon always comes with its delta, unit and relation."""
    rows = [("training guarantee", "(epsilon, delta)-DP" if record.training_guarantee == "dp" else "none")]
    if record.guarantee is not None:
        g = record.guarantee
        rows += [
            ("epsilon", f"{shown(g.epsilon)} at delta {g.delta:.0e} ({g.accountant.upper()})"),
            ("epsilon by RDP", f"{shown(g.epsilon_rdp)} at delta {g.delta:.0e}"),
        ]
        if g.epsilon_if_poisson_sampled is not None:
            told = f"{shown(g.epsilon_if_poisson_sampled)} at delta {g.delta:.0e} (not claimed)"
            rows.append(("epsilon had batches been Poisson-sampled", told))
    if record.preprocessing is not None:
        p = record.preprocessing
        told = f"{p.what}, epsilon {shown(p.epsilon)} at delta {p.delta:.0e} (RDP), ledger entry {p.ledger_entry}"
        rows.append(("preprocessing, counted in epsilon", told))
    rows += _tuning_rows(record)
    rows.append(("privacy unit", record.unit_in_words))
    if record.relation is not None:
        rows.append(("neighbouring relation", f"{record.relation}, at most {record.contribution_bound} row(s) a unit"))
    if record.mechanism is not None:
        m = record.mechanism
        rows += [
            ("mechanism", f"{m.name}, noise multiplier {m.noise_multiplier:.4g}, clipping norm {m.clipping_norm:g}"),
            ("batches", f"{m.sampler}, {m.batch_size:,} units, {m.epochs} epochs, {m.steps:,} steps"),
        ]
    if record.rows is not None:
        rows.append(("examples stay apart", record.rows.in_words))
    rows += [("audit before the run", text) for text in map(audit_text, record.audits) if text]
    for c in record.compositions:
        rows.append(
            (
                "budget of the dataset" if not record.further_compositions else f"budget {c.budget}",
                f"{shown(c.epsilon_after)} of {c.epsilon_cap:.3f} spent at delta {c.delta:.0e} (RDP), "
                f"ledger entry {c.ledger_entry}",
            )
        )
    not_covered = ", ".join(a.what for a in record.data_accesses if not a.covered)
    rows.append(("not covered", not_covered))
    rows.append(("inference protection", record.inference_protection))
    if record.inference_error is not None:
        rows.append(("error of a private logit", f"proven to be at most {record.inference_error:.3g}"))
    return rows


def _tuning_rows(record: PrivacyRecord) -> list[tuple[str, str]]:
    """Return what was tried, and what a single trial would have claimed, next to the true epsilon."""
    t, g = record.tuning, record.guarantee
    if t is None:
        return []
    rows = [("tuning, counted in epsilon" if g is not None else "tuning", procedure(t))]
    if g is not None and t.epsilon_one_trial is not None:
        by = (t.accountant_one_trial or "").upper()
        told = f"{shown(t.epsilon_one_trial)} at delta {g.delta:.0e} ({by}; not claimed)"
        rows.append(("epsilon had this been the only trial", told))
    rows += [
        (f"trial {index}, {t.metric} on the eval split", f"{number(trial.score)}: {_point(trial.point)}")
        for index, trial in enumerate(t.results, start=1)
    ]
    return rows


def _point(point: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items())


def metric_text(part: SliceMetrics, metric: str) -> str:
    """Return a metric, with the ends of its interval if it is noisy."""
    text = number(part.metrics.get(metric))
    if metric not in part.intervals:
        return text
    low, high = part.intervals[metric]
    return f"{text} ({low:.3f} to {high:.3f})"


def evaluation_text(summary: RunSummary) -> str:
    """Return how the metrics were computed, and what they cost."""
    found = summary.dp_evaluation
    if found is None:
        return "exact"
    c = found.composition
    spent = f", {shown(c.epsilon_after)} of {c.epsilon_cap:.3f} spent at delta {c.delta:.0e} (RDP)" if c else ""
    return (
        f"noisy, {found.confidence:.0%} intervals; epsilon {shown(found.epsilon)} at delta {found.delta:.0e} (RDP) for "
        f"the eval split{spent}, ledger entry {found.ledger_entry}"
    )


def privacy_cell(record: PrivacyRecord) -> str:
    """Return the guarantee in one cell."""
    if record.guarantee is None:
        return "none"
    return f"({shown(record.guarantee.epsilon)}, {record.guarantee.delta:.0e})-DP"


def metrics_of(*summaries: RunSummary) -> list[str]:
    """Return the metrics that runs have, in the order of tables; runs of earlier versions have fewer."""
    have = {metric for summary in summaries for part in summary.slices for metric in part.metrics}
    return [metric for metric in METRICS if metric in have]


def metric_rows(summary: RunSummary) -> list[tuple[str, ...]]:
    """Return the metrics of each slice: its name, its number of rows, then those of `metrics_of`."""
    metrics = metrics_of(summary)
    rows = []
    for part in summary.slices:
        examples = public_examples(summary, part)
        count = "secret" if examples is None else f"{examples:,}"
        rows.append((part.name, count, *(metric_text(part, metric) for metric in metrics)))
    return rows
