"""Mixing by moving rows, and by ops that take the batch for an axis of their own: matrices, images, signals."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tests.dp.zoo.kit import ROWS, WIDTH, Made, Zoo, adds_to, between, hidden, normal, table, targets

L = tf.keras.layers
ZOO: Zoo = {}
mixing = adds_to(ZOO)

_PUBLIC = [3, 0, 1, 2]


def _public(x: Any) -> Any:
    """Public places, as many as there are rows."""
    return tf.gather(_PUBLIC, tf.range(tf.shape(x)[0]) % 4) % tf.shape(x)[0]


def _square(x: Any) -> Any:
    """A well-conditioned matrix [D, D] made of all rows."""
    return tf.matmul(x, x, transpose_a=True) + 2.0 * tf.eye(WIDTH)


def _pad(x: Any) -> Any:
    return tf.pad(x, [[1, 0], [0, 0]])[:-1]


table(
    ZOO,
    {
        "reverse_batch": lambda x: tf.reverse(x, [0]),
        "reverse_slice": lambda x: x[::-1],
        "sort_batch": lambda x: tf.sort(x, axis=0),
        "sort_by_first_column": lambda x: tf.gather(x, tf.argsort(x[:, 0])),
        "roll_batch": lambda x: x + tf.roll(x, 1, 0),
        "gather_public": lambda x: x + tf.gather(x, _public(x)),
        "gather_first_row": lambda x: x - tf.gather(x, tf.zeros_like(x[:, 0], tf.int32)),
        "gather_by_data": lambda x: x + tf.gather(x, tf.cast(x[:, 0] > 0, tf.int32) % tf.shape(x)[0]),
        "gather_nd": lambda x: x + tf.gather_nd(x, _public(x)[:, None]),
        "relative_to_first": lambda x: x - x[:1],
        "relative_to_last": lambda x: x - x[-1:],
        "shifted_concat": lambda x: x - tf.concat([x[1:], x[:1]], 0),
        "pad_and_cut": lambda x: x - _pad(x),
        "reflect_pad": lambda x: x + tf.pad(x, [[0, 1], [0, 0]], "SYMMETRIC")[1:],
        "transposed_reshape": lambda x: tf.reshape(tf.transpose(x), [-1, WIDTH]),
        "reshape_moves_data": lambda x: tf.reshape(tf.nn.softmax(tf.reshape(x, [WIDTH, -1])), tf.shape(x)),
        "reshape_of_two_rows": lambda x: tf.reshape(tf.nn.softmax(tf.reshape(x, [1, -1, WIDTH]), 1), tf.shape(x)),
        "transpose_softmax": lambda x: tf.transpose(tf.nn.softmax(tf.transpose(x))),
        "einsum_of_pairs": lambda x: tf.einsum("bi,ci,cj->bj", x, x, x),
        "matmul_with_transposed": lambda x: tf.matmul(tf.matmul(x, x, transpose_b=True), x),
        "gram_matrix": lambda x: tf.matmul(x, tf.matmul(x, x, transpose_a=True)),
        "space_to_batch": lambda x: tf.reshape(tf.space_to_batch(x[..., None], [WIDTH], [[0, 0]]), [-1, WIDTH]),
        "batch_to_space": lambda x: tf.reshape(
            tf.batch_to_space(tf.reshape(x, [-1, 1, 1]), [WIDTH], [[0, 0]]), [-1, WIDTH]
        ),
        "dynamic_stitch": lambda x: tf.dynamic_stitch([tf.range(tf.shape(x)[0])[::-1]], [x]),
        "scatter_update": lambda x: tf.tensor_scatter_nd_update(x, [[0]], x[-1:]),
        "scatter_nd": lambda x: x + tf.scatter_nd(_public(x)[:, None], x, tf.shape(x)),
        "tensor_scatter_add": lambda x: tf.tensor_scatter_nd_add(x, [[0]], x[-1:]),
        "interleaved": lambda x: tf.concat([x[::2], x[1::2]], 0),
        "repeat_and_cut": lambda x: tf.repeat(x, 2, axis=0)[: tf.shape(x)[0]],
        "tile_and_step": lambda x: tf.tile(x, [2, 1])[1 : 1 + tf.shape(x)[0]] + x,
        "reverse_sequence": lambda x: tf.reverse_sequence(
            x, tf.fill([WIDTH], tf.shape(x)[0]), seq_axis=0, batch_axis=1
        ),
        "meshgrid": lambda x: x + tf.reduce_mean(tf.stack(tf.meshgrid(x[:, 0], x[:, 1])), [0, 2])[:, None],
        "broadcast_pairs": lambda x: tf.reduce_mean(x[:, None] * x[None], 1),
        "squared_distances": lambda x: x * tf.reduce_sum(tf.square(x[:, None] - x[None]), [1, 2])[:, None],
        "nearest_neighbour": lambda x: tf.gather(
            x, tf.argmin(tf.reduce_sum(tf.square(x[:, None] - x[None]), 2) + 1e9 * tf.eye(tf.shape(x)[0]), 1)
        ),
        "batch_as_matrix_inverse": lambda x: tf.matmul(x, tf.linalg.inv(_square(x))),
        "whitening_by_cholesky": lambda x: tf.transpose(
            tf.linalg.triangular_solve(tf.linalg.cholesky(_square(x)), tf.transpose(x))
        ),
        "singular_values": lambda x: x / (1e-3 + tf.linalg.svd(x, compute_uv=False)[0]),
        "eigenvalues": lambda x: x / tf.linalg.eigvalsh(_square(x)),
        "determinant": lambda x: x / (1.0 + tf.linalg.logdet(_square(x))),
        "qr": lambda x: tf.matmul(x, tf.linalg.qr(_square(x))[0]),
        "solve": lambda x: tf.transpose(tf.linalg.solve(_square(x), tf.transpose(x))),
        "band_part": lambda x: tf.matmul(tf.linalg.band_part(tf.matmul(x, x, transpose_b=True), 1, 0), x),
        "diagonal_of_batch": lambda x: x + tf.linalg.trace(tf.matmul(x, x, transpose_a=True)),
        "set_diagonal": lambda x: tf.matmul(
            tf.linalg.set_diag(tf.matmul(x, x, transpose_b=True), tf.zeros(tf.shape(x)[:1])), x
        ),
        "flip_batch_as_image": lambda x: tf.image.flip_up_down(x[..., None])[..., 0],
        "resize_along_batch": lambda x: tf.image.resize(
            tf.image.resize(x[None, ..., None], [2 * tf.shape(x)[0], WIDTH]), [tf.shape(x)[0], WIDTH]
        )[0, ..., 0],
        "total_variation": lambda x: x * (1.0 + tf.image.total_variation(x[..., None])),
        "gradients_of_batch_as_image": lambda x: x + tf.image.image_gradients(x[None, ..., None])[0][0, ..., 0],
        "rotated_batch": lambda x: tf.image.rot90(tf.matmul(x, x, transpose_b=True)[..., None])[..., :1, 0] + x,
        "extract_patches": lambda x: tf.image.extract_patches(
            x[None, ..., None], [1, 3, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], "SAME"
        )[0, ..., 0],
        "conv_over_batch": lambda x: tf.nn.conv1d(x[None], tf.ones([3, WIDTH, WIDTH]) / 3, 1, "SAME")[0],
        "depthwise_over_batch": lambda x: tf.nn.depthwise_conv2d(
            x[None, :, None], tf.ones([3, 1, WIDTH, 1]) / 3, [1, 1, 1, 1], "SAME"
        )[0, :, 0],
        "dilated_conv_over_batch": lambda x: tf.nn.convolution(
            x[None], tf.ones([2, WIDTH, WIDTH]) / 2, padding="SAME", dilations=[2]
        )[0],
        "dilation2d_over_batch": lambda x: tf.nn.dilation2d(
            x[None, ..., None], tf.zeros([3, 1, 1]), [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1]
        )[0, ..., 0],
        "mean_pool_over_batch": lambda x: tf.nn.avg_pool1d(x[None], 3, 1, "SAME")[0],
        "max_pool_over_batch": lambda x: tf.nn.max_pool1d(x[None], 3, 1, "SAME")[0],
        "pool_with_batch_as_channels": lambda x: (
            x + tf.nn.local_response_normalization(tf.transpose(x)[None, None], depth_radius=1)[0, 0, :1, :1]
        ),
        "fourier_over_batch": lambda x: tf.math.real(
            tf.transpose(tf.signal.fft(tf.cast(tf.transpose(x), tf.complex64)))
        ),
        "fourier_2d": lambda x: tf.math.real(tf.signal.fft2d(tf.cast(x, tf.complex64))),
        "cosine_transform": lambda x: tf.transpose(tf.signal.dct(tf.transpose(x))),
        "frames_over_batch": lambda x: tf.reduce_mean(tf.signal.frame(x, 3, 1, pad_end=True, axis=0), 1),
        "overlap_and_add": lambda x: x + tf.signal.overlap_and_add(tf.stack([x, x], -1), 1)[..., :WIDTH][::-1],
        "sequence_of_strides": lambda x: x + tf.concat([x[:1], x[:-1]], 0),
        "split_and_swapped": lambda x: tf.concat(tf.split(x, [1, tf.shape(x)[0] - 1], 0)[::-1], 0),
        "boolean_mask_fill": lambda x: (
            x - tf.reduce_sum(tf.boolean_mask(x, x[:, 0] > 0), 0) / tf.cast(tf.shape(x)[0], x.dtype)
        ),
        "where_on_the_other_row": lambda x: tf.where(tf.roll(x, 1, 0) > 0, x, -x),
        "bucketized_by_batch": lambda x: x * tf.cast(1 + tf.searchsorted(tf.sort(x[:, 0]), x[:, 0]), x.dtype)[:, None],
        "cross_of_shifted": lambda x: x * tf.gather(x, (tf.range(tf.shape(x)[0]) + 1) % tf.shape(x)[0]),
        "unstacked": lambda x: tf.stack(tf.unstack(tf.transpose(x)[:, ::-1]), 1),
    },
)


@mixing
def attention_over_batch() -> Made:
    """The batch is taken for a sequence: reshaped to [1, B, D]."""
    given = L.Input((WIDTH,))
    sequence = L.Lambda(lambda x: tf.reshape(x, [1, -1, WIDTH]))(L.Dense(WIDTH)(given))
    found = L.MultiHeadAttention(2, 2, name="suspect")(sequence, sequence)
    flat = L.Lambda(lambda x: tf.reshape(x, [-1, WIDTH]))(found)
    return Made(tf.keras.Model(given, L.Dense(1)(flat)), normal(WIDTH), targets())


@mixing
def attention_over_batch_by_hand() -> Made:
    return hidden(lambda x: tf.matmul(tf.nn.softmax(tf.matmul(x, x, transpose_b=True)), x))


@mixing
def attention_layer_over_batch() -> Made:
    def call(x: Any) -> Any:
        return L.Attention()([x[None], x[None]])[0]

    return hidden(call)


@mixing
def dense_along_the_batch() -> Made:
    """A fixed kernel applied to the transposed batch, padded and cut to eight rows."""

    def call(x: Any) -> Any:
        padded = tf.pad(x, [[0, ROWS], [0, 0]])[:ROWS]
        kernel = tf.reshape(tf.range(ROWS * ROWS, dtype=tf.float32) / 64.0, [ROWS, ROWS])
        return tf.matmul(kernel, padded)[: tf.shape(x)[0]]

    return hidden(call)


@mixing
def conv_layer_over_batch() -> Made:
    """A Keras convolution, with weights, whose steps are the rows."""
    given = L.Input((WIDTH,))
    found = L.Conv1D(WIDTH, 3, padding="same", name="suspect")(L.Lambda(lambda x: x[None])(given))
    return Made(tf.keras.Model(given, L.Dense(1)(L.Lambda(lambda x: x[0])(found))), normal(WIDTH), targets())


@mixing
def dynamic_kernel() -> Made:
    """The kernel of a product is made of all rows."""

    class Dynamic(L.Layer):
        def build(self, shape: Any) -> None:
            self.start = self.add_weight("start", shape=[WIDTH, WIDTH])

        def call(self, x: Any) -> Any:
            return tf.matmul(x, self.start + tf.matmul(x, x, transpose_a=True))

    return between(Dynamic(name="suspect"))


@mixing
def two_inputs_of_different_rows() -> Made:
    """The second input is turned round before it meets the first."""
    a, b = L.Input((2,), name="a"), L.Input((2,), name="b")
    turned = L.Lambda(lambda x: x[::-1], name="suspect")(L.Dense(3)(b))
    model = tf.keras.Model({"a": a, "b": b}, L.Dense(1)(L.Concatenate()([L.Dense(3)(a), turned])))
    return Made(model, {"a": normal(2), "b": normal(2, seed=1)}, targets())


@mixing
def broadcast_of_rows_against_columns() -> Made:
    """[B] against [B, 1] gives [B, B]: a slip with a missing axis."""
    return hidden(lambda x: x * tf.reduce_mean(x[:, :1] - x[:, 0], 1, keepdims=True))
