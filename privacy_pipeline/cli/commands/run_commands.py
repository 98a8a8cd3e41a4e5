"""`run`, `resume` and `check`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_pipeline.api import run as api
from privacy_pipeline.api.check import check as checked
from privacy_pipeline.api.configs import load_config
from privacy_pipeline.cli.alerts import RunAlerts
from privacy_pipeline.cli.live import RunView, node_text, resume_command
from privacy_pipeline.cli.output import err, errors_as_exit_codes, note, out, print_json, print_report, print_run, tell
from privacy_pipeline.cli.parameters import AsJson, ConfigPath, Overrides, WorkspacePath
from privacy_pipeline.cli.shown import cell, escape
from privacy_pipeline.cli.tables import privacy_table, run_table
from privacy_pipeline.errors import ExitCode
from privacy_pipeline.ledger.state.held import against_cap
from privacy_pipeline.pipelines.nodes import TRAINER
from privacy_pipeline.reports.record.properties import shown
from privacy_pipeline.text.typed import typed

if TYPE_CHECKING:
    from privacy_pipeline.pipelines.preflight.imported_code import ImportedFile
    from privacy_pipeline.pipelines.workspace.run_state import RunState
    from privacy_pipeline.pipelines.workspace.workspace import RunFolder
    from privacy_pipeline.reports.record.summary import RunSummary


def run(
    config: ConfigPath,
    set_: Overrides = [],  # noqa: B006 (typer needs a literal default)
    from_: Annotated[str | None, typer.Option("--from", metavar="NODE", help="First node of a partial run.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="NODE", help="Last node of a partial run.")] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run every node; a DP training spends budget again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline."""
    view = RunView(out, quiet=as_json)
    with errors_as_exit_codes(as_json=as_json, resume=view.resume_command):
        loaded = load_config(config, overrides=[*set_, *(["cache=false"] if no_cache else [])])
        alerts = RunAlerts(loaded)

        def on_start(folder: RunFolder) -> None:  # after the budget was checked
            alerts.tell()
            view.start(folder)

        with view:
            done = api.execute(
                loaded,
                path=config,
                from_node=from_,
                to_node=to,
                on_start=on_start,
                on_event=view.on_event,
                note=note,
            )
        alerts.tell()
    _finish(done.folder, done.state, as_json=as_json)


def resume(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Run id, or a prefix of it.")],
    workspace: WorkspacePath = Path("workspace"),
    as_json: AsJson = False,
) -> None:
    """Continue a run that failed or was killed."""
    view = RunView(out, quiet=as_json)
    with errors_as_exit_codes(as_json=as_json, resume=view.resume_command):

        def on_start(folder: RunFolder, charged: Sequence[str]) -> None:
            for node in charged:
                again = "training" if node == TRAINER else node
                err.print(
                    f"{again} starts again and is charged again; what the interrupted one spent stays spent",
                    soft_wrap=True,
                )
            view.start(folder)

        with view:
            done = api.resume(name, workspace=workspace, on_start=on_start, on_event=view.on_event)
        RunAlerts(done.folder.read_spec().config).tell()
    _finish(done.folder, done.state, as_json=as_json)


def check(config: ConfigPath, set_: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006
    """Validate a config and its rows, examine its model and forecast its privacy cost; nothing is spent."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # silence TensorFlow's start-up notes

    def on_examine() -> None:
        if not as_json:
            err.print("[dim]examining whether the model keeps examples apart ...[/]", soft_wrap=True)

    with errors_as_exit_codes(as_json=as_json):
        found = checked(config, overrides=set_, on_examine=on_examine)
        if as_json:
            print_json(found.facts)
        else:
            _print_check(found.facts)
            if str(found.examined):
                out.print(f"  {escape(str(found.examined))}", soft_wrap=True)
            _print_code(found.code)
            for said in found.notes:
                note(said)
        found.require_fits()


def _print_code(code: Sequence[ImportedFile]) -> None:
    if not code:
        out.print("  code that a run imports beside the installed packages: none")
        return
    out.print("  code that a run imports beside the installed packages:")
    for one in code:
        where = "away from the data" if one.apart else "beside the data"
        out.print(f"    {escape(str(one.file))} ({escape(one.why)}; {where})", soft_wrap=True)


def _registered(units: int | None) -> str:
    return "a secret number of units" if units is None else f"{units:,} registered units"


def _clipping(plan: dict[str, Any]) -> str:
    tried = plan.get("tuning", {}).get("space", {}).get("clipping_norm")
    return " or ".join(f"{norm:g}" for norm in tried or [plan["clipping_norm"]])


def _tuning_words(tuning: dict[str, Any], forecast: dict[str, Any]) -> str:
    how = f"{tuning['trials']} trials"
    if tuning["method"] == "repeat_and_select":
        how = f"the best of a secret number of trials ({tuning['distribution']}, {tuning['trials']} on average)"
    return (
        f"that is for the whole tuning, {how} over {', '.join(tuning['space'])}, paid by the purpose tune; one trial "
        f"alone would have claimed {shown(forecast['epsilon_one_trial'])} ({forecast['accountant_one_trial']})"
    )


def _print_check(facts: dict[str, object]) -> None:
    asked = f"pipeline {facts['pipeline']}, backend {facts['backend']}, task {facts['task']}"
    out.print(f"[green]✓[/] {escape(str(facts['config']))}: {asked}")
    plan, forecast = facts["plan"], facts["forecast"]
    if not isinstance(plan, dict) or not isinstance(forecast, dict):
        out.print("  no training guarantee: this run spends no budget, and its model may reveal single rows")
        if facts["journalled"]:
            out.print("  its dataset is registered: the ledger will note the run (budget history --all)")
        return
    out.print(
        f"  forecast: epsilon {forecast['epsilon']:.3f} at delta {plan['delta']:.0e} ({forecast['accountant']}), "
        f"unit {cell(str(plan['unit']))}, relation {plan['relation']}",
        soft_wrap=True,
    )
    out.print(
        f"  noise multiplier {plan['noise_multiplier']:.4g}, clipping norm {_clipping(plan)}, "
        f"{plan['steps']:,} steps of {plan['batch_size']:,} ({plan['sampler']}) of {_registered(plan['units'])}",
        soft_wrap=True,
    )
    if "tuning" in plan:
        out.print(f"  {escape(_tuning_words(plan['tuning'], forecast))}", soft_wrap=True)
    if plan["units"] is not None and plan["delta"] * plan["units"] >= 1:
        out.print(
            f"  [yellow]delta {plan['delta']:.0e} is not below 1 / {plan['units']:,} units: choose a smaller one[/]",
            soft_wrap=True,
        )
    out.print(
        f"  counted against the cap: {_held(forecast)} after this run (RDP); "
        f"{forecast['runs_that_fit']} such run(s) fit",
        soft_wrap=True,
    )
    for one in forecast.get("budgets", []):
        out.print(
            f"  budget {escape(str(one['budget']))}: {_held(one)}; {one['runs_that_fit']} such run(s) fit",
            soft_wrap=True,
        )
    for charge in facts["beside_training"] if isinstance(facts["beside_training"], list) else []:
        said = charge["forecast"]
        out.print(
            f"  {charge['node']}: epsilon {said['epsilon']:.3f} at delta {said['delta']:.0e} ({said['accountant']}), "
            f"purpose {charge['purpose']}; counted against the cap of the {charge['split']} split: {_held(said)} after "
            f"it (RDP); {said['runs_that_fit']} such run(s) fit",
            soft_wrap=True,
        )


def _held(forecast: dict[str, Any]) -> str:
    after = forecast["epsilon_after"]
    return against_cap(math.inf if after is None else after, forecast["cap"])


def _finish(folder: RunFolder, state: RunState, *, as_json: bool) -> None:
    """Print the result and end with its exit code."""
    if state.failure is not None:
        tell(
            message=state.failure.message,
            fix=state.failure.fix,
            exit_code=state.failure.exit_code,
            as_json=as_json,
            log=str(folder.log),
            **_next_command(folder, state),
        )
        raise typer.Exit(state.failure.exit_code)
    summary = folder.read_summary()
    _print_result(folder, state, summary, as_json=as_json)
    if state.status == "not_blessed":
        by_budget = summary is not None and summary.budget_reasons
        raise typer.Exit(int(ExitCode.BUDGET_REFUSED if by_budget else ExitCode.NOT_BLESSED))


def _next_command(folder: RunFolder, state: RunState) -> dict[str, str]:
    """Return the next command: after bad input it is a new run, because corrected data is other data."""
    if state.failure is not None and state.failure.exit_code == ExitCode.BAD_INPUT:
        return {"then": typed("run", Path(state.config_path))}
    return {"resume": resume_command(folder)}


def _print_result(folder: RunFolder, state: RunState, summary: RunSummary | None, *, as_json: bool) -> None:
    if as_json:
        print_run(state, summary)
        return
    if state.cached_from:
        out.print(f"nothing changed since run {state.cached_from}:")
        for name, node in state.nodes.items():
            text = "decided again" if node.status == "done" else node_text(name, node)
            out.print(f"  [green]=[/] {name:<17} {escape(text)}")
    if summary is None:
        out.print(f"run {state.run_id}: the requested part is done")
        return
    out.print(run_table(summary))
    out.print(privacy_table(summary.record))
    if summary.blessed:
        out.print(f"[green]blessed[/]; model {escape(summary.model_uri)}", soft_wrap=True)
    else:
        err.print("[red]not blessed[/], nothing was pushed:", soft_wrap=True)
        for reason in summary.reasons:
            err.print(f"  {escape(reason)}", soft_wrap=True)
    print_report(state)
    shown_by = typed("--logdir", Path(summary.tensorboard), program="tensorboard")
    out.print(f"[dim]{escape(shown_by)}[/]", soft_wrap=True)
    workspace = folder.path.parents[1]
    prune = typed("workspace", "prune", "--run", state.run_id, "--workspace", workspace)
    told = f"copies of rows lie below {workspace}; what would go, and how: {prune}"
    out.print(f"[dim]{escape(told)}[/]", soft_wrap=True)
