"""The comparison of an experiment's runs as one HTML file, which has no scripts and fetches nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from federated.experiments.compare import Curve, Row
from privacy_pipeline.pictures.axes import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Plot, Scale, plot
from privacy_pipeline.pictures.drawing import Dot, Drawing, Label, Path, to_svg
from privacy_pipeline.text.shown_text import in_html

HEAD = ("setting", "seeds", "accuracy", "AUC", "clients' accuracy, 5 / 50 / 95 %", "epsilon", "MB sent", "seconds")
_COLOURS = ("#1f5fa8", "#b85c00", "#22703a", "#7a3fa0", "#b3202c", "#5b6672", "#0f8b8d", "#8a5200")
_MOST_NAMES = 8
_STYLE = """
body { font: 15px/1.5 "DejaVu Sans", Verdana, sans-serif; color: #1d2733; max-width: 62rem; margin: 2rem auto;
  padding: 0 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; padding: .3rem .45rem; border-bottom: 1px solid #d4dae1; }
svg { width: 100%; height: auto; display: block; margin: 1.2rem 0; }
.note { color: #5b6672; font-size: .85rem; }
"""


def cells(row: Row) -> tuple[str, ...]:
    """Return one row of the table, as texts in the order of `HEAD`."""
    low, _, middle, _, high = row.client_accuracy
    return (
        row.name,
        str(len(row.seeds)),
        _with_spread(row.accuracy, row.accuracy_std),
        _with_spread(row.auc, row.auc_std),
        f"{low:.2f} / {middle:.2f} / {high:.2f}",
        guarantee(row),
        f"{row.megabytes:.2f}",
        "withheld" if row.seconds is None else f"{row.seconds:.1f}",
    )


def guarantee(row: Row) -> str:
    """Return the epsilon of each run alone, rounded up, with delta and unit."""
    if row.epsilon is None:
        return "none"
    up = -(-row.epsilon * 1000 // 1) / 1000
    return f"{up:.3f} at delta {row.delta:g}, unit {row.unit}, {row.relation}, each of {row.runs_charged} runs"


def notes(rows: Sequence[Row]) -> list[str]:
    """Return the notes that the numbers need."""
    said = [
        "Accuracy and AUC are exact, on the eval split, whose clients are not those of the train split. ± is the "
        "standard deviation over seeds."
    ]
    if any(math.isnan(row.auc) for row in rows):
        said.append("AUC is not defined where all rows of the eval split have one class.")
    if any(row.epsilon is not None for row in rows):
        said.append(
            "Each epsilon is that of one run alone; every seed and setting was charged to the ledger, which holds what "
            "they spent together. No epsilon covers the evaluation, nor the choice among runs by it."
        )
        classes = {(row.unit, row.relation, row.delta) for row in rows if row.epsilon is not None}
        if len(classes) > 1:
            said.append("The epsilons have different units, relations or deltas: they cannot be compared.")
    said += [
        f"{row.name}: fine-tuned on each of {own.clients} clients of the eval split alone, with half of the client's "
        f"rows, accuracy on the other half goes from {own.before:.4f} to {own.after:.4f} (mean over clients); "
        f"{own.worse_off:.0%} of the clients lose accuracy."
        for row in rows
        if (own := row.personalized) is not None
    ]
    if any(row.synthetic for row in rows):
        said.append("Some clients are synthetic: rows dealt out by a stated rule, no real persons or sites.")
    return said


def federated_page(experiment: str, rows: Sequence[Row]) -> str:
    """Return the page: a table, accuracy against rounds, epsilon and bytes, and its spread over clients."""
    head = "".join(f"<th>{in_html(name)}</th>" for name in HEAD)
    body = "\n".join("<tr>" + "".join(f"<td>{in_html(text)}</td>" for text in cells(row)) + "</tr>" for row in rows)
    pictures = "\n".join(to_svg(drawing) for drawing in drawings(rows))
    told = "\n".join(f'<p class="note">{in_html(note)}</p>' for note in notes(rows))
    title = f"Experiment {in_html(experiment)}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<table>\n<tr>{head}</tr>\n{body}\n</table>\n{told}\n{pictures}\n</body>\n</html>\n"
    )


def drawings(rows: Sequence[Row]) -> list[Drawing]:
    """Return all charts; that against epsilon only if a run has a guarantee, and for one unit, relation and delta."""
    made = [
        _lines(rows, "rounds", "Accuracy against rounds", "rounds", lambda curve: [float(r) for r in curve.rounds]),
        _lines(
            rows,
            "bytes",
            "Accuracy against bytes sent",
            "megabytes sent by clients and server (10^6 bytes)",
            lambda curve: [value / 1e6 for value in curve.bytes_sent],
        ),
    ]
    private = [row for row in rows if row.curve.epsilon is not None]
    if len({(row.unit, row.relation, row.delta) for row in private}) == 1:
        first = private[0]
        made.insert(
            1,
            _lines(
                private,
                "epsilon",
                "Accuracy against epsilon",
                f"epsilon of a run up to the round, at delta {first.delta:g}; unit {first.unit}",
                lambda curve: list(curve.epsilon or ()),
            ),
        )
    return [*made, _spread(rows)]


def _lines(rows: Sequence[Row], name: str, title: str, x_label: str, places: Callable[[Curve], list[float]]) -> Drawing:
    values = [value for row in rows for value in row.curve.accuracy]
    furthest = max((value for row in rows for value in places(row.curve)), default=1.0)
    chart = plot(
        name=name,
        title=title,
        description="One line for each setting, the mean over its seeds.",
        x=Scale(low=0, high=furthest * 1.02 or 1.0),
        y=_accuracy_scale(values),
        x_label=x_label,
        y_label="accuracy on the eval split, exact",
    )
    for row, colour in _coloured(rows):
        points = [chart.at(x, y) for x, y in zip(places(row.curve), row.curve.accuracy, strict=True)]
        chart.add(Path(points=points, colour=colour, width=2))
        x, y = points[-1]
        chart.add(Dot(x=x, y=y, colour=colour, says=f"{row.name}: accuracy {row.accuracy:.4f}", radius=3))
    _legend(chart, rows)
    return chart.drawing


def _spread(rows: Sequence[Row]) -> Drawing:
    """Return a chart with a line per setting from the 5 to the 95 % quantile over clients, thick from 25 to 75 %."""
    values = [value for row in rows for value in row.client_accuracy]
    chart = plot(
        name="spread",
        title="Spread of accuracy over the eval split's clients",
        description="Thin: 5 to 95 % of clients. Thick: 25 to 75 %. Dot: the median client.",
        x=Scale(low=0, high=float(len(rows))),
        y=_accuracy_scale(values),
        x_label="",
        y_label="accuracy of a client",
    )
    for place, (row, colour) in enumerate(_coloured(rows)):
        low, quarter, middle, upper, high = row.client_accuracy
        for ends, width in (((low, high), 1.5), ((quarter, upper), 7.0)):
            chart.add(Path(points=[chart.at(place + 0.5, end) for end in ends], colour=colour, width=width))
        x, y = chart.at(place + 0.5, middle)
        says = f"{row.name}: half of the clients have an accuracy of at least {middle:.3f}"
        chart.add(Dot(x=x, y=y, colour=colour, says=says, hollow=True))
    _legend(chart, rows)
    return chart.drawing


def _accuracy_scale(values: Sequence[float]) -> Scale:
    room = max(0.01, 0.1 * (max(values) - min(values)))
    return Scale(low=max(0.0, min(values) - room), high=min(1.0, max(values) + room))


def _coloured(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    return [(row, _COLOURS[place % len(_COLOURS)]) for place, row in enumerate(rows)]


def _legend(chart: Plot, rows: Sequence[Row]) -> None:
    for place, (row, colour) in enumerate(_coloured(rows)[:_MOST_NAMES]):
        y = HEIGHT - BOTTOM - 12.0 - 15.0 * place
        chart.add(Label(x=WIDTH - RIGHT, y=y, text=row.name, colour=colour, size=11, anchor="end"))
    if len(rows) > _MOST_NAMES:
        y = HEIGHT - BOTTOM - 12.0 - 15.0 * _MOST_NAMES
        chart.add(Label(x=LEFT + 8, y=y, text=f"and {len(rows) - _MOST_NAMES} more: see the table", size=11))


def _with_spread(value: float, spread: float) -> str:
    if math.isnan(value):
        return "not defined"
    return f"{value:.4f}" if math.isnan(spread) else f"{value:.4f} ± {spread:.4f}"
