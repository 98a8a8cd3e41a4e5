"""All runs: utility and guarantee."""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.reports.dataset.dataset_report import RunView
from privacy_pipeline.reports.dataset.run_views import CACHED, NOISY
from privacy_pipeline.reports.figures import Words
from privacy_pipeline.reports.render.layout import Block, Heading, Table, Text
from privacy_pipeline.reports.render.sections.cells import compact
from privacy_pipeline.reports.render.sections.section import Section


def _spans(run: RunView) -> Words:
    """Return the spans of a run that read several."""
    listed = [word for span in run.spans for word in (", ", span)]
    return [" (spans ", *listed[1:], ")"] if listed else []


def _runs(runs: Sequence[RunView]) -> list[Block]:
    rows: list[list[Words]] = []
    for run in runs:
        marks: Words = ["; ".join(run.marks) or "-"]
        unit: Words = [run.unit, ", ", run.relation] if run.relation else [run.unit]
        rows.append(
            [
                [run.run, *_spans(run)],
                [run.backend],
                [run.metrics["accuracy"]] if "accuracy" in run.metrics else ["-"],
                [run.metrics["auc"]] if "auc" in run.metrics else ["-"],
                compact(run.guarantee),
                unit,
                [run.entry, *(word for entry in run.further_entries for word in (", ", entry))] if run.entry else ["-"],
                marks,
            ]
        )
    heading = Heading(level=2, text="Runs", new_page=True)
    if not rows:
        return [heading, Text(words=["No run left a record in the given workspaces."], mark="unknown")]
    table = Table(
        caption="Utility and guarantee of each run; metrics are exact and not covered by the guarantee, except "
        "where noted. Guarantees of different units or relations cannot be compared.",
        head=("run", "backend", "accuracy", "AUC", "guarantee (epsilon, delta)", "unit, relation", "entry", "to note"),
        rows=rows,
        widths=(20, 10, 11, 9, 17, 12, 7, 24),
        warned=frozenset(i for i, run in enumerate(runs) if set(run.marks) - {CACHED, NOISY}),
    )
    return [heading, table]


RUNS = Section(name="runs", blocks=lambda report: _runs(report.runs))
