"""Audits and attacks that a run's folder holds, read without what makes them."""

from __future__ import annotations

from typing import Any

from privacy_pipeline.pipelines.workspace.workspace import RunFolder

AUDITS, ATTACKS = "audits.json", "attacks.json"
Reading = dict[str, Any]


def later_audits_of(folder: RunFolder) -> list[Reading]:
    """Return the audits of a run that were made after it, oldest first.

    Raises:
        BadInputError: the file cannot be read.
    """
    return folder.read_list(AUDITS)


def audits_of(folder: RunFolder) -> list[Reading]:
    """Return all audits of a run: those in its record, then those that were made after it.

    Raises:
        BadInputError: the file cannot be read.
    """
    summary = folder.read_summary()
    recorded = summary.record.audits if summary is not None else []
    return [*(entry for entry in recorded if isinstance(entry, dict)), *later_audits_of(folder)]


def attacks_of(folder: RunFolder) -> list[Reading]:
    """Return the latest readings of membership attacks on a run.

    Raises:
        BadInputError: the file cannot be read.
    """
    return folder.read_list(ATTACKS)
