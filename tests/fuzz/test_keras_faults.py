"""What the fuzzer of `make_private` found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.errors import BadInputError

PLAN = PrivacyPlan.calibrated(
    units=100, expected_batch_size=10, steps=5, delta=1e-5, clipping_norm=1.0, noise_multiplier=1.0
)


@pytest.mark.parametrize(
    "change",
    [
        {"virtual_batch_size": {}},
        {"virtual_batch_size": None},
        {"virtual_batch_size": np.array([1.0, 2.0])},
        {"memory_cap": "x"},
        {"memory_cap": float("nan")},
        {"seed": "\ud800"},
        {"seed": 1.5},
        {"state_dir": ["x"]},
        {"state_dir": "a\0"},
        {"binding": 5},
        {"data_name": "\ud800"},
        {"remember": "no"},
        {"history": np.array([1.0, 2.0])},
        {"history": []},
        {"optimizer": {"class_name": "Nope"}},
        {"optimizer": {"class_name": "SGD", "config": {"nope": 1}}},
        {"optimizer": {}},
        {"optimizer": 5},
        {"loss_weights": 10**400},
        {"loss_weights": [10**400]},
        {"loss_weights": {"x": 1}},
        {"loss_weights": float("nan")},
        {"loss_weights": ["x"]},
    ],
    ids=lambda change: str(change)[:40],
)
def test_an_argument_that_is_of_no_use(change: dict[str, Any]) -> None:
    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), tf.keras.layers.Dense(1)])
    with pytest.raises(BadInputError) as caught:
        make_private(model, PLAN, **{"optimizer": "sgd", "loss": "mse", **change})
    assert next(iter(change)) in caught.value.message
