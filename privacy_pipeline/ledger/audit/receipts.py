"""Receipts from the privacy records of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value, read_bounded
from privacy_pipeline.ledger.storage.journal import Receipt

_LARGEST = 1 << 24  # bytes of a record
_NAMES = ("privacy_record.json", "dp_evaluation.json", "summary.json")


def read_receipts(paths: Sequence[Path]) -> list[Receipt]:
    """Return the receipts in record files, in summaries of runs, and in all such files below folders.

    Args:
        paths: files (`privacy_record.json`, `dp_evaluation.json`, or a run's `summary.json`) and folders.

    Raises:
        BadInputError: a file cannot be read or holds no receipt, or a folder holds none.
    """
    found: list[Receipt] = []
    for path in paths:
        if path.is_dir():
            inside = [receipt for file in _files(path) for receipt in _receipts(file)]
            if not inside:
                raise BadInputError(f"{path}: no privacy record with a receipt is in this folder")
            found += inside
            continue
        held = _receipts(path)
        if not held:
            raise BadInputError(f"{path}: holds no receipt", fix="records of runs before ledger format 3 have none")
        found += held
    return sorted(set(found), key=lambda receipt: (receipt.seq, receipt.hash))


def receipts_in(document: Any) -> list[Receipt]:
    """Return the receipts in a privacy record, a DP evaluation or a run's summary, as JSON values.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not one of these.
    """
    record, evaluation = document.get("record", document), document.get("dp_evaluation") or {}
    further = record.get("further_compositions") or []
    stamps = (record.get("composition"), *further, record.get("preprocessing"), evaluation.get("composition"))
    return [
        Receipt(seq=_whole(stamp["journal_seq"]), hash=str(stamp["journal_hash"]), key_id=str(stamp["key_id"]))
        for stamp in stamps
        if stamp and stamp.get("journal_seq") is not None
    ]


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
        raise ValueError(f"{number!r} is not the number of a journal record")
    return number


def _files(folder: Path) -> Iterator[Path]:
    for name in _NAMES:
        yield from sorted(folder.rglob(name))


def _receipts(path: Path) -> list[Receipt]:
    """Return the receipts in a file: of a training, of a DP evaluation. A run that was not charged has none."""
    try:
        return receipts_in(json_value(read_bounded(path, most=_LARGEST)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path}: no privacy record can be read: {error}") from error
