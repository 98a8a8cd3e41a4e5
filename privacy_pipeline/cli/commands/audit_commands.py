"""`audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_pipeline.cli.audit_tables import attacks_table, audits_table
from privacy_pipeline.cli.output import errors_as_exit_codes, out, print_json
from privacy_pipeline.cli.parameters import AsJson, Overrides, WorkspacePath
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.dp.attacks.membership import STATEMENT
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.pipelines.reporting import membership
from privacy_pipeline.pipelines.workspace.workspace import find_run

if TYPE_CHECKING:
    from privacy_pipeline.config.models.pipeline import PipelineConfig
    from privacy_pipeline.dp.plan import PrivacyPlan
    from privacy_pipeline.pipelines.workspace.workspace import RunFolder


def audit(
    name: Annotated[
        str, typer.Argument(metavar="RUN|CONFIG", help="A YAML file; or a run id, a prefix of it, or a pipeline.")
    ],
    workspace: WorkspacePath = Path("workspace"),
    set_: Overrides = [],  # noqa: B006 (typer needs a literal default)
    canaries: Annotated[int | None, typer.Option(min=2, help="Number of canaries of each audit.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Confidence of each lower bound.")] = 0.95,
    mechanism: Annotated[bool, typer.Option("--mechanism", help="Audit only the mechanism, in some seconds.")] = False,
    attack: Annotated[
        bool, typer.Option("--attack", help="Attack a run's model instead, on its own rows: an exact risk reading.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a plan's epsilon with an empirical lower bound, on made-up data only; nothing is charged.

    With --attack: measure how well the loss of a run's model separates training rows from others, over all and by
    slice.
    """
    from privacy_pipeline.pipelines.reporting import audits

    with errors_as_exit_codes(as_json=as_json), reading_once():
        if attack:
            _attack(name, workspace, as_json=as_json)
            return
        config, plan, folder = _subject(name, workspace, set_)
        results = audits.audit(config, plan, canaries=canaries, confidence=confidence, training=not mechanism)
        if folder is not None:
            audits.append(folder, results)
        found = [result.to_json() for result in results]
        if as_json and all(result.sound for result in results):
            print_json({"audits": found})
        elif not as_json:
            out.print(audits_table(found))
            for result in results:
                out.print(f"[dim]{escape(result.kind)}: {escape(result.statement)}[/]", soft_wrap=True)
        for result in results:
            result.require_sound()


def _attack(name: str, workspace: Path, *, as_json: bool) -> None:
    folder = find_run(workspace.absolute(), name)
    readings, small = membership.attack(folder)
    membership.keep(folder, readings)
    found = [reading.to_json() for reading in readings]
    if as_json:
        print_json({"attacks": found, "too_small": small, "statement": STATEMENT})
        return
    out.print(attacks_table(found))
    if small:
        out.print(f"[dim]too few rows for a reading: {escape(', '.join(small))}[/]", soft_wrap=True)
    out.print(f"[dim]{escape(STATEMENT)}[/]", soft_wrap=True)


def _subject(name: str, workspace: Path, set_: list[str]) -> tuple[PipelineConfig, PrivacyPlan, RunFolder | None]:
    from privacy_pipeline.pipelines.reporting import audits

    if Path(name).is_file() or Path(name).suffix in (".yaml", ".yml"):
        config = load_config(Path(name), overrides=set_)
        return config, audits.plan_of_config(config), None
    folder = find_run(workspace.absolute(), name)
    plan = audits.plan_of_run(folder)
    return folder.read_spec().config, plan, folder
