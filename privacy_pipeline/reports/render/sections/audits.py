"""Audits: what was measured beside what is proven."""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.reports.dataset.dataset_report import RunView
from privacy_pipeline.reports.figures import Words
from privacy_pipeline.reports.render.layout import Block, Heading, Table, Text
from privacy_pipeline.reports.render.sections.cells import compact
from privacy_pipeline.reports.render.sections.section import Section


def _audits(runs: Sequence[RunView]) -> list[Block]:
    heading = Heading(level=2, text="Audits: measured lower bound beside proven upper bound")
    rows: list[list[Words]] = []
    warned = []
    for run in runs:
        for audit in run.audits if not run.cached else []:
            if audit.contradiction:
                warned.append(len(rows))
            verdict = "CONTRADICTION: do not rely on it" if audit.contradiction else "no contradiction"
            rows.append(
                [[run.run], [audit.kind], compact(audit.lower), [audit.confidence], compact(audit.upper), [verdict]]
            )
    if not rows:
        return [heading, Text(words=["No run was audited: how tight the bounds are is not known."], mark="unknown")]
    head = ("run", "kind", "lower bound (epsilon, delta)", "confidence", "upper bound (epsilon, delta)", "verdict")
    caption = "An audit attacks the training itself. A lower bound above the upper bound would prove an error."
    return [
        heading,
        Table(caption=caption, head=head, rows=rows, widths=(16, 16, 22, 11, 22, 17), warned=frozenset(warned)),
    ]


AUDITS = Section(name="audits", blocks=lambda report: _audits(report.runs))
