"""Changes of cap, policy and key."""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.reports.dataset.dataset_report import ChangeView
from privacy_pipeline.reports.figures import Words
from privacy_pipeline.reports.render.layout import Table
from privacy_pipeline.reports.render.sections.cells import DASH, compact
from privacy_pipeline.reports.render.sections.section import Section


def _changes(changes: Sequence[ChangeView]) -> Table:
    rows: list[list[Words]] = []
    for change in changes:
        what: Words = [change.what]
        if change.key:
            what += [": ", change.key]
        who: Words = [change.who] if change.who else ["not recorded"]
        about: Words = [change.budget] if change.budget else DASH
        rows.append([[change.number], [change.at], who, about, what, compact(change.cap) if change.cap else DASH])
    return Table(
        caption="Changes of cap, policy and key, from the journal; a name is the user's word, not a proof of identity",
        head=("record", "time", "who", "budget", "what", "cap from here on (epsilon, delta)"),
        rows=rows,
        widths=(7, 19, 12, 17, 27, 18),
    )


CHANGES = Section(name="changes", blocks=lambda report: [_changes(report.changes)])
