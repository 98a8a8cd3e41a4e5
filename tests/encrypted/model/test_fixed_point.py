"""Each layer has a scale of its own, nothing overflows, and a private logit is off by no more than was proven.

`ring` computes what the servers do, integer for integer; the servers themselves are compared with it on some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy_pipeline.encrypted.model import fixed_point, model_format, reference, ring
from privacy_pipeline.encrypted.model.inputs import encode_inputs
from privacy_pipeline.encrypted.model.layers import Input
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.errors import BadInputError
from tests.encrypted import forty
from tests.encrypted.forty import MODELS, Network, rows_of

ROWS = 8
DITHERS = (ring.down, ring.up, ring.at_random(1))
POLICY = 0.01
PRIVATELY = {
    "dense of scale 1e-08": False,
    "dense of scale 1e+10": True,
    "2,000 inputs": True,
    "mean of 224x224": True,
    "padded means of 30": True,
    "means of means": True,
    "normalised by 1e-5 to 1e5": False,
    "sum with a branch of 1e-06": True,
    "picture, same, average_pool": False,
    "embedding of 1e-06": False,
    "columns of one value": True,
}


def in_ring(model: PrivateModel, rows: dict[str, Any], dither: ring.Dither) -> Any:
    count = len(next(iter(rows.values())))
    return ring.evaluate(model, encode_inputs(model, rows, rows=count), dither=dither)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_within_what_was_proven_of_it(name: str) -> None:
    model = fixed_point.scaled(MODELS[name])
    proof, rows = fixed_point.prove(model), rows_of(model, ROWS)
    assert model.logit_error == proof.logit_error < np.inf
    exact = reference.evaluate(model, rows)
    walk = fixed_point._Walk(model)
    for layer in model.layers:
        walk.take(layer)
    for dither in DITHERS:
        found = in_ring(model, rows, dither)
        for layer in model.layers:
            within = walk.ranges[layer.name]
            assert (np.abs(exact[layer.name] - within.center) <= within.radius).all(), layer.name
            assert (np.abs(found[layer.name] - exact[layer.name]) <= within.error).all(), layer.name
        assert np.abs(found[model.output] - exact[model.output]).max() <= proof.logit_error


def test_there_are_forty_and_few_are_beyond_the_policy() -> None:
    """Beyond it the gate refuses, with the widest layer: what is bounded loosely, and logits of 1e4 and more."""
    assert len(MODELS) >= 40
    proofs = {name: fixed_point.prove(fixed_point.scaled(model)) for name, model in MODELS.items()}
    loose = {name for name, proof in proofs.items() if proof.logit_error > POLICY}
    assert loose == {
        "dense of scale 1e+10", "scales up and down", "depth 20", "depth 20 with large weights",
        "normalised by 1e5 to 1e5", "sum with a branch of 100000", "embedding of 1e+06",
    }  # fmt: skip
    assert all(proof.widest[0] in {layer.name for layer in MODELS[name].layers} for name, proof in proofs.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if not slow else pytest.param(n, marks=pytest.mark.slow) for n, slow in PRIVATELY.items()]
)
def test_the_servers_compute_what_the_ring_does(program: Callable[..., Any], tmp_path_factory: Any, name: str) -> None:
    together = [other for other, slow in PRIVATELY.items() if slow == PRIVATELY[name]]
    folders = privately(tuple(together), tmp_path_factory, program)
    model, rows = model_format.load(folders[name]), rows_of(MODELS[name], ROWS)
    logits = np.load(folders[name] / "logits.npy")
    low, high = (in_ring(model, rows, dither)[model.output] for dither in (ring.down, ring.up))
    exact = reference.evaluate(model, rows)[model.output]
    assert model.logit_error is not None
    assert np.abs(logits - exact).max() <= model.logit_error
    assert max(np.abs(logits - low).max(), np.abs(logits - high).max()) <= 2 * model.logit_error
    if len(model.layers) == 1:  # nothing but the last bit is open
        assert ((logits == low) | (logits == high)).all()


_MADE: dict[tuple[str, ...], dict[str, Path]] = {}


def privately(names: tuple[str, ...], factory: Any, program: Callable[..., Any]) -> dict[str, Path]:
    """Folders of these models with the logits of the servers, all in one process, once."""
    if names not in _MADE:
        folders = {}
        for number, name in enumerate(names):
            folders[name] = factory.mktemp("private") / str(number)
            model_format.save(fixed_point.scaled(MODELS[name]), folders[name])
            np.savez(folders[name] / "inputs.npz", **rows_of(MODELS[name], ROWS))
        program("predict.py", *map(str, folders.values()))
        _MADE[names] = folders
    return _MADE[names]


@pytest.mark.parametrize("exponent", [-30, -18, 0, 18, 33])
def test_weights_of_any_size_keep_their_digits(exponent: int) -> None:
    """Logits of a network are those of the same network with other units, to the same number of digits."""
    plain, moved = forty.chain(8, 1.0, 1.0), forty.chain(8, 2.0**exponent, 1.0)
    rows = rows_of(plain, ROWS)
    last = moved.layers[-1].name
    weights = {
        name: value * (1 if name.endswith("kernel") else 2.0**exponent)
        for name, value in moved.weights.items()
        if name.startswith(last)
    }
    moved = dataclasses.replace(moved, weights={**moved.weights, **weights})
    spread = np.ptp(reference.evaluate(moved, rows)[moved.output])
    found = in_ring(fixed_point.scaled(moved), rows, ring.down)[moved.output]
    assert np.abs(found - reference.evaluate(moved, rows)[moved.output]).max() < 1e-5 * spread


@pytest.mark.parametrize("side", [7, 28, 100, 224, 400])
def test_a_mean_is_not_off_by_its_number_of_elements(side: int) -> None:
    model = fixed_point.scaled(MODELS[f"mean of {side}x{side}"])
    rows = {"x": np.ones((2, side, side, 1))}
    pool = model.layers[0].name
    assert np.abs(in_ring(model, rows, ring.down)[pool] - 1).max() < 2.0**-25


@pytest.mark.parametrize(("size", "strides"), [(2, 2), (3, 2), (5, 5), (9, 3), (17, 4)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_so_are_means_of_windows_with_and_without_padding(size: int, strides: int, padding: str) -> None:
    model = fixed_point.scaled(forty.pooled(23, size, strides=strides, padding=padding))
    rows = {"x": np.full((1, 23, 23, 1), 0.75)}
    assert np.abs(in_ring(model, rows, ring.up)[model.layers[0].name] - 0.75).max() < 2.0**-20


@pytest.mark.parametrize("variance", [1e-6, 1.0, 1e6, 1e10])
def test_normalisation_behind_a_relu_keeps_its_scale(variance: float) -> None:
    network = Network(forty.unit((8,), -1.0, 1.0))
    network.dense(16, scale=np.sqrt(variance))
    network.add("relu")
    network.add("affine", weights={"scale": np.full(16, 1 / np.sqrt(variance)), "shift": np.full(16, -0.1)})
    network.dense(1)
    model = fixed_point.scaled(network.done())
    rows = rows_of(model, ROWS)
    error = in_ring(model, rows, ring.down)[model.output] - reference.evaluate(model, rows)[model.output]
    assert model.logit_error is not None and np.abs(error).max() <= model.logit_error < 1e-5


@pytest.mark.parametrize("largest", [1e-9, 1.0, 1e7, 1e20])
def test_rows_at_the_ends_of_their_range_do_not_overflow(largest: float) -> None:
    network = Network(Input(name="x", shape=(3,), lower=(-largest,), upper=(largest,)))
    network.dense(4)
    network.add("relu")
    network.dense(1, bias=0.0)
    model = fixed_point.scaled(network.done())
    rows = {"x": np.array([[largest] * 3, [-largest] * 3, [0.0] * 3])}
    exact = reference.evaluate(model, rows)[model.output]
    assert np.abs(in_ring(model, rows, ring.up)[model.output] - exact).max() <= 1e-6 * largest + 1e-6


def test_a_scale_that_does_not_hold_what_a_layer_can_reach_is_refused_by_its_name() -> None:
    model = fixed_point.scaled(MODELS["depth 5"])
    for place, layer in enumerate(model.layers):
        if layer.op == "dense":
            finer = dataclasses.replace(layer, scale=layer.scale * 2.0**3)
            rest = [
                dataclasses.replace(one, scale=finer.scale) if one.inputs == (layer.name,) and one.op == "relu" else one
                for one in model.layers[place + 1 :]
            ]
            changed = dataclasses.replace(model, layers=(*model.layers[:place], finer, *rest))
            with pytest.raises(BadInputError, match=rf"layer '{layer.name}' \(dense\) can reach") as refusal:
                fixed_point.prove(changed)
            assert "BatchNormalization" in refusal.value.fix


def test_so_is_the_scale_of_an_input() -> None:
    model = fixed_point.scaled(MODELS["depth 5"])
    (one,) = model.inputs
    finer = dataclasses.replace(one, scale=one.scale * 2.0**20)
    with pytest.raises(BadInputError, match="input 'x' has a scale that does not hold its range"):
        fixed_point.prove(dataclasses.replace(model, inputs=(finer,)))


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_what_no_scale_holds_is_refused_by_its_name(scale: float) -> None:
    with pytest.raises(BadInputError, match=r"layer 'dense0' \(dense\) can reach"):
        fixed_point.scaled(forty.chain(8, scale, 1.0))


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [("x", 1.5, "element 1"), ("x", -1.2, "element 0"), ("x", np.nan, "element 3"), ("x", np.inf, "element 2")],
)
def test_a_client_refuses_what_lies_outside_of_the_proven_range(name: str, value: float, place: str) -> None:
    model = fixed_point.scaled(dataclasses.replace(MODELS["embedding of 1"]))
    rows = rows_of(model, ROWS)
    rows[name][2, int(place[-1])] = value
    with pytest.raises(BadInputError, match=f"row 2: input 'x' .{place}. is .*proven from -1 to 1"):
        encode_inputs(model, rows, rows=ROWS)


def test_an_input_of_one_value_is_exact() -> None:
    model = fixed_point.scaled(MODELS["columns of one value"])
    assert model.logit_error is not None and model.logit_error < POLICY
