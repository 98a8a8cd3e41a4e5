"""`runs`, `show` and `diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.cli.output import err, errors_as_exit_codes, out, print_json, print_report, print_run, print_table
from privacy_pipeline.cli.parameters import AsJson, AsMarkdown, WorkspacePath
from privacy_pipeline.cli.shown import escape

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Run id, a prefix of it, or a pipeline (its newest run).")]


def runs(
    workspace: WorkspacePath = Path("workspace"), as_json: AsJson = False, as_markdown: AsMarkdown = False
) -> None:
    """List all runs with their utility and privacy."""
    from privacy_pipeline.api import runs as api
    from privacy_pipeline.cli.tables import runs_table

    with errors_as_exit_codes(as_json=as_json):
        found = api.runs(workspace)
        for why in found.left_out:
            err.print(f"[yellow]left out:[/] {escape(why)}", soft_wrap=True)
        if as_json:
            print_json(found.to_json())
        elif found:
            print_table(runs_table(found), as_markdown=as_markdown)
        else:
            out.print(f"no runs in {escape(str(workspace))}; start one: privacy-pipeline run CONFIG", soft_wrap=True)


def show(
    name: RunName,
    workspace: WorkspacePath = Path("workspace"),
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Show one run: nodes, metrics, slices, privacy record, files."""
    from privacy_pipeline.api import runs as api
    from privacy_pipeline.cli.audit_tables import attacks_table, audits_table
    from privacy_pipeline.cli.live import node_text
    from privacy_pipeline.cli.tables import privacy_table, run_table
    from privacy_pipeline.pipelines.reporting import readings

    with errors_as_exit_codes(as_json=as_json):
        found = api.find(name, workspace=workspace)
        folder, state, summary = found.folder, found.state, found.summary
        audited, attacked = readings.audits_of(folder), readings.attacks_of(folder)
    if as_json:
        print_run(state, summary, audits=audited, attacks=attacked)
        return
    if as_markdown and summary:
        print_table(run_table(summary), as_markdown=True)
        print_table(privacy_table(summary.record), as_markdown=True)
        if audited:
            print_table(audits_table(audited), as_markdown=True)
        return
    out.print(f"run [bold]{state.run_id}[/], {state.status}, {state.started} to {state.ended or '-'}")
    if state.was_pruned:
        out.print(f"[yellow]{escape(state.was_pruned)}[/]", soft_wrap=True)
    for node_name, node in state.nodes.items():
        seconds = "" if node.seconds is None else f"{node.seconds:.1f} s"
        text = node_text(node_name, node)
        out.print(f"  {node_name:<17} {node.status:<8} {seconds:>8}  [dim]{escape(text)}[/]", soft_wrap=True)
    if state.failure:
        out.print(f"[red]{escape(state.failure.message)}[/]", soft_wrap=True)
    if summary:
        out.print(run_table(summary))
        out.print(privacy_table(summary.record))
        if audited:
            out.print(audits_table(audited))
        if attacked:
            out.print(attacks_table(attacked))
        verdict = "[green]blessed[/]" if summary.blessed else f"[red]not blessed[/]: {'; '.join(summary.reasons)}"
        out.print(f"{verdict}\nmodel {escape(summary.model_uri)}", soft_wrap=True)
    print_report(state)
    if not state.pruned:
        out.print(f"[dim]log {escape(str(folder.log))}[/]", soft_wrap=True)


def diff(
    left: RunName,
    right: RunName,
    workspace: WorkspacePath = Path("workspace"),
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table as a picture.")] = None,
) -> None:
    """Compare two runs: utility and privacy side by side."""
    from privacy_pipeline.api import runs as api
    from privacy_pipeline.cli.export import to_svg
    from privacy_pipeline.cli.tables import diff_table
    from privacy_pipeline.files.atomic import write_atomically

    with errors_as_exit_codes(as_json=as_json):
        a, b = (api.summary_of(name, workspace=workspace) for name in (left, right))
        if as_json:
            print_json({"left": a.model_dump(mode="json"), "right": b.model_dump(mode="json")})
            return
        table = diff_table(a, b)
        if svg is not None:
            write_atomically(path=svg, text=to_svg(table))
        print_table(table, as_markdown=as_markdown)
        if a.record.guarantee and b.record.guarantee and a.record.privacy_class != b.record.privacy_class:
            out.print("[yellow]unit or relation differ: the two epsilons cannot be compared[/]")
