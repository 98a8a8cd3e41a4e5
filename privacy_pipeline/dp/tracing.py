"""TensorFlow functions that are traced once, for one signature."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from unittest import mock

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx, converter
from tensorflow.python.autograph.impl.api import StagingError, autograph_artifact
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.ops import shape_util

from privacy_pipeline.errors import BadInputError, PipelineError

_RANDOM = ("Random", "Multinomial", "TruncatedNormal", "RngRead")

_CONVERTED = converter.ConversionOptions(recursive=True, user_requested=True)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def unconverted(function: _Function) -> _Function:
    """Leave a function out of AutoGraph, which would convert it, and all it calls, where a model is traced.

    For code of the engine's own that has no branches on tensors and runs no code of a user's.
    """
    return cast(_Function, tf.autograph.experimental.do_not_convert(function))


def converted(function: _Function) -> _Function:
    """A user's function whose branches on tensors AutoGraph converts, where a graph is traced `as_it_is`.

    Keras does the same for the `call` of a user's layers and models.
    """

    def call(*arguments: Any, **options: Any) -> Any:
        context = tf.__internal__.autograph.control_status_ctx()
        return tf.__internal__.autograph.tf_convert(function, context)(*arguments, **options)

    return cast(_Function, call)


def as_it_is(function: _Function) -> _Function:
    """A function of the engine's own that AutoGraph leaves alone, while it converts what users wrote.

    That is users' layers and models, and functions that are `converted`. Converting the engine's code as well takes
    seconds in each process. For `tf.function(..., autograph=False)`, `tf.map_fn` and `tf.vectorized_map`.
    """

    def call(*arguments: Any) -> Any:
        with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED, options=_CONVERTED):
            return function(*arguments)

    return cast(_Function, autograph_artifact(call))


class Traced:
    """A function as one graph, traced at its first call.

    Calls go to the concrete function: a `tf.function` counts the tracings of all functions made from the same code, and
    would warn of retracing where a process trains several models.

    Args:
        function: takes and gives nests of tensors; see `as_it_is` for what AutoGraph converts.
        signature: nest of `tf.TensorSpec` of each argument.
    """

    def __init__(self, function: Callable[..., Any], *signature: Any) -> None:
        self._function = tf.function(as_it_is(function), input_signature=signature, autograph=False)
        self._concrete: Any = None

    @property
    def concrete(self) -> Any:
        """The concrete function; its `graph` holds the ops."""
        if self._concrete is None:
            self._concrete = self._traced()
        return self._concrete

    def _traced(self) -> Any:
        try:
            with checked_shapes():
                return self._function.get_concrete_function()
        except (StagingError, PipelineError) as error:
            raise _undecorated(error) from None
        except LookupError as error:
            if not str(error).startswith(_NO_GRADIENT):
                raise
            raise BadInputError(
                f"a weight that is trained lies before an op without a gradient: {str(error)[len(_NO_GRADIENT) :]}",
                fix="put what distorts inputs before the first layer with weights, or freeze the layers before it",
            ) from None

    def __call__(self, *arguments: Any) -> Any:
        """Runs the graph on arguments of the signature.

        Raises:
            BadInputError: a tensor of the graph has another shape than `set_shape` gave it.
        """
        try:
            return self.concrete(*arguments)
        except tf.errors.InvalidArgumentError as error:
            false_shape = _FALSE_SHAPE.search(error.message)
            if false_shape is None:
                raise
            raise BadInputError(
                f"{false_shape[1]} [{false_shape[2]}]", fix="give the right shape, or leave set_shape out"
            ) from None


_SET_SHAPE = tf.Tensor.set_shape
# TensorFlow's own callers that say only what they have worked out of the graph.
_INFERRED = (shape_util.maybe_set_static_shape.__code__, atomic_function.AtomicFunction.call_flat.__code__)
_NO_GRADIENT = "gradient registry has no entry for: "
_LIBRARIES = ("tensorflow.", "tensorflow_transform.", "keras.")
_FALSE_SHAPE = re.compile(r"\[(set_shape gave .*? the shape .*?; it is)\] \[(.*?)\]")


@contextmanager
def checked_shapes() -> Iterator[list[str]]:
    """Where a function is traced, gives its graph ops that fail where `set_shape` said what is not so.

    TensorFlow believes what `set_shape` says, and so does the proof that rows stay apart.

    Yields:
        Names of the tensors of which other code than TensorFlow's said more than TensorFlow had worked out.
    """
    claimed: list[str] = []

    def set_shape(tensor: Any, shape: Any) -> None:
        caller = sys._getframe(1)
        if caller.f_code in _INFERRED:
            _SET_SHAPE(tensor, shape)
            return
        before, sizes = tensor.shape, tf.raw_ops.Shape(input=tensor, out_type=tf.int64)
        _SET_SHAPE(tensor, shape)
        if _check(before, tensor, sizes) and not caller.f_globals["__name__"].startswith(_LIBRARIES):
            claimed.append(tensor.name)

    with mock.patch.object(tf.Tensor, "set_shape", set_shape):
        yield claimed


def _check(before: tf.TensorShape, tensor: Any, sizes: Any) -> bool:
    """Assert what a tensor's shape says beyond what it said before; whether that is anything."""
    if tensor.shape.rank is None:
        return False
    said = [f"set_shape gave {tensor.op.name} the shape {tensor.shape}; it is", sizes]
    conditions = [] if before.rank is not None else [tf.raw_ops.Size(input=sizes) == tensor.shape.rank]
    known = [None] * tensor.shape.rank if before.rank is None else before.as_list()
    for axis, (old, new) in enumerate(zip(known, tensor.shape.as_list(), strict=True)):
        if old is None and new is not None:
            conditions.append(sizes[axis] == new)
    for condition in conditions:
        tf.raw_ops.Assert(condition=condition, data=said)
    return bool(conditions)


def _undecorated(error: Exception) -> Exception:
    """The error that was raised: Keras and AutoGraph raise others in its place, with its line among lines of code."""
    first, below = error, error.__context__
    while below is not None:
        if isinstance(below, PipelineError) and below.message in str(error):
            first = below
        below = below.__context__
    return first


def op_types(graph: Any) -> Iterator[str]:
    """Types of all ops of a graph and of the functions it calls."""
    definition = graph.as_graph_def()
    for node in definition.node:
        yield node.op
    for function in definition.library.function:
        for node in function.node_def:
            yield node.op


def random_ops(graph: Any) -> list[str]:
    """Types of a graph's ops that draw random numbers, sorted."""
    return sorted({op for op in op_types(graph) if any(word in op for word in _RANDOM)})
