"""The first page: a bar for each budget, and what a reader should know first."""

from __future__ import annotations

from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.render import charts
from privacy_pipeline.reports.render.layout import Block, Bullets, Chart, Heading, Text
from privacy_pipeline.reports.render.sections.section import Section


def _blocks(report: DatasetReport) -> list[Block]:
    made: list[Block] = [
        Heading(level=1, text=f"Privacy report: {report.dataset.quote}"),
        Text(words=["State of ", report.generated, ". Made from the budget ledger and the records of the runs."]),
    ]
    for index, budget in enumerate(report.budgets):
        made.append(Chart(drawing=charts.budget_bar(budget, f"bar-{index}")))
    for passage in report.first_page:
        made += [Heading(level=3, text=passage.title), Bullets(statements=passage.statements)]
    return made


SUMMARY = Section(name="summary", blocks=_blocks)
