"""Small networks, and parties that each have a logical device of their own, so that messages can be told."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import tf_encrypted as tfe
from tf_encrypted.player import Player

from privacy_pipeline.encrypted.model_format import Input, Layer, PrivateModel
from privacy_pipeline.encrypted.worker.predictor import PARTIES


def separate_devices() -> Any:
    """A config with one of the logical CPUs for each party."""
    config = tfe.LocalConfig(player_names=[], auto_add_unknown_players=False)
    for index, name in enumerate(PARTIES):
        device = f"/job:localhost/replica:0/task:0/device:CPU:{index}"
        config._players.append(Player(name=name, index=index, device_name=device))
    return config


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
