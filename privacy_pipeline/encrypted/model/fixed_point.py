"""A scale for each layer, chosen from weights and bounds; the proof that nothing overflows, and how far a logit is off.

A value x is the integer x S modulo 2^64, with a scale S of its own for each layer. A product has the scale of its
input times that of the weights; `cut` bits are cut off it (Dalskov, Escudero and Keller, "Secure Evaluation of
Quantized Neural Networks", PoPETs 2020), which is right below 2^61 and wrong without a sign beyond it. Intervals over
the public ranges of the inputs bound all values, and so choose S and `cut`; the same pass adds up what rounding does.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model import ranges
from privacy_pipeline.encrypted.model.layer_shapes import LARGEST_FACTOR, LEAST_CUT, PRODUCTS
from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.ranges import Range
from privacy_pipeline.encrypted.model.reference import window_counts
from privacy_pipeline.errors import BadInputError

VALUE_BITS = 27  # of the largest value of a layer, at its scale
_PRODUCT_BITS = 60  # of the largest product
_PRODUCT_LIMIT, _VALUE_LIMIT = 2.0**61, 2.0**45
_SPARE_BITS = 30  # of values that are left as they are
_WORD = 61  # bits of a weight
_EXACT_COUNTS = 2**20
_COUNT_BITS = 33
_EXPONENTS = 400
_HELP = "scale its inputs down, or train with smaller weights (BatchNormalization, a regularizer or a constraint)"

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What holds for all rows within the inputs' ranges.

    Attributes:
        logit_error: largest difference of a logit from the network in exact arithmetic.
        largest: absolute value of every layer's output, at most.
        widest: the layer that multiplies what its input can reach by the most, and that factor.
    """

    logit_error: float
    largest: dict[str, float]
    widest: tuple[str, float]


def scaled(model: PrivateModel) -> PrivateModel:
    """Return the same network with a scale for each layer, and with its proven logit error.

    Raises:
        BadInputError: no scale holds what a layer can reach; names it and what helps.
    """
    inputs = tuple(_scaled_input(one) for one in model.inputs)
    walk = _Walk(dataclasses.replace(model, inputs=inputs))
    layers: list[Layer] = []
    for layer in model.layers:
        for one in _made_equal(layer, walk):
            walk.take(one)
            layers.append(one)
        renamed = dataclasses.replace(layer, inputs=tuple(walk.renamed(layer, name) for name in layer.inputs))
        layers.append(walk.chosen(renamed))
        walk.take(layers[-1])
    found = dataclasses.replace(model, inputs=inputs, layers=tuple(layers))
    return dataclasses.replace(found, logit_error=prove(found).logit_error)


def prove(model: PrivateModel) -> Proof:
    """Return what follows from the scales that a network has.

    Raises:
        BadInputError: what a layer can reach overflows at its scale; names it and what helps.
    """
    walk = _Walk(model)
    for layer in model.layers:
        walk.take(layer)
    error = float(walk.ranges[model.output].error.max())
    return Proof(logit_error=error, largest=walk.largest, widest=walk.widest)


class _Walk:
    """Ranges and scales of the parts so far; each layer comes after what it takes."""

    def __init__(self, model: PrivateModel) -> None:
        self._weights = model.weights
        self.ranges: dict[str, Range] = {}
        self.scales: dict[str, float] = {}
        self.largest: dict[str, float] = {}
        self.widest = ("", 0.0)
        self._equal: dict[tuple[str, str], str] = {}
        self._products: dict[str, ranges.Product] = {}
        for one in model.inputs:
            self.ranges[one.name], self.scales[one.name] = ranges.of_input(one), one.scale
            if not self.ranges[one.name].largest * one.scale < _VALUE_LIMIT:
                raise BadInputError(f"input '{one.name}' has a scale that does not hold its range", fix=_HELP)

    def renamed(self, layer: Layer, name: str) -> str:
        """Return the input that a layer takes in place of `name`."""
        return self._equal.get((layer.name, name), name)

    def equal(self, layer: Layer, name: str, rescaled: str) -> None:
        """Let a layer take another input in place of `name`."""
        self._equal[layer.name, name] = rescaled

    def chosen(self, layer: Layer) -> Layer:
        """Return the layer with a scale that its inputs and weights allow."""
        given, scale = self.ranges[layer.inputs[0]], self.scales[layer.inputs[0]]
        if layer.op in PRODUCTS:
            return _product_scale(layer, self._product(layer), scale)
        if layer.op == "average_pool":
            counts = window_counts(layer, given.center.shape[1:])
            return _pool_scale(layer, counts, scale=scale, largest=given.largest)
        return dataclasses.replace(layer, scale=scale)

    def take(self, layer: Layer) -> None:
        """Bound what a layer gives.

        Raises:
            BadInputError: it overflows.
        """
        given = [self.ranges[name] for name in layer.inputs]
        scale = self.scales[layer.inputs[0]]
        if layer.op in PRODUCTS:
            found = self._product(layer).rounded(layer, scale)
        else:
            found = ranges.of(layer, given, scale=scale)
        largest = found.largest
        limit = _PRODUCT_LIMIT / 2.0**layer.cut if layer.op in PRODUCTS or _is_cut(layer) else _VALUE_LIMIT
        if not largest * layer.scale < min(limit, _VALUE_LIMIT):
            raise _overflow(layer, largest)
        if layer.op in PRODUCTS and layer.op != "embedding" and given[0].largest > 0:
            self.widest = max(self.widest, (layer.name, largest / given[0].largest), key=lambda one: one[1])
        self.ranges[layer.name], self.scales[layer.name], self.largest[layer.name] = found, layer.scale, largest

    def _product(self, layer: Layer) -> ranges.Product:
        if layer.name not in self._products:
            held = {role: self._weights[f"{layer.name}/{role}"] for role in layer.weights}
            self._products[layer.name] = ranges.product(layer, self.ranges[layer.inputs[0]], held)
        return self._products[layer.name]


def _overflow(layer: Layer, largest: float) -> BadInputError:
    return BadInputError(
        f"layer '{layer.name}' ({layer.op}) can reach {largest:.3g} on rows that the inputs' ranges allow, more than "
        "fixed-point numbers hold beside what it is made of",
        fix=_HELP,
    )


def _is_cut(layer: Layer) -> bool:
    return layer.op in ("average_pool", "rescale") and layer.cut > 0


def _exponent(largest: float, layer: str) -> int:
    """Return the exponent of the largest power of two at which a value of this size has at most VALUE_BITS bits."""
    if largest == 0:
        return 16
    if not 2.0**-_EXPONENTS < largest < 2.0**_EXPONENTS:
        raise BadInputError(f"{layer} can reach {largest:.3g}: fixed-point numbers of no scale hold that", fix=_HELP)
    return math.floor(VALUE_BITS - math.log2(largest))


def _scaled_input(one: Input) -> Input:
    if one.vocabulary:
        return dataclasses.replace(one, scale=1.0)
    largest = max(abs(end) for end in (*one.lower, *one.upper))
    return dataclasses.replace(one, scale=2.0 ** _exponent(largest, f"input '{one.name}'"))


def _product_scale(layer: Layer, product: ranges.Product, scale: float) -> Layer:
    exponent, cut = _exponent(product.largest, f"layer '{layer.name}' ({layer.op})"), _PRODUCT_BITS - VALUE_BITS
    # The integers of weights and of added weights are words too.
    for largest, of in ((product.largest_weight, scale), (product.largest_added, 1.0)):
        if largest > 0:
            cut = min(cut, math.floor(_WORD - exponent - math.log2(largest) + math.log2(of)))
    if cut < LEAST_CUT:
        exponent, cut = exponent - (LEAST_CUT - cut), LEAST_CUT
    return dataclasses.replace(layer, scale=2.0**exponent, cut=cut)


def _pool_scale(layer: Layer, counts: Array, *, scale: float, largest: float) -> Layer:
    """Return the layer with its scale. A sum is exact; a mean is where all numbers of elements divide a small one."""
    common = math.lcm(*(int(count) for count in np.unique(counts)))
    bits = math.log2(largest * scale) if largest > 0 else 0.0
    exact = common <= _EXACT_COUNTS
    factor = common if exact else 1 << min(_COUNT_BITS, math.floor(_PRODUCT_BITS - bits))
    bits += math.log2(factor)
    cut, more = 0, 0
    if not exact or bits > _SPARE_BITS:
        cut = max(LEAST_CUT, math.ceil(bits) - VALUE_BITS)
        more = max(0, VALUE_BITS + cut - math.ceil(bits))
    factor <<= more
    return dataclasses.replace(layer, scale=scale * factor / 2.0**cut, cut=cut, factor=factor)


def _made_equal(layer: Layer, walk: _Walk) -> list[Layer]:
    """Return what brings the inputs of a sum, or of what is joined, to one scale: exactly, where they have bits to
    spare.
    """
    names = list(dict.fromkeys(layer.inputs))
    scales = {name: walk.scales[name] for name in names}
    if layer.op not in ("add", "concatenate") or len(set(scales.values())) == 1:
        return []
    sizes = [walk.ranges[name].largest for name in layer.inputs]
    largest = sum(sizes) if layer.op == "add" else max(sizes)
    target, cut = max(scales.values()), 0
    ratios = [target / scale for scale in scales.values()]
    if not all(ratio == round(ratio) for ratio in ratios) or largest * target > 2.0**_SPARE_BITS:
        target, cut = 2.0 ** _exponent(largest, f"layer '{layer.name}' ({layer.op})"), _PRODUCT_BITS - VALUE_BITS
    made = []
    for name, scale in scales.items():
        if scale == target:
            continue
        rescaled = f"{layer.name}:{name}"
        factor = round(target * 2.0**cut / scale)
        if factor > LARGEST_FACTOR:
            raise _overflow(layer, largest)
        made.append(Layer(name=rescaled, op="rescale", inputs=(name,), scale=target, cut=cut, factor=factor))
        walk.equal(layer, name, rescaled)
    return made
