"""Which Keras configurations may cross from a build, and the model that is made of one.

A configuration is JSON. Every class that it names must be on the list, since Keras makes an object of what it finds;
layers that read files or carry Python (`TextVectorization`, `Lambda`) are not on it.
`GraphLayer` is, and looks at its own graphs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.backends.isolated.crossing.graph_layer import GraphLayer
from privacy_pipeline.backends.isolated.crossing.ops import printed
from privacy_pipeline.errors import BadInputError

_LAYERS = """Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D
AveragePooling2D AveragePooling3D BatchNormalization Bidirectional CategoryEncoding Concatenate Conv1D Conv1DTranspose
Conv2D Conv2DTranspose Conv3D Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D
Dot Dropout ELU EinsumDense Embedding Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D
GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
GroupNormalization InputLayer LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D
Maximum Minimum MultiHeadAttention Multiply PReLU Permute RNN ReLU RepeatVector Rescaling Reshape SeparableConv1D
SeparableConv2D SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells
Subtract ThresholdedReLU TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
ZeroPadding2D ZeroPadding3D"""
_INITIALIZERS = """Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros"""
_OTHERS = """Functional Sequential L1 L2 L1L2 OrthogonalRegularizer MaxNorm MinMaxNorm NonNeg UnitNorm RadialConstraint
Policy"""
LAYERS = frozenset(_LAYERS.split())
_ALLOWED = LAYERS | frozenset(_INITIALIZERS.split()) | frozenset(_OTHERS.split())
_MODULES = frozenset(
    f"keras.{name}"
    for name in ("layers", "initializers", "regularizers", "constraints", "mixed_precision", "src.engine.functional")
) | {"keras", "keras.models", "keras.src.engine.sequential", None}
GRAPH_LAYER = "privacy_pipeline>GraphLayer"
_DEEPEST = 40
_SMALL = 1024  # elements of a variable that may be made without being asked for, such as a generator's state
_OURS = {"GraphLayer": GraphLayer, GRAPH_LAYER: GraphLayer}
_PLACES = (tf.keras.layers, tf.keras.initializers, tf.keras.regularizers, tf.keras.constraints, tf.keras)


def is_allowed(config: Any) -> bool:
    """Whether every class that a configuration names is on the list."""
    return next(_offences(config, 0), None) is None


def model_of(config: Any, weights: Sequence[NDArray[Any]], *, seed: int | None = None) -> Any:
    """Return the model of a configuration that a user's code may have written, with its initial weights.

    Args:
        config: "class_name" and "config" of a functional or sequential model.
        weights: in the order of `model.weights`.
        seed: of initializers and of all that is drawn later; None for none.

    Raises:
        BadInputError: it names a class that is not on the list, is not a model, or the weights are not its own.
    """
    offence = next(_offences(config, 0), None)
    if offence is not None:
        raise BadInputError(
            f"model: {printed(offence) or 'something'} is not a built-in layer that may cross to where the data is",
            fix="build with the layers of tf.keras.layers that carry no Python and read no file",
        )
    if seed is not None:
        tf.keras.utils.set_random_seed(seed)
    with tf.variable_creator_scope(_limit([array.shape for array in weights])):
        model = _made(config)
    if [(tuple(one.shape), one.dtype.base_dtype.name) for one in model.weights] != [
        (array.shape, array.dtype.name) for array in weights
    ]:
        raise _unlike()
    model.set_weights([np.array(array) for array in weights])
    return model


def _limit(shapes: Sequence[tuple[int, ...]]) -> Callable[..., Any]:
    """Return a creator of variables that refuses before it allocates a shape that did not cross.

    A model is not built in a graph to look at its shapes: Keras then swaps the bases of its layer classes in place,
    and models that the process builds later may be of both kinds.
    """
    known = frozenset(shapes)

    def create(next_creator: Callable[..., Any], **options: Any) -> Any:
        shape = options.get("shape")
        if shape is not None and math.prod(tf.TensorShape(shape).as_list()) > _SMALL and tuple(shape) not in known:
            raise _unlike()
        return next_creator(**options)

    return create


def _unlike() -> BadInputError:
    return BadInputError("model: the weights that crossed are not those of the layers that did", fix="report this")


def _made(config: Any) -> Any:
    try:
        kind = {"Functional": tf.keras.Model, "Sequential": tf.keras.Sequential}[config["class_name"]]
        with _of_this_keras():
            return kind.from_config(config["config"], custom_objects=_OURS)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, tf.errors.OpError) as error:
        said = str(error).strip().splitlines()
        raise BadInputError(
            f"model: Keras makes no model of what crossed: {said[0][:300] if said else type(error).__name__}",
            fix="report this with the layers of your model",
        ) from error


@functools.cache
def _classes() -> dict[str, Any]:
    """Return the class of each name on the list, of the Keras that this process works with.

    Keras looks names up in a table of all Keras packages of the process. Where TensorFlow Federated or another package
    has imported `tf_keras`, that has the classes of the wrong one, whose layers make no model of ours.
    """
    found = {name: getattr(place, name) for place in reversed(_PLACES) for name in _ALLOWED if hasattr(place, name)}
    given = tf.keras.Input((1,))
    return found | {"Functional": type(tf.keras.Model(given, given)), "Policy": tf.keras.mixed_precision.Policy}


@contextlib.contextmanager
def _of_this_keras() -> Iterator[None]:
    """Let Keras look up the names on the list among its own classes alone."""
    library: Any = importlib.import_module(
        f"{tf.keras.Model.__module__.partition('.')[0]}.src.saving.serialization_lib"
    )
    stock: Any = library.tf_export

    def find(name: str) -> Any:
        return _classes().get(name.rpartition(".")[2]) or stock.get_symbol_from_name(name)

    library.tf_export = types.SimpleNamespace(**{**vars(stock), "get_symbol_from_name": find})
    try:
        yield
    finally:
        library.tf_export = stock


def _offences(value: Any, depth: int) -> Iterator[str]:
    """Yield the names of what a configuration must not hold."""
    if depth > _DEEPEST:
        yield "a configuration inside of configurations without end"
    elif isinstance(value, list):
        for one in value:
            yield from _offences(one, depth + 1)
    elif isinstance(value, dict):
        name = value.get("class_name")
        is_ours = (
            isinstance(name, str) and name in _OURS and value.get("registered_name") == GRAPH_LAYER
        )  # it looks at its graphs itself
        if "class_name" in value and not is_ours:
            if not isinstance(name, str) or name not in _ALLOWED:
                yield str(name)
            elif value.get("module") not in _MODULES or value.get("registered_name") not in (None, name):
                yield f"{name} of another module"
        for key, one in value.items():
            if key == "module" and "class_name" not in value:
                yield str(one)
            yield from _offences(one, depth + 1)
