"""Files and folders that pruning a run removes, and the values that it removes from the files that stay."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from privacy_pipeline.pipelines.reporting import readings, run_report
from privacy_pipeline.pipelines.workspace.run_state import RunSpec, RunState
from privacy_pipeline.pipelines.workspace.workspace import (
    RUN_NAME,
    SPEC_FILE,
    STATE_FILE,
    SUMMARY_FILE,
    RunFolder,
    is_held,
)
from privacy_pipeline.reports.record.summary import RunSummary

# Files of a run's folder that stay. Everything else in it goes, also files that a later version keeps there.
_KEPT = (STATE_FILE, SPEC_FILE, SUMMARY_FILE, readings.AUDITS, run_report.FOLDER, "lock")
_OVERALL = "overall"
_REMOVED = "(removed when the run was pruned)"
_READING = (".reading", "federated/.reading")  # copies of data while they are read; each has a lock
_STALE_SECONDS = 3600.0  # a folder without a state that is older is left from a killed start


def of_run(folder: RunFolder) -> list[Path]:
    """Return the files of a run's folder to remove: its log, attacks, and partial files."""
    return sorted(path for path in folder.path.iterdir() if path.name not in _KEPT)


def never_begun(root: Path) -> list[Path]:
    """Return the folders of runs that were killed before they had a state."""
    runs = root / "runs"
    found = (
        [path for path in runs.iterdir() if path.is_dir() and RUN_NAME.fullmatch(path.name)] if runs.is_dir() else []
    )
    now = time.time()
    return sorted(p for p in found if not (p / STATE_FILE).exists() and now - p.stat().st_mtime > _STALE_SECONDS)


def copies_left(root: Path) -> list[Path]:
    """Return copies of data that killed processes left: those that no process holds any more."""
    found = [path for place in _READING for path in sorted((root / place).glob("*")) if path.is_dir()]
    return [path for path in found if not is_held(path / "lock")]


def all_but(folder: Path, kept: Collection[Path]) -> list[Path]:
    """Return the fewest paths that cover everything below a folder except what is kept.

    Links are not followed.
    """
    if not folder.is_dir():
        return []
    around = {parent for path in kept for parent in path.parents}
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda one: one.name):
            path = Path(entry.path)
            if path in kept:
                continue
            if path in around and entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            else:
                found.append(path)
    return found


def size_of(path: Path) -> int:
    """Return the bytes of all files below a path; links count as themselves."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size if path.is_symlink() or path.exists() else 0
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(path) for name in names)


def scrub(folder: RunFolder, state: RunState, spec: RunSpec) -> None:
    """Remove from a run's own files what may be values of rows.

    These are messages and details of nodes; metrics by slice, whose names are values; and the columns' public ranges
    and domains and the positive class, which `init` reads off the data.

    Args:
        folder: the run.
        state: its state, which this function changes and the caller writes.
        spec: its spec.
    """
    for node in state.nodes.values():
        node.detail = ""
    if state.failure is not None:
        state.failure.message, state.failure.fix = _REMOVED, ""
    summary = folder.read_summary()
    if summary is not None:
        folder.write_summary(_without_values(summary))
    original = folder.read_spec()  # with the workspace as it was named
    dataset = original.config.dataset
    if dataset.positive_class is not None:
        dataset = dataset.model_copy(update={"positive_class": _REMOVED})
    config = original.config.model_copy(update={"dataset": dataset})
    folder.write_spec(original.model_copy(update={"features": None, "config": config}))


def _without_values(summary: RunSummary) -> RunSummary:
    noisy = summary.dp_evaluation
    if noisy is not None:
        noisy = noisy.model_copy(update={"slices": [part for part in noisy.slices if part.name == _OVERALL]})
    missed = [why for why in summary.reasons if why not in summary.budget_reasons]
    told = [f"{len(missed)} reason(s) that were removed when the run was pruned"] if missed else []
    return summary.model_copy(
        update={
            "slices": [summary.overall],
            "dp_evaluation": noisy,
            "evaluation_reasons": told if summary.evaluation_reasons else [],
            "reasons": [*told, *summary.budget_reasons],
        }
    )
