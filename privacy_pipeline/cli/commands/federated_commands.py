"""`federated register`, `run`, `sweep`, `resume` and `compare`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from federated.experiments.binding import bound, told_again, told_begun
from federated.experiments.charging.register import register_clients
from federated.experiments.compare import compare as compare_runs
from federated.experiments.compare import not_of_today, setting_name
from federated.experiments.config import load_experiment
from federated.experiments.data import look_through, source_of
from federated.experiments.run_folder import POINT, RunFolder, finite
from federated.experiments.sweep import begun, run_points
from federated.experiments.tracking import track
from privacy_pipeline.cli.output import errors_as_exit_codes, note, out, print_json, print_table, tell
from privacy_pipeline.cli.parameters import AsJson, AsMarkdown, Overrides
from privacy_pipeline.cli.shown import cell, escape
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.processes.die_with_parent import die_with_parent
from privacy_pipeline.reports.render.federated_page import HEAD, cells, federated_page, notes
from privacy_pipeline.text.typed import typed

if TYPE_CHECKING:
    from federated.experiments.config import ExperimentConfig, Point
    from federated.experiments.sweep import Status

app = typer.Typer(help="Federated simulation experiments.", no_args_is_help=True)
Experiment = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="YAML file of the experiment.")]
Processes = Annotated[
    int, typer.Option("--processes", min=1, help="Number of runs at the same time, each in its own process.")
]


@app.command()
def register(
    experiment: Experiment,
    epsilon: Annotated[float, typer.Option(help="Cap that all runs on the dataset together may reach.")],
    delta: Annotated[float, typer.Option(help="Delta of the cap.")],
    set_: Overrides = [],  # noqa: B006 (typer needs a literal default)
    as_json: AsJson = False,
) -> None:
    """Register the experiment's dataset with the ledger: who its clients are, and what may be spent on them."""
    with errors_as_exit_codes(as_json=as_json):
        config, _ = _load(experiment, set_)

        registration = register_clients(config, epsilon=epsilon, delta=delta, tell=note)
        counts = {name: {"rows": s.rows, "clients": s.units} for name, s in registration.splits.items()}
        if as_json:
            print_json({"dataset": registration.dataset, "unit": registration.unit, "splits": counts})
            return
        train = counts["train"]
        out.print(
            f"[green]✓[/] {registration.name}: {train['clients']:,} clients (`{cell(registration.unit)}`) with "
            f"{train['rows']:,} rows to train on; cap epsilon {epsilon:g} at delta {delta:g}"
        )


@app.command()
def run(
    experiment: Experiment,
    set_: Overrides = [],  # noqa: B006
    processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Run an experiment as written, once for each seed, without its grid."""
    with errors_as_exit_codes(as_json=as_json):
        _, points = _load(experiment, [*set_, "sweep={}"])
        _run(experiment, points, processes=processes, as_json=as_json)


@app.command()
def sweep(
    experiment: Experiment,
    set_: Overrides = [],  # noqa: B006
    processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Run every point of the experiment's grid, once for each seed. Finished runs are not run again."""
    with errors_as_exit_codes(as_json=as_json):
        _, points = _load(experiment, set_)
        _run(experiment, points, processes=processes, as_json=as_json)


@app.command()
def resume(
    experiment: Experiment,
    set_: Overrides = [],  # noqa: B006
    processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Continue the runs that were begun and are not done, each under the charge that it has."""
    with errors_as_exit_codes(as_json=as_json):
        known = _points_of(experiment, set_)
        points = begun(known)
        for line in told_begun(known):
            note(line)
        if not points and not as_json:
            out.print("nothing to resume: every run that was begun is done")
            return
        _run(experiment, points, processes=processes, as_json=as_json)


@app.command()
def compare(
    experiment: Experiment,
    set_: Overrides = [],  # noqa: B006
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the comparison as a page.")] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Compare the finished runs: a table, and one HTML page with the curves."""
    import dataclasses

    with errors_as_exit_codes(as_json=as_json):
        config, _ = _load(experiment, set_)
        points = _points_of(experiment, set_)
        for line in not_of_today(points):
            note(line)
        rows, missing = compare_runs(points)
        page = html or config.folder / config.experiment / "comparison.html"
        write_atomically(path=page, text=federated_page(config.experiment, rows))
        if as_json:
            found = [finite(dataclasses.asdict(row)) for row in rows]
            print_json({"rows": found, "unfinished": len(missing), "notes": notes(rows), "page": str(page)})
            return
        table = Table(*HEAD)
        for row in rows:
            table.add_row(*map(cell, cells(row)))
        print_table(table, as_markdown=as_markdown)
        for line in notes(rows):
            out.print(escape(line), style="dim" if not as_markdown else None)
        if missing and not as_markdown:
            again = escape(typed("federated", "sweep", experiment))
            out.print(f"[yellow]{len(missing)} runs are not finished[/]: {again}", soft_wrap=True)
        if not as_markdown:
            out.print(f"page: {escape(str(page))}", soft_wrap=True)


def _load(experiment: Path, overrides: Sequence[str]) -> tuple[ExperimentConfig, tuple[Point, ...]]:
    return load_experiment(experiment, overrides=overrides)


def _points_of(experiment: Path, overrides: Sequence[str]) -> list[Point]:
    """Return the grid's points, and those of the experiment as written if they were begun."""
    _, grid = _load(experiment, overrides)
    _, plain = _load(experiment, [*overrides, "sweep={}"])
    known = {point.name for point in grid}
    found = bound([*grid, *(point for point in plain if point.name not in known)])
    return [*found[: len(grid)], *(point for point in found[len(grid) :] if (point.folder / POINT).exists())]


def _run(experiment: Path, points: Sequence[Point], *, processes: int, as_json: bool) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # silence TensorFlow's start-up notes
    points = bound(points)
    for line in told_again(points):
        note(line)
    _note_keys(points)
    view = _Progress(points)
    live = Live(view, console=out, refresh_per_second=4) if sys.stdout.isatty() and not as_json else None
    if live is not None:
        live.start()
    try:
        found = run_points(
            points,
            processes=min(processes, max(1, len(points))),
            watch=view.watch if live is not None or as_json else view.watch_and_print,
            initializer=die_with_parent,
            parent=os.getpid(),
        )
    finally:
        if live is not None:
            live.stop()
    for status in found:
        if status.summary is not None:
            track(status.point, status.summary)
    failed = [status for status in found if status.state == "failed"]
    if as_json:
        print_json([status.summary or _error(status) for status in found])
    for status in failed if not as_json else ():
        tell(
            message=f"{_name(status.point)}: {status.error}", fix=status.fix, exit_code=status.exit_code, as_json=False
        )
    if failed:
        raise typer.Exit(failed[0].exit_code)
    if not as_json:
        out.print(f"compare: {escape(typed('federated', 'compare', experiment))}", soft_wrap=True)


def _note_keys(points: Sequence[Point]) -> None:
    """Print, before anything starts, notes on the keys; each run reports what is wrong with its rows."""
    left = next((point for point in points if RunFolder(point.folder).summary() is None), None)
    if left is None:
        return
    with contextlib.suppress(BadInputError):
        for said in look_through(left.config.data, source=source_of(left.config.data)).notes:
            note(said)


class _Progress:
    """The runs and their progress, redrawn as they continue."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._status: dict[str, Status] = {}
        self._number = len(points)

    def watch(self, status: Status) -> None:
        self._status[status.point.name] = status

    def watch_and_print(self, status: Status) -> None:
        self.watch(status)
        if status.state == "done" and status.summary is not None:
            out.print(f"[green]✓[/] {cell(_name(status.point))}: {cell(_result(status.summary))}", soft_wrap=True)

    def __rich__(self) -> Table:
        done = sum(status.state == "done" for status in self._status.values())
        table = Table(title=f"{done} of {self._number} runs done", title_justify="left")
        for column in ("run", "state", "rounds", "result"):
            table.add_column(column)
        shown = [s for s in self._status.values() if s.state != "waiting"][-_SHOWN:]
        for status in shown:
            total = status.point.config.rounds
            result = _result(status.summary) if status.summary is not None else status.error
            table.add_row(cell(_name(status.point)), status.state, f"{status.rounds:,} of {total:,}", escape(result))
        return table


_SHOWN = 24  # rows of the progress view


def _name(point: Point) -> str:
    return f"{setting_name(point.settings)}, seed {point.seed}"


def _result(summary: dict[str, Any]) -> str:
    text = f"accuracy {summary['accuracy']:.4f}"
    if summary.get("epsilon") is not None:
        text += f", epsilon {summary['epsilon']:.3f} at delta {summary['delta']:g} (unit {summary['unit']})"
    for audit in summary.get("audits", ()):
        text += f", {audit['kind']} audit: epsilon at least {audit['lower_bound']:.3f}"
    return text


def _error(status: Status) -> dict[str, Any]:
    return {"run": status.point.name, "error": status.error, "fix": status.fix, "exit_code": status.exit_code}
