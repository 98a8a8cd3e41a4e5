"""Receipts from the privacy records of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from privacy_pipeline.accounting.journal import Receipt
from privacy_pipeline.errors import BadInputError

_NAMES = ("privacy_record.json", "summary.json")


def read_receipts(paths: Sequence[Path]) -> list[Receipt]:
    """Receipts in record files, in summaries of runs, and in all of them below folders.

    Args:
        paths: files (`privacy_record.json`, or a run's `summary.json`) and folders.

    Raises:
        BadInputError: a file cannot be read or holds no receipt, or a folder holds none.
    """
    found: list[Receipt] = []
    for path in paths:
        if path.is_dir():
            inside = [receipt for file in _files(path) if (receipt := _receipt(file)) is not None]
            if not inside:
                raise BadInputError(f"{path}: no privacy record with a receipt is in this folder")
            found += inside
            continue
        receipt = _receipt(path)
        if receipt is None:
            raise BadInputError(f"{path}: holds no receipt", fix="records of runs before ledger format 3 have none")
        found.append(receipt)
    return sorted(set(found), key=lambda receipt: (receipt.seq, receipt.hash))


def _files(folder: Path) -> Iterator[Path]:
    for name in _NAMES:
        yield from sorted(folder.rglob(name))


def _receipt(path: Path) -> Receipt | None:
    """The receipt in a file; None where it is of a run that charged nothing, or of an older version."""
    try:
        document: Any = json.loads(path.read_text())
        record = document.get("record", document)
        composition = record.get("composition") or {}
        if composition.get("journal_seq") is None:
            return None
        seq, digest, key_id = (composition[name] for name in ("journal_seq", "journal_hash", "key_id"))
        return Receipt(seq=int(seq), hash=str(digest), key_id=str(key_id))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path}: no privacy record can be read: {error}") from error
