"""The network in the ring, in NumPy: what the servers compute, integer for integer, up to the rounding of what is cut.

The servers round the last bit of a cut product up or down at random; here the caller chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model import ranges, shares
from privacy_pipeline.encrypted.model.layer_shapes import PRODUCTS
from privacy_pipeline.encrypted.model.layers import Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.reference import apply, windows_of

Array = NDArray[Any]
Dither = Callable[[tuple[int, ...], int], Any]  # shape, cut -> what is added before the bits are cut off, below 2^cut


def down(shape: tuple[int, ...], cut: int) -> Any:
    """Round everything down."""
    return np.int64(0)


def up(shape: tuple[int, ...], cut: int) -> Any:
    """Round everything up."""
    return np.int64((1 << cut) - 1)


def at_random(seed: int) -> Dither:
    """Return a dither that rounds as the servers do; reproducible by the seed."""
    random = np.random.default_rng(seed)
    return lambda shape, cut: random.integers(0, 1 << cut, shape)


def evaluate(model: PrivateModel, inputs: Mapping[str, Array], *, dither: Dither) -> dict[str, NDArray[np.float64]]:
    """Return outputs of every layer, decoded.

    Args:
        model: the network with its weights.
        inputs: by name, each [rows, *shares.encoded_shape(input)], as `inputs.encode_inputs` gives them.
        dither: how cut bits are rounded.

    Returns:
        By layer name, [rows, ...].

    Raises:
        BadInputError: a weight or an input is beyond the ring.
    """
    values: dict[str, NDArray[np.int64]] = {
        one.name: shares.encode(inputs[one.name], scale=one.scale) for one in model.inputs
    }
    for layer in model.layers:
        held = {
            role: shares.encode(model.weights[f"{layer.name}/{role}"], scale=model.weight_scale(layer, role))
            for role in layer.weights
        }
        values[layer.name] = _layer(layer, [values[name] for name in layer.inputs], held, dither)
    return {layer.name: shares.decode(values[layer.name], scale=layer.scale) for layer in model.layers}


def _layer(layer: Layer, given: list[Array], held: Mapping[str, Array], dither: Dither) -> Array:
    if layer.op in PRODUCTS:
        return _cut(_product(layer, given[0], held), layer.cut, dither)
    if layer.op in ("average_pool", "rescale"):
        sums = given[0]
        if layer.op == "average_pool":
            sums = windows_of(layer, sums, tuple(layer.config["pool"])).sum(axis=(-2, -1))
        found = sums * ranges.multipliers(layer, given[0].shape[1:])
        return _cut(found, layer.cut, dither) if layer.cut else found
    return apply(layer, given, held)


def _product(layer: Layer, x: Array, held: Mapping[str, Array]) -> Array:
    if layer.op == "embedding":
        found: Array = x @ held["table"]
        return found
    return apply(layer, [x], held)


def _cut(product: Array, cut: int, dither: Dither) -> Array:
    found: Array = (product + dither(product.shape, cut)) >> cut
    return found
