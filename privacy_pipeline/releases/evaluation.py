"""DP evaluation: noisy confusion counts per slice, and the metrics and intervals that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.record import Composition
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.state.registration import Registration
from privacy_pipeline.releases import estimates
from privacy_pipeline.releases.estimates import Interval
from privacy_pipeline.releases.queries import Counts, Value, cell_name
from privacy_pipeline.releases.release import Noisy, Release, registered_release

KIND, SPLIT, PURPOSE = "dp_evaluation", "eval", "evaluate"
OVERALL = "overall"
# Reserved columns of a row; no column of the data is named so.
LABEL, PREDICTED = "@label", "@predicted"
_BINARY = (("0", "1"), ("0", "1"))
_OUTCOMES = {"tp": ("1", "1"), "fp": ("0", "1"), "tn": ("0", "0"), "fn": ("1", "0")}  # label, prediction


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A number with its confidence interval; None where the noise leaves no information."""

    value: float | None
    low: float
    high: float


class DpSlice(_Part):
    """Noisy confusion counts of one slice, and what follows from them.

    Attributes:
        name: "overall", or "column=value" joined by commas.
        counts: noisy `tp`, `fp`, `tn` and `fn`; they may be negative.
        examples: labelled rows of the slice.
        metrics: accuracy, precision and recall.
    """

    name: str
    counts: dict[str, int]
    examples: Estimate
    metrics: dict[str, Estimate]


class DpEvaluation(_Part):
    """What a DP evaluation released, and what it costs the units of the eval split.

    Attributes:
        decision_threshold: probability above which a row counts as predicted positive.
        confidence: chance at least that an interval holds what it is about, of each by itself. Those of the metrics are
            about the population that the rows are drawn from; those of `examples` about these very rows.
        noise: standard deviation of the noise on each count.
        event: the DpEvent that was charged.
        ledger_entry: the entry that paid.
        composition: the charge among all of the eval split's budget, with the receipt of its commit.
    """

    version: Literal[1] = 1
    unit: str
    contribution_bound: int
    relation: str
    units: int | None
    epsilon: float
    delta: float
    accountant: Literal["rdp"] = "rdp"
    decision_threshold: float
    confidence: float
    noise: float
    slices: list[DpSlice]
    event: JsonValue
    budget: str
    ledger_entry: int
    composition: Composition | None = None

    @property
    def overall(self) -> DpSlice:
        """The whole eval split."""
        return next(part for part in self.slices if part.name == OVERALL)


def evaluation_release(
    slices: Sequence[Sequence[str]],
    *,
    registration: Registration,
    domains: Mapping[str, tuple[str, ...]],
    epsilon: float,
    delta: float,
) -> Release:
    """Return the confusion counts of the whole eval split and of slices of it, which share one budget evenly.

    Args:
        slices: columns to slice by; several columns make a crossed slice.
        registration: the registered dataset; its eval split's own units are charged.
        domains: public values of each column that is sliced by.
        epsilon: epsilon of all counts together.
        delta: its delta.

    Raises:
        BadInputError: a column has no public domain, or the numbers are out of range.
        BudgetRefusedError: the dataset is registered without an eval split.
    """
    if SPLIT not in registration.splits:
        raise BudgetRefusedError(f"dataset {registration.name} is registered without an eval split")
    queries = [
        Counts(
            name=", ".join(keys) or OVERALL,
            columns=(*keys, LABEL, PREDICTED),
            domains=(*(_domain(key, domains) for key in keys), *_BINARY),
        )
        for keys in ((), *slices)
    ]
    return registered_release(
        queries,
        kind=KIND,
        registration=registration,
        split=SPLIT,
        epsilon=epsilon,
        delta=delta,
    )


def counted_row(
    *, label: int, probability: float, decision_threshold: float, slices: Mapping[str, Value]
) -> dict[str, Value]:
    """Return a row as the release counts it.

    Args:
        label: 1, 0, or anything else for none; a row without label is counted nowhere.
        probability: what the model predicts for it.
        decision_threshold: probability above which it counts as predicted positive, as in TensorFlow's metrics.
        slices: values of the columns that are sliced by.
    """
    return {**slices, LABEL: label, PREDICTED: int(probability > decision_threshold)}


def _domain(column: str, domains: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if not domains.get(column):
        raise BadInputError(
            f"evaluation.slices: '{column}' has no public domain in the schema, so its values are not public",
            fix="add its domain to the schema, or drop the slice",
        )
    return domains[column]


def evaluated(
    release: Release,
    answers: Mapping[str, Noisy],
    *,
    decision_threshold: float,
    budget: str,
    ledger_entry: int,
) -> DpEvaluation:
    """Return everything that follows from the noisy counts, the overall slice first.

    Args:
        release: what was asked.
        answers: the noisy counts.
        decision_threshold: probability above which a row counted as predicted positive.
        budget: key of the budget that paid.
        ledger_entry: the entry that paid.
    """
    plan = release.plan
    slices = []
    for query in release.queries:
        if not isinstance(query, Counts):
            raise TypeError(f"an evaluation consists of counts, not of {query}")
        keys = query.columns[: -len((LABEL, PREDICTED))]
        heads = Counts(name="slices", columns=keys, domains=query.domains[: len(keys)]).combinations()
        for values in heads:
            name = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True)) or OVERALL
            slices.append(_slice(name, values, answers[query.name], bound=plan.contribution_bound))
    return DpEvaluation(
        unit=plan.unit,
        contribution_bound=plan.contribution_bound,
        relation=plan.relation.value,
        units=plan.units,
        epsilon=plan.epsilon,
        delta=plan.delta,
        decision_threshold=decision_threshold,
        confidence=estimates.CONFIDENCE,
        noise=release.scales[0],
        slices=slices,
        event=events.to_json(plan.event),
        budget=budget,
        ledger_entry=ledger_entry,
    )


def _slice(name: str, values: tuple[str, ...], noisy: Noisy, *, bound: int) -> DpSlice:
    counts = {outcome: noisy.values[cell_name([*values, *cell])] for outcome, cell in _OUTCOMES.items()}
    rates = estimates.rates(counts, scale=noisy.scale, bound=bound)
    # Four independent noises are added.
    examples = estimates.count(sum(counts.values()), scale=2 * noisy.scale)
    return DpSlice(
        name=name,
        counts=counts,
        examples=_estimate(examples),
        metrics={metric: _estimate(interval) for metric, interval in rates.items()},
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(value=interval.value, low=interval.low, high=interval.high)


def missed_thresholds(evaluation: DpEvaluation, least: Mapping[str, float]) -> list[str]:
    """Return the thresholds that a model is not shown to meet: the lower end of the interval has to reach them.

    So luck of the noise, or of the sample, lets a model pass a threshold that it does not meet with a chance of at most
    half of what the confidence leaves: 2.5% of a 95% interval. That holds for the metric on the population that the
    rows are drawn from, and for the one on these very rows; of one evaluation, not of the best of several.

    Args:
        evaluation: what was released.
        least: threshold of each metric on the whole split.

    Raises:
        BadInputError: a metric does not follow from confusion counts.
    """
    reasons = []
    for metric, bound in least.items():
        if metric not in evaluation.overall.metrics:
            raise BadInputError(
                f"a DP evaluation has no {metric}: it does not follow from confusion counts at one threshold",
                fix=f"set thresholds on {', '.join(evaluation.overall.metrics)}",
            )
        found = evaluation.overall.metrics[metric]
        if not found.low >= bound:
            reasons.append(
                f"{metric} is only known to be at least {found.low:.4f} ({evaluation.confidence:.0%} interval, with "
                f"noise), which is below the threshold {bound:.4f}"
            )
    return reasons
