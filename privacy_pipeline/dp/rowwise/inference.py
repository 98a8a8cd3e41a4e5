"""Shapes that TensorFlow's inference gives an op for what is known of its inputs, and nothing else.

The shapes in a graph are not believed. `set_shape`, `PlaceholderWithDefault`, the output shapes of a loop, or a
function that was traced for other sizes may state wrong shapes, and no kernel checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy_pipeline.dp.graphs.tracing import unconverted
from privacy_pipeline.dp.rowwise.bodies import Node
from privacy_pipeline.dp.rowwise.sizes import Dim, depends
from privacy_pipeline.dp.rowwise.values import hides_count

if TYPE_CHECKING:
    from privacy_pipeline.dp.rowwise.values import Value

Shape = tuple[Dim, ...] | None
_MOST_NUMBERS = 64


@cache
def _claims(op_type: str) -> bool:
    """Return whether ops of a type give their outputs a shape by an attribute, which no kernel has to check."""
    from tensorflow.python.framework import op_def_registry

    known = op_def_registry.get(op_type)
    if known is None:
        return True
    kinds = {attr.type for attr in known.attr}
    # The kernel of EnsureShape fails where its attribute is not true.
    return op_type != "EnsureShape" and not kinds.isdisjoint({"shape", "list(shape)", "func", "list(func)"})


def _dtypes(node: Node) -> list[Any] | None:
    """Return the types of an op's inputs."""
    from tensorflow.python.framework import op_def_registry

    found: list[Any] = []
    for argument in op_def_registry.get(node.type).input_arg:
        if argument.type_list_attr:
            found.extend(node.attr[argument.type_list_attr].list.type)
            continue
        kind = node.attr[argument.type_attr].type if argument.type_attr else argument.type
        found.extend([kind] * (node.attr[argument.number_attr].i if argument.number_attr else 1))
    return found if len(found) == len(node.inputs) else None


def _gathered(node: Node, variable: Value, indices: Value) -> Shape:
    if variable.held is None or indices.shape is None or node.attr["batch_dims"].i:
        return None
    return (*_sizes(indices.shape), *variable.held[1:])


# The shape of a variable is not that of its handle, which is a scalar.
_OF_VARIABLES: dict[str, Callable[..., Shape]] = {
    "ReadVariableOp": lambda node, variable: variable.held,
    "ResourceGather": _gathered,
}


@dataclass
class Inference:
    """A graph in which ops are made for their shapes alone."""

    _graph: Any = None
    _given: dict[Any, Any] = field(default_factory=dict)

    @unconverted
    def shapes(self, node: Node, inputs: Sequence[Value]) -> tuple[Shape, ...]:
        """Return the shape of each output of an op; None where nothing is known.

        Args:
            node: the op.
            inputs: what is known of its inputs.
        """
        import tensorflow as tf

        nothing: tuple[Shape, ...] = (None,) * node.outputs
        if node.type in _OF_VARIABLES:
            return (_OF_VARIABLES[node.type](node, *inputs),)
        dtypes = None if _claims(node.type) else _dtypes(node)
        if dtypes is None:
            return nothing
        if self._graph is None:
            self._graph = tf.Graph()
        definition = tf.compat.v1.NodeDef(name=f"op{len(self._graph.get_operations())}", op=node.type)
        for name in node.attr:
            if not name.startswith("_"):
                definition.attr[name].CopyFrom(node.attr[name])
        try:
            given = [self._input(kind, value) for kind, value in zip(dtypes, inputs, strict=True)]
            with self._graph.as_default():
                made = tf.Operation.from_node_def(definition, self._graph, inputs=given, control_inputs=[])
        except (ValueError, tf.errors.InvalidArgumentError):
            return nothing  # sizes that do not fit: the op fails when it runs
        return tuple(_shape(output) for output in made.outputs)

    def _input(self, kind: Any, value: Value) -> Any:
        """Return a tensor for which TensorFlow infers what is known of a value."""
        import tensorflow as tf

        dtype = tf.as_dtype(kind)
        hidden = value.content is None or value.content.ndim > 1 or hides_count(value)
        numbers = None if hidden else value.content
        if value.is_list or numbers is None or numbers.size > _MOST_NUMBERS or not (dtype.is_integer or dtype.is_bool):
            shape = None if value.is_list or value.shape is None else _sizes(value.shape)
            return self._once(("any", dtype, shape), lambda: tf.compat.v1.placeholder(dtype, shape))
        if not any(depends(number) for number in numbers.flat):
            held = np.array(numbers.tolist(), dtype.as_numpy_dtype)
            return self._once((dtype, held.shape, held.tobytes()), lambda: tf.constant(held))
        if numbers.ndim == 0:
            return self._once(("any", dtype, ()), lambda: tf.compat.v1.placeholder(dtype, ()))
        parts = [None if depends(number) else int(number) for number in numbers]
        return self._once((dtype, tuple(parts)), lambda: self._packed(parts, dtype))

    def _packed(self, numbers: Sequence[int | None], dtype: Any) -> Any:
        """Return a vector of which some numbers are known."""
        import tensorflow as tf

        parts = [
            tf.compat.v1.placeholder(dtype, ()) if number is None else tf.constant(number, dtype) for number in numbers
        ]
        return tf.stack(parts)

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._given:
            with self._graph.as_default():
                self._given[key] = make()
        return self._given[key]


def _sizes(shape: Sequence[Dim]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)


def _shape(tensor: Any) -> Shape:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
