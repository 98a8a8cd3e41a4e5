"""A counted value is a function of its own row, to the last bit, whatever rows stand beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.releases.single_rows import AT_ONCE, SingleRows, parts_of

WIDTH = 5
SPEC = tf.TensorSpec([None, WIDTH], tf.float32)
_random = np.random.default_rng(0)
HIDDEN = tf.constant(_random.normal(size=(WIDTH, 33)), tf.float32)
OUTPUT = tf.constant(_random.normal(size=(33, 1)), tf.float32)


def network(rows: Any) -> dict[str, Any]:
    """A network whose kernels round by shape and place."""
    hidden = tf.math.log1p(tf.nn.softplus(tf.tanh(rows @ HIDDEN)))
    return {"score": tf.sigmoid(hidden @ OUTPUT)}


def nosy(rows: Any) -> dict[str, Any]:
    """Looks at all rows, their number and their order."""
    place = tf.cast(tf.range(tf.shape(rows)[0]), tf.float32)
    return {"score": (tf.reduce_sum(rows, axis=1) - tf.reduce_mean(rows) + place)[:, tf.newaxis]}


@pytest.fixture(scope="module")
def alone() -> SingleRows:
    return SingleRows(network, SPEC, what="the network")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([1, 2, 7, 8, 9, 31, 33, 257]), data=st.data())
def test_a_row_has_the_same_bits_in_any_place_among_any_rows(
    alone: SingleRows, seed: int, rows: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    row = random.normal(size=WIDTH).astype(np.float32)
    expected = alone(row[np.newaxis])["score"]
    beside = (random.normal(size=(rows, WIDTH)) * 10.0 ** random.integers(-20, 20)).astype(np.float32)
    beside[random.random(rows) < 0.2] = data.draw(st.sampled_from([np.nan, np.inf, 0.0]))
    place = data.draw(st.integers(0, rows - 1))
    beside[place] = row
    found = alone(beside)["score"]
    assert found.shape == (rows,) and found[place].tobytes() == expected[0].tobytes()


def test_equal_rows_have_equal_values_where_a_batch_gives_several(alone: SingleRows) -> None:
    told = []
    for row in _random.normal(size=(30, WIDTH)).astype(np.float32):
        together = network(tf.constant(np.tile(row, (4095, 1))))["score"].numpy()
        told += [row] if len(np.unique(together)) > 1 else []
    assert told, "no row tells of its place: this test shows nothing on this machine"
    for row in told[:2]:
        found = [alone(np.tile(row, (rows, 1)))["score"] for rows in (4095, 4096)]
        assert [len(part) for part in found] == [4095, 4096] and len(np.unique(np.concatenate(found))) == 1


def test_what_mixes_rows_does_not_mix_them_any_more() -> None:
    rows = np.arange(20, dtype=np.float32).reshape(4, WIDTH)
    found = SingleRows(nosy, SPEC, what="it")(rows)["score"]
    np.testing.assert_array_equal(found, [nosy(row[np.newaxis])["score"].numpy().item() for row in rows])
    assert not np.array_equal(found, nosy(rows)["score"].numpy().ravel())


def test_several_inputs_and_outputs_keep_their_types_and_their_order() -> None:
    spec = {"name": tf.TensorSpec([None], tf.string), "size": tf.TensorSpec([None, 1], tf.int64)}
    single = SingleRows(lambda r: {"upper": tf.strings.upper(r["name"]), "twice": 2 * r["size"]}, spec, what="it")
    found = single({"name": np.array([b"a", b"b"], object), "size": np.array([[1], [2]], np.int64)})
    assert found["upper"].tolist() == [b"A", b"B"] and found["twice"].tolist() == [2, 4]
    assert found["twice"].dtype == np.int64


def counter() -> Callable[[Any], dict[str, Any]]:
    met = tf.Variable(0.0)
    return lambda rows: {"score": tf.reduce_sum(rows, axis=1) + met.assign_add(1.0)}


def remembering() -> Callable[[Any], dict[str, Any]]:
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, default_value=0.0)

    def function(rows: Any) -> dict[str, Any]:
        table.insert(tf.constant([0], tf.int64), rows[:1, 0])
        return {"score": rows[:, 0]}

    return function


@pytest.mark.parametrize(
    ("make", "op"),
    [
        (counter, "AssignAddVariableOp"),
        (remembering, "LookupTableInsertV2"),
        (lambda: lambda rows: {"score": rows[:, 0] + tf.random.uniform([], seed=1)}, "RandomUniform"),
        (lambda: lambda rows: {"score": tf.numpy_function(lambda v: v[:, 0], [rows], tf.float32)}, "PyFunc"),
        (lambda: tf.function(lambda rows: (tf.print(rows), {"score": rows[:, 0]})[1]), "PrintV2"),
    ],
    ids=["counter", "table", "random", "python", "print"],
)
def test_what_goes_from_one_row_to_the_next_is_refused(make: Any, op: str) -> None:
    with pytest.raises(BadInputError, match=rf"the model does more than to read: .*{op}"):
        SingleRows(make(), SPEC, what="the model")


def test_what_only_reads_is_taken() -> None:
    weight = tf.Variable(2.0)
    keys = tf.lookup.KeyValueTensorInitializer(tf.constant([1], tf.int64), tf.constant([5.0]))
    table = tf.lookup.StaticHashTable(keys, default_value=-1.0)
    recurrent = tf.keras.Sequential([tf.keras.Input([WIDTH, 1]), tf.keras.layers.LSTM(2), tf.keras.layers.Dense(1)])
    normed = tf.keras.Sequential([tf.keras.Input([WIDTH]), tf.keras.layers.BatchNormalization()])

    def reads(rows: Any) -> dict[str, Any]:
        scored = recurrent(rows[..., tf.newaxis], training=False)[:, 0] + normed(rows, training=False)[:, 0]
        return {"score": scored + weight * table.lookup(tf.cast(rows[:, 0], tf.int64))}

    rows = np.eye(3, WIDTH, dtype=np.float32)
    found = SingleRows(reads, SPEC, what="it")(rows)["score"]
    np.testing.assert_allclose(found, reads(tf.constant(rows))["score"], rtol=1e-5)


def test_two_values_for_a_row_are_an_error() -> None:
    with pytest.raises(PipelineError, match=r"it gives several values for one row: \{'score': 5\}"):
        SingleRows(lambda rows: {"score": rows}, SPEC, what="it")


def test_parts_cover_every_row_once() -> None:
    for rows in (0, 1, AT_ONCE, AT_ONCE + 1):
        parts = list(parts_of(rows))
        assert [i for part in parts for i in range(rows)[part]] == list(range(rows))
        assert all(0 < part.stop - part.start <= AT_ONCE for part in parts)
