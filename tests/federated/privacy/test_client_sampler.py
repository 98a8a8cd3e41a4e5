"""Who is drawn is who is accounted for: the sampler against its statistics, and against broken twins."""

from __future__ import annotations

import numpy as np
import pytest

from federated.privacy.cohort_plan import Attendance
from federated.privacy.sampler import Participation
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.federated.privacy.privacy_checks import CLIENTS, PER_ROUND, ROUNDS, check_poisson, plan_of, sampler_of

Q = PER_ROUND / CLIENTS


def test_cohorts_are_poisson_samples() -> None:
    sampler = sampler_of(plan_of())
    check_poisson([sampler.cohort(r) for r in range(ROUNDS)], clients=CLIENTS, probability=Q)


def test_dropouts_and_stragglers_thin_the_sample_and_change_nobody_else() -> None:
    plain, thinned = (
        sampler_of(plan_of(attendance=Attendance(dropout=d, straggler=s))) for d, s in ((0, 0), (0.3, 0.2))
    )
    cohorts = [thinned.cohort(r) for r in range(ROUNDS)]
    check_poisson(cohorts, clients=CLIENTS, probability=Q * 0.7 * 0.8)
    for round in range(20):
        np.testing.assert_array_equal(thinned.drawn(round), plain.cohort(round))
        assert set(cohorts[round]) <= set(plain.cohort(round))
    # The event is that of the draw: absence buys nothing, and costs nothing.
    assert thinned.plan.event == plain.plan.event and thinned.plan.expected_clients == PER_ROUND


def fixed_size(random: np.random.Generator) -> np.ndarray:
    return random.choice(CLIENTS, PER_ROUND, replace=False)


def one_twice(random: np.random.Generator) -> np.ndarray:
    cohort = np.flatnonzero(random.random(CLIENTS) < Q)
    return np.append(cohort, cohort[:1])


def groups(random: np.random.Generator) -> np.ndarray:
    """Neighbours come together: each has the right chance, but not independently."""
    return np.flatnonzero(np.repeat(random.random(CLIENTS // 2) < Q, 2))


def favourites(random: np.random.Generator) -> np.ndarray:
    return np.flatnonzero(random.random(CLIENTS) < Q * np.where(np.arange(CLIENTS) < CLIENTS // 2, 1.3, 0.7))


@pytest.mark.parametrize("twin", [fixed_size, one_twice, groups, favourites])
def test_broken_samplers_are_refused(twin: object) -> None:
    random = np.random.default_rng(5)
    with pytest.raises(AssertionError):
        check_poisson([twin(random) for _ in range(ROUNDS)], clients=CLIENTS, probability=Q)  # type: ignore[operator]


def test_rounds_that_depend_on_each_other_are_refused() -> None:
    sampler = sampler_of(plan_of())
    with pytest.raises(AssertionError):
        check_poisson([sampler.cohort(r // 2) for r in range(ROUNDS)], clients=CLIENTS, probability=Q)


def test_a_round_is_a_function_of_key_and_number() -> None:
    one, again, other = sampler_of(plan_of()), sampler_of(plan_of()), sampler_of(plan_of(), seed=2)
    for round in (7, 0, 7):
        np.testing.assert_array_equal(one.cohort(round), again.cohort(round))
    assert any(one.cohort(r).tolist() != other.cohort(r).tolist() for r in range(3))
    assert one.cohort(0).dtype == np.int64 and np.all(np.diff(one.cohort(0)) > 0)


@pytest.mark.parametrize("sampling", ["shuffled", "cyclic"])
def test_a_partition_deals_each_client_once_an_epoch(sampling: str) -> None:
    plan = plan_of(sampling=sampling, rounds=30)
    sampler, watcher = sampler_of(plan), Participation(plan, CLIENTS)
    for epoch in range(3):
        cohorts = [sampler.cohort(10 * epoch + place) for place in range(10)]
        assert sorted(np.concatenate(cohorts)) == list(range(CLIENTS))
        for place, cohort in enumerate(cohorts):
            watcher.observe(10 * epoch + place, cohort)
    assert watcher.largest == 1


def test_taking_part_too_often_is_refused() -> None:
    shuffled, cyclic = (Participation(plan_of(sampling=s, rounds=30), CLIENTS) for s in ("shuffled", "cyclic"))
    shuffled.observe(0, np.array([1, 2]))
    with pytest.raises(PipelineError, match="twice in an epoch"):
        shuffled.observe(9, np.array([2, 3]))
    cyclic.observe(3, np.array([1, 2]))
    with pytest.raises(PipelineError, match="an epoch apart"):
        cyclic.observe(14, np.array([2]))
    with pytest.raises(PipelineError, match="in a round twice"):
        Participation(plan_of(), CLIENTS).observe(0, np.array([4, 4]))


def test_bad_numbers_have_one_clear_error() -> None:
    with pytest.raises(BadInputError, match="201 clients does not fit into 200"):
        plan_of(clients_per_round=201)
    with pytest.raises(BadInputError, match="plan is for 200 clients, the data holds 199"):
        sampler_of(plan_of(), clients=199)
    with pytest.raises(BadInputError, match="round 1500 is not accounted"):
        sampler_of(plan_of()).cohort(ROUNDS)
    with pytest.raises(BadInputError, match="dropout"):
        Attendance(dropout=1.0)
    with pytest.raises(BadInputError, match="sampling of clients"):
        plan_of(sampling="uniform")
