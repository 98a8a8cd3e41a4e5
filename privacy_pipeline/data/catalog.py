"""Datasets that the framework can write without a download."""

from __future__ import annotations

from dataclasses import dataclass

from privacy_pipeline.data import adult


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One dataset as `data list` shows it."""

    name: str
    what: str
    rows: int
    unit: str
    licence: str
    command: str


def available() -> tuple[CatalogEntry, ...]:
    """All datasets, by name."""
    return (
        CatalogEntry(
            name=adult.NAME,
            what="UCI Adult: 1994 US census, is a person's income above 50,000 dollars",
            rows=adult.ROWS,
            unit="row (one person each)",
            licence=adult.LICENCE,
            command="privacy-pipeline data adult",
        ),
    )
