"""Each budget: totals, curves, groups and entries."""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.reports.dataset.dataset_report import BudgetView, DatasetReport, RunView
from privacy_pipeline.reports.figures import Words
from privacy_pipeline.reports.render import charts
from privacy_pipeline.reports.render.layout import Block, Chart, Heading, Table
from privacy_pipeline.reports.render.sections.cells import DASH, NONE, compact, or_why
from privacy_pipeline.reports.render.sections.section import Section

_CURVE_ROWS = (1e-9, 1e-7, 1e-5, 1e-3, 1e-2)


def _blocks(report: DatasetReport) -> list[Block]:
    return [block for index, budget in enumerate(report.budgets) for block in _budget(budget, index, report.runs)]


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
        ("proven, whatever was seen before a run was chosen", or_why(budget.proven)),
        ("cap", compact(budget.cap)),
        ("counted against the cap, as enforced: the filter's fixed order", or_why(budget.spent)),
        ("left of the cap", ["epsilon ", budget.left, " at delta ", budget.cap.delta]),
        ("used by the runs, of the room at that order", [budget.used] if budget.used else ["all"]),
        ("for runs fixed beforehand: RDP at its best order", or_why(budget.best_order)),
        ("for runs fixed beforehand: PLD over all events", or_why(budget.pld)),
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


def _groups(budget: BudgetView) -> list[Block]:
    if not budget.groups:
        return []
    unit = budget.unit.quote
    who = "row(s)" if unit == "row" else "unit(s)"
    rows: list[list[Words]] = [
        [["a person with ", reading.size, f" {who}"], or_why(reading.proven), or_why(reading.fixed)]
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


BUDGETS = Section(name="budgets", blocks=_blocks)
