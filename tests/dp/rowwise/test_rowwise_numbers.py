"""Numbers that the proof computes by itself are those that TensorFlow computes, for one row as for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp.rowwise import interpreter as _  # noqa: F401  (registers the rules)
from privacy_pipeline.dp.rowwise.bodies import body_of_graph
from privacy_pipeline.dp.rowwise.contents.computing import COMPUTE
from privacy_pipeline.dp.rowwise.interpreter import Interpreter
from privacy_pipeline.dp.rowwise.sizes import Count, depends
from privacy_pipeline.dp.rowwise.values import Layout, rows

R = tf.raw_ops
Random = np.random.Generator


def ints(random: Random, *shape: int, low: int = -3, high: int = 6) -> Any:
    return random.integers(low, high, shape).astype(np.int32)


def shape_of(random: Random, rank: int | None = None) -> tuple[int, ...]:
    return tuple(random.choice([1, 1, 2, 3], rank if rank is not None else random.integers(0, 4)).tolist())


def pair(random: Random) -> dict[str, Any]:
    """Two arrays that may be spread against each other."""
    shape = shape_of(random)
    other = tuple(1 if random.random() < 0.4 else size for size in shape)[random.integers(0, len(shape) + 1) :]
    return {"x": ints(random, *shape), "y": ints(random, *other)}


def truths(random: Random) -> dict[str, Any]:
    return {name: value > 0 for name, value in pair(random).items()}


def divided(random: Random) -> dict[str, Any]:
    given = pair(random)
    return {"x": given["x"], "y": np.where(given["y"] == 0, 2, given["y"]).astype(np.int32)}


def reduced(random: Random) -> dict[str, Any]:
    shape = shape_of(random, int(random.integers(1, 4)))
    axes = random.permutation(len(shape))[: random.integers(0, len(shape) + 1)]
    axes = np.where(random.random(len(axes)) < 0.5, axes, axes - len(shape)).astype(np.int32)
    return {"input": ints(random, *shape), "axis": axes, "keep_dims": bool(random.random() < 0.5)}


def reduced_truths(random: Random) -> dict[str, Any]:
    given = reduced(random)
    return {**given, "input": given["input"] > 0}


def stitched(random: Random) -> dict[str, Any]:
    places = random.permutation(5).astype(np.int32)
    parts = [places[:2], places[2:]] if random.random() < 0.5 else [places[:4], places[4:], places[3:4]]
    tail = shape_of(random, 1) if random.random() < 0.3 else ()
    return {"indices": parts, "data": [ints(random, *part.shape, *tail) for part in parts]}


def sliced(random: Random) -> dict[str, Any]:
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    given = dict.fromkeys(masks, 0)
    kind = masks[random.integers(0, 5)]
    given[kind] = 1
    begin = np.array([random.integers(0, 3)], np.int32)
    value = ints(random, 3) if kind != "ellipsis_mask" else ints(random, 3, 2)
    step = np.array([1 if kind == "shrink_axis_mask" else random.choice([1, 2])], np.int32)
    return {"input": value, "begin": begin, "end": begin + 1, "strides": step, **given}


def chosen_rows(random: Random) -> dict[str, Any]:
    a = ints(random, 2, 2)
    condition = ints(random, 2) > 0 if random.random() < 0.5 else ints(random, 2, 2) > 0
    return {"condition": condition, "x": a, "y": a[::-1].copy()}


def shapes(random: Random) -> dict[str, Any]:
    given = pair(random)
    return {"s0": np.array(given["x"].shape, np.int32), "s1": np.array(given["y"].shape, np.int32)}


def gathered(random: Random) -> dict[str, Any]:
    axis = int(random.integers(0, 2))
    value = ints(random, 3, 2)
    places = ints(random, 2, low=0, high=value.shape[axis])
    return {"params": value, "indices": places, "axis": axis}


def concatenated(random: Random) -> dict[str, Any]:
    return {"values": [ints(random, 2, 1), ints(random, 2, 3)], "axis": int(random.choice([1, -1]))}


def offsets(random: Random) -> dict[str, Any]:
    return {"concat_dim": 1, "shape": [np.array([2, 3], np.int32), np.array([2, 4], np.int32)]}


def squeezed(random: Random) -> dict[str, Any]:
    return {"input": ints(random, 1, 2, 1), "axis": [[], [0], [-1], [0, 2]][random.integers(0, 4)]}


Cases = dict[str, Callable[[Random], dict[str, Any]]]
_SAME: Cases = dict.fromkeys(
    ("Identity", "StopGradient", "PreventGradient", "Snapshot"), lambda random: {"input": ints(random, 2, 1)}
)
CASES: Cases = {
    **dict.fromkeys(("Add", "AddV2", "Sub", "Mul", "Maximum", "Minimum"), pair),
    **dict.fromkeys(("Equal", "NotEqual", "Less", "Greater", "GreaterEqual", "LessEqual"), pair),
    **dict.fromkeys(("Div", "FloorDiv", "TruncateDiv", "FloorMod"), divided),
    **dict.fromkeys(("LogicalAnd", "LogicalOr"), truths),
    **dict.fromkeys(("Sum", "Prod", "Max", "Min"), reduced),
    **dict.fromkeys(("All", "Any"), reduced_truths),
    **dict.fromkeys(("DynamicStitch", "ParallelDynamicStitch"), stitched),
    **_SAME,
    "LogicalNot": lambda random: {"x": ints(random, 2) > 0},
    "Neg": lambda random: {"x": ints(random, 2)},
    "OnesLike": lambda random: {"x": ints(random, 2)},
    "ZerosLike": lambda random: {"x": ints(random, 2)},
    "EnsureShape": lambda random: {"input": ints(random, 2, 1), "shape": [2, None]},
    "SelectV2": lambda random: {"condition": ints(random, 2, 1) > 0, "t": ints(random, 1, 2), "e": ints(random, 2)},
    "Select": chosen_rows,
    "Cast": lambda random: {"x": ints(random, 2), "DstT": [tf.int64, tf.bool, tf.int32][random.integers(0, 3)]},
    "Pack": lambda random: {"values": [ints(random, 2), ints(random, 2)], "axis": int(random.choice([0, 1, -1]))},
    "Unpack": lambda random: {"value": ints(random, 2, 3), "num": 3, "axis": int(random.choice([1, -1]))},
    "ConcatV2": concatenated,
    "Split": lambda random: {"axis": 1, "value": ints(random, 2, 4), "num_split": 2},
    "GatherV2": gathered,
    "Reshape": lambda random: {"tensor": ints(random, 2, 3), "shape": [[3, 2], [-1], [6, 1]][random.integers(0, 3)]},
    "ExpandDims": lambda random: {"input": ints(random, 2), "axis": int(random.choice([0, 1, -1]))},
    "Squeeze": squeezed,
    "Transpose": lambda random: {"x": ints(random, 2, 3, 1), "perm": random.permutation(3).astype(np.int32)},
    "ReverseV2": lambda random: {"tensor": ints(random, 2, 3), "axis": [int(random.choice([0, 1, -1]))]},
    "StridedSlice": sliced,
    "Slice": lambda random: {"input": ints(random, 3, 2), "begin": [1, 0], "size": [int(random.choice([1, -1])), 2]},
    "Range": lambda random: {"start": 0, "limit": int(random.integers(0, 9)), "delta": int(random.choice([1, 2]))},
    "Fill": lambda random: {"dims": list(shape_of(random)) or [1], "value": 3},
    "BroadcastTo": lambda random: {"input": ints(random, 1, 2), "shape": [3, 2]},
    "Tile": lambda random: {"input": ints(random, 1, 2), "multiples": [2, 2]},
    "InvertPermutation": lambda random: {"x": random.permutation(4).astype(np.int32)},
    "ConcatOffset": offsets,
    "BroadcastArgs": shapes,
    "BroadcastGradientArgs": shapes,
    **dict.fromkeys(("Shape", "Size", "Rank"), lambda random: {"input": ints(random, *shape_of(random))}),
    "ShapeN": lambda random: {"input": [ints(random, *shape_of(random)), ints(random, *shape_of(random))]},
}


def known(function: Callable[..., Any], *specs: tf.TensorSpec) -> tuple[Any, list[Any]]:
    """A function as a graph, and the numbers that the proof gives for its results."""
    concrete = tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
    definition = concrete.graph.as_graph_def(add_shapes=True)
    values = {(tensor.op.name, 0): rows(tuple(tensor.shape.as_list()), Layout(0)) for tensor in concrete.graph.inputs}
    interpreter = Interpreter({one.signature.name: one for one in definition.library.function})
    wanted = [(tensor.op.name, tensor.value_index) for tensor in concrete.graph.outputs]
    return concrete, [value.content for value in interpreter.run(body_of_graph(definition), wanted, values)]


def calling(kind: str, given: dict[str, Any]) -> Callable[[], list[Any]]:
    return lambda: list(tf.nest.flatten(getattr(R, kind)(**given)))


def test_each_op_has_a_case() -> None:
    assert set(COMPUTE) == set(CASES)


@pytest.mark.slow_but(
    "Add",
    "NotEqual",
    "TruncateDiv",
    "Max",
    "StopGradient",
    "EnsureShape",
    "Split",
    "ReverseV2",
    "InvertPermutation",
    "ShapeN",
)
@pytest.mark.parametrize("kind", CASES)
def test_constants_are_those_of_tensorflow(kind: str) -> None:
    found = 0
    for seed in range(12):
        given = CASES[kind](np.random.default_rng(seed))
        concrete, contents = known(calling(kind, given))
        for content, right in zip(contents, tf.nest.flatten(concrete()), strict=True):
            if content is not None:
                found += 1
                assert content.shape == right.shape, given
                np.testing.assert_array_equal(content.astype(right.numpy().dtype), right.numpy(), err_msg=str(given))
    assert found  # the rule computes something


def _of_rows(content: Any, number: int) -> Any:
    def value(one: Any) -> Any:
        return one.coefficient * number**one.power if isinstance(one, Count) else one

    return np.array([value(one) for one in content.flat]).reshape(content.shape)


SIZES: dict[str, Callable[[Any], Any]] = {
    "shape": tf.shape,
    "size": tf.size,
    "twice": lambda x: 2 * tf.shape(x)[:1] + tf.shape(x)[:1],
    "joined": lambda x: tf.concat([[-1], tf.shape(x)[1:]], 0),
    "squared": lambda x: tf.shape(x)[0] * tf.shape(x)[0],
    "quotient": lambda x: tf.size(x) // tf.shape(x)[0],
    "remainder": lambda x: tf.size(x) % tf.shape(x)[0],
    "one at least": lambda x: tf.maximum(tf.shape(x)[0], 1),
    "one at most": lambda x: tf.minimum(tf.shape(x)[0], 1),
    "four at most": lambda x: tf.minimum(tf.size(x), 4),
    "positive": lambda x: tf.shape(x)[0] > 0,
    "no more than none": lambda x: tf.shape(x)[0] <= 0,
    "product": lambda x: tf.reduce_prod(tf.shape(x)),
    "most": lambda x: tf.reduce_max(tf.stack([tf.shape(x)[0], 1])),
    "spread": lambda x: R.BroadcastArgs(s0=tf.shape(x), s1=[4]),
    "chosen": lambda x: tf.where([True, False], tf.shape(x), 7),
    "as long": lambda x: tf.cast(tf.shape(x), tf.int64),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_hold_for_each_number_of_rows(name: str) -> None:
    concrete, (content,) = known(lambda x: SIZES[name](x), tf.TensorSpec([None, 4]))
    assert content is not None
    for number in (1, 2, 3, 7):
        right = concrete(tf.zeros([number, 4])).numpy()
        found = _of_rows(content, number)
        sure = [not depends(one) or isinstance(one, Count) for one in content.flat]  # nothing is said of the others
        np.testing.assert_array_equal(found.reshape(-1)[sure], right.reshape(-1)[sure])
