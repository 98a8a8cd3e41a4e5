"""Correlated noise: sensitivity against explicit matrices, its covariance, its events, and what has no bound."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import GaussianDpEvent, SingleEpochTreeAggregationDpEvent, UnsupportedDpEvent

from privacy_pipeline.accounting.accountants import guarantee
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import AccountingError, rdp_vector
from privacy_pipeline.dp import Noise, PrivacyPlan, make_private
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.sampling import FixedPartition
from privacy_pipeline.dp.noise.banded import banded_coefficients
from privacy_pipeline.dp.noise.correlated import CorrelatedNoise, strategy_matrix
from privacy_pipeline.dp.noise.noise import GaussianNoise
from privacy_pipeline.dp.noise.tree import tree_height
from privacy_pipeline.dp.sampling.feeding import Participation
from privacy_pipeline.dp.sampling.sampler import Sampler
from privacy_pipeline.errors import BadInputError, PipelineError

L = tf.keras.layers


def noise_of(correlation: str, bands: int | None = None, multiplier: float = 1.0) -> Noise:
    return Noise(multiplier=multiplier, correlation=correlation, bands=bands)


def sensitivity(matrix: np.ndarray, steps_per_epoch: int) -> float:
    """Most that one unit moves C g, over its places in the cycle and over what it adds at each use, -1, 0 or 1."""
    steps = len(matrix)
    most = 0.0
    for place in range(steps_per_epoch):
        columns = matrix[:, place:steps:steps_per_epoch]
        for added in itertools.product([-1, 0, 1], repeat=columns.shape[1]):
            most = max(most, float(np.linalg.norm(columns @ np.array(added))))
    return most


def equivalent(event: Any) -> float:
    """Sensitivity over noise of the one Gaussian mechanism that an event stands for."""
    if isinstance(event, GaussianDpEvent):
        return float(1 / event.noise_multiplier)
    return math.sqrt(event.count) / event.event.noise_multiplier


@pytest.mark.parametrize("steps_per_epoch", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_tree_event_is_the_sensitivity_of_its_matrix(steps_per_epoch: int, epochs: int) -> None:
    noise, steps = noise_of("tree", multiplier=2.0), steps_per_epoch * epochs
    brute = sensitivity(strategy_matrix(noise, steps=steps, steps_per_epoch=steps_per_epoch), steps_per_epoch)
    assert equivalent(cyclic(steps_per_epoch, steps, noise).event) == pytest.approx(brute / 2.0)


@pytest.mark.parametrize(("steps_per_epoch", "bands"), [(1, 1), (3, 1), (3, 3), (4, 2), (5, 4)])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_banded_event_bounds_the_sensitivity_of_its_matrix(steps_per_epoch: int, bands: int, epochs: int) -> None:
    noise, steps = noise_of("banded", bands, multiplier=2.0), steps_per_epoch * epochs
    matrix = strategy_matrix(noise, steps=steps, steps_per_epoch=steps_per_epoch)
    assert equivalent(cyclic(steps_per_epoch, steps, noise).event) == pytest.approx(
        sensitivity(matrix, steps_per_epoch) / 2.0
    )


def test_bands_that_overlap_cost_more_than_the_formula_says() -> None:
    noise = noise_of("banded", 4)
    brute = sensitivity(strategy_matrix(noise, steps=6, steps_per_epoch=2), 2)
    assert brute > 1.05 * math.sqrt(3) * np.linalg.norm(banded_coefficients(4))
    assert isinstance(cyclic(2, 6, noise).event, UnsupportedDpEvent)


def test_coefficients_are_the_square_root_of_prefix_sums() -> None:
    root = strategy_matrix(noise_of("banded", 6), steps=6, steps_per_epoch=6)
    np.testing.assert_allclose(root @ root, np.tril(np.ones((6, 6))), atol=1e-12)


def cyclic(steps_per_epoch: int, steps: int, noise: Noise, **change: Any) -> PrivacyPlan:
    numbers: dict[str, Any] = {
        "units": 10 * steps_per_epoch + 3,
        "expected_batch_size": 10,
        "steps": steps,
        "noise_multiplier": noise.multiplier,
        "correlation": noise.correlation,
        "bands": noise.bands,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "sampling": "cyclic",
    }
    return PrivacyPlan.calibrated(**{**numbers, **change})


@pytest.mark.parametrize("noise", [noise_of("tree"), noise_of("banded", 3), noise_of("banded", 1)])
def test_noise_is_what_the_matrix_makes_of_independent_noise(noise: Noise) -> None:
    steps, size = 11, 40_000
    base = GaussianNoise(RunKey.from_system(), [(size // 4, 2), (size // 2,)])
    made = CorrelatedNoise(base, noise, 5)

    def flat(arrays: Any) -> np.ndarray:
        return np.concatenate([part.ravel() for part in arrays]).astype(np.float64)

    independent = np.array([flat(base.draw(step, stddev=0.5)) for step in range(steps)])
    drawn = [made.draw(step, stddev=0.5) for step in range(steps)]
    rows = np.array([flat(part) for part in drawn])
    matrix = strategy_matrix(noise, steps=steps, steps_per_epoch=5)
    np.testing.assert_allclose(matrix @ rows, independent, atol=1e-5)
    inverse = np.linalg.inv(matrix)
    expected = 0.25 * inverse @ inverse.T
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) + np.square(expected))
    assert np.all(np.abs(rows @ rows.T / size - expected) < 5.5 * scale / np.sqrt(size))
    for step in (7, 3, 8):  # also after a resume, and out of order
        again = CorrelatedNoise(base, noise, 5).draw(step, stddev=0.5)
        assert all(np.array_equal(one, two) for one, two in zip(again, drawn[step], strict=True))
        assert np.array_equal(flat(made.draw(step, stddev=0.5)), flat(again))
    assert noise.correlation in made.generator


@pytest.mark.parametrize("leaves", [1, 2, 3, 7, 8, 100, 1024])
def test_tree_of_one_epoch_is_that_of_dp_accounting(leaves: int) -> None:
    event = cyclic(leaves, leaves, noise_of("tree", multiplier=3.0)).event
    theirs = SingleEpochTreeAggregationDpEvent(3.0, leaves)
    for relation in (Relation.ZERO_OUT,):
        np.testing.assert_allclose(rdp_vector(event, relation)[1], rdp_vector(theirs, relation)[1], rtol=1e-12)
    assert tree_height(leaves) == math.ceil(math.log2(leaves + 1))


def test_both_accountants_give_the_gaussian_epsilon() -> None:
    made = cyclic(8, 24, noise_of("tree", multiplier=8.0))
    one = guarantee(GaussianDpEvent(8.0 / math.sqrt(3 * 4)), delta=1e-5, relation=Relation.ZERO_OUT)
    found = made.guarantee()
    assert found.epsilon_pld == pytest.approx(one.epsilon_pld, rel=1e-3)
    assert found.epsilon_rdp == pytest.approx(one.epsilon_rdp, rel=1e-6)
    early = made.event_of(9)
    assert equivalent(early) == pytest.approx(math.sqrt(2 * 4) / 8.0)  # two epochs were begun
    banded = cyclic(8, 24, noise_of("banded", 8, multiplier=8.0))
    assert banded.event_of(8) != banded.event
    assert banded.guarantee().epsilon_pld is not None


@pytest.mark.parametrize("sampling", ["poisson", "shuffled", "truncated_poisson"])
def test_where_no_bound_exists_epsilon_is_unknown(sampling: str) -> None:
    made = cyclic(5, 10, noise_of("tree"), sampling=sampling, expected_batch_size=10)
    assert isinstance(made.event, UnsupportedDpEvent)
    for ask in (made.guarantee, made.epsilon):
        with pytest.raises(AccountingError, match="epsilon is unknown"):
            ask()
    with pytest.raises(AccountingError, match="epsilon is unknown"):
        cyclic(5, 10, noise_of("tree"), sampling=sampling, noise_multiplier=None, epsilon=1.0)


def test_a_target_epsilon_is_met() -> None:
    made = cyclic(8, 24, noise_of("banded", 4), noise_multiplier=None, epsilon=2.0)
    assert 1.98 < made.epsilon() <= 2.0


@pytest.mark.parametrize("change", [{"bands": 2}, {"correlation": "banded"}, {"correlation": "blocks"}])
def test_nonsense_is_refused_here_too(change: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        cyclic(5, 10, noise_of("tree"), **change)


def test_cycles_repeat_and_the_watcher_holds_them_to_it() -> None:
    made = cyclic(5, 15, noise_of("tree"))
    sampler = Sampler(made, RunKey.from_system(), 53)
    batches = [sampler.batch(step) for step in range(15)]
    for step in range(5, 15):
        np.testing.assert_array_equal(batches[step], batches[step - 5])
    assert np.unique(np.concatenate(batches[:5])).size == 50  # three are left out of every epoch
    watcher = Participation(made, 53)
    for step, batch in enumerate(batches):
        watcher.observe(step, batch)
    assert watcher.largest == 3
    shifted = Participation(made, 53)
    for step in range(5):
        shifted.observe(step, batches[step])
    with pytest.raises(PipelineError, match="not an epoch apart"):
        shifted.observe(5, batches[1])
    assert isinstance(made.sampling, FixedPartition)
    assert made.sampling.parameters()["scheme"] == "cyclic"


def test_a_unit_left_out_of_one_epoch_has_no_use_to_spare_in_the_next() -> None:
    made = cyclic(5, 15, noise_of("tree"))
    for second in ([[0, 1], [2, 0]], [[0, 0], [1, 2]]):
        watcher = Participation(made, 53)
        watcher.observe(0, np.array([1, 2]))  # 0 is in no batch of the first epoch
        with pytest.raises(PipelineError, match="twice in an epoch"):
            for step, batch in enumerate(second):
                watcher.observe(5 + step, np.array(batch))


@pytest.mark.slow_but("noise0")
@pytest.mark.parametrize("noise", [noise_of("tree"), noise_of("banded", 3)])
def test_training_runs_with_correlated_noise(noise: Noise) -> None:
    made = cyclic(5, 10, noise)
    random = np.random.default_rng(0)
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(1)])
    execution = make_private(model, made, optimizer="sgd", loss="mse").fit(
        random.normal(size=(53, 3)), random.normal(size=53)
    )
    assert execution.event == made.event
    assert execution.largest_participation == 2
    assert noise.correlation in execution.generator
