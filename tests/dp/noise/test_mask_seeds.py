"""The seeds of masks keep enough of the run's secret key, and draws ahead of the rows are no mixing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.noise.masks import keyed_masks, masks_of_row

L = tf.keras.layers
SEEDS = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (200_000, 2))


def first_draws(of_row: bool) -> Any:
    """A number of 64 bits that each of the seeds leads to."""
    model = tf.keras.Sequential([L.Input((1,)), L.Dropout(0.5)])

    @tf.function  # type: ignore[untyped-decorator]
    def drawn(seeds: Any) -> Any:
        def one(seed: Any) -> Any:
            with keyed_masks(model, seed):
                if not of_row:
                    return tf.bitcast(tf.random.uniform([], 0, 2**63 - 1, tf.int64), tf.int64)
                with masks_of_row(tf.constant(3)):
                    return tf.bitcast(tf.random.uniform([], 0, 2**63 - 1, tf.int64), tf.int64)

        return tf.map_fn(one, seeds, fn_output_signature=tf.int64)

    return drawn(tf.constant(SEEDS)).numpy()


@pytest.mark.slow
def test_no_two_keys_draw_the_same() -> None:
    """With 32 bits left of the key, five pairs are expected: none is found once in 100 times."""
    for of_row in (False, True):
        assert len(np.unique(first_draws(of_row))) == len(SEEDS)


class Samples(L.Layer):
    """Several noisy samples of each row, along an axis ahead of the rows, and their mean."""

    def call(self, x: Any) -> Any:
        return tf.reduce_mean(x[None] + tf.random.normal(tf.concat([[5], tf.shape(x)], 0)), 0)


def test_samples_along_an_axis_ahead_of_the_rows_train() -> None:
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(4), Samples(), L.Dense(1)])
    plan = PrivacyPlan.calibrated(
        units=8, expected_batch_size=4, steps=1, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
    )
    private = make_private(model, plan, optimizer="sgd", loss="mse")
    assert private.fit(np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)).steps == 1
