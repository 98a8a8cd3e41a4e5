"""Gather what a dataset's report is made from: the ledger, and every run in the given workspaces. Imports no TFX."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.nodes import DP_EVALUATOR, DP_STATISTICS, TRAINER, TRANSFORM
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, run_folders

if TYPE_CHECKING:
    from privacy_pipeline.reports.dataset.evidence import Evidence, UnrecordedRun
    from privacy_pipeline.reports.dataset.facts import ReportFacts
    from privacy_pipeline.reports.record.summary import RunSummary

# Nodes that read rows, or data made from single rows, and leave files in the workspace.
_READ_DATA = (
    "ExampleGen",
    "StatisticsGen",
    "ExampleValidator",
    DP_STATISTICS,
    TRANSFORM,
    TRAINER,
    "Evaluator",
    DP_EVALUATOR,
)


def evidence(
    dataset: str,
    *,
    ledger: str,
    workspaces: Iterable[Path],
    facts: ReportFacts | None = None,
    accepted: Collection[str] = (),
    left_out: Callable[[str], None] = lambda _: None,
) -> Evidence:
    """Return everything that a report on a dataset is made from, as of now.

    Args:
        dataset: registered name.
        ledger: SQLAlchemy URL of the ledger.
        workspaces: folders with runs.
        facts: the curator's facts.
        accepted: ids of keys that replaced a lost one and that a person has checked.
        left_out: called with the reason for each run folder that cannot be read; the report names them.

    Raises:
        BadInputError: there is no ledger, or the dataset is not registered in it.
        LedgerError: the ledger does not verify, or lacks a charge for which a run's record has a receipt.
    """
    from privacy_pipeline.ledger.audit.receipts import receipts_in
    from privacy_pipeline.pipelines.workspace.experiments import experiments
    from privacy_pipeline.reports.dataset.evidence import Evidence, read_ledger
    from privacy_pipeline.reports.dataset.facts import ReportFacts

    runs: list[RunSummary] = []
    unreadable: list[str] = []
    unrecorded: list[UnrecordedRun] = []
    roots = [root.absolute() for root in workspaces]
    for folder in (folder for root in roots for folder in run_folders(root)):
        try:
            summary = folder.read_summary()
            without = _unrecorded(folder, dataset) if summary is None else None
        except BadInputError as error:
            unreadable.append(folder.run_id)
            left_out(error.message)
            continue
        if summary is not None and summary.record.dataset == dataset:
            runs.append(summary)
        if without is not None:
            unrecorded.append(without)
    for one in (one for root in roots for one in experiments(root)):
        try:
            if one.dataset() != dataset:
                continue
            summary = one.summary()
            without = one.without_record() if summary is None else None
        except BadInputError as error:
            unreadable.append(one.name)
            left_out(error.message)
            continue
        runs += [summary] if summary is not None else []
        unrecorded += [without] if without is not None else []
    receipts = [receipt for run in runs for receipt in receipts_in(run.model_dump(mode="json"))]
    return Evidence(
        dataset=dataset,
        ledger=read_ledger(ledger, dataset, receipts=receipts, accepted=accepted),
        runs=sorted(runs, key=lambda summary: summary.run_id),
        unreadable=unreadable,
        unrecorded=sorted(unrecorded, key=lambda run: run.run_id),
        facts=facts or ReportFacts(),
        generated=datetime.now(timezone.utc).date().isoformat(),
    )


def _unrecorded(folder: RunFolder, dataset: str) -> UnrecordedRun | None:
    """Return a run without a record, if it is on the dataset and one of its nodes read the data."""
    from privacy_pipeline.reports.dataset.evidence import UnrecordedRun

    if folder.read_spec().config.dataset.name != dataset:
        return None
    state = folder.read_state()
    executed = ("done", "running", "failed")  # a node that was served from cache made nothing new
    nodes = [name for name in _READ_DATA if name in state.nodes and state.nodes[name].status in executed]
    return UnrecordedRun(run_id=folder.run_id, status=state.status, nodes=nodes) if nodes else None
