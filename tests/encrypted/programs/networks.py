"""Small networks."""

from __future__ import annotations

import itertools

import numpy as np

from privacy_pipeline.encrypted.model_format import Input, Layer, PrivateModel


def mlp(sizes: list[int], *, seed: int = 0, relu: bool = True, name: str = "x") -> PrivateModel:
    """Dense layers with ReLU between them."""
    random = np.random.default_rng(seed)
    layers, weights, last = [], {}, name
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        dense = f"dense{number}"
        layers.append(
            Layer(name=dense, op="dense", inputs=(last,), weights={"kernel": (before, after), "bias": (after,)})
        )
        weights[f"{dense}/kernel"] = random.normal(size=(before, after)) / np.sqrt(before)
        weights[f"{dense}/bias"] = random.normal(size=after)
        last = dense
        if relu and number < len(sizes) - 2:
            last = f"relu{number}"
            layers.append(Layer(name=last, op="relu", inputs=(dense,)))
    return PrivateModel(
        inputs=(Input(name=name, shape=(sizes[0],)),), layers=tuple(layers), output=last, weights=weights
    )
