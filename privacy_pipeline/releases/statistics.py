"""DP statistics of the training split: ranges and vocabularies where no public ones are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.record import Composition
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.registration import TRAIN, Registration
from privacy_pipeline.releases import estimates, histograms
from privacy_pipeline.releases.queries import Histogram, Query, Vocabulary
from privacy_pipeline.releases.release import Noisy, Release, registered_release

KIND, PURPOSE = "dp_statistics", "preprocess"
MOST_VALUES = 100  # of a vocabulary


class DpStatistics(BaseModel):
    """What was released of the training split, and what it costs its units.

    Attributes:
        ranges: of each numeric column, the outermost powers of two between which values stand out of the noise.
        vocabularies: the most frequent values of each categorical column, most frequent first.
        epsilon, delta: of all of it together, by RDP.
        event: the DpEvent that was charged.
        ledger_entry: the entry that paid.
        composition: the release among all that the ledger holds for the budget, with the receipt of its commit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    ranges: dict[str, tuple[float, float]]
    vocabularies: dict[str, tuple[str, ...]]
    unit: str
    contribution_bound: int
    relation: str
    units: int | None
    epsilon: float
    delta: float
    accountant: Literal["rdp"] = "rdp"
    event: JsonValue
    budget: str
    ledger_entry: int
    composition: Composition | None = None


def statistics_release(
    columns: Sequence[Column], *, registration: Registration, epsilon: float, delta: float
) -> Release | None:
    """Return what has to be asked so that every column has a range or a domain; None where all have one.

    Args:
        columns: the model's columns; those without range or domain are asked for, and share the budget evenly.
        registration: the registered dataset.
        epsilon: epsilon of the whole release.
        delta: its delta.

    Raises:
        BadInputError: the numbers are out of range.
    """
    edges = histograms.logarithmic_edges()
    queries: list[Query] = [
        Histogram(name=column.name, column=column.name, edges=edges)
        if column.kind == "numeric"
        else Vocabulary(name=column.name, column=column.name)
        for column in columns
        if column.is_unknown
    ]
    if not queries:
        return None
    return registered_release(
        queries,
        kind=KIND,
        registration=registration,
        split=TRAIN,
        epsilon=epsilon,
        delta=delta,
    )


def statistics_of(release: Release, answers: Mapping[str, Noisy], *, budget: str, ledger_entry: int) -> DpStatistics:
    """Return ranges and vocabularies from the noisy answers. Post-processing: a refusal reveals no more than they do.

    Args:
        release: what was asked.
        answers: noisy answers by name of the query.
        budget: key of the budget that paid.
        ledger_entry: the entry that paid.

    Raises:
        BadInputError: nothing of a column stands out of the noise; the release is spent.
    """
    ranges, vocabularies = {}, {}
    for name, answer in answers.items():
        if isinstance(answer.query, Histogram):
            found = histograms.value_range(answer)
            if found is None or not found[0] < found[1]:
                raise _nothing(name, "range")
            ranges[name] = found
        else:
            vocabularies[name] = estimates.vocabulary(answer, most=MOST_VALUES)
            if not vocabularies[name]:
                raise _nothing(name, "value")
    plan = release.plan
    return DpStatistics(
        ranges=ranges,
        vocabularies=vocabularies,
        unit=plan.unit,
        contribution_bound=plan.contribution_bound,
        relation=plan.relation.value,
        units=plan.units,
        epsilon=plan.epsilon,
        delta=plan.delta,
        event=events.to_json(plan.event),
        budget=budget,
        ledger_entry=ledger_entry,
    )


def filled(columns: Sequence[Column], statistics: DpStatistics) -> tuple[Column, ...]:
    """Return the columns with the released ranges and vocabularies; what is public stays as it is.

    Args:
        columns: the model's columns.
        statistics: what was released.

    Raises:
        BadInputError: a column has no range or domain, and none was released.
    """
    return tuple(_filled(column, statistics) if column.is_unknown else column for column in columns)


def filled_plan(plan: FeaturePlan, statistics: DpStatistics) -> FeaturePlan:
    """Return the feature plan with the released ranges and vocabularies.

    Args:
        plan: the plan of the public schema.
        statistics: what was released.

    Raises:
        BadInputError: a column has no range or domain, and none was released.
    """
    return plan.model_copy(update={"columns": filled(plan.columns, statistics)})


def _filled(column: Column, statistics: DpStatistics) -> Column:
    if column.kind == "categorical" and column.name in statistics.vocabularies:
        return column.model_copy(update={"domain": statistics.vocabularies[column.name]})
    if column.kind == "numeric" and column.name in statistics.ranges:
        minimum, maximum = statistics.ranges[column.name]
        return column.model_copy(update={"minimum": minimum, "maximum": maximum})
    raise BadInputError(f"column '{column.name}' has no public range or domain, and none was released")


def _nothing(name: str, what: str) -> BadInputError:
    return BadInputError(
        f"DP statistics: no {what} of column '{name}' stands out of the noise; the budget is spent",
        fix="give the column a public range or domain in the schema, or leave it out; or ask with more epsilon",
    )
