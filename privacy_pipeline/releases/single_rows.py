"""The one home of a rule: a value of a row that is counted is computed from that row alone, to the last bit.

The sensitivity of a count rests on it. A batch breaks it twice. A model may look at other rows. And kernels round by
shape and place, even where the formula looks at one row: a vectorised loop ends in a scalar one, blocks of a matrix
product and shares of the threads depend on the number of rows. So one row that leaves can move the last bit of many
others, and a threshold between the two values counts each of them.

`SingleRows` therefore runs a function of a batch on batches of one. Each row meets the same graph, in the same shape,
in a loop that hands nothing from one row to the next. What the function does across a batch it does across one row: a
function that mixes rows becomes one that does not. Ops that keep or draw something between two rows are refused, by not
being on a list of those that only read. Kernels may still round by the kind of processor and the number of its threads;
neither is another row.

The module is to be imported on use: TensorFlow is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import op_def_registry

from privacy_pipeline.errors import BadInputError, PipelineError

AT_ONCE = 4096  # rows handed over in one call; no value depends on it
_SIDE_BY_SIDE = 8  # rows that the loop may have begun; more gain nothing on 2 to 16 cores
# Of the ops that TensorFlow calls stateful: calls and branches, reads of variables and tables, and a check that stops.
_ONLY_READ = frozenset(
    {
        "Assert",
        "Case",
        "HashTableV2",
        "If",
        "LookupTableFindV2",
        "LookupTableSizeV2",
        "MutableDenseHashTableV2",
        "MutableHashTableV2",
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "StatefulPartitionedCall",
        "VarHandleOp",
        "VarIsInitializedOp",
        "While",
    }
)


class SingleRows:
    """A function of a batch, run on one row at a time.

    Args:
        function: takes a nest of tensors, each [rows, ...], and gives tensors by name, each with one value a row.
        signature: the nest as `tf.TensorSpec`, each with the shape [None, ...].
        what: the function as an error names it.

    Raises:
        BadInputError: the function keeps, draws or prints something.
        PipelineError: it gives more than one value for a row.
    """

    def __init__(self, function: Callable[[Any], Mapping[str, Any]], signature: Any, *, what: str) -> None:
        def alone(row: Any) -> dict[str, Any]:
            return dict(function(tf.nest.map_structure(lambda value: value[tf.newaxis], row)))

        row_spec = tf.nest.map_structure(lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype), signature)
        traced = tf.function(alone).get_concrete_function(row_spec)
        found = state_in(traced.graph)
        if found:
            raise BadInputError(
                f"{what} does more than to read: {', '.join(found)}; a row's value may depend on rows before it",
                fix="drop these ops where the model predicts",
            )
        values = traced.structured_outputs
        several = {name: size for name, one in values.items() if (size := one.shape.num_elements()) not in (None, 1)}
        if several:
            raise PipelineError(f"{what} gives several values for one row: {several}")
        specs = {name: tf.TensorSpec([], value.dtype) for name, value in values.items()}

        def one_value_each(row: Any) -> dict[str, Any]:
            return {name: tf.reshape(value, []) for name, value in traced(row).items()}

        def mapped(rows: Any) -> Any:
            return tf.map_fn(one_value_each, rows, fn_output_signature=specs, parallel_iterations=_SIDE_BY_SIDE)

        self._function = function  # holds what it closes over, the model's variables among it
        self._mapped = tf.function(mapped, autograph=False).get_concrete_function(signature)

    def __call__(self, rows: Any) -> dict[str, NDArray[Any]]:
        """Compute each row's values.

        Args:
            rows: the nest of the signature, arrays or tensors, each [rows, ...].

        Returns:
            The values by name, each [rows], in the order of the rows.
        """
        found = self._mapped(tf.nest.map_structure(tf.convert_to_tensor, rows))
        return {name: value.numpy() for name, value in found.items()}


def parts_of(rows: int) -> Iterator[slice]:
    """Cut a number of rows into runs of `AT_ONCE` at most."""
    for begin in range(0, rows, AT_ONCE):
        yield slice(begin, min(begin + AT_ONCE, rows))


def state_in(graph: Any) -> list[str]:
    """List the kinds of op of a graph, and of the functions it calls, that do more than to read state.

    Args:
        graph: graph of a traced function.
    """
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    known = {function.signature.name for function in definition.library.function}
    return sorted({node.op for node in nodes if node.op not in known and _keeps_state(node)})


def _keeps_state(node: Any) -> bool:
    kind = op_def_registry.get(node.op)
    if kind is None:
        return True  # nobody knows
    if not kind.is_stateful or node.op in _ONLY_READ:
        return False
    # Keras' form of LSTM and GRU for other devices is part of the graph; what is random in it is the dropout.
    return not (node.op.startswith("CudnnRNN") and node.attr["dropout"].f == 0)
