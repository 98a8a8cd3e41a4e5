"""TensorFlow functions that are traced once, for one signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


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
            self._concrete = self._function.get_concrete_function()
        return self._concrete

    def __call__(self, *arguments: Any) -> Any:
        """Runs the graph on arguments of the signature."""
        return self.concrete(*arguments)
