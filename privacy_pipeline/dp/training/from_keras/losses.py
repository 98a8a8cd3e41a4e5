"""The loss of each example by one output: Keras losses without their reduction over the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.graphs.tracing import converted
from privacy_pipeline.errors import BadInputError

_Loss = Callable[[Any, Any], Any]


def unreduced(loss: Any) -> _Loss:
    """Return a function of (labels, outputs) whose result is not reduced over the examples.

    A class number that is not a class of the outputs counts as nothing; see `_bounded`.

    Args:
        loss: name, function or Keras loss.

    Raises:
        BadInputError: it is not one of these.
    """
    found = _named(loss) if isinstance(loss, (str, Mapping)) else loss
    sparse = tf.keras.losses.SparseCategoricalCrossentropy
    if isinstance(found, sparse) and type(found).call is sparse.call:
        return _bounded(found.call, found._fn_kwargs.get("ignore_class"))
    if found is tf.keras.losses.sparse_categorical_crossentropy:
        return _bounded(found, None)
    if isinstance(found, tf.keras.losses.Loss):
        if type(found).__call__ is not tf.keras.losses.Loss.__call__:
            raise BadInputError(
                f"loss {type(found).__name__} has a __call__ of its own, which reduces over the batch",
                fix="put what it computes into its `call`, which gives one number for each example",
            )
        # `call` gives a value for each example; only `__call__` reduces, and its reduction is of no use here.
        call: _Loss = found.call
        return converted(call)
    if not callable(found):
        raise BadInputError(f"loss {loss!r} is not a Keras loss", fix='give a name such as "mse", or a keras Loss')
    own: _Loss = found
    return converted(own)


def _named(loss: Any) -> Any:
    try:
        return tf.keras.losses.get(loss)
    except ValueError:
        raise BadInputError(
            f"Keras has no loss {loss!r}", fix='give a name such as "mse", or an object of tf.keras.losses'
        ) from None


def _bounded(function: _Loss, ignored: Any) -> _Loss:
    """Return a loss over class numbers that is 0, on every device, where a label is not a class of the outputs.

    TensorFlow's own kernel gives NaN for such a label on a GPU; on a CPU it shows all labels of the batch in a log and
    in an error.
    """

    def bounded(labels: Any, outputs: Any) -> Any:
        labels, outputs = tf.convert_to_tensor(labels), tf.convert_to_tensor(outputs)
        if labels.shape.rank == outputs.shape.rank and labels.shape[-1] not in (1, None):
            raise BadInputError(
                f"the loss takes one class number a label, and the labels have {labels.shape[-1]} columns",
                fix="use categorical_crossentropy for one-hot labels",
            )
        numbers = tf.cast(labels, tf.int64)
        known = tf.logical_and(numbers >= 0, numbers < tf.shape(outputs, out_type=tf.int64)[-1])
        passed = known if ignored is None else tf.logical_or(known, tf.equal(numbers, ignored))
        values = function(tf.where(passed, labels, tf.zeros_like(labels)), outputs)
        found = tf.where(tf.reshape(known, tf.shape(values)), values, tf.zeros_like(values))
        if ignored is not None:  # Keras takes the mean over the other labels
            found._keras_mask = values._keras_mask
        return found

    return bounded


def _sums_up(loss: Any) -> bool:
    """Return whether Keras adds up the values of a loss; else it takes their mean, as for functions and names."""
    reduction = getattr(loss, "reduction", None)
    return reduction in (tf.keras.losses.Reduction.SUM, tf.keras.losses.Reduction.NONE)


def _one_output(function: _Loss, labels: Any, outputs: Any, weights: Any, *, summed: bool) -> Any:
    """Return the loss of each example, [B]: what Keras computes of a batch that holds this example alone.

    Values where the mask of the output is off do not count, neither in the sum nor in the mean; nor do those of a class
    that the loss ignores. Weights multiply values and are not counted.
    """
    if labels is not None and outputs.shape[-1] == 1 and labels.shape.rank == outputs.shape.rank - 1:
        labels = labels[..., None]  # else [B] against [B, 1] would broadcast to [B, B] and mix examples
    values = function(labels, outputs)
    if values.shape.rank is None or values.shape.rank < 1:
        raise BadInputError(
            "the loss gives one number for the whole batch; DP-SGD needs one for each example",
            fix="return a tensor of shape [batch], or use a keras Loss",
        )
    masks = [mask for tensor in (outputs, values) if (mask := getattr(tensor, "_keras_mask", None)) is not None]
    axes = list(range(1, values.shape.rank))
    for mask in masks:
        _require_fit(mask, values)
    if weights is not None:
        values *= _as_values(weights, values)
    if not masks:
        return (tf.reduce_sum if summed else tf.reduce_mean)(values, axis=axes) if axes else values
    counts = tf.ones_like(values)
    for mask in masks:
        counts *= _on_axes(mask, values)
    total = tf.reduce_sum(tf.where(counts > 0, values, tf.zeros_like(values)), axis=axes)
    return total if summed else tf.math.divide_no_nan(total, tf.reduce_sum(counts, axis=axes))


def of_output(loss: Any) -> Callable[[Any, Any, Any], Any]:
    """Return the loss of each example by one output of a model, [B]: a function of (labels, outputs, weights).

    Labels and weights may be None. Weights are [B], or [B, ...] for the first axes of the loss's values.

    Raises:
        BadInputError: it is not a loss.
    """
    function, summed = unreduced(loss), _sums_up(loss)
    own = callable(loss) and not type(loss).__module__.startswith("keras.") and not _is_of_keras(loss)

    def of_each(labels: Any, outputs: Any, weights: Any) -> Any:
        if labels is None and not own:
            raise BadInputError("the loss compares with labels, and there are no labels", fix="fit(x, y)")
        return _one_output(function, labels, outputs, weights, summed=summed)

    return of_each


def _is_of_keras(loss: Any) -> bool:
    return getattr(loss, "__module__", "").startswith("keras.")


def _as_values(weights: Any, values: Any) -> Any:
    """Return weights on the axes of the values of a loss.

    Raises:
        BadInputError: they have more of them.
    """
    if weights.shape.rank == values.shape.rank + 1 and weights.shape[-1] == 1:
        weights = tf.squeeze(weights, -1)
    if weights.shape.rank > values.shape.rank:
        raise BadInputError(
            f"weights of {weights.shape.rank} axes do not fit a loss that gives values of {values.shape.rank}",
            fix="give one weight for each example, [examples]",
        )
    return _on_axes(weights, values)


def _on_axes(marks: Any, values: Any) -> Any:
    """Return what belongs to the first axes of some values, of their type and rank."""
    shape = tf.concat([tf.shape(marks), tf.ones([values.shape.rank - marks.shape.rank], tf.int32)], 0)
    return tf.reshape(tf.cast(marks, values.dtype), shape)


def _require_fit(mask: Any, values: Any) -> None:
    """Fit a mask to the axes of the values of a loss.

    Raises:
        BadInputError: it has more of them.
    """
    if mask.shape.rank > values.shape.rank:
        raise BadInputError(
            f"the output has a mask of {mask.shape.rank} axes, and the loss gives values of {values.shape.rank}",
            fix="drop the mask where steps are summed up, or use a loss that gives a value for each step",
        )
