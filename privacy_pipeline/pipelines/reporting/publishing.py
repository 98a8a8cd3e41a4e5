"""Write what may be published about a dataset, and nothing else: report, records of runs, entries of the ledger."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.ledger.audit.export import exported, to_json_lines
from privacy_pipeline.ledger.storage.digest_secret import covering
from privacy_pipeline.ledger.storage.schema import parse
from privacy_pipeline.reports import published
from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.dataset.schema import to_json
from privacy_pipeline.reports.render.html import to_html

if TYPE_CHECKING:
    from privacy_pipeline.reports.dataset.evidence import Evidence
    from privacy_pipeline.reports.record.summary import RunSummary

REPORT_HTML, REPORT_JSON, ENTRIES, HELD_BACK = "report.html", "report.json", "entries.jsonl", "held_back.json"
RUNS, SUMMARY = "runs", "summary.json"


def publish(found: Evidence, *, ledger: str, folder: Path, runs: Collection[str] = ()) -> list[Path]:
    """Write the files into a folder of their own.

    Args:
        found: what the dataset's report is made from.
        ledger: SQLAlchemy URL of the ledger.
        folder: the folder to write to; new, or empty.
        runs: ids of the runs whose records are written; all by default. The report covers all runs.

    Returns:
        The files.

    Raises:
        BadInputError: the folder is not empty, or a run is not one of the dataset's.
        LedgerError: the ledger cannot be read.
    """
    _require_empty(folder)
    chosen = _chosen(found.runs, runs)
    cover = covering(parse(ledger))
    runs_shown = [published.without_exact_metrics(summary) for summary in found.runs]
    report = dataset_report(dataclasses.replace(found, runs=runs_shown, ledger=published.without_names(found.ledger)))
    entries = [published.public_entry(row, cover=cover) for row in exported(ledger, dataset=found.dataset)]
    texts = {
        Path(REPORT_HTML): to_html(report),
        Path(REPORT_JSON): to_json(report),
        Path(ENTRIES): to_json_lines(entries),
        Path(HELD_BACK): _json(published.held_back()),
    }
    for summary in chosen:
        path = Path(RUNS, published.without_times(summary.run_id), SUMMARY)
        if path in texts:
            raise BadInputError(
                f"two runs are {path.parent.name} without their time of day", fix="publish them apart, by --run"
            )
        texts[path] = _json(published.public_summary(summary, cover=cover))
    for path, text in texts.items():
        write_atomically(path=folder / path, text=published.without_times(text))
    return [folder / path for path in texts]


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(
            f"{folder} is not an empty folder: its files would be handed on with what is published",
            fix="name a new folder",
        )


def _chosen(found: Sequence[RunSummary], wanted: Collection[str]) -> list[RunSummary]:
    known = {summary.run_id: summary for summary in found}
    for run in wanted:
        if run not in known:
            raise BadInputError(
                f"no run {run!r} with a record on this dataset in the workspaces",
                fix=f"one of {', '.join(known)}" if known else "name the workspace with --workspace",
            )
    return [known[run] for run in dict.fromkeys(wanted)] if wanted else list(found)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
