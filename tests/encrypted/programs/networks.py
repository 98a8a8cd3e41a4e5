"""Small networks."""

from __future__ import annotations

import itertools

import numpy as np

from privacy_pipeline.encrypted.model_format import Input, Layer, PrivateModel


def mlp(sizes: list[int], *, seed: int = 0, relu: bool = True) -> PrivateModel:
    """Dense layers with ReLU between them."""
    random = np.random.default_rng(seed)
    layers, weights, last = [], {}, "x"
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        name = f"dense{number}"
        layers.append(
            Layer(name=name, op="dense", inputs=(last,), weights={"kernel": (before, after), "bias": (after,)})
        )
        weights[f"{name}/kernel"] = random.normal(size=(before, after)) / np.sqrt(before)
        weights[f"{name}/bias"] = random.normal(size=after)
        last = name
        if relu and number < len(sizes) - 2:
            last = f"relu{number}"
            layers.append(Layer(name=last, op="relu", inputs=(name,)))
    return PrivateModel(
        inputs=(Input(name="x", shape=(sizes[0],)),), layers=tuple(layers), output=last, weights=weights
    )
