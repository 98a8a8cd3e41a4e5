"""Rules of the row-wise proof, one by one: what is proven is also run, with a row replaced or left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.dp.rowwise import sizes
from privacy_pipeline.dp.rowwise.proof import Proof, note_key, prove
from privacy_pipeline.dp.rowwise.sizes import OPAQUE, Count

ROWS = 5
KEY = tf.constant([5, 6], tf.int64)
raw: Any = tf.raw_ops
Function = Callable[..., Any]


def F(*shape: int | None) -> tf.TensorSpec:  # noqa: N802
    return tf.TensorSpec([None, *shape], tf.float32)


def I(*shape: int | None) -> tf.TensorSpec:  # noqa: E743, N802
    return tf.TensorSpec([None, *shape], tf.int32)


def traced(function: Function, specs: Sequence[Any]) -> Any:
    return tf.function(function, input_signature=list(specs), autograph=False).get_concrete_function()


def proof_of(concrete: Any, specs: Sequence[Any]) -> Proof:
    graph = concrete.graph
    return prove(graph, batch=graph.inputs[: len(specs)], targets=tf.nest.flatten(graph.structured_outputs))


def drawn(specs: Sequence[Any], rows: int, seed: int) -> list[Any]:
    generator = np.random.default_rng(seed)
    shapes = [[rows, *(2 if size is None else size for size in spec.shape[1:])] for spec in specs]
    return [
        generator.integers(0, 3, shape).astype(np.int32)
        if spec.dtype.is_integer
        else generator.normal(size=shape).astype(np.float32)
        for spec, shape in zip(specs, shapes, strict=True)
    ]


def ran(concrete: Any, data: Sequence[Any]) -> list[Any]:
    return [value.numpy() for value in tf.nest.flatten(concrete(*map(tf.constant, data)))]


def close(found: Sequence[Any], right: Sequence[Any], kept: Any, kept_right: Any) -> None:
    for a, b in zip(found, right, strict=True):
        if a.dtype == object:
            assert a[kept].tolist() == b[kept_right].tolist()
        else:
            np.testing.assert_allclose(a[kept], b[kept_right], rtol=1e-4, atol=1e-5)


def require_apart(concrete: Any, specs: Sequence[Any], *, alone: bool = True) -> None:
    """Other rows stay as they are when a row is replaced, and when it is left out.

    Args:
        concrete: the function.
        specs: its inputs.
        alone: also leave rows out; not for what draws one number a row, since draws go by the place.
    """
    data, other = drawn(specs, ROWS, 0), drawn(specs, ROWS, 1)
    before = ran(concrete, data)
    for row in (0, 2, ROWS - 1):
        changed = [values.copy() for values in data]
        for values, new in zip(changed, other, strict=True):
            values[row] = 7 * new[row] if values.dtype.kind == "f" else new[row]
        rest = np.delete(np.arange(ROWS), row)
        close(ran(concrete, changed), before, rest, rest)
        if alone:
            close(ran(concrete, [np.delete(values, row, 0) for values in data]), before, slice(None), rest)
            close(ran(concrete, [values[[row]] for values in data]), before, slice(None), [row])


@dataclass(frozen=True)
class Case:
    """A rule: a function that keeps rows apart, and one that does not.

    Attributes:
        name: of the rule.
        specs: inputs of both.
        apart: has to be proven.
        mixing: may not be proven.
        says: a rule says that it mixes rows, and not only that none covers it.
        draws: it draws a number for each row.
    """

    name: str
    specs: tuple[Any, ...]
    apart: Function
    mixing: Function
    says: bool = True
    draws: bool = False


def count(x: Any) -> Any:
    return tf.shape(x)[0]


def steps_of(x: Any, more: int = 0) -> Any:
    """The steps of a loop over time, in a list whose length is a size that the loop asks for, [rows, steps, 4]."""
    time = tf.shape(x)[1]
    given = tf.TensorArray(tf.float32, time, element_shape=[None, 4]).unstack(tf.transpose(x, [1, 0, 2]))
    found = tf.TensorArray(tf.float32, time, dynamic_size=more > 0, element_shape=[None, 4])

    def body(i: Any, array: Any) -> Any:
        return i + 1, array.write(i, given.read(tf.minimum(i, time - 1)))

    found = tf.while_loop(lambda i, _: i < time + more, body, (0, found))[1]
    return tf.transpose(found.stack(), [1, 0, 2])


def asked() -> Any:
    """A place that is public and not known: 1."""
    return tf.cast(TABLE.size(), tf.int32) - 2


def any_of(x: Any) -> Any:
    return tf.cast(tf.reduce_max(tf.reshape(x, [-1])[:1]), tf.bool)


def same(truth: Any) -> Any:
    return raw.Equal(x=truth, y=truth)


def key() -> Any:
    """A secret seed, as a step of the engine notes it."""
    seed = tf.compat.v1.get_default_graph().capture(KEY)
    note_key(seed)
    return seed


def turned(seed: Any) -> Any:
    fold = tf.random.experimental.stateless_fold_in
    return tf.while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, fold(s, tf.cast(i, tf.int64))), (0, seed))[1]


def folded(seed: Any) -> Any:
    fold = tf.random.experimental.stateless_fold_in
    return fold(fold(seed, tf.constant(0, tf.int64)), tf.constant(1, tf.int64))


def gradient(function: Function) -> Function:
    """The gradient of a function's weighted sum, by its first argument."""

    def run(x: Any, *others: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            made = function(x, *others)
            weights = tf.cos(tf.range(tf.size(made[0]), dtype=tf.float32))
            total = tf.reduce_sum(tf.square(made) * tf.reshape(weights, tf.shape(made)[1:]))
        return tape.gradient(total, x)

    return run


def looped(function: Function, rounds: int = 3) -> Function:
    """A loop of some rounds: x becomes function(i, x)."""
    return lambda x: tf.while_loop(lambda i, v: i < rounds, lambda i, v: (i + 1, function(i, v)), [0, x])[1]


def over_time(x: Any) -> Any:
    """A running product over time, by lists of tensors."""
    steps = tf.TensorArray(tf.float32, 3).unstack(tf.transpose(x, [1, 0, 2]))
    out = tf.TensorArray(tf.float32, 3)
    start = (0, tf.ones_like(x[:, 0]), out)
    found = tf.while_loop(
        lambda i, *_: i < 3, lambda i, v, o: (i + 1, v * steps.read(i), o.write(i, v * steps.read(i))), start
    )
    return tf.transpose(found[2].stack(), [1, 0, 2])


def over_rows(x: Any) -> Any:
    """A running sum over rows."""
    return tf.scan(lambda total, row: total + row, x)


@tf.custom_gradient
def centred_backward(x: Any) -> Any:
    return x * 2.0, lambda g: g - tf.reduce_mean(g, 0)


@tf.custom_gradient
def clipped_backward(x: Any) -> Any:
    return x * 2.0, lambda g: tf.clip_by_value(g, -1.0, 1.0)


def norm(x: Any, size: int, *, rows_are_channels: bool) -> Any:
    layout = "NCHW" if rows_are_channels else "NHWC"
    channels = count(x) if rows_are_channels else size
    shaped = tf.reshape(x, [1, count(x), size, 1]) if rows_are_channels else x[:, None, None]
    made = raw.FusedBatchNormV3(
        x=shaped, scale=tf.ones([channels]), offset=tf.zeros([channels]), mean=[], variance=[], data_format=layout
    )[0]
    return tf.reshape(made, tf.shape(x))


def table() -> Any:
    filled = tf.lookup.KeyValueTensorInitializer([0, 1, 2], [5.0, 7.0, 9.0], tf.int32, tf.float32)
    return tf.lookup.StaticHashTable(filled, -1.0)


TABLE = table()
KERNEL = tf.constant(np.random.default_rng(2).normal(size=(2, 2, 2, 3)), tf.float32)
LONG = tf.constant(np.random.default_rng(3).normal(size=(ROWS, 4)), tf.float32)

CASES = [
    Case("broadcast", (F(4),), lambda x: x * [1.0, 2.0, 3.0, 4.0] + 1.0, lambda x: x[:, None] - x),
    Case("constant_for_each_place", (F(4),), lambda x: x + LONG[:1], lambda x: x + LONG),
    Case(
        "select",
        (F(4),),
        lambda x: raw.Select(condition=x[:, 0] > 0, x=x, y=-x),
        lambda x: raw.Select(condition=tf.constant([True, False, True, True, False]), x=x, y=-x),
    ),
    Case("clip_by_norm", (F(4),), lambda x: tf.clip_by_norm(x, 1.0, axes=1), lambda x: tf.clip_by_norm(x, 1.0)),
    Case("sum", (F(3, 4),), lambda x: tf.reduce_sum(x, [1, -1]), lambda x: x / tf.reduce_sum(x, 0)),
    Case("mean_of_all", (F(4),), lambda x: x - tf.reduce_mean(x, 1, keepdims=True), lambda x: x - tf.reduce_mean(x)),
    Case(
        "reduce_join",
        (I(2),),
        lambda x: tf.strings.reduce_join(tf.strings.as_string(x), 1),
        lambda x: tf.strings.join([tf.strings.as_string(x), tf.strings.reduce_join(tf.strings.as_string(x))]),
    ),
    Case("arg_max", (F(4),), lambda x: tf.argmax(x, 1), lambda x: x + tf.cast(tf.argmax(x, 0), tf.float32)),
    Case("reshape_to_4_B", (F(4),), lambda x: tf.reshape(x, [-1, 2, 2]), lambda x: tf.reshape(x, [4, -1])),
    Case(
        "reshape_through_4_B",
        (F(4),),
        lambda x: tf.transpose(tf.reshape(tf.transpose(x), [4, -1])),
        lambda x: tf.transpose(tf.reshape(x, [4, -1])),
    ),
    Case(
        "merge_time",
        (F(3, 4),),
        lambda x: tf.reshape(tf.nn.relu(tf.reshape(x, [-1, 4])), [-1, 3, 4]),
        lambda x: tf.reshape(tf.cumsum(tf.reshape(x, [-1, 4]), 0), [-1, 3, 4]),
    ),
    Case(
        "merge_time_wrongly",
        (F(3, 4),),
        lambda x: tf.reshape(tf.reshape(x, [-1, 6]), [-1, 3, 4]),
        lambda x: tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 3, 4]),
    ),
    Case(
        "transpose",
        (F(3, 4),),
        lambda x: tf.transpose(tf.transpose(x, [2, 0, 1]), [1, 0, 2]),
        lambda x: tf.transpose(x, [1, 0, 2]),
        says=False,
    ),
    Case("squeeze", (F(1, 4),), lambda x: tf.squeeze(x, 1), lambda x: tf.squeeze(x[:1], 0) + x[:, 0]),
    Case("concat", (F(4),), lambda x: tf.concat([x, 2 * x], -1), lambda x: tf.concat([x[1:], x[:1]], 0)),
    Case(
        "concat_and_split_rows",
        (F(4),),
        lambda x: tf.subtract(*tf.split(tf.concat([x, 2 * x], 0), 2)),
        lambda x: tf.concat([x, LONG], 0)[ROWS:],
    ),
    Case(
        "split", (F(4),), lambda x: tf.add(*tf.split(x, 2, axis=1)), lambda x: tf.split(tf.concat([x, x], 0), 1)[0][1:]
    ),
    Case(
        "split_by_sizes",
        (F(4),),
        lambda x: tf.split(x, [1, 3], axis=1)[1],
        lambda x: tf.split(x, tf.stack([tf.minimum(count(x), 4), 4 - tf.minimum(count(x), 4)]), axis=1)[0],
        says=False,
    ),
    Case(
        "stack",
        (F(4),),
        lambda x: tf.stack([x, 2 * x], 1),
        lambda x: tf.stack([x, x], 0)[0] + tf.unstack(LONG)[0] * x[:1],
    ),
    Case(
        "tile", (F(4),), lambda x: tf.tile(x, [1, 2]), lambda x: tf.reduce_sum(tf.tile(x, tf.stack([1, count(x)])), 1)
    ),
    Case(
        "broadcast_to",
        (F(1),),
        lambda x: tf.broadcast_to(x, tf.stack([count(x), 3])),
        lambda x: tf.reduce_sum(tf.broadcast_to(x, tf.stack([count(x), count(x)])), 1),
    ),
    Case("strided_slice", (F(3, 4),), lambda x: x[:, None, 1, ..., ::2], lambda x: x - x[:1]),
    Case("reversed_slice", (F(4),), lambda x: x[:, ::-1], lambda x: x[::-1]),
    Case("slice_up_to_the_number_of_rows", (F(8),), lambda x: x[:, 1:3], lambda x: x[:, : count(x)], says=False),
    Case("slice_at_the_number_of_rows", (F(8),), lambda x: x[:, -1], lambda x: x[:, count(x) - 1], says=False),
    Case("slice_step", (F(8),), lambda x: x[:, ::3], lambda x: x[:, :: count(x)], says=False),
    Case(
        "slice",
        (F(8),),
        lambda x: tf.slice(x, [0, 1], [-1, 2]),
        lambda x: tf.slice(x, [0, 0], tf.stack([-1, count(x)])),
        says=False,
    ),
    Case("slice_gradient", (F(3, 4),), gradient(lambda x: x[:, 1:, 2]), gradient(lambda x: x - x[:1])),
    Case("pad", (F(4),), lambda x: tf.pad(x, [[0, 0], [1, 2]]), lambda x: tf.pad(x, [[1, 0], [0, 0]])[:-1]),
    Case(
        "pad_by_the_number_of_rows",
        (F(4),),
        lambda x: tf.pad(x, [[0, 0], [1, 2]], "REFLECT"),
        lambda x: tf.reduce_mean(tf.pad(x, [[0, 0], tf.stack([0, count(x)])]), 1),
        says=False,
    ),
    Case(
        "space_to_batch",
        (F(4, 4, 1),),
        lambda x: tf.batch_to_space(2 * tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), [2, 2], [[0, 0], [0, 0]]),
        lambda x: tf.batch_to_space(x, [2, 2], [[0, 0], [0, 0]]),
    ),
    Case("gather_public", (I(2),), lambda i: tf.gather(LONG, i), lambda i: tf.gather(i, [0])),
    Case("gather_columns", (F(4),), lambda x: tf.gather(x, [2, 0], axis=1), lambda x: tf.gather(x, [0, 0])[:1] + x),
    Case("gather_each", (F(4), I(2)), lambda x, i: tf.gather(x, i, batch_dims=1), lambda x, i: tf.gather(x, i[:, 0])),
    Case(
        "gather_nd",
        (I(1),),
        lambda i: tf.gather_nd(LONG, i),
        lambda i: tf.gather_nd(tf.fill([3], tf.cast(count(i), tf.float32)), i),
        says=False,
    ),
    Case("one_hot", (I(),), lambda i: tf.one_hot(i, 3, axis=0 - 1), lambda i: tf.one_hot(i, count(i)), says=False),
    Case(
        "top_k",
        (F(8),),
        lambda x: tf.math.top_k(x, 2)[0],
        lambda x: tf.reduce_sum(tf.math.top_k(x, count(x))[0], 1),
        says=False,
    ),
    Case(
        "top_k_by_other_rows",
        (F(8), I()),
        lambda x, y: tf.math.top_k(x, 3)[1],
        lambda x, y: tf.reduce_sum(tf.math.top_k(x, tf.size(tf.unique(y)[0]))[0], 1),
        says=False,
    ),
    Case("top_k_gradient", (F(4),), gradient(lambda x: tf.math.top_k(x, 2)[0]), gradient(lambda x: tf.sort(x, axis=0))),
    Case("matmul", (F(3, 4),), lambda x: x @ tf.transpose(LONG), lambda x: x[:, 0] @ tf.transpose(x[:, 0])),
    Case(
        "matmul_transposed_a",
        (F(4),),
        lambda x: tf.transpose(tf.matmul(LONG, x, transpose_b=True)),
        lambda x: tf.matmul(x, x, transpose_a=True) + x[:, :1, None],
    ),
    Case(
        "batched_matmul",
        (F(3, 4),),
        lambda x: tf.matmul(x, x, transpose_b=True),
        lambda x: tf.matmul(x, x[:1], transpose_b=True),
    ),
    Case("einsum", (F(3, 4),), lambda x: tf.einsum("btd,bsd->bts", x, x), lambda x: tf.einsum("btd,csd->bts", x, x)),
    Case(
        "einsum_dots",
        (F(3, 4),),
        lambda x: tf.einsum("...d,kd->...k", x, LONG),
        lambda x: tf.einsum("bt...,b...->t...", x, x[:, 0]),
    ),
    Case(
        "conv",
        (F(4, 4, 2),),
        lambda x: tf.nn.conv2d(x, KERNEL, 1, "SAME"),
        lambda x: tf.nn.conv2d(tf.transpose(x, [1, 0, 2, 3]), KERNEL, 1, "SAME")[0],
    ),
    Case(
        "conv_gradient",
        (F(4, 4, 2),),
        gradient(lambda x: tf.nn.conv2d(x, KERNEL, 2, "VALID")),
        gradient(lambda x: tf.nn.conv2d(tf.transpose(x, [1, 0, 2, 3]), KERNEL, 1, "SAME")),
    ),
    Case(
        "dilation",
        (F(5, 5, 1),),
        lambda x: tf.nn.dilation2d(x, tf.ones([2, 2, 1]), [1] * 4, "SAME", "NHWC", [1] * 4),
        lambda x: tf.nn.dilation2d(x, x[:, :, 0], [1] * 4, "SAME", "NHWC", [1] * 4),
        says=False,
    ),
    Case(
        "pooling",
        (F(4, 4, 2),),
        lambda x: tf.nn.max_pool2d(x, 2, 1, "SAME"),
        lambda x: tf.nn.max_pool2d(tf.transpose(x, [1, 0, 2, 3]), 2, 1, "SAME"),
    ),
    Case(
        "pooling_gradient",
        (F(4, 4, 2),),
        gradient(lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME")),
        gradient(lambda x: tf.nn.avg_pool2d(tf.transpose(x, [1, 0, 2, 3]), 2, 1, "SAME")),
    ),
    Case(
        "image_contrast",
        (F(4, 3),),
        lambda x: tf.image.adjust_contrast(x[:, None], 2.0),
        lambda x: tf.image.adjust_contrast(x, 2.0),
    ),
    Case(
        "batch_norm",
        (F(4),),
        lambda x: norm(x, 4, rows_are_channels=True),
        lambda x: norm(x, 4, rows_are_channels=False),
    ),
    Case("softmax", (F(3),), lambda x: tf.nn.softmax(x), lambda x: tf.nn.softmax(x, axis=0)),
    Case(
        "cross_entropy",
        (F(4),),
        lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(2 * x), x),
        lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(LONG), x),
    ),
    Case(
        "sparse_cross_entropy",
        (F(4), I()),
        lambda x, y: tf.nn.sparse_softmax_cross_entropy_with_logits(y, x),
        lambda x, y: tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant([0, 1, 2, 0, 1]), x),
    ),
    Case("cumsum", (F(4),), lambda x: tf.cumsum(x, 1), lambda x: tf.cumsum(x, 0)),
    Case("roll", (F(4),), lambda x: tf.roll(x, 1, 1), lambda x: tf.roll(x, 1, 0)),
    Case(
        "reverse_sequence",
        (F(4), I()),
        lambda x, n: tf.reverse_sequence(x, n, 1, batch_axis=0),
        lambda x, n: tf.reverse_sequence(x, tf.ones([4], tf.int32), 0, batch_axis=1),
    ),
    Case("loop_over_time", (F(3, 4),), over_time, over_rows, says=False),
    Case("loop", (F(4),), looped(lambda i, v: v * 2 + tf.cast(i, tf.float32)), looped(lambda i, v: tf.roll(v, 1, 0))),
    Case("loop_with_place", (F(4),), looped(lambda i, v: v + v[:, i : i + 1]), looped(lambda i, v: v + v[i])),
    Case(
        "list_of_a_public_length",
        (F(4),),
        lambda x: tf.transpose(tf.TensorArray(tf.float32, 2, element_shape=[None, 4]).write(0, x).stack(), [1, 0, 2]),
        lambda x: tf.reduce_mean(tf.TensorArray(tf.float32, count(x), element_shape=[None, 4]).write(0, x).stack(), 0),
        says=False,
    ),
    Case(
        "list_of_a_length_that_is_asked_for",
        (F(3, 4),),
        lambda x: tf.reshape(steps_of(x), [-1, 12]),
        lambda x: tf.reshape(steps_of(x, more=3), [-1, 12]),
        says=False,
    ),
    Case(
        "slice_at_a_public_place",
        (F(4),),
        lambda x: tf.slice(x, [0, asked()], [count(x), 2]) + x[:, asked() : asked() + 2],
        lambda x: tf.slice(x, [asked(), 0], [-1, 2]),
    ),
    Case(
        "sum_at_public_places",
        (F(4),),
        lambda x: tf.transpose(tf.math.unsorted_segment_sum(tf.transpose(x), [0, 1, 1, 0], 2)),
        lambda x: tf.math.unsorted_segment_sum(x, [0, 1, 1, 0, 0], 5),
    ),
    Case(
        "compared_with_itself",
        (F(4),),
        lambda x: x + tf.where(same(any_of(x)), 0.0, np.nan),
        lambda x: x + tf.where(raw.Equal(x=any_of(x), y=any_of(x[1:])), 0.0, 1.0),
    ),
    Case(
        "cond",
        (F(4),),
        lambda x: tf.cond(TABLE.size() > 2, lambda: x * 2, lambda: -x),
        lambda x: tf.cond(tf.reduce_sum(x[:, 0]) > 0, lambda: x, lambda: -x),
    ),
    Case(
        "switch",
        (F(4),),
        lambda x: tf.switch_case(tf.constant(1), [lambda: x, lambda: -x]),
        lambda x: tf.switch_case(count(x) % 2, [lambda: x, lambda: -x]),
        says=False,
    ),
    Case(
        "nested_function",
        (F(4),),
        lambda x: tf.function(lambda v: tf.function(tf.nn.relu)(v) + 1)(x),
        lambda x: tf.function(lambda v: tf.function(lambda w: w - tf.reduce_max(w, 0))(v))(x),
    ),
    Case("custom_gradient", (F(4),), gradient(clipped_backward), gradient(centred_backward)),
    Case("table", (I(2),), lambda i: TABLE.lookup(i), lambda i: TABLE.lookup(tf.unique(tf.reshape(i, [-1]))[0])),
    Case(
        "draws",
        (F(4),),
        lambda x: x * tf.random.stateless_uniform(tf.shape(x), key()),
        lambda x: x * tf.random.stateless_uniform([ROWS, 4], key()),
        draws=True,
    ),
    Case(
        "draws_of_a_fixed_seed",
        (F(4),),
        lambda x: x + tf.random.stateless_uniform([4], [1, 2]),
        lambda x: x * tf.random.stateless_uniform(tf.shape(x), [1, 2]),
        says=False,
    ),
    Case(
        "draws_of_a_seed_made_of_constants_in_a_loop",
        (F(4),),
        lambda x: x * tf.random.stateless_uniform(tf.shape(x), folded(key())),  # which key a loop makes is not followed
        lambda x: x * tf.random.stateless_uniform(tf.shape(x), turned(tf.constant([1, 2], tf.int64))),
        says=False,
        draws=True,
    ),
    Case("shuffle", (F(4),), lambda x: x + 1, lambda x: tf.random.shuffle(x)),
    Case(
        "number_of_rows",
        (F(4),),
        lambda x: x * tf.cast(tf.shape(x)[1], tf.float32),
        lambda x: x / tf.cast(count(x), tf.float32),
    ),
    Case(
        "place_of_a_row",
        (F(4),),
        lambda x: x + tf.range(4.0),
        lambda x: x * tf.cast(tf.range(count(x)), tf.float32)[:, None],
        says=False,
    ),
    Case(
        "flat_places",
        (F(4),),
        lambda x: tf.gather(tf.reshape(x, [-1]), tf.range(count(x)) * 4 + tf.argmax(x, 1, tf.int32)),
        lambda x: tf.gather(tf.reshape(x, [-1]), tf.range(count(x)) * 4 + 4 - tf.argmax(x, 1, tf.int32)),
        says=False,
    ),
    Case(
        "places_in_short_numbers",
        (F(300),),
        lambda x: tf.argmax(x, 1),
        lambda x: tf.gather(
            tf.reshape(x, [-1]), tf.range(count(x)) * 300 + tf.cast(tf.cast(tf.argmax(x, 1), tf.int8), tf.int32)
        ),
        says=False,
    ),
    Case(
        "summed_places",
        (F(4),),
        lambda x: x,
        lambda x: (
            x
            * tf.cast(tf.math.unsorted_segment_sum(tf.range(count(x)), tf.range(count(x)), count(x)), tf.float32)[
                :, None
            ]
        ),
        says=False,
    ),
    Case(
        "gathered_places",
        (F(4),),
        lambda x: x,
        lambda x: x * tf.cast(tf.gather(tf.range(count(x)), tf.range(count(x))), tf.float32)[:, None],
        says=False,
    ),
    Case(
        "listed_places",
        (F(4),),
        lambda x: x,
        lambda x: (
            x
            * tf.cast(
                tf.TensorArray(tf.int32, 1, element_shape=[None]).write(0, tf.range(count(x))).stack()[0], tf.float32
            )[:, None]
        ),
        says=False,
    ),
    Case(
        "triangular_solve",
        (F(3, 3),),
        lambda x: tf.linalg.triangular_solve(tf.linalg.set_diag(x, 2 + tf.abs(x[:, 0])), x),
        lambda x: raw.MatrixTriangularSolve(matrix=x, rhs=x[:, None]),
    ),
    Case(
        "bincount",
        (I(3),),
        lambda i: raw.DenseBincount(input=i, size=4, weights=tf.zeros([0])),
        lambda i: raw.DenseBincount(input=i, size=4, weights=LONG[:, :3]),
    ),
    Case("unique", (I(3),), lambda i: i, lambda i: tf.unique(tf.reshape(i, [-1]))[1]),
    Case(
        "truncated_axis",
        (F(4),),
        lambda x: raw.Cumsum(x=x, axis=raw.FloorDiv(x=-1, y=2)),
        lambda x: raw.Cumsum(x=x, axis=raw.TruncateDiv(x=-1, y=2)),
        says=False,
    ),
    Case(
        "wrapped_axis",
        (F(4, 2),),
        lambda x: raw.Cumsum(x=x, axis=tf.constant(1) * tf.constant(2)),
        lambda x: raw.Cumsum(x=x, axis=tf.constant(65536) * tf.constant(65536)),
        says=False,
    ),
    Case(
        "shortened_axis",
        (F(4, 2),),
        lambda x: raw.Cumsum(x=x, axis=tf.cast(tf.constant(1, tf.int64), tf.int32)),
        lambda x: raw.Cumsum(x=x, axis=tf.cast(tf.cast(tf.constant(256), tf.int8), tf.int32)),
        says=False,
    ),
]
each = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@each
def test_rows_that_stay_apart_are_proven(case: Case) -> None:
    concrete = traced(case.apart, case.specs)
    found = proof_of(concrete, case.specs)
    assert found.proven, found.offences
    require_apart(concrete, case.specs, alone=not case.draws)


@each
def test_what_mixes_rows_is_not_proven(case: Case) -> None:
    found = proof_of(traced(case.mixing, case.specs), case.specs)
    assert not found.proven
    if case.says:
        assert found.mixing, found.offences


# --- chains of moves ----------------------------------------------------------------------------------------------

SHAPES = ([-1, 6], [6, -1], [-1, 3, 2], [2, -1, 3], [-1, 2], [3, -1], [-1], [2, 3, -1], [-1, 12], [12, -1])
_reshapes = st.sampled_from([("reshape", shape) for shape in SHAPES])
_others = st.tuples(st.sampled_from(["transpose", "concat", "split", "flip", "sum"]), st.integers(0, 2))


def moved(x: Any, moves: Sequence[Any]) -> Any:
    for kind, how in moves:
        rank = len(x.shape)
        if kind == "reshape":
            x = tf.reshape(x, how)
        elif kind == "transpose":
            x = tf.transpose(x, np.roll(np.arange(rank), how).tolist())
        elif kind == "concat":
            x = tf.concat([x, 2 * x], how % rank)
        elif kind == "split":
            x = tf.subtract(*tf.split(x, 2, how % rank))
        elif kind == "flip":
            x = tf.reverse(x, [how % rank])
        else:
            x = tf.reduce_sum(x, how % rank, keepdims=True)
    return x


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.one_of(_reshapes, _others), min_size=1, max_size=5))
def test_chains_that_are_proven_keep_rows_apart(moves: list[Any]) -> None:
    try:
        concrete = traced(lambda x: moved(x, moves), [F(3, 4)])
    except ValueError:  # sizes that do not fit
        return
    if proof_of(concrete, [F(3, 4)]).proven:
        require_apart(concrete, [F(3, 4)])


# --- sizes --------------------------------------------------------------------------------------------------------


def at(number: Any, rows: int) -> Any:
    return number.coefficient * rows**number.power if isinstance(number, Count) else number


_counts = st.builds(Count, st.integers(-6, 6).filter(bool), st.integers(1, 3))
_numbers = st.one_of(st.integers(-12, 12), _counts, st.just(OPAQUE))
OPERATIONS = {
    sizes.add: lambda a, b: a + b,
    sizes.subtract: lambda a, b: a - b,
    sizes.multiply: lambda a, b: a * b,
    sizes.divide: lambda a, b: a // b,
    sizes.remainder: lambda a, b: a % b,
    sizes.maximum: max,
    sizes.minimum: min,
    sizes.equal: lambda a, b: a == b,
    sizes.less: lambda a, b: a < b,
}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_numbers, _numbers, st.sampled_from(sorted(OPERATIONS, key=lambda f: f.__name__)))
def test_sizes_hold_for_each_number_of_rows(a: Any, b: Any, operation: Any) -> None:
    found = operation(a, b)
    if found is OPAQUE:
        return
    for rows in (1, 2, 3, 7):
        left, right = (3 if one is OPAQUE else at(one, rows) for one in (a, b))
        assert at(found, rows) == OPERATIONS[operation](left, right)


def test_the_product_of_sizes() -> None:
    assert sizes.product([2, Count(3), 4]) == Count(24)
    assert sizes.product([Count(), Count()]) == Count(1, 2)
    assert sizes.product([]) == 1
    assert sizes.product([OPAQUE, 0]) == 0
