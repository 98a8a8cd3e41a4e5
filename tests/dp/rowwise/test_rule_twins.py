"""Every op with a rule has a function that keeps rows apart through it, and one that mixes them through it.

Families of ops with one rule are tried here op by op. Rules of their own have their twins in `test_rowwise.py`, or a
model of the zoo and one that mixes; `ELSEWHERE` says where. A new rule that stands nowhere fails the last test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from privacy_pipeline.dp.graphs.tracing import op_types
from privacy_pipeline.dp.rowwise.registry import RULES
from privacy_pipeline.dp.rowwise.rules.rules_elementwise import _BINARY, _UNARY
from privacy_pipeline.dp.rowwise.rules.rules_reduce import _LAST
from tests.dp.rowwise.test_rowwise import CASES, F, proof_of, require_apart, traced

# Attributes that have no default.
MORE: dict[str, dict[str, Any]] = {
    "Bucketize": {"boundaries": [-0.5, 0.5]},
    "StaticRegexReplace": {"pattern": "1", "rewrite": "2"},
    "StaticRegexFullMatch": {"pattern": ".*1"},
    "StringToHashBucketFast": {"num_buckets": 7},
    "StringToHashBucketStrong": {"num_buckets": 7, "key": [1, 2]},
    "StringToHashBucket": {"num_buckets": 7},
    "Equal": {"incompatible_shape_error": True},
    "NotEqual": {"incompatible_shape_error": True},
}
CASTS: dict[Any, Callable[[Any], Any]] = {
    tf.float32: lambda x: x,
    tf.int32: lambda x: tf.cast(2 * tf.abs(x), tf.int32) + 1,
    tf.bool: lambda x: x > 0,
    tf.complex64: lambda x: tf.complex(x, 2 * x),
    tf.string: tf.strings.as_string,
}


def argument_types(kind: str) -> list[Any]:
    """A type that the op takes, for each of its inputs."""
    declared: Any = op_def_registry.get(kind)
    found = []
    for one in declared.input_arg:
        allowed = [one.type] if one.type else []
        for attr in declared.attr:
            if attr.name == one.type_attr:
                allowed = list(attr.allowed_values.list.type) or [tf.float32.as_datatype_enum]
        found.append(next(dtype for dtype in CASTS if dtype.as_datatype_enum in allowed))
    return found


def called(kind: str, *given: Any) -> Any:
    """The op on float tensors, turned into the types that it takes; outputs as floats."""
    declared: Any = op_def_registry.get(kind)
    types = argument_types(kind)
    values = [CASTS[dtype](value) for dtype, value in zip(types, given, strict=True)]
    named: dict[str, Any] = {}
    if declared.input_arg[0].number_attr:
        named[declared.input_arg[0].name] = values
    else:
        named = {one.name: value for one, value in zip(declared.input_arg, values, strict=True)}
    made = getattr(tf.raw_ops, kind)(**named, **MORE.get(kind, {}))
    first = made[0] if isinstance(made, (list, tuple)) else made
    return first if first.dtype != tf.complex64 else tf.math.real(first)


def inputs_of(kind: str) -> int:
    return len(op_def_registry.get(kind).input_arg)  # type: ignore[union-attr]


def centred(x: Any) -> Any:
    return x - tf.reduce_mean(x, 0, keepdims=True)


FLAT = [kind for kind in _BINARY if kind.endswith("Grad") or kind.endswith("Gradient")]
# A comparison of rows with rows; of gradients' kernels, which do not spread tensors, one that mixed before.
SPREADS = [kind for kind in _BINARY if kind not in FLAT and kind not in ("StringJoin", "ClipByValue", "SelectV2")]


@pytest.mark.parametrize("kind", [*_UNARY, *_BINARY])
def test_elementwise_ops(kind: str) -> None:
    many = inputs_of(kind) if kind != "StringJoin" else 1
    apart = traced(lambda x: called(kind, *([x] * many)), [F(4)])
    found = proof_of(apart, [F(4)])
    assert found.proven, found.offences
    require_apart(apart, [F(4)])
    assert not proof_of(traced(lambda x: called(kind, *([centred(x)] * many)), [F(4)]), [F(4)]).proven


@pytest.mark.parametrize("kind", SPREADS)
def test_ops_that_spread_rows_against_rows(kind: str) -> None:
    def mixing(x: Any) -> Any:
        return called(kind, x[:, None], x[None], *([x[:, None]] * (inputs_of(kind) - 2)))

    found = proof_of(traced(mixing, [F(4)]), [F(4)])
    assert found.mixing, found.offences


OWN = {  # what they take beside the tensor, or another form of it
    "MatrixDiagV2": lambda x: {"k": 0, "num_rows": -1, "num_cols": -1, "padding_value": 0.0},
    "MatrixDiagV3": lambda x: {"k": 0, "num_rows": -1, "num_cols": -1, "padding_value": 0.0},
    "MatrixDiagPartV2": lambda x: {"k": 0, "padding_value": 0.0},
    "MatrixDiagPartV3": lambda x: {"k": 0, "padding_value": 0.0},
    "MatrixBandPart": lambda x: {"num_lower": 1, "num_upper": 1},
    "MatrixSetDiag": lambda x: {"diagonal": x[..., 0]},
    "MatrixSetDiagV3": lambda x: {"diagonal": x[..., 0], "k": 0},
    "MatrixSolve": lambda x: {"rhs": x},
    "MatrixTriangularSolve": lambda x: {"rhs": x},
    **dict.fromkeys(("RFFT",), lambda x: {"fft_length": [3]}),
    **dict.fromkeys(("IRFFT",), lambda x: {"fft_length": [4]}),
    **dict.fromkeys(("RFFT2D",), lambda x: {"fft_length": [3, 3]}),
    **dict.fromkeys(("IRFFT2D",), lambda x: {"fft_length": [3, 4]}),
}
COMPLEX = {"FFT", "IFFT", "IRFFT", "FFT2D", "IFFT2D", "IRFFT2D"}
# Held to the proof alone: signs and last digits are the kernel's choice.
NOT_BY_VALUE = {"Svd", "SelfAdjointEigV2", "Qr", "MatrixInverse", "MatrixSolve"}


DEFINITE = {"MatrixInverse", "MatrixSolve", "LogMatrixDeterminant", "MatrixDeterminant"}


def last(kind: str, x: Any) -> Any:
    """The op on float tensors [..., 3, 3], made well-conditioned where it matters."""
    if kind in DEFINITE:
        x = tf.matmul(x, x, transpose_b=True) + 3.0 * tf.eye(3)
    return last_of(kind, x)


@pytest.mark.parametrize("kind", [kind for kind in _LAST if kind != "MatrixTranspose"])
def test_ops_on_the_last_axes(kind: str) -> None:
    apart = traced(lambda x: last(kind, x), [F(3, 3)])
    found = proof_of(apart, [F(3, 3)])
    assert found.proven, found.offences
    if kind not in NOT_BY_VALUE:
        require_apart(apart, [F(3, 3)])

    def mixing(x: Any) -> Any:
        moved = tf.transpose(x, [1, 2, 0])  # [3, 3, rows]
        if kind in DEFINITE or kind == "MatrixTriangularSolve":
            moved = tf.matmul(moved, moved, transpose_a=True)  # [3, rows, rows]
        return last_of(kind, moved)

    assert not proof_of(traced(mixing, [F(3, 3)]), [F(3, 3)]).proven


def last_of(kind: str, value: Any) -> Any:
    if kind in COMPLEX:
        value = tf.complex(value, value)
    declared: Any = op_def_registry.get(kind)
    made = getattr(tf.raw_ops, kind)(**{declared.input_arg[0].name: value, **OWN.get(kind, lambda x: {})(value)})
    first = made[0] if isinstance(made, (list, tuple)) else made
    return tf.math.real(first) if first.dtype == tf.complex64 else first


R = tf.raw_ops
IMAGE, COLOURS, VOLUME = F(4, 4, 2), F(4, 4, 3), F(4, 4, 4, 2)


def rows_second(x: Any) -> Any:
    """The rows along the axis that images have for their height."""
    return tf.transpose(x, [1, 0, *range(2, len(x.shape))])


def rows_last(x: Any) -> Any:
    return tf.transpose(x, [*range(1, len(x.shape)), 0])


Pair = tuple[tf.TensorSpec, Callable[[Any], Any], Callable[[Any], Any]]


def image(op: Callable[[Any], Any], spec: Any = IMAGE, move: Callable[[Any], Any] = rows_second) -> Pair:
    return spec, op, lambda x: op(move(x))


def resized(name: str) -> Pair:
    return image(lambda x: getattr(R, name)(images=x, size=[3, 3]))


WINDOW: dict[str, Any] = {"ksizes": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "SAME"}
CUBE: dict[str, Any] = {"ksize": [1, 2, 2, 2, 1], "strides": [1, 2, 2, 2, 1], "padding": "SAME"}
PAIRS: dict[str, Pair] = {
    **{name: resized(name) for name in ("ResizeArea", "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor")},
    "ResizeBicubicGrad": image(lambda x: R.ResizeBicubicGrad(grads=x, original_image=tf.concat([x, x], 1))),
    "ResizeBilinearGrad": image(lambda x: R.ResizeBilinearGrad(grads=x, original_image=tf.concat([x, x], 1))),
    "ResizeNearestNeighborGrad": image(lambda x: R.ResizeNearestNeighborGrad(grads=x, size=[3, 3])),
    "AdjustHue": image(lambda x: R.AdjustHue(images=x, delta=0.1), COLOURS, rows_last),
    "AdjustSaturation": image(lambda x: R.AdjustSaturation(images=x, scale=0.5), COLOURS, rows_last),
    "RGBToHSV": image(lambda x: R.RGBToHSV(images=x), COLOURS, rows_last),
    "HSVToRGB": image(lambda x: R.HSVToRGB(images=x), COLOURS, rows_last),
    "LRN": image(lambda x: R.LRN(input=x), IMAGE, rows_last),
    "SpaceToDepth": image(lambda x: R.SpaceToDepth(input=x, block_size=2)),
    "DepthToSpace": image(lambda x: R.DepthToSpace(input=x, block_size=2), F(4, 4, 4)),
    "ExtractImagePatches": image(lambda x: R.ExtractImagePatches(images=x, rates=[1, 1, 1, 1], **WINDOW)),
    "ExtractVolumePatches": image(
        lambda x: R.ExtractVolumePatches(input=x, ksizes=CUBE["ksize"], strides=CUBE["strides"], padding="SAME"), VOLUME
    ),
    "MaxPool3D": image(lambda x: R.MaxPool3D(input=x, **CUBE), VOLUME),
    "AvgPool3D": image(lambda x: R.AvgPool3D(input=x, **CUBE), VOLUME),
    "Conv3D": image(
        lambda x: R.Conv3D(input=x, filter=tf.ones([2, 2, 2, 2, 3]), strides=[1] * 5, padding="SAME"), VOLUME
    ),
    "DepthwiseConv2dNative": image(
        lambda x: R.DepthwiseConv2dNative(input=x, filter=tf.ones([2, 2, 2, 1]), strides=[1] * 4, padding="SAME")
    ),
    "Cumprod": (F(4), lambda x: tf.math.cumprod(x, 1), lambda x: tf.math.cumprod(x, 0)),
    "CumulativeLogsumexp": (
        F(4),
        lambda x: R.CumulativeLogsumexp(x=x, axis=1),
        lambda x: R.CumulativeLogsumexp(x=x, axis=0),
    ),
    "ReverseV2": (F(4), lambda x: tf.reverse(x, [1]), lambda x: tf.reverse(x, [0])),
    "All": (F(4), lambda x: tf.reduce_all(x > 0, 1), lambda x: x * tf.cast(tf.reduce_all(x > 0, 0), tf.float32)),
    "Any": (F(4), lambda x: tf.reduce_any(x > 0, 1), lambda x: x * tf.cast(tf.reduce_any(x > 0, 0), tf.float32)),
    "Min": (F(4), lambda x: tf.reduce_min(x, 1), lambda x: x - tf.reduce_min(x, 0)),
    "EuclideanNorm": (
        F(4),
        lambda x: R.EuclideanNorm(input=x, axis=[1]),
        lambda x: x * R.EuclideanNorm(input=x, axis=[0]),
    ),
    "ArgMin": (F(4), lambda x: tf.argmin(x, 1), lambda x: x * tf.cast(tf.argmin(x, 0), tf.float32)),
    "AddN": (F(4), lambda x: tf.add_n([x, 2 * x]), lambda x: tf.add_n([x, tf.reverse(x, [0])])),
    "BiasAdd": (
        F(4),
        lambda x: tf.nn.bias_add(x, tf.range(4.0)),
        lambda x: tf.nn.bias_add(x, tf.reduce_mean(x, 0)),
    ),
    "MirrorPad": (
        F(4),
        lambda x: tf.pad(x, [[0, 0], [1, 1]], "REFLECT"),
        lambda x: tf.pad(x, [[1, 0], [0, 0]], "REFLECT")[1:],
    ),
    "PadV2": (
        F(4),
        lambda x: R.PadV2(input=x, paddings=[[0, 0], [1, 1]], constant_values=2.0),
        lambda x: R.PadV2(input=x, paddings=[[1, 0], [0, 0]], constant_values=2.0)[:-1],
    ),
    "Unpack": (F(4), lambda x: tf.unstack(x, axis=1), lambda x: x + tf.unstack(tf.ensure_shape(x, [6, 4]))[0]),
    "EnsureShape": (
        F(4),
        lambda x: tf.ensure_shape(x, [None, 4]),
        lambda x: tf.ensure_shape(tf.transpose(x), [4, None]),
    ),
    "StopGradient": (F(4), tf.stop_gradient, lambda x: tf.stop_gradient(tf.transpose(x))),
    "Snapshot": (F(4), lambda x: R.Snapshot(input=x), lambda x: R.Snapshot(input=tf.transpose(x))),
    "PreventGradient": (F(4), lambda x: R.PreventGradient(input=x), lambda x: R.PreventGradient(input=tf.transpose(x))),
    "Bitcast": (
        F(4),
        lambda x: R.Bitcast(input=x, type=tf.int32),
        lambda x: R.Bitcast(input=tf.transpose(x), type=tf.int32),
    ),
    "ConjugateTranspose": (
        F(4, 3),
        lambda x: R.ConjugateTranspose(x=x, perm=[0, 2, 1]),
        lambda x: R.ConjugateTranspose(x=x, perm=[1, 0, 2]),
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_ops_one_by_one(kind: str) -> None:
    spec, apart, mixing = PAIRS[kind]
    concrete, other = traced(apart, [spec]), traced(mixing, [spec])
    assert {kind} <= set(op_types(concrete.graph)) & set(op_types(other.graph))
    found = proof_of(concrete, [spec])
    assert found.proven, found.offences
    require_apart(concrete, [spec])
    assert not proof_of(other, [spec]).proven


ELSEWHERE = {
    "zoo": {  # gradients and forms that layers of Keras make, and loops, branches and lists
        *("AvgPool3DGrad", "BatchMatMul", "BatchMatMulV3", "Conv3DBackpropInputV2", "FusedBatchNormGrad"),
        *("DepthwiseConv2dNativeBackpropInput", "FusedBatchNorm", "FusedBatchNormGradV2", "FusedBatchNormGradV3"),
        *("FusedBatchNormV2", "LRNGrad", "MaxPool3DGrad", "MaxPoolGrad", "MaxPoolGradGrad", "MirrorPadGrad"),
        *("SpaceToBatchND", "ResourceGather", "ResourceGatherNd", "StatefulPartitionedCall", "RemoteCall"),
        *("Case", "If", "While", "EmptyTensorList", "TensorListPopBack", "TensorListPushBack", "TopK"),
        *("TensorListConcat", "TensorListConcatV2", "TensorListElementShape", "TensorListLength"),
    },
    "test_rare_lists, test_rare_values, test_rare_ops": {"TensorListResize", "PlaceholderWithDefault", "Rank", "Size"},
    "test_fixed_seeds": {"RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal"},
    "they have no honest form": {
        *("Bincount", "DynamicPartition", "L2Loss", "ParallelConcat", "RandomShuffle", "Unique", "UniqueV2"),
        "UniqueWithCounts",
    },
}


def test_no_rule_is_without_twins() -> None:
    apart, mixing = set(), set()
    for case in CASES:
        apart |= set(op_types(traced(case.apart, case.specs).graph))
        mixing |= set(op_types(traced(case.mixing, case.specs).graph))
    tried = {*_UNARY, *_BINARY, *_LAST, *PAIRS} | (apart & mixing)
    elsewhere = {kind for kinds in ELSEWHERE.values() for kind in kinds}
    assert set(RULES) - tried - elsewhere == set()
    assert elsewhere - set(RULES) == set()
