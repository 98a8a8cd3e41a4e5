"""Mixing by loops, branches, functions and gradients of a user's own, and by segments and keys."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tests.dp.zoo.kit import ROWS, WIDTH, Made, Zoo, adds_to, between, hidden, normal, table, targets, whole

L = tf.keras.layers
ZOO: Zoo = {}
mixing = adds_to(ZOO)


def _key(x: Any) -> Any:
    """A group for each row, by its own data: 0 to 2."""
    return tf.cast(x[:, 0] > 0, tf.int32) + tf.cast(x[:, 1] > 0, tf.int32)


def _while(x: Any) -> Any:
    """Carries a running sum over the rows."""

    def body(place: Any, held: Any, found: Any) -> Any:
        held = held * 0.5 + x[place]
        return place + 1, held, found.write(place, held)

    found = tf.TensorArray(x.dtype, size=tf.shape(x)[0])
    return tf.while_loop(lambda place, *_: place < tf.shape(x)[0], body, (0, tf.zeros_like(x[0]), found))[2].stack()


def _steps_by_batch(x: Any) -> Any:
    """Runs as many rounds as the batch's largest value asks for."""
    rounds = tf.cast(tf.minimum(tf.reduce_max(tf.abs(x)) * 3.0, 9.0), tf.int32)
    return tf.while_loop(lambda n, _: n < rounds, lambda n, v: (n + 1, 0.8 * v), (0, x))[1]


def _until_batch_is_small(x: Any) -> Any:
    return tf.while_loop(lambda v: tf.reduce_max(tf.abs(v)) > 0.5, lambda v: [v * 0.7], [x], maximum_iterations=20)[0]


def _carried_statistic(x: Any) -> Any:
    """The statistic reaches what is carried in the second round alone."""

    def body(n: Any, value: Any, seen: Any) -> Any:
        return n + 1, value + seen, tf.reduce_mean(value, 0, keepdims=True) + tf.zeros_like(value)

    return tf.while_loop(lambda n, *_: n < 2, body, (0, x, tf.zeros_like(x)))[1]


@tf.function
def _inner(x: Any) -> Any:
    return x - tf.reduce_mean(x, 0, keepdims=True)


@tf.function
def _middle(x: Any) -> Any:
    return _inner(x * 2.0)


@tf.function
def _outer(x: Any) -> Any:
    return _middle(x + 1.0)


def _pairs(x: Any) -> Any:
    return tf.vectorized_map(lambda pair: pair[0] * pair[1], (x, tf.roll(x, 1, 0)))


def _segment_mean(x: Any) -> Any:
    return x - tf.gather(tf.math.unsorted_segment_mean(x, _key(x), 3), _key(x))


def _sorted_segments(x: Any) -> Any:
    rows = tf.range(tf.shape(x)[0]) // 2
    return x - tf.gather(tf.math.segment_sum(x, rows), rows)


def _unique(x: Any) -> Any:
    found, place, count = tf.unique_with_counts(_key(x))
    return x * tf.cast(tf.gather(count, place), x.dtype)[:, None] + tf.cast(tf.size(found), x.dtype)


def _bincount(x: Any) -> Any:
    return x / (1.0 + tf.cast(tf.gather(tf.math.bincount(_key(x), minlength=3), _key(x)), x.dtype))[:, None]


def _sparse(x: Any) -> Any:
    return x + tf.sparse.reduce_sum(tf.sparse.from_dense(tf.nn.relu(x)), 0)


def _sparse_product(x: Any) -> Any:
    size = tf.cast(tf.shape(x)[0], tf.int64)
    place = tf.stack([tf.range(size), (tf.range(size) + 1) % size], 1)
    return tf.sparse.sparse_dense_matmul(tf.SparseTensor(place, tf.ones(tf.shape(x)[:1]), tf.stack([size, size])), x)


def _partition(x: Any) -> Any:
    low, high = tf.dynamic_partition(x, tf.cast(x[:, 0] > 0, tf.int32), 2)
    return tf.concat([low, high], 0)


def _ragged(x: Any) -> Any:
    rows = tf.RaggedTensor.from_value_rowids(x, tf.range(tf.shape(x)[0]) // 2)
    return x - tf.repeat(tf.reduce_mean(rows, 1), rows.row_lengths(), axis=0)


def _to_dense(x: Any) -> Any:
    """Padded to the longest row of the batch, and divided by that length."""
    ragged = tf.RaggedTensor.from_tensor(x, lengths=1 + _key(x))
    padded = ragged.to_tensor()
    return x / tf.cast(tf.shape(padded)[1], x.dtype)


def _sequence_mask(x: Any) -> Any:
    """A mask as long as the longest row; its width scales all rows."""
    mask = tf.sequence_mask(1 + _key(x))
    return x / tf.cast(tf.shape(mask)[1], x.dtype)


table(
    ZOO,
    {
        "scan": lambda x: tf.scan(lambda held, row: 0.5 * held + row, x),
        "scan_reversed": lambda x: tf.scan(lambda held, row: 0.5 * held + row, x, reverse=True),
        "foldl": lambda x: x - tf.foldl(lambda held, row: tf.maximum(held, row), x),
        "foldr": lambda x: x - tf.foldr(lambda held, row: 0.5 * held + row, x),
        "while_carries_state": _while,
        "while_rounds_by_batch": _steps_by_batch,
        "while_until_batch_is_small": _until_batch_is_small,
        "while_statistic_in_later_round": _carried_statistic,
        "nested_functions": _outer,
        "cond_on_batch": lambda x: tf.cond(tf.reduce_max(x) > 1.0, lambda: x, lambda: -x),
        "cond_mixes_in_one_branch": lambda x: tf.cond(tf.shape(x)[0] > 1, lambda: x[::-1], lambda: x),
        "switch_case": lambda x: tf.switch_case(tf.cast(tf.reduce_max(x) > 1.0, tf.int32), [lambda: x, lambda: -x]),
        "vectorized_map_of_pairs": _pairs,
        "map_fn_over_pairs": lambda x: tf.map_fn(
            lambda pair: pair[0] - pair[1], (x, x[::-1]), fn_output_signature=tf.float32
        ),
        "map_fn_captures_the_batch": lambda x: tf.map_fn(lambda row: row - tf.reduce_mean(x, 0), x),
        "map_fn_over_columns": lambda x: tf.transpose(tf.map_fn(lambda c: c - tf.reduce_mean(c), tf.transpose(x))),
        "segment_mean": _segment_mean,
        "segment_max": lambda x: x - tf.gather(tf.math.unsorted_segment_max(x, _key(x), 3), _key(x)),
        "sorted_segments": _sorted_segments,
        "unique": _unique,
        "bincount": _bincount,
        "sparse_reduction": _sparse,
        "sparse_product": _sparse_product,
        "dynamic_partition": _partition,
        "ragged_means_over_rows": _ragged,
        "ragged_padded_to_longest": _to_dense,
        "mask_of_batch_max": _sequence_mask,
        "size_of_a_boolean_mask": lambda x: x / tf.cast(1 + tf.shape(tf.boolean_mask(x, x > 0))[0], x.dtype),
        "size_of_where": lambda x: x / tf.cast(1 + tf.shape(tf.where(x > 0))[0], x.dtype),
        "range_up_to_batch_max": lambda x: (
            x + tf.reduce_sum(tf.range(0.0, tf.minimum(tf.reduce_max(tf.abs(x)), 5.0), 0.5))
        ),
        "divided_by_batch_size": lambda x: x / tf.cast(tf.shape(x)[0], x.dtype),
        "position_in_batch": lambda x: x * tf.cast(tf.range(1, tf.shape(x)[0] + 1), x.dtype)[:, None],
        "one_hot_of_position": lambda x: x + tf.one_hot(tf.range(tf.shape(x)[0]) % WIDTH, WIDTH),
    },
)


@mixing
def rnn_with_batch_for_time() -> Made:
    """The time axis of the recurrence is the batch."""
    given = L.Input((WIDTH,))
    found = L.LSTM(3, return_sequences=True, name="suspect")(L.Lambda(lambda x: x[None])(given))
    return Made(tf.keras.Model(given, L.Dense(1)(L.Lambda(lambda x: x[0])(found))), normal(WIDTH), targets())


@mixing
def time_major_rnn() -> Made:
    """`time_major=True` on inputs whose first axis is the batch."""
    layers = [
        L.Input((3, 2)),
        L.SimpleRNN(2, time_major=True, return_sequences=True, name="suspect"),
        L.Flatten(),
        L.Dense(1),
    ]
    return Made(tf.keras.Sequential(layers), normal(3, 2), targets())


@mixing
def go_backwards_over_batch() -> Made:
    def call(x: Any) -> Any:
        cell = L.RNN(_Sum(), return_sequences=True, go_backwards=True)
        return cell(x[None])[0]

    return hidden(call)


class _Sum(L.Layer):
    """A cell without weights: adds what it sees to its state."""

    state_size = WIDTH

    def call(self, x: Any, states: Any) -> Any:
        return states[0] + x, [states[0] + x]


# --- gradients of a user's own -----------------------------------------------------------------------------------


def backward(change: Any) -> Any:
    """The identity, whose gradient is `change(dy, x)`."""

    @tf.custom_gradient
    def same(x: Any) -> Any:
        return tf.identity(x), lambda dy: change(dy, x)

    return same


table(
    ZOO,
    {
        "gradient_minus_its_mean": backward(lambda dy, x: dy - tf.reduce_mean(dy, 0, keepdims=True)),
        "gradient_is_its_mean": backward(lambda dy, x: tf.zeros_like(dy) + tf.reduce_mean(dy, 0, keepdims=True)),
        "gradient_reversed": backward(lambda dy, x: dy[::-1]),
        "gradient_over_its_norm": backward(lambda dy, x: dy / (1e-6 + tf.norm(dy))),
        "gradient_clipped_over_batch": backward(lambda dy, x: tf.clip_by_norm(dy, 0.1)),
        "gradient_times_batch_statistic": backward(lambda dy, x: dy * tf.reduce_mean(tf.abs(x))),
        "gradient_rolled": backward(lambda dy, x: tf.roll(dy, 1, 0)),
        "gradient_of_first_row": backward(lambda dy, x: dy + dy[:1]),
        "gradient_accumulated": backward(lambda dy, x: tf.cumsum(dy, 0)),
        "gradient_by_batch_size": backward(lambda dy, x: dy / tf.cast(tf.shape(dy)[0], dy.dtype)),
        "gradient_by_cond": backward(lambda dy, x: tf.cond(dy[0, 0] > 0.0, lambda: tf.abs(dy), lambda: dy)),
    },
)


@mixing
def gradient_in_a_nested_function() -> Made:
    inner = tf.function(backward(lambda dy, x: dy[::-1]))
    return hidden(tf.function(lambda x: inner(x) * 2.0))


@mixing
def recomputed_mean() -> Made:
    return hidden(tf.recompute_grad(lambda x: x - tf.reduce_mean(x, 0, keepdims=True)))


@mixing
def gradient_of_gradient() -> Made:
    """The layer gives the derivative of a sum over the batch of products of rows."""

    def call(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            energy = tf.reduce_sum(tf.square(tf.reduce_sum(x, 0)))
        return x + tape.gradient(energy, x)

    return hidden(call)


# --- whole numbers and strings -----------------------------------------------------------------------------------


@mixing
def counts_of_tokens_in_batch() -> Made:
    """Tokens are weighted by how often they occur in the batch."""

    def call(ids: Any) -> Any:
        counts = tf.math.bincount(ids, minlength=10, dtype=tf.float32)
        return 1.0 / (1.0 + tf.gather(counts, ids))

    given = L.Input((3,), dtype=tf.int32)
    weight = L.Lambda(call, name="suspect")(given)
    found = L.Embedding(10, 2)(given) * weight[..., None]
    return Made(tf.keras.Model(given, L.Dense(1)(L.Flatten()(found))), whole(10, 3), targets(), high=10)


@mixing
def embedding_of_shifted_batch() -> Made:
    layers = [
        L.Input((3,), dtype=tf.int32),
        L.Lambda(lambda ids: tf.roll(ids, 1, 0), name="suspect"),
        L.Embedding(10, 2),
        L.Flatten(),
        L.Dense(1),
    ]
    return Made(tf.keras.Sequential(layers), whole(10, 3), targets(), high=10)


@mixing
def hand_written_batch_norm_of_whole_numbers() -> Made:
    def call(ids: Any) -> Any:
        values = tf.cast(ids, tf.float32)
        return (values - tf.reduce_mean(values, 0)) / (1.0 + tf.math.reduce_std(values, 0))

    layers = [L.Input((3,), dtype=tf.int32), L.Lambda(call, name="suspect"), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), whole(1000, 3), targets(), high=1000)


WORDS = ("red", "green", "blue", "", "a much longer word")


def _words() -> Any:
    import numpy as np

    return np.array([WORDS[place % 3] for place in range(ROWS)], object)[:, None]


def _of_strings(function: Any) -> Made:
    layers = [L.Input((1,), dtype=tf.string), L.Lambda(function, name="suspect"), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), _words(), targets(), words=WORDS)


def _number(text: Any) -> Any:
    return tf.cast(tf.strings.to_hash_bucket_fast(text, 16), tf.float32)


@mixing
def strings_joined_over_batch() -> Made:
    return _of_strings(lambda x: _number(x) + _number(tf.strings.reduce_join(x)))


@mixing
def strings_of_next_row() -> Made:
    return _of_strings(lambda x: _number(tf.strings.join([x, tf.roll(x, 1, 0)])))


@mixing
def longest_string_of_batch() -> Made:
    return _of_strings(lambda x: _number(x) / (1.0 + tf.cast(tf.reduce_max(tf.strings.length(x)), tf.float32)))


@mixing
def words_split_into_one_list() -> Made:
    """The flat list of all rows' words has a length that depends on all rows."""

    def call(x: Any) -> Any:
        words = tf.strings.split(tf.strings.join([x[:, 0], tf.constant("and more")], " "))
        return _number(x) / tf.cast(tf.size(words.flat_values), tf.float32)

    return _of_strings(call)


@mixing
def layer_of_attention_between_rows() -> Made:
    """Weights and attention over the batch in one layer without inner layers."""

    class Memory(L.Layer):
        def build(self, shape: Any) -> None:
            self.query = self.add_weight("query", shape=[WIDTH, WIDTH])

        def call(self, x: Any) -> Any:
            return tf.matmul(tf.nn.softmax(tf.matmul(tf.matmul(x, self.query), x, transpose_b=True)), x)

    return between(Memory(name="suspect"))
