"""Arrays that TensorFlow can take over without a copy: their memory begins where its kernels need it to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# EIGEN_MAX_ALIGN_BYTES of a TensorFlow that may use AVX-512.
ALIGNMENT = 64


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def aligned_empty(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Return an array of undefined content whose memory begins at a multiple of `ALIGNMENT` bytes."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return _aligned(np.empty(size + ALIGNMENT, np.uint8), shape, dtype)


def aligned_zeros(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Return what `aligned_empty` does, filled with zeros; large ones take up no memory until they are written."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return _aligned(np.zeros(size + ALIGNMENT, np.uint8), shape, dtype)


def _aligned(raw: NDArray[np.uint8], shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    return np.ndarray(tuple(shape), dtype, raw, offset=-_address(raw) % ALIGNMENT)


def to_tensor(array: NDArray[Any]) -> Any:
    """Return a tensor over the same memory where that is possible, else over a copy. The array must not change any
    more.

    `tf.convert_to_tensor` always copies: batches and noise are several megabytes a step.
    """
    import tensorflow as tf

    shared = array.dtype.kind in "iuf" and array.size and array.flags.c_contiguous and array.flags.writeable
    if shared and _address(array) % ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)
