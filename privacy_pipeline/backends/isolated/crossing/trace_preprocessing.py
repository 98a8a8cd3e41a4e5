"""In the build: the graph of a user's `preprocessing_fn`. Runs beside code of the user's; nothing here is trusted."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow_transform import analyzer_nodes, annotators, graph_context, impl_helper

from privacy_pipeline.backends.isolated.crossing.graph_json import program_json
from privacy_pipeline.errors import BadInputError


def crossing_preprocessing(
    function: Callable[..., Any], custom_config: Mapping[str, Any], features: Mapping[str, Any], *, use: str
) -> dict[str, Any]:
    """Trace a `preprocessing_fn` on columns without values.

    Args:
        function: the user's.
        custom_config: what it gets beside its inputs.
        features: by column its dtype, and its shape or None where a row may lack a value.
        use: the module's name, for messages.

    Returns:
        JSON values of the program, its tables, and the names of inputs and outputs.

    Raises:
        BadInputError: it has analyzers, or makes something that is not dense.
    """
    specs = {
        name: tf.SparseTensorSpec([None, None], one["dtype"])
        if one["shape"] is None
        else tf.TensorSpec([None, *one["shape"]], one["dtype"])
        for name, one in sorted(features.items())
    }
    what = f"preprocessing_fn of '{use}'"
    tracker = annotators.ObjectTracker()  # tables live as long as it does
    context = graph_context.TFGraphContext(
        module_to_export=tf.Module(), temp_dir=tempfile.mkdtemp(), evaluated_replacements=None
    )
    bound = functools.partial(function, custom_config=dict(custom_config))
    with annotators.object_tracker_scope(tracker):
        traced = impl_helper.get_traced_transform_fn(bound, specs, context).get_concrete_function()
    if traced.graph.get_collection(analyzer_nodes.TENSOR_REPLACEMENTS):
        raise BadInputError(
            f"model: {what} analyzes the data, for which its Python would have to run beside the data",
            fix="use constants that are publicly known (the schema's ranges and domains) in place of analyzers; a run "
            "without a guarantee may set `trust: reviewed` under `model`",
        )
    made = traced.structured_outputs
    if not isinstance(made, dict) or not all(isinstance(one, tf.Tensor) for one in made.values()):
        raise BadInputError(
            f"model: {what} makes features that are not dense", fix="make them so, for example with tf.sparse.to_dense"
        )
    names = sorted(made)
    count = len(tf.nest.flatten(specs, expand_composites=True))
    program, tables = program_json(
        traced.graph, traced.graph.inputs[:count], [made[name] for name in names], weights=(), what=what
    )
    return {"program": program, "tables": tables, "features": sorted(specs), "made": names}
