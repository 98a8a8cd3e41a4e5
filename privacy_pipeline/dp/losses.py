"""The loss of each example: Keras losses without their reduction over the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.rowwise.owners import LOSS_SCOPE
from privacy_pipeline.dp.tracing import converted
from privacy_pipeline.errors import BadInputError

_Loss = Callable[[Any, Any], Any]


def unreduced(loss: Any) -> _Loss:
    """A function of (labels, outputs) whose result is not reduced over the examples.

    A class number that is no class of the outputs counts as nothing; see `_bounded`.

    Args:
        loss: name, function or Keras loss.

    Raises:
        BadInputError: it is none of these.
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
        raise BadInputError(f"loss {loss!r} is no Keras loss", fix='give a name such as "mse", or a keras Loss')
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
    """A loss over class numbers that is 0, on every device, where a label is no class of the outputs.

    TensorFlow's own kernel gives NaN for such a label on a GPU; on a CPU it shows all labels of the batch in a log and
    in an error.
    """

    def bounded(labels: Any, outputs: Any) -> Any:
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
    """Whether Keras adds up the values of a loss; else it takes their mean, as it does for functions and names."""
    reduction = getattr(loss, "reduction", None)
    return reduction in (tf.keras.losses.Reduction.SUM, tf.keras.losses.Reduction.NONE)


def _one_output(function: _Loss, labels: Any, outputs: Any, *, summed: bool) -> Any:
    """Loss of each example, [B]: what Keras computes of a batch that holds this example alone.

    Values where the mask of the output is off do not count, neither in the sum nor in the mean; nor do those of a class
    that the loss ignores.
    """
    if outputs.shape[-1] == 1 and labels.shape.rank == outputs.shape.rank - 1:
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
    if not masks:
        return (tf.reduce_sum if summed else tf.reduce_mean)(values, axis=axes) if axes else values
    counts = tf.ones_like(values)
    for mask in masks:
        shape = tf.concat([tf.shape(mask), tf.ones([values.shape.rank - mask.shape.rank], tf.int32)], 0)
        counts *= tf.reshape(tf.cast(mask, values.dtype), shape)
    total = tf.reduce_sum(tf.where(counts > 0, values, tf.zeros_like(values)), axis=axes)
    return total if summed else tf.math.divide_no_nan(total, tf.reduce_sum(counts, axis=axes))


def _of_output(loss: Any) -> _Loss:
    """The loss of each example by one output of a model, [B]."""
    function, summed = unreduced(loss), _sums_up(loss)
    return lambda labels, outputs: _one_output(function, labels, outputs, summed=summed)


def _require_fit(mask: Any, values: Any) -> None:
    """Hold a mask to the axes of the values of a loss.

    Raises:
        BadInputError: it has more of them.
    """
    if mask.shape.rank > values.shape.rank:
        raise BadInputError(
            f"the output has a mask of {mask.shape.rank} axes, and the loss gives values of {values.shape.rank}",
            fix="drop the mask where steps are summed up, or use a loss that gives a value for each step",
        )


def per_example_loss(loss: Any, *, loss_weights: Any = None) -> _Loss:
    """A function of (labels, outputs) that gives the loss of each example, float [B].

    Args:
        loss: name, function or Keras loss; for a model of several outputs, a list or dict of those.
        loss_weights: weights of the outputs, in the same structure; all 1 without it.

    Raises:
        BadInputError: no loss, or losses and weights of different structure.
    """
    if loss is None:
        raise BadInputError("a loss is needed", fix='make_private(model, plan, loss="...") or compile the model')
    if not isinstance(loss, (Mapping, list, tuple)):
        function = _of_output(loss)
        (weight,) = _weights(loss_weights, [0] if isinstance(loss_weights, (list, tuple)) else [None]).values()
        if weight == 1.0:
            return function
        return lambda labels, outputs: weight * function(labels, outputs)
    keys: Sequence[Any] = list(loss) if isinstance(loss, Mapping) else list(range(len(loss)))
    functions = {key: _of_output(loss[key]) for key in keys}
    weights = _weights(loss_weights, keys)

    def several(labels: Any, outputs: Any) -> Any:
        return tf.add_n([weights[key] * functions[key](labels[key], outputs[key]) for key in keys])

    return several


def _weights(loss_weights: Any, keys: Sequence[Any]) -> dict[Any, float]:
    """Weight of each output's loss; 1 where a dict does not name it, as in Keras.

    Raises:
        BadInputError: the weights do not fit the losses.
    """
    if isinstance(loss_weights, Mapping) and set(loss_weights) <= set(keys):
        given = dict(loss_weights)
    elif isinstance(loss_weights, (list, tuple)) and list(range(len(loss_weights))) == list(keys):
        given = dict(enumerate(loss_weights))
    elif loss_weights is None or (list(keys) == [None] and isinstance(loss_weights, (int, float))):
        given = {} if loss_weights is None else {None: loss_weights}
    else:
        raise BadInputError(
            f"loss_weights {loss_weights!r} does not fit the losses",
            fix="give it in the form of `loss`: a dict with the same names, a list of the same length, or one number",
        )
    return {key: float(given.get(key, 1.0)) for key in keys}


@dataclass(frozen=True)
class ModelLosses:
    """Losses of a model's outputs: (inputs, labels, training) to the loss of each example, [batch].

    Attributes:
        model: the Keras model.
        loss: function of (labels, outputs) that gives the loss of each example; see `per_example_loss`.
        one_by_one: whether the loss is computed on one example at a time.
    """

    model: Any
    loss: _Loss
    one_by_one: bool = False

    def __call__(self, x: Any, y: Any, training: bool) -> Any:
        """Losses of a batch, [batch]."""
        outputs = self.model(x, training=training)
        with tf.name_scope(LOSS_SCOPE):
            if not self.one_by_one:
                return self.loss(y, outputs)
            return self._isolated(y, outputs)

    def isolated(self) -> ModelLosses:
        """The same, on one example at a time."""
        return replace(self, one_by_one=True)

    def _isolated(self, y: Any, outputs: Any) -> Any:
        from privacy_pipeline.dp.clipping.isolate import isolated_call

        both = (y, outputs)
        flat = tf.nest.flatten(both)
        masked = [place for place, tensor in enumerate(flat) if getattr(tensor, "_keras_mask", None) is not None]

        def function(values: Sequence[Any]) -> list[Any]:
            for place, mask in zip(masked, values[len(flat) :], strict=True):
                values[place]._keras_mask = mask
            labels, made = tf.nest.pack_sequence_as(both, list(values[: len(flat)]))
            return [self.loss(labels, made)]

        given = [*flat, *(flat[place]._keras_mask for place in masked)]
        return isolated_call(function, given, name="the loss")[0]
