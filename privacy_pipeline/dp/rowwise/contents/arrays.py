"""Ops that arrange known numbers: they join, split, cut, reorder and spread arrays of sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from privacy_pipeline.dp.rowwise import sizes
from privacy_pipeline.dp.rowwise.contents.computing import MOST, array, axes_of, computes
from privacy_pipeline.dp.rowwise.registry import OpCall
from privacy_pipeline.dp.rowwise.sizes import OPAQUE, depends
from privacy_pipeline.dp.rowwise.slicing import index_of, strided


@computes("Pack")
def _pack(call: OpCall, arrays: list[Any]) -> Any:
    return np.stack(arrays, axis=call.number("axis"))


@computes("Unpack")
def _unpack(call: OpCall, arrays: list[Any]) -> Any:
    return [np.asarray(one, dtype=object) for one in np.moveaxis(arrays[0], call.number("axis"), 0)]


@computes("ConcatV2")
def _concat(call: OpCall, arrays: list[Any]) -> Any:
    return np.concatenate(arrays[:-1], axis=int(arrays[-1].item()))


@computes("Split")
def _split(call: OpCall, arrays: list[Any]) -> Any:
    return list(np.split(arrays[1], call.number("num_split"), axis=int(arrays[0].item())))


@computes("GatherV2")
def _gather(call: OpCall, arrays: list[Any]) -> Any:
    if call.number("batch_dims"):
        return None
    axis, places = int(arrays[2].item()), arrays[1].astype(np.int64)
    if places.size and not 0 <= places.min() <= places.max() < arrays[0].shape[axis]:
        return None  # compiled by XLA it takes the nearest, on a GPU a 0
    return np.take(arrays[0], places, axis=axis)


@computes("Reshape")
def _reshape(call: OpCall, arrays: list[Any]) -> Any:
    return arrays[0].reshape([int(size) for size in arrays[1].reshape(-1)])


@computes("ExpandDims")
def _expand(call: OpCall, arrays: list[Any]) -> Any:
    return np.expand_dims(arrays[0], int(arrays[1].item()))


@computes("Squeeze")
def _squeeze(call: OpCall, arrays: list[Any]) -> Any:
    axes = call.numbers("squeeze_dims")
    return np.squeeze(arrays[0], axis=tuple(axes) if axes else None)


@computes("Transpose")
def _transpose(call: OpCall, arrays: list[Any]) -> Any:
    return np.transpose(arrays[0], [int(axis) for axis in arrays[1].reshape(-1)])


@computes("ReverseV2")
def _reverse(call: OpCall, arrays: list[Any]) -> Any:
    return np.flip(arrays[0], axes_of(call, arrays[0].ndim, arrays[1]))


@computes("StridedSlice")
def _strided_slice(call: OpCall, arrays: list[Any]) -> Any:
    plan = strided(call, arrays[0].ndim)
    return None if plan is None else np.asarray(arrays[0][index_of(plan)], dtype=object)


@computes("Slice")
def _slice(call: OpCall, arrays: list[Any]) -> Any:
    starts, counts = ([int(number) for number in one.reshape(-1)] for one in arrays[1:])
    pairs = zip(starts, counts, strict=True)
    return arrays[0][tuple(slice(start, None if count < 0 else start + count) for start, count in pairs)]


@computes("Range")
def _range(call: OpCall, arrays: list[Any]) -> Any:
    start, end, step = (one.item() for one in arrays)
    if any(depends(number) for number in (start, end, step)) or not step:
        return None
    return array(np.arange(start, end, step).tolist())


@computes("Fill")
def _fill(call: OpCall, arrays: list[Any]) -> Any:
    shape = [int(size) for size in arrays[0].reshape(-1)]
    return array([arrays[1].item()] * int(np.prod(shape)), shape) if np.prod(shape) <= MOST else None


@computes("BroadcastTo")
def _broadcast_to(call: OpCall, arrays: list[Any]) -> Any:
    return np.broadcast_to(arrays[0], [int(size) for size in arrays[1].reshape(-1)])


@computes("Tile")
def _tile(call: OpCall, arrays: list[Any]) -> Any:
    return np.tile(arrays[0], [int(size) for size in arrays[1].reshape(-1)])


@computes("DynamicStitch", "ParallelDynamicStitch")
def _stitch(call: OpCall, arrays: list[Any]) -> Any:
    half = len(arrays) // 2
    if any(one.shape != other.shape for one, other in zip(arrays[:half], arrays[half:], strict=True)):
        return None
    places = [int(place) for one in arrays[:half] for place in one.reshape(-1)]
    numbers = [number for one in arrays[half:] for number in one.reshape(-1)]
    held = dict(zip(places, numbers, strict=True))
    twice = len(held) < len(places)
    if sorted(held) != list(range(len(held))) or (twice and call.type == "ParallelDynamicStitch"):
        return None  # a gap holds anything; the last number counts, unless several threads write
    return array([held[place] for place in range(len(held))])


@computes("InvertPermutation")
def _invert(call: OpCall, arrays: list[Any]) -> Any:
    return array(np.argsort([int(number) for number in arrays[0]]).tolist())


@computes("Shape", "Size", "Rank", "ShapeN")
def _shape(call: OpCall, arrays: list[Any]) -> Any:
    return None  # `shape_of` covers these, for inputs of every kind


@computes("ConcatOffset")
def _concat_offset(call: OpCall, arrays: list[Any]) -> Any:
    axis, shapes = int(arrays[0].item()), arrays[1:]
    found: list[Any] = []
    start: sizes.Number = 0
    for shape in shapes:
        offset: list[Any] = [0] * shape.size
        offset[axis] = start
        found.append(array(offset))
        start = sizes.add(start, shape[axis])
    return found


@computes("BroadcastArgs")
def _broadcast_args(call: OpCall, arrays: list[Any]) -> Any:
    left, right = _aligned(arrays[0], arrays[1])
    return array([b if a == 1 else a for a, b in zip(left, right, strict=True)])


@computes("BroadcastGradientArgs")
def _broadcast_gradient_args(call: OpCall, arrays: list[Any]) -> Any:
    """Return the axes along which each of two shapes was spread; a `Count` stands for sizes other than 1.

    Where there is one row, the axis of rows has size 1 too, and a sum along it changes nothing.
    """
    left, right = _aligned(arrays[0], arrays[1])
    if OPAQUE in left or OPAQUE in right:
        return None
    if arrays[0].shape == arrays[1].shape and all(a == b for a, b in zip(left, right, strict=True)):
        return [array([]), array([])]
    # Where both sizes are 1 the sum is over one number.
    return [array([axis for axis, size in enumerate(side) if size == 1]) for side in (left, right)]


def _aligned(a: Any, b: Any) -> tuple[list[Any], list[Any]]:
    rank = max(a.size, b.size)
    return [1] * (rank - a.size) + list(a), [1] * (rank - b.size) + list(b)
