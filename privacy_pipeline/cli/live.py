"""One live line for each node of a run."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from privacy_pipeline.cli.shown import escape
from privacy_pipeline.pipelines.execution import events
from privacy_pipeline.pipelines.nodes import CHARGING, NODES, nodes_of
from privacy_pipeline.pipelines.workspace.run_state import NodeState, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.text.typed import typed

_MARKS = {
    "waiting": "[dim]·[/]",
    "running": "[cyan]>[/]",
    "done": "[green]✓[/]",
    "cached": "[green]=[/]",
    "failed": "[red]✗[/]",
    "skipped": "[dim]-[/]",
}


def node_text(name: str, node: NodeState) -> str:
    """Return the text behind a node's name."""
    if node.status == "cached":
        spent = "; spends no budget" if name in CHARGING else ""
        return f"cached{spent}" + (f" ({node.detail})" if node.detail else "")
    return node.detail


def resume_command(folder: RunFolder) -> str:
    """Return the command that continues a run."""
    root = folder.path.parent.parent
    option: list[str | Path] = [] if root == Path("workspace").absolute() else ["--workspace", root]
    return typed("resume", folder.run_id, *option)


class RunView:
    """Shows a run's progress: redrawn in a terminal, one line for each finished node elsewhere."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._began = time.monotonic()
        self._node_began: dict[str, float] = {}
        self._progress: dict[str, str] = {}
        self._state: RunState | None = None
        self._loaded = False
        self._folder: RunFolder | None = None
        self._order: tuple[str, ...] = NODES
        self._live = Live(self, console=console, refresh_per_second=5, transient=False)

    def __enter__(self) -> RunView:
        return self

    def start(self, folder: RunFolder) -> None:
        """Print the run and its log, and begin to show its nodes."""
        self._folder = folder
        self._order = nodes_of(folder.read_spec().config)
        if self._quiet:
            return
        where = f"run [bold]{folder.run_id}[/]  [dim]log {escape(str(folder.log))}[/]"
        self._console.print(where, soft_wrap=True)
        if self._animated:
            self._live.start()
        else:
            self._console.print("  starting TFX ...")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._animated:
            self._live.stop()

    def resume_command(self) -> str:
        """Return the command that continues the run; "" before it was started."""
        return resume_command(self._folder) if self._folder else ""

    @property
    def _animated(self) -> bool:
        return self._console.is_terminal and not self._quiet

    def on_event(self, event: events.Event, state: RunState) -> None:
        """Handle one event of the worker."""
        self._state = state
        if isinstance(event, events.Loaded):
            self._loaded = True
        elif isinstance(event, events.NodeStarted):
            self._node_began[event.node] = time.monotonic()
        elif isinstance(event, events.Progress):
            self._progress[event.node] = f"{event.done:,} of {event.total:,} {event.unit}"
        if not self._animated and not self._quiet:
            self._print_line(event, state)

    def _print_line(self, event: events.Event, state: RunState) -> None:
        if isinstance(event, events.Loaded):
            self._console.print(f"  TFX ready after {event.seconds:.1f} s")
        elif isinstance(event, (events.NodeEnded, events.NodeFailed)) and event.node:
            node = state.nodes[event.node]
            seconds = "" if node.seconds is None else f"{node.seconds:.1f} s"
            text = "failed" if node.status == "failed" else node_text(event.node, node)
            self._console.print(
                f"  {_MARKS[node.status]} {event.node:<17} {seconds:>8}  {escape(text)}", soft_wrap=True
            )

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        if not self._loaded:
            table.add_row("", "[cyan]starting TFX[/]", f"{now - self._began:.0f} s", "")
        nodes = self._state.nodes if self._state else {}
        for name in self._order:
            node = nodes.get(name, NodeState())
            text = node_text(name, node)
            seconds = "" if node.seconds is None else f"{node.seconds:.1f} s"
            if node.status == "running":
                seconds = f"{now - self._node_began.get(name, now):.0f} s"
                text = self._progress.get(name, "")
            if node.status == "failed":
                text = "failed"
            table.add_row(_MARKS[node.status], name, seconds, f"[dim]{escape(text)}[/]")
        return table
