"""Whether a `preprocessing_fn` may run on private rows, and whether on batches of them.

A guarantee is about one row that is there or not: features of a row have to come from that row and from public values.
Analyzers and state are refused. What is left may still look at the rows of its batch. The rules of
`privacy_pipeline.dp.rowwise` prove that it does not, or show that it does; where they do neither, the caller hands it
batches of one row, and what it does across a batch it does across that row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import analyzer_nodes, impl_helper
from tfx.utils import import_utils, io_utils

from privacy_pipeline.backends.models.user_code import FRAMEWORK_PREPROCESSING
from privacy_pipeline.dp.graphs.graph_walk import Walk
from privacy_pipeline.dp.rowwise.proof import prove
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.releases.single_rows import state_in

_FILLS = ("InitializeTableFromTextFileV2", "InitializeTableV2", "LookupTableImportV2")


def keeps_rows_apart(*, path: str, config: dict[str, str], schema_uri: str) -> bool:
    """Trace a `preprocessing_fn` and look for what would carry something from one row to another.

    Args:
        path: dotted path of the function.
        config: its `custom_config`.
        schema_uri: folder of the schema.

    Returns:
        Whether the features that it makes of a batch are proven to come from their own row. The framework's function
        is: its tests compare bits.

    Raises:
        BadInputError: a column feeds an analyzer: means, vocabularies and the like of private data are a release that
            nobody charged. Or an op keeps, draws or prints something, or mixes the rows of a batch.
    """
    module, _, name = path.rpartition(".")
    function = functools.partial(import_utils.import_func_from_module(module, name), custom_config=config)
    schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema_uri))
    features = tft.tf_metadata.schema_utils.schema_as_feature_spec(schema).feature_spec
    specs = impl_helper.get_type_specs_from_feature_specs(features)
    graph, columns, made = impl_helper.trace_preprocessing_function(function, specs, use_tf_compat_v1=False)
    _require_no_analyzers(path, graph, function, specs)
    _require_no_state(path, graph)
    return path == FRAMEWORK_PREPROCESSING or _proven(path, graph, columns, made)


def _require_no_analyzers(path: str, graph: Any, function: Callable[..., Any], specs: Any) -> None:
    # Every analyzer leaves its result here; assertions and lookup tables, which read no data to set up, do not.
    if graph.get_collection(analyzer_nodes.TENSOR_REPLACEMENTS):
        columns = tft.get_analyze_input_columns(function, specs)
        raise BadInputError(
            f"{path} analyzes {', '.join(sorted(columns))}: what it computes from private data is not covered by the "
            "guarantee",
            fix="use constants that are publicly known (the schema's ranges and domains) in place of analyzers",
        )


def _require_no_state(path: str, graph: Any) -> None:
    found = [kind for kind in state_in(graph) if kind not in _FILLS or not _filled_from_constants(graph, kind)]
    if found:
        raise BadInputError(
            f"{path} does more than to read its columns: {', '.join(found)}; a row's features may depend on other rows",
            fix="drop these ops; random ones have a stateless form",
        )


def _filled_from_constants(graph: Any, kind: str) -> bool:
    """Whether all ops of this kind, whose first input is a table, fill it with what no column feeds."""
    walk = Walk(graph)
    return all(walk.rest_is_constant(place) for place in walk.places() if place.node.op == kind)


def _proven(path: str, graph: Any, columns: dict[str, Any], made: dict[str, Any]) -> bool:
    """Whether the rules prove that the features are rows."""
    dense = [column for column in columns.values() if isinstance(column, tf.Tensor)]
    others = [column for column in columns.values() if not isinstance(column, tf.Tensor)]
    parts = tf.nest.flatten(others, expand_composites=True)
    targets = tf.nest.flatten(list(made.values()), expand_composites=True)
    # Values of a sparse column do not lie by row, until they are filled in.
    proof = prove(graph, batch=dense, targets=targets, elsewhere=parts, known=_filled_in(graph, others))
    if proof.mixing:
        first = proof.mixing[0]
        raise BadInputError(
            f"{path}: op '{first.op}' ({first.type}) mixes the rows of a batch: {first.reason}; the guarantee is about "
            "features of a row that come from that row alone",
            fix="compute along the axes of one row, or use public constants in place of what the batch gives",
        )
    return proof.proven


def _filled_in(graph: Any, columns: Sequence[Any]) -> list[Any]:
    """Return dense tensors that hold the first values of each row of a sparse column, a fixed number of them."""
    sparse = [column for column in columns if isinstance(column, tf.SparseTensor) and column.shape.rank == 2]
    dense = [operation for operation in graph.get_operations() if operation.type == "SparseToDense"]
    return [operation.outputs[0] for operation in dense if any(_fills(operation, column) for column in sparse)]


def _fills(operation: Any, column: Any) -> bool:
    """Whether an op writes a column's values to [rows of the column, a constant]; a longer row is its error."""
    indices, shape, values, default = map(_source, operation.inputs)
    if indices is not column.indices or values is not column.values or default.op.type != "Const":
        return False
    if shape.op.type != "Pack" or len(shape.op.inputs) != 2:
        return False
    rows, width = map(_source, shape.op.inputs)
    return width.op.type == "Const" and _is_first_of(rows, column.dense_shape)


def _is_first_of(number: Any, vector: Any) -> bool:
    """Whether a number is vector[0]."""
    if number.op.type != "StridedSlice" or number.shape.rank != 0:
        return False
    source, begin = number.op.inputs[:2]
    place = tf.get_static_value(begin)
    return _source(source) is vector and place is not None and place.tolist() == [0]


def _source(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor
