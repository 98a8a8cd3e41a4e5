"""Proves that clients with stacked weights do not meet in a local step: the proof of rows, with clients as rows."""

from __future__ import annotations

import tensorflow as tf

from federated.fast.gradients import StackedGradients
from federated.fast.stacked import batched
from federated.model import FederatedModel
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.rowwise.proof import Proof, prove


def clients_apart(model: FederatedModel, labels: tf.TensorSpec, *, batch_size: int) -> Proof | None:
    """Return what the rules prove of a local step of several clients: model, loss and gradients, down to each client's
    own.

    Rows of one client may mix; a client's gradients and losses may depend on no other client.

    Args:
        model: the model.
        labels: of one row each, [rows, ...].
        batch_size: rows of a local batch.

    Returns:
        None where clients cannot be stacked anyway: a layer has no batched product, or the loss gives no value a row.
    """
    if not batched(model):
        return None
    apart = [None, batch_size]
    weights = [tf.TensorSpec([None, *shape], tf.float32) for shape in model.shapes]
    inputs = [tf.TensorSpec([*apart, *spec.shape[1:]], spec.dtype) for spec in model.input_specs]
    targets = tf.TensorSpec([*apart, *labels.shape[1:]], labels.dtype)
    step = Traced(StackedGradients(model), weights, inputs, targets, tf.TensorSpec(apart, tf.float32))
    try:
        graph = step.concrete.graph
    except ValueError:  # shapes that do not fit; what a user's code raises, the model's own pass has raised before
        return None
    return prove(graph, batch=graph.inputs, targets=graph.outputs)
