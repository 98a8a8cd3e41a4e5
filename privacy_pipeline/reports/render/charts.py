"""The charts of a report. Its tables hold the same values; axis numbers are not results."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence

from privacy_pipeline.pictures.axes import BOTTOM, GREY, HEIGHT, LEFT, RIGHT, WIDTH, Scale, plot
from privacy_pipeline.pictures.bar import BLUE, ORANGE, RED, bar
from privacy_pipeline.pictures.drawing import Anchor, Dot, Drawing, Label, Path
from privacy_pipeline.reports.dataset.dataset_report import BudgetView, RunView
from privacy_pipeline.reports.figures import plain

_LARGEST_CURVE_DELTA = 0.011


def budget_bar(budget: BudgetView, name: str) -> Drawing:
    """Return what is spent of the cap, as one bar."""
    cap = budget.cap.epsilon.value if budget.cap.epsilon else 1.0
    return bar(
        name=name,
        title="Budget spent and left",
        description=plain(["Counted against the cap: ", budget.spent, ". Cap: ", budget.cap, "."]),
        cap=cap,
        spent=cap if budget.spent.epsilon is None else budget.spent.epsilon.value,
        words=(plain(["counted: ", budget.spent]), plain(["cap: ", budget.cap])),
    )


def delta_epsilon(budget: BudgetView, name: str) -> Drawing | None:
    """Return the delta-epsilon curve of all entries together; None where nothing was spent."""
    curves = [
        (
            curve.accountant,
            [(p.epsilon.value, p.delta.value) for p in curve.points if p.delta.value < _LARGEST_CURVE_DELTA],
        )
        for curve in budget.curves
    ]
    curves = [(accountant, points) for accountant, points in curves if points]
    if not curves or budget.cap.epsilon is None:
        return None
    highest = max([budget.cap.epsilon.value, *(epsilon for _, points in curves for epsilon, _ in points)])
    lowest = min([1e-9, budget.cap.delta.value])
    chart = plot(
        name=name,
        title="All runs together: epsilon at each delta",
        description="Each point of a line is a pair of epsilon and delta that holds. Both lines are upper bounds, "
        "for runs that were fixed beforehand. The mark is the cap.",
        x=Scale(low=0, high=highest * 1.08),
        y=Scale(low=lowest, high=1e-2, log=True),
        x_label="epsilon",
        y_label="delta (logarithmic)",
    )
    anchor: Anchor
    for (accountant, points), colour, dashed in zip(curves, (BLUE, ORANGE), (False, True), strict=False):
        chart.add(Path(points=[chart.at(*point) for point in points], colour=colour, width=2, dashed=dashed))
        x, y = chart.at(*points[len(points) // 3])
        side, anchor = (8, "start") if dashed or len(curves) == 1 else (-8, "end")
        chart.add(Label(x=x + side, y=y + 4, text=accountant, colour=colour, bold=True, anchor=anchor))
    x, y = chart.at(budget.cap.epsilon.value, budget.cap.delta.value)
    chart.add(Dot(x=x, y=y, colour=RED, says=plain(["cap: ", budget.cap])))
    chart.add(Label(x=x - 8, y=y - 7, text="cap", colour=RED, anchor="end", bold=True))
    return chart.drawing


def _places(days: Sequence[str]) -> list[float]:
    """Return the places of entries on the time axis, in days: entries of one day are spread over it."""
    found: list[float] = []
    same = Counter(days)
    seen: Counter[str] = Counter()
    for day in days:
        place = datetime.date.fromisoformat(day).toordinal() + seen[day] / same[day]
        seen[day] += 1
        found.append(max([place, *found[-1:]]))  # a clock that went back does not reorder entries
    return found


def burn_down(budget: BudgetView, name: str) -> Drawing | None:
    """Return what was left of the budget after each entry, over time; None where nothing was spent."""
    if not budget.burn_down or budget.cap.epsilon is None:
        return None
    times = _places([point.reserved.quote for point in budget.burn_down])
    span = max(times[-1] - times[0], 1e-3)
    start, end = times[0] - 0.08 * span, times[-1] + 0.06 * span
    cap = budget.cap.epsilon.value
    now = plain(["Now left: epsilon ", budget.left, " at delta ", budget.cap.delta, "."])
    chart = plot(
        name=name,
        title="What is left of the budget, over time",
        description=f"A line that starts at the cap and falls with each ledger entry. {now}",
        x=Scale(low=start, high=end),
        y=Scale(low=0, high=cap * 1.05),
        x_label="",
        y_label=plain(["epsilon left, at delta ", budget.cap.delta, " (filter, against the present cap)"]),
    )
    steps, left = [chart.at(start, cap)], cap
    for at, point in zip(times, budget.burn_down, strict=True):
        steps += [chart.at(at, left), chart.at(at, point.left.value)]
        left = point.left.value
    chart.add(Path(points=[*steps, chart.at(end, left)], colour=BLUE, width=2))
    if len(times) <= 60:
        for at, point in zip(times, budget.burn_down, strict=True):
            x, y = chart.at(at, point.left.value)
            says = plain(["entry ", point.entry, ": left epsilon ", point.left, " at delta ", budget.cap.delta])
            chart.add(Dot(x=x, y=y, colour=BLUE, says=says, radius=3))
    for at, anchor, point in ((LEFT, "start", budget.burn_down[0]), (WIDTH - RIGHT, "end", budget.burn_down[-1])):
        text = f"{'first' if anchor == 'start' else 'last'} entry {point.reserved.quote}"
        if anchor == "end" or len(times) > 1:
            chart.add(
                Label(
                    x=at,
                    y=HEIGHT - BOTTOM + 18,
                    text=text,
                    colour=GREY,
                    size=11,
                    anchor="start" if anchor == "start" else "end",
                )
            )
    return chart.drawing


def comparable(budget: BudgetView, runs: Sequence[RunView]) -> list[RunView]:
    """Return runs whose epsilons may stand on one axis: of the budget's unit and relation, and of one delta."""
    found = [
        run
        for run in runs
        if run.guarantee is not None
        and run.relation is not None
        and (run.unit.quote, run.relation.quote) == (budget.unit.quote, budget.relation.quote)
        and not run.cached
    ]
    deltas = [run.guarantee.delta.value for run in found if run.guarantee]
    usual = max(deltas, key=deltas.count, default=None)
    return [run for run in found if run.guarantee and run.guarantee.delta.value == usual]


def utility(budget: BudgetView, runs: Sequence[RunView], name: str, metric: str = "accuracy") -> Drawing | None:
    """Return a chart of a metric against epsilon over the comparable runs; None if there are none."""
    shown = [
        run for run in comparable(budget, runs) if metric in run.metrics and run.guarantee and run.guarantee.epsilon
    ]
    if not shown or shown[0].guarantee is None:
        return None
    baseline = [run for run in runs if run.guarantee is None and not run.cached and metric in run.metrics]
    values = [run.metrics[metric].value for run in (*shown, *baseline)]
    room = max(0.02, (max(values) - min(values)) * 0.25)
    highest = max(run.guarantee.epsilon.value for run in shown if run.guarantee and run.guarantee.epsilon)
    chart = plot(
        name=name,
        title=f"Utility against privacy: {metric} and epsilon of each run",
        description="One mark for each run with a guarantee of the same unit, relation and delta. A dashed line is a "
        "run without any guarantee.",
        x=Scale(low=0, high=highest * 1.15),
        y=Scale(low=max(0.0, min(values) - room), high=min(1.0, max(values) + room)),
        x_label=plain(["epsilon of the run alone, at delta ", shown[0].guarantee.delta, "; unit ", budget.unit]),
        y_label=f"{metric}; where it is exact, no guarantee covers it",
    )
    for run in baseline:
        _, y = chart.at(0, run.metrics[metric].value)
        chart.add(Path(points=((LEFT, y), (WIDTH - RIGHT, y)), colour=RED, dashed=True, width=1.5))
        chart.add(Label(x=WIDTH - RIGHT, y=y - 5, text="no guarantee", colour=RED, size=11, anchor="end"))
    for run in shown:
        if run.guarantee is not None and run.guarantee.epsilon is not None:
            x, y = chart.at(run.guarantee.epsilon.value, run.metrics[metric].value)
            says = plain(["run ", run.run, f": {metric} ", run.metrics[metric], ", ", run.guarantee])
            chart.add(Dot(x=x, y=y, colour=BLUE, says=says))
    return chart.drawing
