"""`budget forecast`: how many more runs of a config fit, and what noise fits the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from privacy_pipeline.api.targets import is_config
from privacy_pipeline.cli.output import errors_as_exit_codes, out, print_json, print_table, with_old_keys
from privacy_pipeline.cli.parameters import AsJson, AsMarkdown, Overrides, Target, WorkspacePath
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.data import source
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.held import against_cap
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.preflight.forecast import fitting, noise_section
from privacy_pipeline.pipelines.workspace.workspace import newest_config
from privacy_pipeline.text.typed import typed

if TYPE_CHECKING:
    from privacy_pipeline.config.models.pipeline import PipelineConfig
    from privacy_pipeline.pipelines.preflight.checked import Checked
    from privacy_pipeline.pipelines.preflight.forecast import Fitting
    from privacy_pipeline.spans import Span


def forecast(
    target: Target,
    runs: Annotated[int, typer.Option(metavar="N", help="Find the noise with which this many runs fit.")] = 1,
    set_: Overrides = [],  # noqa: B006
    workspace: WorkspacePath = Path("workspace"),
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Print how many more runs of a config fit its budget, and what noise fits the rest; read no data.

    For a DATASET, the config is that of its newest run in the workspace.
    """
    with errors_as_exit_codes(as_json=as_json):
        loaded = _config_of(target, workspace=workspace, overrides=set_)
        span = source.resolve(dataset=loaded.dataset).span
        checked = preflight.check(loaded, span=span)
        fits = fitting(loaded, checked, span=span, runs=runs)
        facts = _facts(loaded, checked, fits, runs=runs, span=span)
        if as_json:
            print_json(facts)
        elif checked.forecast is None:
            out.print(f"backend {loaded.training.backend} claims no guarantee: such runs spend no budget")
        else:
            _print(facts, target, as_markdown=as_markdown)


def _config_of(target: str, *, workspace: Path, overrides: list[str]) -> PipelineConfig:
    if is_config(target):
        return load_config(Path(target), overrides=overrides)
    if overrides:
        raise BadInputError("--set goes with a CONFIG", fix="name the config, or leave --set out")
    return newest_config(workspace, dataset=target)


def _facts(config: PipelineConfig, checked: Checked, fits: Fitting | None, *, runs: int, span: Span) -> dict[str, Any]:
    plan, ahead = checked.plan, checked.forecast
    facts: dict[str, Any] = {"dataset": config.dataset.name, "span": span, "backend": config.training.backend}
    if plan is None or ahead is None:
        return {**facts, "budget": None, "run": None, "asked_runs": runs, "fitting": None}
    found = noise_section(config)
    return {
        **facts,
        "budget": with_old_keys(
            {
                "enforced_epsilon": ahead.epsilon_before,
                "cap_epsilon": ahead.cap,
                "remaining_epsilon": ahead.remaining,
                "delta": ahead.delta,
                "accountant": "rdp",
                **({"name": ahead.budget, "others": [one.budget for one in ahead.others]} if ahead.others else {}),
            }
        ),
        "run": {
            "noise_multiplier": plan.noise_multiplier,
            "target_epsilon": None if found is None else found[1].target_epsilon,
            "delta": plan.delta,
            "epsilon": ahead.epsilon_run,
            "fits": ahead.fits,
            "runs_that_fit": ahead.runs_that_fit,
        },
        "asked_runs": runs,
        "fitting": dataclasses.asdict(fits) if fits else None,
    }


def _print(facts: dict[str, Any], config: str, *, as_markdown: bool) -> None:
    budget, run, fits = facts["budget"], facts["run"], facts["fitting"]
    table = Table(title=f"forecast for dataset {facts['dataset']} (RDP, delta {budget['delta']:.0e})")
    table.title_justify = "left"
    for column in ("", "noise multiplier", "target epsilon", "cost of a run", "runs that fit"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("as configured", *_cells(run, run["epsilon"]))
    label = "noise that fits" if facts["asked_runs"] == 1 else f"noise for {facts['asked_runs']} runs"
    table.add_row(label, *(_cells(fits, fits["epsilon_run"]) if fits else ("none fits", "-", "-", "0")))
    print_table(table, as_markdown=as_markdown)
    if as_markdown:
        return
    held, left = against_cap(budget["enforced_epsilon"], budget["cap_epsilon"]), budget["remaining_epsilon"]
    if "name" in budget:
        others = ", ".join(budget["others"])
        out.print(f"budget {budget['name']} has the least room; such a run is charged to {others} too", soft_wrap=True)
    out.print(f"counted against the cap: {held}, {left:.3f} remain; nothing was reserved", soft_wrap=True)
    if fits:
        out.print(f"  {typed('run', config, '--set', fits['override'])}", soft_wrap=True, markup=False)


def _cells(row: dict[str, Any], epsilon: float) -> tuple[str, str, str, str]:
    target = row["target_epsilon"]
    asked = "-" if target is None else f"{target:g} at {row['delta']:.0e}"
    return f"{row['noise_multiplier']:.4g}", asked, f"{epsilon:.3f}", f"{row['runs_that_fit']:,}"
