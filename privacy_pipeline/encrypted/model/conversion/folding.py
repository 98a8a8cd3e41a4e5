"""Affine maps, multiplied into the linear layers before them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model.layers import Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel

_LINEAR = ("dense", "conv2d", "depthwise_conv2d")


def folded(model: PrivateModel) -> PrivateModel:
    """Multiply affine maps into the linear layer before them, where nothing else reads that layer."""
    weights = dict(model.weights)
    layers: list[Layer] = []
    renamed: dict[str, str] = {}
    readers = [name for layer in model.layers for name in layer.inputs] + [model.output]
    by_name: dict[str, int] = {}
    for layer in model.layers:
        inputs = tuple(renamed.get(name, name) for name in layer.inputs)
        before = layers[by_name[inputs[0]]] if layer.op == "affine" and inputs[0] in by_name else None
        if before is not None and before.op in _LINEAR and readers.count(layer.inputs[0]) == 1:
            layers[by_name[before.name]] = _fold(before, layer, weights)
            renamed[layer.name] = before.name
            continue
        by_name[layer.name] = len(layers)
        layers.append(dataclasses.replace(layer, inputs=inputs))
    output = renamed.get(model.output, model.output)
    return PrivateModel(inputs=model.inputs, layers=tuple(layers), output=output, weights=weights)


def _fold(linear: Layer, affine: Layer, weights: dict[str, NDArray[np.float64]]) -> Layer:
    scale, shift = (weights.pop(f"{affine.name}/{role}") for role in ("scale", "shift"))
    kernel = weights[f"{linear.name}/kernel"]
    shaped = scale.reshape(kernel.shape[-2:]) if linear.op == "depthwise_conv2d" else scale
    weights[f"{linear.name}/kernel"] = kernel * shaped
    bias = weights.get(f"{linear.name}/bias", np.zeros_like(shift)) * scale + shift
    weights[f"{linear.name}/bias"] = bias
    return dataclasses.replace(linear, weights={**linear.weights, "bias": bias.shape})
