"""TensorFlow functions that are traced once, for one signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx, converter
from tensorflow.python.autograph.impl.api import StagingError, autograph_artifact
from tensorflow.python.framework.errors import InaccessibleTensorError

from privacy_pipeline.errors import BadInputError, PipelineError

_RANDOM = ("Random", "Multinomial", "TruncatedNormal", "RngRead")

_NO_GRADIENT = "gradient registry has no entry for: "  # how TensorFlow's LookupError begins

# What code of a user's raises while it is traced: no values are at hand then, so that its words may be passed on.
_OF_CODE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    tf.errors.OpError,
)

_OF_A_LAYER = "Exception encountered when calling layer"  # how Keras begins what a layer raised

_CONVERTED = converter.ConversionOptions(recursive=True, user_requested=True)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def unconverted(function: _Function) -> _Function:
    """Leave a function out of AutoGraph, which would convert it, and all it calls, where a model is traced.

    For code of the engine's own that has no branches on tensors and runs no code of a user's.
    """
    return cast(_Function, tf.autograph.experimental.do_not_convert(function))


def converted(function: _Function) -> _Function:
    """Return a user's function whose branches on tensors AutoGraph converts, where a graph is traced `as_it_is`.

    Keras does the same for the `call` of a user's layers and models.
    """

    def call(*arguments: Any, **options: Any) -> Any:
        context = tf.__internal__.autograph.control_status_ctx()
        return tf.__internal__.autograph.tf_convert(function, context)(*arguments, **options)

    return cast(_Function, call)


def as_it_is(function: _Function) -> _Function:
    """Return a function of the engine's own that AutoGraph leaves alone, while it converts what users wrote.

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
            return self._function.get_concrete_function()
        except (StagingError, PipelineError) as error:
            first = _undecorated(error)
            raise first from first.__cause__
        except InaccessibleTensorError:
            raise BadInputError(
                "a layer uses a tensor that another layer made in its own `call`, past its arguments",
                fix="let the first layer return it, and give it to the second one as an input",
            ) from None
        except LookupError as error:
            if not str(error).startswith(_NO_GRADIENT):
                raise
            raise BadInputError(
                f"a weight that is trained lies before an op without a gradient: {str(error)[len(_NO_GRADIENT) :]}",
                fix="put what distorts inputs before the first layer with weights, or freeze the layers before it",
            ) from None

    def __call__(self, *arguments: Any) -> Any:
        """Run the graph on arguments of the signature.

        Raises:
            BadInputError: the graph holds a function that was traced before, for another seed.
        """
        try:
            return self.concrete(*arguments)
        except TypeError as error:
            if "out of scope" not in str(error):
                raise
            raise BadInputError(
                "a tf.function that the model calls draws random numbers, and was traced before with another seed",
                fix="call its python_function, or leave the decorator out: the step is compiled as a whole",
            ) from None


@contextmanager
def told_as_users_code() -> Iterator[None]:
    """Turn what a user's model or loss raises while it is traced into one line, with the error itself as its cause.

    Raises:
        BadInputError: the code raised an error of its own, or TensorFlow one about shapes or types.
    """
    try:
        yield
    except InaccessibleTensorError:
        raise
    except _OF_CODE as error:
        if tf.executing_eagerly():
            raise
        raise BadInputError(
            f"the model or its loss fails on tensors of these shapes: {_last_words(error)}",
            fix="look at the traceback above: use TensorFlow's ops in place of NumPy's, and see that the shapes of "
            "inputs, outputs and labels fit each other",
        ) from error


def ran(
    work: Callable[[], Any], *, where: str, refusals: tuple[type[Exception], ...] = (tf.errors.InvalidArgumentError,)
) -> Any:
    """Return the result of what works on private values.

    Args:
        work: runs a graph.
        where: the step or the round, for the error.
        refusals: types of errors by which an op refuses its values.

    Raises:
        PipelineError: an op does not take the values; its own message, which may show them, is not passed on.
    """
    result = _unless_refused(work, refusals)
    if result is _REFUSED:
        raise PipelineError(
            f"{where}: an op of the model or the loss does not take the values of its batch, such as a "
            "label or an id out of range (its own message may show private values, and is kept back)",
            fix="look for labels outside [0, outputs) and ids outside [0, input_dim) in the data's source",
        )
    return result


_REFUSED = object()


def _unless_refused(work: Callable[[], Any], refusals: tuple[type[Exception], ...]) -> Any:
    """Return the result, or `_REFUSED` where an op refused its values. The error is gone then, with all that refers to
    it.
    """
    rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # ten bits are too few for the norms of a bound
    try:
        return work()
    except refusals:
        return _REFUSED
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(rounded)


def _last_words(error: Exception) -> str:
    """Return the message of an error, without the lines of code that AutoGraph and Keras put around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    layer = ""
    if lines[0].startswith(_OF_A_LAYER):
        layer = f"layer {lines[0][len(_OF_A_LAYER) :].strip().rstrip('.')}: "
        ends = (place for place, line in enumerate(lines) if line.startswith("Call arguments received by"))
        lines = lines[1 : next(ends, None)] or [type(error).__name__]
    return layer + (lines[-1] if lines[0].startswith("in user code") else lines[0])[:300]


def _undecorated(error: Exception) -> Exception:
    """Return the error that was raised: Keras and AutoGraph raise others in its place, with its line among lines of
    code.
    """
    first, below = error, error.__context__
    while below is not None:
        if isinstance(below, PipelineError) and below.message in str(error):
            first = below
        below = below.__context__
    return first


def op_types(graph: Any) -> Iterator[str]:
    """Yield the types of all ops of a graph and of the functions it calls."""
    definition = graph.as_graph_def()
    for node in definition.node:
        yield node.op
    for function in definition.library.function:
        for node in function.node_def:
            yield node.op


def random_ops(graph: Any) -> list[str]:
    """Return the types of a graph's ops that draw random numbers, sorted."""
    return sorted({op for op in op_types(graph) if any(word in op for word in _RANDOM)})
