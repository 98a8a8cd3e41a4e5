"""The zoo: what mixes rows is refused or bounded, what keeps them apart trains, most of it the fast way.

Entries are checked to be what they say by gradients of rows alone, and the engine is judged by how far one replaced row
moves the sum that it would release; neither asks the engine what it thinks of the model.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from tensorflow.python.framework import op_def_registry

from privacy_pipeline.dp.clipping.intercept import FallbackWarning
from privacy_pipeline.errors import BadInputError
from tests.dp.zoo import (
    harness,
    honest_layers,
    honest_own,
    mixing_loops,
    mixing_losses,
    mixing_moves,
    mixing_reductions,
    mixing_training,
    quick,
)
from tests.dp.zoo.kit import Entry, joined

MIXING = joined(mixing_reductions.ZOO, mixing_moves.ZOO, mixing_loops.ZOO, mixing_training.ZOO, mixing_losses.ZOO)
HONEST = joined(honest_layers.ZOO, honest_own.ZOO)
# What rounding adds to a sum of eight rows.
ROUNDING = 1e-3
FAST_SHARE = 25 / 30


def of(entries: list[Entry]) -> Any:
    """Parameters of a test; what the fast suite does not run is slow."""
    shown = quick.MIXING | quick.HONEST
    params = [pytest.param(e, id=e.name, marks=[] if e.name in shown else pytest.mark.slow) for e in entries]
    return pytest.mark.parametrize("entry", params)


@cache
def judged(name: str) -> tuple[Any, str | None]:
    """What the engine clips an entry with, and None; or None, and why it refuses."""
    entry = next(one for one in (*MIXING, *HONEST) if one.name == name)
    made = entry.made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        try:
            return (made, harness.clipper_of(made.model, made.loss, made.x, made.y)), None
        except BadInputError as error:
            return None, str(error)


def run_of(made: Any, clipper: Any) -> Any:
    return harness.clipped_sum_of(made.model, made.loss, made.x, made.y, clipper=clipper)


def test_the_zoo_is_large_enough() -> None:
    assert len(MIXING) >= 55
    assert len(HONEST) >= 35
    assert len({entry.name for entry in (*MIXING, *HONEST)}) == len(MIXING) + len(HONEST)
    assert {entry.name for entry in MIXING} >= quick.MIXING
    assert {entry.name for entry in HONEST} >= quick.HONEST
    assert sum(entry.fast for entry in HONEST) >= FAST_SHARE * len(HONEST)


@pytest.mark.slow_but(
    "mean_over_batch",
    "batch_normalization_layer",
    "space_to_batch",
    "only_in_double_precision",
    "string_lookup",
    "loss_over_batch_sum",
)
@of([*MIXING, *HONEST])
def test_zoo_entries_are_what_they_say(entry: Entry) -> None:
    if entry in MIXING:
        assert harness.mixes(entry, entry.made(), scales=(1.0, 30.0, 1e-4, 1e6, 3e38), rows=8) > harness.SHOWN
    else:
        assert harness.mixes(entry, entry.made(), scales=(10.0,), rows=4) < 1e-4


@pytest.mark.slow_but(
    "mean_over_batch",
    "batch_normalization_layer",
    "only_beyond_20",
    "statistic_in_an_activation",
    "strings_joined_over_batch",
    "loss_mean_over_labels_present",
    "gather_by_data",
)
@of(MIXING)
def test_mixing_is_refused_or_bounded(entry: Entry) -> None:
    taken, message = judged(entry.name)
    if taken is not None:
        moved = harness.movement(taken[0], run_of(*taken), random=entry.random)
        assert moved.replaced <= 2 + ROUNDING, moved
        assert moved.removed <= 1 + ROUNDING, moved
    else:
        assert message


@pytest.mark.slow_but(
    "mean_over_batch",
    "batch_normalization_layer",
    "only_beyond_20",
    "statistic_in_an_activation",
    "strings_joined_over_batch",
    "loss_mean_over_labels_present",
    "gather_by_data",
)
@of(MIXING)
def test_a_refusal_names_the_place_and_the_op(entry: Entry) -> None:
    """A layer of the model, or the loss, and the type of an op; the validator knows the layer's class alone."""
    _, message = judged(entry.name)
    if message is None or "cannot be trained privately" in message:
        return
    names = [layer.name for layer in entry.made().model._flatten_layers(include_self=False)]
    assert any(name in message for name in names) or "loss" in message
    words = set(re.findall(r"\w+", message))
    assert any(op_def_registry.get(word) is not None for word in words), message


@pytest.mark.slow_but("string_lookup")
@of(HONEST)
def test_honest_models_train_as_by_hand(entry: Entry) -> None:
    taken, message = judged(entry.name)
    assert message is None
    made, _ = taken
    run = run_of(*taken)
    if not entry.random:
        right = harness.clipped_by_hand(made, made.x, made.y)
        for value, expected in zip(run(made.x, made.y), right, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)
    moved = harness.movement(made, run, random=entry.random)
    assert moved.replaced <= 2 + ROUNDING, moved
    assert moved.removed <= 1 + ROUNDING, moved


@of([e for e in HONEST if e.fast])
def test_honest_models_take_the_fast_way(entry: Entry) -> None:
    taken, message = judged(entry.name)
    assert message is None
    assert harness.kind_of(taken[1]) == "proven"
