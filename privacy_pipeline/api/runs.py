"""The runs of a workspace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from privacy_pipeline.api.outcome import Run
from privacy_pipeline.api.record_rows import number, privacy_cell
from privacy_pipeline.api.targets import DEFAULT_WORKSPACE
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pictures.fragment import fragment, paragraph, table
from privacy_pipeline.pipelines.workspace.workspace import find_run, run_folders
from privacy_pipeline.reports.record.properties import metric_properties
from privacy_pipeline.reports.record.summary import RunSummary
from privacy_pipeline.tasks.registry import headlines
from privacy_pipeline.text.shown_text import visible


@dataclass(frozen=True, kw_only=True)
class Runs(Sequence[Run]):
    """The runs of a workspace, the oldest first. A notebook shows them as a table.

    Attributes:
        workspace: its folder.
        found: the runs.
        left_out: why run folders could not be read.
    """

    workspace: Path
    found: tuple[Run, ...]
    left_out: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Run, ...]: ...

    def __getitem__(self, index: int | slice) -> Run | tuple[Run, ...]:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.found)

    def find(self, name: str) -> Run:
        """Return a run by its id, by a prefix of it that no other run has, or by a pipeline's name (its newest run).

        Raises:
            BadInputError: no run, or more than one, fits.
        """
        return find(name, workspace=self.workspace)

    def to_json(self) -> list[dict[str, object]]:
        """Return plain values for scripts."""
        return [_row(run) for run in self.found]

    def __str__(self) -> str:
        """Return a line for each run."""
        left_out = [f"left out: {why}" for why in self.left_out]
        lines = [*map(str, self.found), *left_out] if self.found else [f"no runs in {self.workspace}", *left_out]
        return "\n".join(map(visible, lines))

    def _repr_html_(self) -> str:
        left_out = [paragraph(f"left out: {why}") for why in self.left_out]
        if not self.found:
            return fragment(paragraph(f"no runs in {self.workspace}"), *left_out)
        head, rows = runs_rows(self.found)
        return fragment(table(rows, head=head, caption="runs, newest last"), *left_out)


def runs(workspace: str | os.PathLike[str] = DEFAULT_WORKSPACE) -> Runs:
    """Return all runs of a workspace with their utility and privacy.

    >>> import privacy_pipeline as pp
    >>> len(pp.runs("workspace"))
    0

    Args:
        workspace: the folder, as in the config.
    """
    found, left_out = [], []
    for folder in run_folders(Path(workspace).absolute()):
        try:
            found.append(Run.of(folder))
        except BadInputError as error:  # one broken folder must not hide the other runs
            left_out.append(error.message)
    return Runs(workspace=Path(workspace), found=tuple(found), left_out=tuple(left_out))


def find(name: str, *, workspace: Path) -> Run:
    """Return a run of a workspace; see `Runs.find`.

    Raises:
        BadInputError: no run, or more than one, fits, or its folder cannot be read.
    """
    return Run.of(find_run(workspace.absolute(), name))


def summary_of(name: str, *, workspace: Path) -> RunSummary:
    """Return the summary of a run.

    Raises:
        BadInputError: as for `find`; or the run has none.
    """
    folder = find_run(workspace.absolute(), name)
    summary = folder.read_summary()
    if summary is None:
        raise BadInputError(
            f"run {folder.run_id} has no metrics yet ({folder.read_state().status})",
            fix=f"privacy-pipeline show {folder.run_id}",
        )
    return summary


def runs_rows(found: Iterable[Run]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the head and the rows of a table of runs. Of metrics it has those of the runs' tasks."""
    found = list(found)
    have = {metric for run in found for metric in run.metrics}
    metrics = [metric for metric in headlines() if metric in have]
    head = ("run", "pipeline", "backend", "status", *metrics, "guarantee", "unit")
    return head, [_cells(run, metrics) for run in found]


def _cells(run: Run, metrics: Sequence[str]) -> tuple[str, ...]:
    state, summary = run.state, run.summary
    return (
        state.run_id,
        state.pipeline,
        state.backend,
        state.status + (" (cached)" if state.cached_from else "") + (" (pruned)" if state.pruned else ""),
        *(number(run.metrics.get(metric)) for metric in metrics),
        privacy_cell(summary.record) if summary else "-",
        summary.record.unit if summary else "-",
    )


def _row(run: Run) -> dict[str, object]:
    state, summary = run.state, run.summary
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
