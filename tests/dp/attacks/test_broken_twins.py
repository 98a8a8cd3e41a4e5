"""Statistical tests accept the engine, in all its modes, and reject eight broken twins of it.

Significance: a sound run fails one of the eleven checks once in a million runs (`twins.LEVEL` each). Power: each twin's
value of the check that is named for it lies below `CERTAIN`, three orders of magnitude under the level, so that no twin
passes by luck either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from privacy_pipeline.dp import PrivacyPlan, make_private
from tests.dp import twins

L = tf.keras.layers
CERTAIN = 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"virtual_batch_size": 2},
        {"plan": twins.plan(hardened=True)},
        {"plan": twins.plan(per_layer=True)},
        {"plan": twins.plan(sampling="truncated_poisson", truncate_at=16)},
    ],
    ids=["plain", "virtual batches", "hardened", "per layer", "truncated"],
)
def test_the_engine_passes(options: dict[str, Any]) -> None:
    assert twins.failed(twins.run(**options)) == set()


@pytest.mark.slow
def test_a_resumed_run_passes(tmp_path: Path) -> None:
    assert twins.failed(twins.run(resumed=tmp_path)) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("twin", "caught_by"),
    [
        (twins.no_noise, {"noise scale", "noise shape"}),
        (twins.noise_times_0_9, {"noise scale", "noise shape"}),
        (twins.clipping_after_averaging, {"contribution"}),
        (twins.realised_batch, {"contribution"}),
        (twins.skips_empty_batches, {"empty batches"}),
        (twins.shuffling, {"batch sizes", "unit counts"}),
        (twins.one_unclipped, {"contribution"}),
        (twins.reused_after_resume, {"independent steps"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_twins_are_rejected(twin: twins.Twin, caught_by: set[str], tmp_path: Path) -> None:
    with twin():
        values = twins.checks(twins.run(resumed=tmp_path if twin is twins.reused_after_resume else None))
    assert {name for name in caught_by if not values[name] < CERTAIN} == set()


@pytest.mark.slow
def test_only_what_is_broken_is_blamed() -> None:
    """The checks tell faults apart: noise that is too small leaves the sampler's checks alone, and the reverse."""
    sampler = {"sampling probability", "batch sizes", "unit counts", "pairs", "next step", "empty batches"}
    with twins.noise_times_0_9():
        assert twins.failed(twins.run()) & sampler == set()
    with twins.shuffling():
        assert twins.failed(twins.run()) <= sampler


def pure_noise(**options: Any) -> list[np.ndarray]:
    """Noise that each variable of a small network gets, in units of what it should be; gradients are all zero."""
    model = tf.keras.Sequential([L.Input((20,)), L.Dense(40, "relu"), L.LayerNormalization(), L.Dense(30), L.Dense(1)])
    made = PrivacyPlan.calibrated(
        units=50,
        expected_batch_size=10,
        steps=40,
        noise_multiplier=1.7,
        delta=1e-5,
        clipping_norm=0.4,
        **options,
    )
    seen = twins.Recorder()
    private = make_private(
        model, made, optimizer=tf.keras.optimizers.SGD(1.0), loss=lambda labels, outputs: 0 * outputs[:, 0]
    )
    private.fit(np.zeros((50, 20), np.float32), np.zeros(50, np.float32), callbacks=[seen])
    ends = np.cumsum([variable.shape.num_elements() for variable in model.trainable_variables])[:-1]
    return np.split(seen.updates() / (1.7 * 0.4 / 10), ends, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"hardened": True}, {"per_layer": True}], ids=["plain", "hardened", "layers"])
def test_every_variable_gets_its_noise(options: dict[str, Any]) -> None:
    parts = pure_noise(**options)
    assert len(parts) == 8
    for part in parts:
        total = float(np.square(part).sum())
        assert min(stats.chi2.cdf(total, part.size), stats.chi2.sf(total, part.size)) > twins.LEVEL / len(parts)
    assert stats.kstest(np.concatenate([part.ravel() for part in parts]), "norm").pvalue > twins.LEVEL


def test_noise_times_0_9_shows_on_a_network() -> None:
    with twins.noise_times_0_9():
        values = np.concatenate([part.ravel() for part in pure_noise()])
    assert stats.chi2.cdf(float(np.square(values).sum()), values.size) < CERTAIN
    assert stats.kstest(values, "norm").pvalue < CERTAIN
