"""The adaptive clipping norm: what it costs, the noise on what it learns from, and that it finds its quantile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import AdaptiveClipping, PrivacyPlan, UserBound, make_private
from privacy_pipeline.dp.clipping.edge import within
from privacy_pipeline.errors import BadInputError
from tests.dp.recorder import Recorder

L = tf.keras.layers
UNITS = 400


def plan(*, count_noise: float = 4.0, quantile: float = 0.5, learning_rate: float = 0.2, **change: Any) -> PrivacyPlan:
    adaptive = AdaptiveClipping(quantile=quantile, learning_rate=learning_rate, count_noise=count_noise)
    numbers: dict[str, Any] = {
        "units": UNITS,
        "expected_batch_size": 40,
        "steps": 100,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "adaptive": adaptive,
    }
    return PrivacyPlan.calibrated(**{**numbers, **change})


def test_sum_and_count_cost_together_what_the_plan_says() -> None:
    made = plan()
    without = plan(adaptive=None)
    assert made.event == without.event
    # Sensitivities norm and 1/2 over their noises, as one Gaussian mechanism of sensitivity 1.
    assert (1 / made.sum_multiplier) ** 2 + (0.5 / 4.0) ** 2 == pytest.approx(1.0)
    assert made.noise_stddev == pytest.approx(made.sum_multiplier / 40)
    assert without.sum_multiplier == 1.0
    assert made.parameters()["clipping"]["adaptive"] == {"quantile": 0.5, "learning_rate": 0.2, "count_noise": 4.0}
    assert made.digest() != without.digest()


@pytest.mark.slow
def test_a_target_epsilon_buys_both() -> None:
    made = plan(noise_multiplier=None, epsilon=1.0, steps=10)
    assert 0.99 < made.epsilon() <= 1.0
    assert made.sum_multiplier > made.noise.multiplier


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count_noise": 0.5}, "leaves nothing"),
        ({"per_layer": True}, "one norm"),
        ({"correlation": "tree", "sampling": "cyclic"}, "adaptive clipping changes"),
        ({"users": UserBound(max_examples=2, clip="each")}, "k times"),
        ({"quantile": 1.5}, "quantile"),
        ({"learning_rate": 0.0}, "learning rate"),
    ],
)
def test_what_has_no_bound_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        plan(**change)


def model_of(made: PrivacyPlan, **options: Any) -> Any:
    model = tf.keras.Sequential([L.Input((1,)), L.Dense(1, use_bias=False, kernel_initializer="zeros")])
    # Gradient of each example at weight 0: minus its label. The weight stays where it is.
    optimizer = options.pop("optimizer", tf.keras.optimizers.SGD(0.0))
    return make_private(model, made, optimizer=optimizer, loss=lambda y, p: -y * p, **options)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2048, 7])
def test_the_norm_finds_its_quantile(rows: int) -> None:
    """Norms are spread over (0, 5); nine tenths of them lie below 4.5."""
    y = np.linspace(0, 5, UNITS).astype(np.float32)
    made = plan(quantile=0.9, learning_rate=0.3, steps=1000)
    execution = model_of(made, virtual_batch_size=rows).fit(np.ones((UNITS, 1)), y)
    norms = execution.history["clipping_norm"]
    assert len(norms) == 100
    # The norm keeps moving by a tenth or so a step; over this many epochs its mean is within 0.1.
    assert abs(np.mean(norms[10:]) - 4.5) < 0.4


def test_the_norm_learns_from_a_noisy_count() -> None:
    """All gradients are 0 and so never clipped: the norm's steps have the mean and the variance worked out by hand."""
    made = plan(count_noise=5.0, learning_rate=0.01, units=20, expected_batch_size=10, steps=600)
    execution = model_of(made).fit(np.ones((20, 1)), np.zeros(20, np.float32))
    moves = np.diff(np.log([1.0, *execution.history["clipping_norm"]]))
    assert moves.size == 300  # two steps each
    # Half the size of a binomial batch, plus noise, over the expected batch.
    variance = 2 * 0.01**2 * (0.25 * 20 * 0.25 + 5.0**2) / 10**2
    assert abs(moves.mean() + 2 * 0.01 * (0.5 + 0.5 - 0.5)) < 5 * np.sqrt(variance / moves.size)
    assert abs(moves.var() / variance - 1) < 5 * np.sqrt(2 / moves.size)


@pytest.mark.slow
def test_the_noise_follows_the_norm() -> None:
    """Noise on the gradient is the sum's multiplier times the norm of the step, not the first norm."""
    made = plan(count_noise=1e-3 + 0.5, learning_rate=0.2, steps=200, quantile=0.0, expected_batch_size=20)
    recorder = Recorder(steps=200, size=1)
    private = model_of(made, optimizer=recorder)
    recorder.beside = lambda: private._norm
    private.fit(np.ones((UNITS, 1)), np.zeros(UNITS, np.float32))
    norms = recorder.others
    assert norms[-1] < 1e-2  # a quantile of 0 lets the norm fall
    ratio = recorder.gradients[:, 0] / norms * 20 / made.sum_multiplier
    assert abs(ratio.mean()) < 5 / np.sqrt(ratio.size)
    assert abs(ratio.var() - 1) < 5 * np.sqrt(2 / ratio.size)
    assert made.sum_multiplier > 10  # next to all of the budget goes to the count


def test_the_count_has_no_jump_at_the_edge() -> None:
    """Rounding of 4,096 units at the norm moves the count by far less than the 1/2 that one unit may."""
    at = np.full(4096, 1.0)
    rounded = within(tf.constant(at * (1 + 1e-7)), 1.0).numpy().sum() - within(tf.constant(at), 1.0).numpy().sum()
    assert abs(rounded) < 0.01
    assert within(tf.constant([0.0, 0.9, 1.0, 1.1, 9.0]), 1.0).numpy().tolist() == [0.5, 0.5, 0.0, -0.5, -0.5]
