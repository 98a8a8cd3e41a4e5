"""A release: queries, the noise on each, and the one plan that the ledger charges for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.release_plan import ReleasePlan, default_threshold_delta, rho_for
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.ledger.state.registration import Registration
from privacy_pipeline.releases import noise
from privacy_pipeline.releases.queries import Query, Row

Cell = tuple[int, str]  # number of the query, name of the cell
_ROUNDING = 1e-9  # relative room for OpenDP's own upward rounding


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Released answer to one query. Anything may be done with it: it is private.

    Attributes:
        query: what was asked.
        values: noisy sum of each cell; for unknown values, of those above the threshold.
        scale: parameter sigma of the noise on each cell; its standard deviation is at most that.
        threshold: least count that was released; None for public cells.
    """

    query: Query
    values: Mapping[str, int]
    scale: float
    threshold: int | None


@dataclass(frozen=True, kw_only=True)
class Release:
    """Queries on one split of a dataset, with their noise.

    Attributes:
        queries: the queries.
        scales: noise on each query's cells.
        thresholds: threshold of each query of unknown values; None for the others.
        plan: what is charged.
    """

    queries: tuple[Query, ...]
    scales: tuple[float, ...]
    thresholds: tuple[int | None, ...]
    plan: ReleasePlan

    def contribution(self, rows: Sequence[Row]) -> dict[Cell, int]:
        """Return what one privacy unit adds to the exact sums.

        Args:
            rows: the unit's rows.

        Raises:
            PipelineError: they are more than the contribution bound, for which the noise is too small.
        """
        if len(rows) > self.plan.contribution_bound:
            raise PipelineError("a unit has more rows than the contribution bound: they were not bounded")
        return {
            (number, cell): value
            for number, query in enumerate(self.queries)
            for cell, value in query.contribution(rows).items()
        }

    def noised(self, sums: Mapping[Cell, int]) -> dict[str, Noisy]:
        """Add the noise. Each call is a new release, and costs the plan's event again.

        Args:
            sums: exact sums of all contributions; not private.

        Returns:
            The noisy answers by name of the query.

        Raises:
            PipelineError: OpenDP's own privacy map gives more than the plan states; nothing is released.
        """
        answers, rho = {}, 0.0
        for number, (query, scale, threshold) in enumerate(
            zip(self.queries, self.scales, self.thresholds, strict=True)
        ):
            # Sorted: the order in which values were met could reveal data.
            cells = query.cells or tuple(sorted(cell for of_query, cell in sums if of_query == number))
            exact = [sums.get((number, cell), 0) for cell in cells]
            squared = query.sensitivity_squared(self.plan.contribution_bound)
            values, spent = noise.noised(exact, scale=scale, sensitivity_squared=squared)
            rho += spent
            released = {
                cell: value
                for cell, value in zip(cells, values, strict=True)
                if threshold is None or value >= threshold
            }
            answers[query.name] = Noisy(query=query, values=released, scale=scale, threshold=threshold)
        if not rho <= self.plan.rho * (1 + _ROUNDING):
            raise PipelineError(f"OpenDP gives rho {rho:g} for a release that is charged as rho {self.plan.rho:g}")
        return answers


def registered_release(
    queries: Sequence[Query], *, kind: str, registration: Registration, split: str, epsilon: float, delta: float
) -> Release:
    """Return `plan_release` with the facts of a registered dataset, without the number of units where it is secret.

    Args:
        queries: what to ask.
        kind: what the release is, for the ledger.
        registration: the registered dataset.
        split: split whose units are charged.
        epsilon: epsilon of the whole release.
        delta: its delta.

    Raises:
        BadInputError: no query, two of one name, or numbers out of range.
    """
    return plan_release(
        queries,
        kind=kind,
        unit=registration.unit,
        contribution_bound=registration.contribution_bound,
        relation=registration.relation,
        units=registration.splits[split].units if registration.relation is Relation.ZERO_OUT else None,
        epsilon=epsilon,
        delta=delta,
    )


def plan_release(
    queries: Sequence[Query],
    *,
    kind: str,
    unit: str,
    contribution_bound: int,
    relation: Relation,
    units: int | None,
    epsilon: float,
    delta: float,
) -> Release:
    """Divide a budget evenly among queries.

    Args:
        queries: what to ask; each gets the same share of rho.
        kind: what the release is, for the ledger.
        unit: "row", or the key column that names the unit.
        contribution_bound: rows of one unit that are counted.
        relation: neighbouring relation.
        units: registered number of units of the split; None where it is secret.
        epsilon: epsilon of the whole release.
        delta: its delta.

    Raises:
        BadInputError: no query, two of one name, or numbers out of range.
    """
    if not queries or len({query.name for query in queries}) != len(queries):
        raise BadInputError("a release needs at least one query, and a name of its own for each")
    if contribution_bound < 1 or (unit == "row" and contribution_bound != 1):
        raise BadInputError(f"contribution bound {contribution_bound} does not fit the unit {unit!r}")
    unknown = sum(query.cells is None for query in queries)
    distance = default_threshold_delta(epsilon=epsilon, delta=delta) if unknown else 0.0
    # A little less, so that rounding up cannot take the sum of all parts above the target.
    share = rho_for(epsilon=epsilon, delta=delta, distance=distance) / len(queries) * (1 - 1e-12)
    squares = [query.sensitivity_squared(contribution_bound) for query in queries]
    scales = tuple(noise.scale_for(sensitivity_squared=square, rho=share) for square in squares)
    thresholds = tuple(
        noise.threshold_for(distance=distance / unknown, bound=contribution_bound, scale=scale)
        if query.cells is None
        else None
        for query, scale in zip(queries, scales, strict=True)
    )
    parts = [noise.rho_of(sensitivity_squared=q, scale=s) for q, s in zip(squares, scales, strict=True)]
    described = {
        query.name: {**query.describe(), "sensitivity": math.sqrt(square), "scale": scale, "threshold": threshold}
        for query, square, scale, threshold in zip(queries, squares, scales, thresholds, strict=True)
    }
    plan = ReleasePlan(
        kind=kind,
        unit=unit,
        contribution_bound=contribution_bound,
        relation=relation,
        units=units if relation is Relation.ZERO_OUT else None,
        delta=delta,
        rho=noise.rounded_up(sum(parts, start=Fraction(0))),
        threshold_delta=distance,
        queries=described,
    )
    return Release(queries=tuple(queries), scales=scales, thresholds=thresholds, plan=plan)
