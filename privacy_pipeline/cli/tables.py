"""Tables of runs, metrics and privacy, which can be pasted into a report."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue
from rich.table import Table

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.cli.shown import cell, escape
from privacy_pipeline.pipelines.workspace.run_state import RunState
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


def run_table(summary: RunSummary) -> Table:
    """Return the metrics of a run, overall and by slice."""
    notes = [f"metrics are {evaluation_text(summary)}"] if summary.dp_evaluation is not None else []
    notes += [
        f"{metric} is not defined ({cell(part.name)}): {escape(why)}"
        for part in summary.slices
        for metric, why in part.undefined.items()
    ]
    table = Table(
        title=escape(f"{summary.pipeline} ({summary.backend})"),
        title_justify="left",
        caption="\n".join(notes) or None,
        caption_justify="left",
    )
    table.add_column("slice")
    table.add_column("rows", justify="right")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for part in summary.slices:
        examples = public_examples(summary, part)
        rows = "secret" if examples is None else f"{examples:,}"
        table.add_row(cell(part.name), rows, *(metric_text(part, metric) for metric in METRICS))
    return table


def privacy_table(record: PrivacyRecord) -> Table:
    """Return the privacy record of a run."""
    table = Table(title="privacy record", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, text in privacy_rows(record):
        table.add_row(cell(label), escape(text))
    return table


def runs_table(rows: list[tuple[RunState, RunSummary | None]]) -> Table:
    """Return all runs, newest last."""
    table = Table(title="runs", title_justify="left")
    for column in ("run", "pipeline", "backend", "status"):
        table.add_column(column, no_wrap=column == "run")
    for column in ("accuracy", "AUC"):
        table.add_column(column, justify="right")
    for column in ("guarantee", "unit"):
        table.add_column(column)
    for state, summary in rows:
        metrics = summary.overall.metrics if summary else {}
        table.add_row(
            state.run_id,
            cell(state.pipeline),
            cell(state.backend),
            state.status + (" (cached)" if state.cached_from else "") + (" (pruned)" if state.pruned else ""),
            number(metrics.get("accuracy")),
            number(metrics.get("auc")),
            privacy_cell(summary.record) if summary else "-",
            cell(summary.record.unit) if summary else "-",
        )
    return table


def diff_table(left: RunSummary, right: RunSummary) -> Table:
    """Return two runs side by side: utility on every slice, then privacy."""
    table = Table(title=escape(f"{left.pipeline} against {right.pipeline}"), title_justify="left")
    table.add_column("")
    for side in (left, right):
        table.add_column(f"{side.backend}\n[dim]{side.run_id}[/]", justify="right", overflow="fold")
    table.add_column("difference", justify="right")
    lefts, rights = ({part.name: part for part in side.slices} for side in (left, right))
    for name in [*lefts, *(name for name in rights if name not in lefts)]:
        for metric in METRICS if name == "overall" else ("accuracy", "auc"):
            a, b = (side[name].metrics.get(metric) if name in side else None for side in (lefts, rights))
            gap = "-" if a is None or b is None else f"{b - a:+.4f}"
            texts = [metric_text(side[name], metric) if name in side else "-" for side in (lefts, rights)]
            table.add_row(cell(f"{metric}, {name}"), *texts, gap)
        if name == "overall":
            table.add_section()
    table.add_section()
    if left.dp_evaluation is not None or right.dp_evaluation is not None:
        table.add_row("evaluation", evaluation_text(left), evaluation_text(right), "")
    said, says = dict(privacy_rows(left.record)), dict(privacy_rows(right.record))
    apart = left.record.privacy_class != right.record.privacy_class
    both = left.record.guarantee is not None and right.record.guarantee is not None
    for label in [*says, *(label for label in said if label not in says)]:
        # The note is in the table itself, so that it stays with the numbers wherever they are pasted.
        note = "other unit or relation: not comparable" if label.startswith("epsilon") and both and apart else ""
        table.add_row(cell(label), escape(said.get(label, "-")), escape(says.get(label, "-")), note)
    return table
