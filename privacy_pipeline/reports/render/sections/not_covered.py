"""Uses of the data that no guarantee covers."""

from __future__ import annotations

from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.figures import Quote, Words
from privacy_pipeline.reports.render.layout import Block, Heading, Table, Text
from privacy_pipeline.reports.render.sections.cells import listed
from privacy_pipeline.reports.render.sections.section import Section

_ELSEWHERE = "; the workspaces that were read do not show who sees what it released"
_READERS = "; anyone who can read the workspace sees them"


def _not_covered(report: DatasetReport) -> list[Block]:
    found: dict[tuple[str, str], tuple[Quote, Quote, list[Quote]]] = {}
    for run in report.runs:
        for access in run.accesses if not run.cached else []:
            if not access.covered:
                key = (access.what.quote, access.detail.quote)
                found.setdefault(key, (access.what, access.detail, []))[2].append(run.run)
    heading = Heading(level=2, text="Not covered by any guarantee")
    if not (found or report.unrecorded_runs or report.unprotected_runs):
        return [heading, Text(words=["No record states an access that is not covered."], mark="unknown")]
    rows: list[list[Words]] = [[[what], [detail], listed(names)] for what, detail, names in found.values()]
    rows += [
        [["a run without a record (", left.status, ")"], ["exact results of ", left.nodes, _READERS], [left.run]]
        for left in report.unrecorded_runs
    ]
    rows += [
        [
            ["a run without a guarantee, elsewhere"],
            ["backend ", left.backend, ", by ", left.who, _ELSEWHERE],
            [left.run],
        ]
        for left in report.unprotected_runs
    ]
    table = Table(
        caption="Uses of the data that the guarantees do not cover, and who can see their results",
        head=("what", "detail, and who can see it", "runs"),
        rows=rows,
        widths=(2, 4, 2),
    )
    return [heading, table]


NOT_COVERED = Section(name="not covered", blocks=_not_covered)
