"""The report as a list of blocks, in reading order. HTML and PDF draw the same blocks, so they cannot differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy_pipeline.reports.dataset.dataset_report import BudgetView, ChangeView, DatasetReport, Point, RunView
from privacy_pipeline.reports.dataset.run_views import CACHED, NOISY
from privacy_pipeline.reports.figures import Figure, Loss, Quote, Statement, Words, pieces
from privacy_pipeline.reports.render import charts
from privacy_pipeline.reports.render.drawing import Drawing

NONE: Words = ["none"]
DASH: Words = ["-"]
_CURVE_ROWS = (1e-9, 1e-7, 1e-5, 1e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading; level 1 is the report's title. `new_page` starts a page in paged formats."""

    level: int
    text: str
    tag: str = ""
    new_page: bool = False


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; `mark` highlights it: something is missing, or a warning."""

    words: Words
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list of statements."""

    statements: Sequence[Statement]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; widths are relative. Rows in `warned` stand out."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Words]]
    widths: Sequence[int]
    warned: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture."""

    drawing: Drawing


Block = Heading | Text | Bullets | Table | Chart


def blocks(report: DatasetReport) -> list[Block]:
    """Return all blocks of a report."""
    made: list[Block] = [
        Heading(level=1, text=f"Privacy report: {report.dataset.quote}"),
        Text(words=["State of ", report.generated, ". Made from the budget ledger and the records of the runs."]),
    ]
    for index, budget in enumerate(report.budgets):
        made.append(Chart(drawing=charts.budget_bar(budget, f"bar-{index}")))
    for passage in report.first_page:
        made += [Heading(level=3, text=passage.title), Bullets(statements=passage.statements)]
    for index, budget in enumerate(report.budgets):
        made += _budget(budget, index, report.runs)
    made += [
        _changes(report.changes),
        *_runs(report.runs),
        *_audits(report.runs),
        *_not_covered(report),
        *_checklist(report.checklist),
    ]
    return [*made, *_sources(report)]


def compact(loss: Loss | None) -> Words:
    """Return a privacy loss for a cell: epsilon with delta and basis, never epsilon alone."""
    if loss is None:
        return NONE
    if loss.epsilon is None:
        return ["no epsilon, at delta ", loss.delta, f", {loss.basis}"]
    return ["(", loss.epsilon, ", ", loss.delta, f") {loss.basis}"]


def _budget(budget: BudgetView, index: int, runs: Sequence[RunView]) -> list[Block]:
    name = f"{index}-"
    drawings = (
        charts.burn_down(budget, name + "burn"),
        charts.delta_epsilon(budget, name + "curve"),
        charts.utility(budget, runs, name + "utility"),
    )
    made: list[Block] = [Heading(level=2, text=f"Budget {budget.key.quote}", new_page=True), _totals(budget)]
    made += [Chart(drawing=drawing) for drawing in drawings if drawing is not None]
    return [*made, *_groups(budget), *_curve_table(budget), _entries(budget)]


def _totals(budget: BudgetView) -> Table:
    rows: list[tuple[str, Words]] = [
        ("proven, whatever was seen before a run was chosen", _or_why(budget.proven)),
        ("cap", compact(budget.cap)),
        ("counted against the cap, as enforced: the filter's fixed order", _or_why(budget.spent)),
        ("left of the cap", ["epsilon ", budget.left, " at delta ", budget.cap.delta]),
        ("used by the runs, of the room at that order", [budget.used] if budget.used else ["all"]),
        ("for runs fixed beforehand: RDP at its best order", _or_why(budget.best_order)),
        ("for runs fixed beforehand: PLD over all events", _or_why(budget.pld)),
        ("by simple addition of epsilons", compact(budget.simple_addition)),
        ("changes of the cap or of the policy", [budget.cap_changes]),
        ("what the cap's delta is multiplied by in what is proven", [budget.delta_factor]),
        ("entries that executed more than they had planned", [budget.overruns]),
    ]
    return Table(
        caption="All runs together (epsilon, delta)",
        head=("", "value"),
        rows=[[[label], words] for label, words in rows],
        widths=(3, 2),
    )


def _or_why(loss: Loss) -> Words:
    return ["none: ", *pieces(loss)[1:2]] if loss.missing else compact(loss)


def _groups(budget: BudgetView) -> list[Block]:
    if not budget.groups:
        return []
    unit = budget.unit.quote
    who = "row(s)" if unit == "row" else "unit(s)"
    rows: list[list[Words]] = [
        [["a person with ", reading.size, f" {who}"], _or_why(reading.proven), _or_why(reading.fixed)]
        for reading in budget.groups
    ]
    caption = (
        "Somebody with more than one unit in this budget is protected less (Vadhan, The Complexity of Differential "
        "Privacy, group privacy)"
    )
    head = ("who", "whatever was seen (epsilon, delta)", "runs fixed beforehand (epsilon, delta)")
    return [Table(caption=caption, head=head, rows=rows, widths=(2, 3, 3))]


def _curve_table(budget: BudgetView) -> list[Block]:
    if not budget.curves:
        return []
    rows = []
    for delta in _CURVE_ROWS:
        row: list[Words] = []
        for curve in budget.curves:
            point = min(curve.points, key=lambda p: abs(p.delta.value - delta), default=None)
            fits = point is not None and abs(point.delta.value - delta) < delta / 100
            row.append([point.epsilon] if point is not None and fits else NONE)
            head: Words = [point.delta] if point is not None and fits else ["-"]
        rows.append([head, *row])
    columns = [f"epsilon by {curve.accountant}" for curve in budget.curves]
    caption = (
        "Points of the curve: each row is a pair of delta and epsilon that holds for all runs together, if they were "
        "fixed beforehand"
    )
    return [Table(caption=caption, head=("delta", *columns), rows=rows, widths=(1,) * (1 + len(columns)))]


def _entries(budget: BudgetView) -> Table:
    after = {point.entry.value: point.spent for point in budget.burn_down}
    rows: list[list[Words]] = []
    for entry in budget.entries:
        state: Words = [entry.state, *([", executed more than planned"] if entry.overrun else [])]
        spent = after.get(entry.number.value)
        alone: Words = compact(entry.alone) if entry.alone else ["expired, counts nothing"]
        so_far: Words = compact(spent) if spent else DASH
        rows.append([[entry.number], [entry.reserved], [entry.run], [entry.node], state, alone, so_far])
    left_out = budget.entries_left_out
    return Table(
        caption="Ledger entries, newest last"
        + (f"; {left_out.text} older ones are not listed" if left_out.value else ""),
        head=("entry", "reserved", "run", "node", "state", "alone (epsilon, delta)", "all so far (epsilon, delta)"),
        rows=rows,
        widths=(7, 19, 17, 11, 14, 16, 16),
        warned=frozenset(
            i
            for i, entry in enumerate(budget.entries)
            if entry.overrun or (entry.alone is not None and entry.alone.epsilon is None)
        ),
    )


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
    rows: list[list[Words]] = [[[what], [detail], _listed(names)] for what, detail, names in found.values()]
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


_ELSEWHERE = "; the workspaces that were read do not show who sees what it released"
_READERS = "; anyone who can read the workspace sees them"


def _listed(names: Sequence[Quote]) -> Words:
    words: Words = []
    for index, name in enumerate(names):
        words += [", "] * (index > 0) + [name]
    return words


def _checklist(points: Sequence[Point]) -> list[Block]:
    made: list[Block] = [Heading(level=2, text="Checklist", new_page=True)]
    group = ""
    for point in points:
        if point.group != group:
            group = point.group
            made.append(Heading(level=3, text=group))
        made += [
            Heading(level=4, text=f"{point.number}. {point.title}", tag=point.status),
            Bullets(statements=point.statements),
        ]
    return made


def _sources(report: DatasetReport) -> list[Block]:
    statements = [s for passage in report.first_page for s in passage.statements]
    statements += [s for point in report.checklist for s in point.statements]
    found = {(figure.text, figure.source.text): figure for figure in _figures(statements)}
    rows: list[list[Words]] = [
        [[figure], [Quote(quote=figure.source.text, source=figure.source)]] for figure in found.values()
    ]
    caption = (
        "Numbers of the first page and the checklist. Numbers of a table come from the entry or the run in their row."
    )
    heading = Heading(level=2, text="Where the numbers come from", new_page=True)
    return [heading, Table(caption=caption, head=("number", "source"), rows=rows, widths=(1, 4))]


def _figures(statements: Iterable[Statement]) -> Iterable[Figure]:
    for statement in statements:
        for part in statement.words:
            yield from (piece for piece in pieces(part) if isinstance(piece, Figure))
