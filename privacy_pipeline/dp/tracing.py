"""TensorFlow functions that are traced once, for one signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import tensorflow as tf
from tensorflow.python.autograph.impl.api import StagingError

from privacy_pipeline.errors import PipelineError

_RANDOM = ("Random", "Multinomial", "TruncatedNormal", "RngRead")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def unconverted(function: _Function) -> _Function:
    """Leave a function out of AutoGraph, which would convert it, and all it calls, where a model is traced.

    For code of the engine's own that has no branches on tensors and runs no code of a user's.
    """
    return cast(_Function, tf.autograph.experimental.do_not_convert(function))


class Traced:
    """A function as one graph, traced at its first call.

    Calls go to the concrete function: a `tf.function` counts the tracings of all functions made from the same code, and
    would warn of retracing where a process trains several models.

    Args:
        function: takes and gives nests of tensors.
        signature: nest of `tf.TensorSpec` of each argument.
        autograph: whether Python's branches on tensors are converted, as in models and losses that users wrote.
    """

    def __init__(self, function: Callable[..., Any], *signature: Any, autograph: bool = True) -> None:
        self._function = tf.function(function, input_signature=signature, autograph=autograph)
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
        except StagingError as error:  # AutoGraph's own, with the code that it converted in place of one line
            if isinstance(error.__context__, PipelineError):
                raise error.__context__ from None
            raise

    def __call__(self, *arguments: Any) -> Any:
        """Runs the graph on arguments of the signature."""
        return self.concrete(*arguments)


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
