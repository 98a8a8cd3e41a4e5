"""`runs`, `show` and `diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_pipeline.cli.output import err, errors_as_exit_codes, out, print_json, print_report, print_run, print_table
from privacy_pipeline.cli.parameters import AsJson, AsMarkdown, WorkspacePath
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from privacy_pipeline.pipelines.workspace.run_state import RunState
    from privacy_pipeline.reports.record.summary import RunSummary

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Run id, a prefix of it, or a pipeline (its newest run).")]


def runs(
    workspace: WorkspacePath = Path("workspace"), as_json: AsJson = False, as_markdown: AsMarkdown = False
) -> None:
    """List all runs with their utility and privacy."""
    from privacy_pipeline.cli.tables import runs_table

    with errors_as_exit_codes(as_json=as_json):
        rows = _rows(workspace)
        if as_json:
            print_json([_row(state, summary) for state, summary in rows])
        elif rows:
            print_table(runs_table(rows), as_markdown=as_markdown)
        else:
            out.print(f"no runs in {escape(str(workspace))}; start one: privacy-pipeline run CONFIG", soft_wrap=True)


def _rows(workspace: Path) -> list[tuple[RunState, RunSummary | None]]:
    from privacy_pipeline.pipelines.workspace.workspace import run_folders

    rows = []
    for folder in run_folders(workspace.absolute()):
        try:
            rows.append((folder.read_state(), folder.read_summary()))
        except BadInputError as error:  # one broken folder must not hide the other runs
            err.print(f"[yellow]left out:[/] {escape(error.message)}", soft_wrap=True)
    return rows


def _row(state: RunState, summary: RunSummary | None) -> dict[str, object]:
    from privacy_pipeline.reports.record.properties import metric_properties

    empty = dict.fromkeys(("accuracy", "auc", "epsilon", "delta", "unit", "relation", "accountant"))
    found = metric_properties(summary) if summary else {}
    if summary and summary.record.guarantee is not None:
        found["delta"] = summary.record.guarantee.delta  # ML Metadata holds it rounded up
    head = {
        "run_id": state.run_id,
        "pipeline": state.pipeline,
        "backend": state.backend,
        "status": state.status,
        "started": state.started,
        "ended": state.ended,
        "cached_from": state.cached_from,
        "pruned": state.pruned,
    }
    return empty | found | head


def show(
    name: RunName,
    workspace: WorkspacePath = Path("workspace"),
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Show one run: nodes, metrics, slices, privacy record, files."""
    from privacy_pipeline.cli.commands.audit_commands import attacks_table, audits_table
    from privacy_pipeline.cli.live import node_text
    from privacy_pipeline.cli.tables import privacy_table, run_table
    from privacy_pipeline.pipelines.reporting import audits, membership
    from privacy_pipeline.pipelines.workspace.workspace import find_run

    with errors_as_exit_codes(as_json=as_json):
        folder = find_run(workspace.absolute(), name)
        state, summary = folder.read_state(), folder.read_summary()
        audited, attacked = audits.of_run(folder), membership.stored(folder)
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
    from privacy_pipeline.cli.export import to_svg
    from privacy_pipeline.cli.tables import diff_table
    from privacy_pipeline.files.atomic import write_atomically

    with errors_as_exit_codes(as_json=as_json):
        a, b = _summary(workspace, left), _summary(workspace, right)
        if as_json:
            print_json({"left": a.model_dump(mode="json"), "right": b.model_dump(mode="json")})
            return
        table = diff_table(a, b)
        if svg is not None:
            write_atomically(path=svg, text=to_svg(table))
        print_table(table, as_markdown=as_markdown)
        if a.record.guarantee and b.record.guarantee and a.record.privacy_class != b.record.privacy_class:
            out.print("[yellow]unit or relation differ: the two epsilons cannot be compared[/]")


def _summary(workspace: Path, name: str) -> RunSummary:
    from privacy_pipeline.pipelines.workspace.workspace import find_run

    folder = find_run(workspace.absolute(), name)
    summary = folder.read_summary()
    if summary is None:
        raise BadInputError(
            f"run {folder.run_id} has no metrics yet ({folder.read_state().status})",
            fix=f"privacy-pipeline show {folder.run_id}",
        )
    return summary
