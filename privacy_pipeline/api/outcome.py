"""What a run came to. Imports nothing that a run itself needs, so that stored runs are listed quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy_pipeline.api.record_rows import evaluation_text, metric_rows, metrics_of, privacy_cell, privacy_rows
from privacy_pipeline.errors import ExitCode, PipelineError
from privacy_pipeline.pictures.bar import bar
from privacy_pipeline.pictures.fragment import fragment, new_name, paragraph, picture, table
from privacy_pipeline.pipelines.workspace.run_state import RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.reports.record.summary import RunSummary
from privacy_pipeline.text.shown_text import visible

if TYPE_CHECKING:
    from privacy_pipeline.accounting.record import Composition, PrivacyRecord


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run. A notebook shows its metrics and its privacy record as tables, and what its budgets hold as bars.

    Attributes:
        folder: its folder.
        state: its nodes, and how it ended.
        summary: metrics, verdict and privacy record; None for a run that made none.
        notes: what a person should know although it is not an error.
    """

    folder: RunFolder
    state: RunState
    summary: RunSummary | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: RunFolder) -> Run:
        """Return the run in a folder as it is now.

        Raises:
            BadInputError: the folder cannot be read.
        """
        return cls(folder=folder, state=folder.read_state(), summary=folder.read_summary())

    @property
    def run_id(self) -> str:
        """Its name."""
        return self.state.run_id

    @property
    def status(self) -> str:
        """How it ended: "done", "not_blessed", "failed", "interrupted", or "running"."""
        return self.state.status

    @property
    def blessed(self) -> bool:
        """Whether PrivacyGate let its model pass."""
        return self.summary is not None and self.summary.blessed

    @property
    def record(self) -> PrivacyRecord | None:
        """The privacy record; None for a run that made none."""
        return None if self.summary is None else self.summary.record

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics over the whole eval split, by name; empty for a run that made none."""
        return {} if self.summary is None else dict(self.summary.overall.metrics)

    def require_done(self) -> None:
        """Refuse a run that failed.

        Raises:
            RunFailedError: what the node reported, and the fix.
        """
        if self.state.failure is not None:
            raise RunFailedError(self)

    def __str__(self) -> str:
        """Return how it ended, and its guarantee."""
        made = "" if self.record is None else f"; guarantee {privacy_cell(self.record)}"
        failure = "" if self.state.failure is None else f"; {self.state.failure.message}"
        return visible(f"run {self.run_id}: {self.status}{made}{failure}")

    def _repr_html_(self) -> str:
        state, summary = self.state, self.summary
        told = paragraph(f"run {state.run_id}: {state.status}", bold=True)
        if state.failure is not None:
            return fragment(told, paragraph(state.failure.message), paragraph(state.failure.fix))
        if summary is None:
            return fragment(told, paragraph("it made no record: the requested part is done"))
        verdict = "blessed" if summary.blessed else f"not blessed: {'; '.join(summary.reasons)}"
        metrics = f"metrics are {evaluation_text(summary)}"
        return fragment(
            told,
            paragraph(verdict),
            table(metric_rows(summary), head=("slice", "rows", *metrics_of(summary)), caption=metrics),
            table(privacy_rows(summary.record), caption="privacy record"),
            *(_spent(one) for one in summary.record.compositions),
        )


class RunFailedError(PipelineError):
    """A run failed; `run` has its state. Continue it with `privacy-pipeline resume`.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        failure = run.state.failure
        super().__init__(
            f"run {run.run_id} failed: {failure.message if failure else run.status}",
            fix=(failure.fix if failure else "") or f"see {run.folder.log}",
        )
        self.run = run
        self.exit_code = ExitCode(failure.exit_code) if failure else ExitCode.ERROR


def _spent(one: Composition) -> str:
    """Return what counts against a budget with a run."""
    if one.epsilon_cap <= 0:
        return ""
    words = (f"{one.budget}: {one.epsilon_after:.3f} spent with this run", f"cap {one.epsilon_cap:.3f}")
    drawing = bar(
        name=new_name("run"),
        title="Budget with this run",
        description=f"{words[0]} (RDP); {words[1]} at delta {one.delta:.0e}.",
        cap=one.epsilon_cap,
        spent=one.epsilon_before,
        words=words,
        added=max(0.0, one.epsilon_after - one.epsilon_before),
    )
    return picture(drawing)
