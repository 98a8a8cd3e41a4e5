"""Audits and attacks of a run as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from privacy_pipeline.cli.shown import cell


def attacks_table(attacks: Sequence[Mapping[str, Any]]) -> Table:
    """Return membership-inference readings as a table."""
    table = Table(title="membership inference by the loss (empirical, no guarantee)", title_justify="left")
    table.add_column("slice")
    rates = list(attacks[0]["true_positive_rate_at"]) if attacks else []
    for column in ("AUC", "95 % interval", *(f"true positives at {float(rate):.0%} false" for rate in rates), "rows"):
        table.add_column(column, justify="right")
    for entry in attacks:
        low, high = entry["auc_interval"]
        table.add_row(
            cell(entry["slice"]),
            f"{entry['auc']:.3f}",
            f"{low:.3f} to {high:.3f}",
            *(f"{entry['true_positive_rate_at'][rate]:.1%}" for rate in rates),
            f"{entry['members']:,} and {entry['others']:,}",
        )
    return table


def audits_table(audits: Sequence[Mapping[str, Any]]) -> Table:
    """Return audits as a table: lower and upper bound side by side, with their delta."""
    table = Table(title="audits", title_justify="left")
    table.add_column("audit")
    for column in ("epsilon at least", "claimed at most", "delta", "confidence", "canaries", "right guesses"):
        table.add_column(column, justify="right")
    for entry in audits:
        bad = entry["lower_bound"] > entry["upper_bound"]
        lower = f"{entry['lower_bound']:.3f}"
        table.add_row(
            cell(str(entry["kind"])),
            f"[red]{lower}[/]" if bad else lower,
            f"{entry['upper_bound']:.3f}",
            f"{entry['delta']:.0e}",
            f"{entry['confidence']:g}",
            f"{entry['canaries']:,}",
            f"{entry['correct']:,} of {entry['guesses']:,}" if "correct" in entry else f"of {entry['guesses']:,}",
        )
    return table
