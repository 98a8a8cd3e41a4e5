"""Tables of runs, metrics and privacy, which can be pasted into a report."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.api.outcome import Run
from privacy_pipeline.api.record_rows import (
    evaluation_text,
    metric_rows,
    metric_text,
    metrics_of,
    privacy_rows,
)
from privacy_pipeline.api.runs import runs_rows
from privacy_pipeline.cli.shown import cell, escape
from privacy_pipeline.reports.record.summary import RunSummary
from privacy_pipeline.tasks.registry import headlines


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
    for metric in metrics_of(summary):
        table.add_column(metric, justify="right")
    for name, *texts in metric_rows(summary):
        table.add_row(cell(name), *texts)
    return table


def privacy_table(record: PrivacyRecord) -> Table:
    """Return the privacy record of a run."""
    table = Table(title="privacy record", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, text in privacy_rows(record):
        table.add_row(cell(label), escape(text))
    return table


def runs_table(runs: Iterable[Run]) -> Table:
    """Return all runs, newest last."""
    table = Table(title="runs", title_justify="left")
    head, rows = runs_rows(runs)
    numbers = headlines()
    for column in head:
        table.add_column(column, no_wrap=column == "run", justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def diff_table(left: RunSummary, right: RunSummary) -> Table:
    """Return two runs side by side: utility on every slice, then privacy."""
    table = Table(title=escape(f"{left.pipeline} against {right.pipeline}"), title_justify="left")
    table.add_column("")
    for side in (left, right):
        table.add_column(f"{side.backend}\n[dim]{side.run_id}[/]", justify="right", overflow="fold")
    table.add_column("difference", justify="right")
    lefts, rights = ({part.name: part for part in side.slices} for side in (left, right))
    metrics = metrics_of(left, right)
    brief = [metric for metric in headlines() if metric in metrics]
    for name in [*lefts, *(name for name in rights if name not in lefts)]:
        for metric in metrics if name == "overall" else brief:
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
