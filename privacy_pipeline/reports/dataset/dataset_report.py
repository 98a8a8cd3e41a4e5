"""The report on one dataset over all its runs, as versioned JSON. All other formats are made from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from privacy_pipeline.reports.dataset.facts import ReportFacts
from privacy_pipeline.reports.figures import Figure, Loss, Quote, ReportPart, Source, Statement
from privacy_pipeline.text.shown_text import throughout

SCHEMA_ID = "urn:privacy-pipeline:dataset-report:4"


class DeclarationView(ReportPart):
    """A declaration at registration about the people of a span, which nothing checks."""

    what: Literal["id_space", "distinct_rows"] = Field(description="keys, or rows, that belong to other people")
    id_space: Quote | None = Field(description="numbering that the keys belong to")
    reason: Quote


class SpanView(ReportPart):
    """One registered span. Counts are left out where the number of units is secret."""

    span: Quote
    digest: Quote
    registered: Quote
    contribution_bound: Figure
    splits: dict[str, tuple[Figure, Figure]] = Field(description="rows and units of each split")
    declared: list[DeclarationView] = Field(default=[])


class CurvePoint(ReportPart):
    """One (epsilon, delta) at which the guarantee holds."""

    epsilon: Figure
    delta: Figure


class Curve(ReportPart):
    """The delta-epsilon curve of all entries together."""

    accountant: Literal["PLD", "RDP"]
    points: list[CurvePoint]


class BurnPoint(ReportPart):
    """The budget right after one entry was reserved."""

    entry: Figure
    reserved: Quote
    spent: Loss
    left: Figure


class AttackReading(ReportPart):
    """Upper bound on an attack's true-positive rate, at one false-positive rate."""

    false_positive_rate: Figure
    true_positive_rate: Figure
    basis: str
    when: Literal["now", "cap"] = Field(description="after what was spent, or if the whole cap were spent")


class EntryView(ReportPart):
    """One ledger entry."""

    number: Figure
    run: Quote
    node: Quote
    attempt: Figure
    state: Quote
    reserved: Quote
    alone: Loss | None = Field(description="cost of this entry alone; None where it expired")
    overrun: bool


class ChangeView(ReportPart):
    """One journal record that changed the rules of a budget, or the signing key."""

    number: Figure
    at: Quote
    who: Quote | None = Field(description="who asked; None where the record does not name it")
    budget: Quote | None
    what: str
    cap: Loss | None = Field(description="the cap from here on")
    key: Quote | None = Field(description="the key that signs from here on")


class GroupReading(ReportPart):
    """The same budget for a group: a person with that many rows, where the unit is a row."""

    size: Figure
    proven: Loss = Field(description="whatever was seen before a run was chosen; delta grows with the group")
    fixed: Loss = Field(description="for runs fixed beforehand, at the cap's delta")


class BudgetView(ReportPart):
    """One budget: what it allows, what is spent, and what that means.

    `proven` is true whatever was seen before a run was chosen. `spent` is what the filter counts against the cap, and
    `left` the cap less `spent`. `best_order` and `pld` are tighter, for a set of runs that was fixed beforehand.
    """

    key: Quote
    split: Quote
    unit: Quote
    relation: Quote
    proven: Loss
    cap: Loss
    spent: Loss
    left: Figure
    used: Figure | None = Field(description="part of the room at the filter's order that the runs use; None: all")
    best_order: Loss
    simple_addition: Loss
    pld: Loss
    counted: Figure
    states: dict[str, Figure]
    overruns: Figure
    cap_changes: Figure
    delta_factor: Figure
    filter_order: Figure | None
    burn_down: list[BurnPoint]
    curves: list[Curve]
    attack: list[AttackReading]
    groups: list[GroupReading] = Field(description="empty where nothing was spent")
    entries: list[EntryView]
    entries_left_out: Figure


class AuditView(ReportPart):
    """A measured lower bound beside the proven upper bound."""

    kind: Quote
    statement: Quote | None
    lower: Loss
    upper: Loss
    confidence: Figure
    contradiction: bool


class AccessView(ReportPart):
    """One use of the data in a run."""

    what: Quote
    covered: bool
    detail: Quote


class AssumptionView(ReportPart):
    """One assumption of a guarantee."""

    name: Quote
    held: bool
    detail: Quote


class MechanismView(ReportPart):
    """Mechanism and parameters as executed."""

    name: Quote
    sampler: Quote
    numbers: dict[str, Figure]
    rows: Quote | None = Field(default=None, description="whether examples are proven to stay apart")
    dp_event: JsonValue


class RunView(ReportPart):
    """One run: utility and privacy.

    `plain_digest` is true if its record, of an earlier version, holds the digest of its data uncovered; the digest is
    not repeated here. `marks` names what must not be overlooked, e.g. that the run has no guarantee. `receipt` states
    how the record and the ledger entries that it names agree. `spans` lists the spans of a run that read several, and
    `further_entries` the charges to further budgets. `threat_model` is that of encrypted inference, by aspect.
    """

    run: Quote
    trained_by: Quote
    created: Quote
    backend: Quote
    guarantee: Loss | None
    guarantee_rdp: Loss | None
    unit: Quote
    unit_in_words: Quote
    relation: Quote | None
    contribution_bound: Figure | None
    accountant: Quote | None
    inference_protection: Literal["none", "encrypted", "simulated"]
    threat_model: dict[str, Quote]
    seed_fixed: bool
    cached: bool
    blessed: bool
    generator: Quote
    cryptographic: bool
    metrics: dict[str, Figure]
    mechanism: MechanismView | None
    assumptions: list[AssumptionView]
    accesses: list[AccessView]
    audits: list[AuditView]
    unreadable_audits: Figure
    spans: list[Quote] = Field(description="empty where it read one span, or the dataset has none")
    entry: Figure | None
    further_entries: list[Figure]
    receipt: Literal["agrees", "differs", "missing", "none"]
    versions: dict[str, Quote]
    plain_digest: bool = False
    marks: list[str]


class UnrecordedView(ReportPart):
    """A run that read the data and left no record; its results are exact and not covered."""

    run: Quote
    status: Quote
    nodes: Quote


class UnprotectedView(ReportPart):
    """A run that claimed no guarantee, by the ledger's journal; the workspaces that were read do not hold it."""

    run: Quote
    backend: Quote
    who: Quote
    at: Quote


class Passage(ReportPart):
    """A few sentences of the first page under one title."""

    title: str
    statements: list[Statement]


class Point(ReportPart):
    """One point of the checklist."""

    number: int
    group: str
    title: str
    status: Literal["answered", "partly", "not known"]
    statements: list[Statement]


class DatasetReport(ReportPart):
    """What is known, and what is not known, about the privacy of one dataset over all its runs."""

    report_version: Literal[4] = 4
    dataset: Quote
    generated: Quote
    facts: ReportFacts
    first_page: list[Passage]
    spans: list[SpanView]
    budgets: list[BudgetView]
    changes: list[ChangeView]
    runs: list[RunView]
    unreadable_runs: list[Quote]
    unrecorded_runs: list[UnrecordedView] = Field(default=[])
    unprotected_runs: list[UnprotectedView] = Field(default=[])
    checklist: Annotated[list[Point], Field(min_length=21, max_length=21)]

    def visible(self) -> DatasetReport:
        """Return the same report with each invisible character spelled out."""
        held = self.model_dump()
        told = throughout(held)
        return self if told == held else DatasetReport.model_validate(told)


def of_facts(field: str) -> Source:
    """Source of a value of the facts file."""
    return Source(place="facts", field=f"report.{field}")
