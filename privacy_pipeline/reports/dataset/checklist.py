"""The 21 points that a report on differential privacy must address, each answered or marked as not known.

After the OpenDP Deployments Registry's record, NIST SP 800-226 and "How to DP-fy ML" (Ponomareva et al. 2023, section
5.3.3), with composition over runs, assurance and integrity added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from privacy_pipeline.reports.dataset import points_assurance as assurance
from privacy_pipeline.reports.dataset import points_definition as definition
from privacy_pipeline.reports.dataset.dataset_report import (
    BudgetView,
    Point,
    RunView,
    SpanView,
    UnprotectedView,
    UnrecordedView,
)
from privacy_pipeline.reports.dataset.facts import ReportFacts
from privacy_pipeline.reports.dataset.statements import Material
from privacy_pipeline.reports.figures import Quote, Statement

Status = Literal["answered", "partly", "not known"]

POINTS: tuple[tuple[str, str, Callable[[Material], list[Statement]]], ...] = (
    ("Identity", "Product, curator, use, region, date", definition.product),
    ("Identity", "Runs, code, libraries and data", definition.versions),
    ("Definition", "Variant of differential privacy", definition.variant),
    ("Definition", "Privacy unit and neighbouring relation", definition.unit),
    ("Definition", "Parameters", definition.parameters),
    ("Definition", "Data domain and unprotected quantities", definition.domain),
    ("Trust and scope", "Deployment model, actors and trust", definition.trust),
    ("Trust and scope", "Data accesses covered and not covered", definition.scope),
    ("Trust and scope", "What is released", definition.released),
    ("Trust and scope", "One or many releases, static or dynamic data, interactive or not", definition.release_pattern),
    ("Accounting", "Mechanism and parameters as executed", assurance.mechanism),
    ("Accounting", "Accountant and its settings", assurance.accountant),
    ("Accounting", "Assumptions, and whether each held", assurance.assumptions),
    ("Accounting", "Composition over all runs", assurance.composition),
    ("Accounting", "Tuning", assurance.tuning),
    ("Accounting", "Post-processing", assurance.post_processing),
    ("Implementation and assurance", "Noise source, side channels, access to raw data", assurance.noise_source),
    ("Implementation and assurance", "Evidence: audits", assurance.evidence),
    ("Implementation and assurance", "Justification and review", assurance.justification),
    ("Implementation and assurance", "Plain-language reading and limitations", assurance.limitations),
    ("Implementation and assurance", "Integrity", assurance.integrity),
)


def checklist(
    *,
    facts: ReportFacts,
    spans: Sequence[SpanView],
    budgets: Sequence[BudgetView],
    runs: Sequence[RunView],
    unreadable: Sequence[Quote],
    unrecorded: Sequence[UnrecordedView],
    unprotected: Sequence[UnprotectedView],
    key_lost: bool,
) -> list[Point]:
    """Return all points with their statements."""
    material = Material(
        facts=facts,
        spans=spans,
        budgets=budgets,
        runs=runs,
        unreadable=unreadable,
        unrecorded=unrecorded,
        unprotected=unprotected,
        key_lost=key_lost,
    )
    points = []
    for number, (group, title, answer) in enumerate(POINTS, start=1):
        statements = answer(material)
        points.append(Point(number=number, group=group, title=title, status=_status(statements), statements=statements))
    return points


def _status(statements: Sequence[Statement]) -> Status:
    known = [statement.known for statement in statements]
    if all(known):
        return "answered"
    return "partly" if any(known) else "not known"
