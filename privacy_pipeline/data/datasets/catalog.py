"""Datasets that the framework can write without a download."""

from __future__ import annotations

from dataclasses import dataclass

from privacy_pipeline.data.datasets import adult, panels


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
    """Return all datasets, by name."""
    return (
        CatalogEntry(
            name=adult.NAME,
            what="UCI Adult: 1994 US census, is a person's income above 50,000 dollars",
            rows=adult.ROWS,
            unit="row (one person each)",
            licence=adult.LICENCE,
            command="privacy-pipeline data adult",
        ),
        CatalogEntry(
            name=panels.NLSWORK.name,
            what="4,711 young women interviewed 1968-1988: is the wage above 5 dollars an hour",
            rows=panels.NLSWORK.rows,
            unit="key idcode (one woman, up to 15 rows)",
            licence=panels.NLSWORK.licence,
            command="privacy-pipeline data nlswork",
        ),
        CatalogEntry(
            name=panels.RANDHIE.name,
            what="RAND Health Insurance Experiment, 5,912 persons at 6 sites: any visit to a physician in the year",
            rows=panels.RANDHIE.rows,
            unit="key zper (one person, up to 5 rows)",
            licence=panels.RANDHIE.licence,
            command="privacy-pipeline data randhie",
        ),
    )
