"""Fuzzers of networks for private predictions, of privacy plans, and of Keras models under a plan."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.mechanism.mechanism import AdaptiveClipping, UserBound
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from tests.fuzz.mutations import VALUES, as_json, mutated_bytes, mutated_tree
from tests.fuzz.watching import Case, Watch

_SHAPES = (
    [0, 0], [1], [1, 1, 1, 1, 1], [[1]], [2**30] * 4, [2**31 - 1, 2**31 - 1], [-1], [True], [1.0], "same", "valid",
    "dense", "conv2d", "depthwise_conv2d", "max_pool", "average_pool", "affine", "add", "embedding", "concatenate",
    "reshape", "relu", [0, 1], [1, 0], [10**30], [], "x", "c", "conv", "d", "\ud800",
)  # fmt: skip


_SHAPES_OF_WEIGHTS = {
    "conv/kernel": (3, 3, 1, 2),
    "conv/bias": (2,),
    "scaled/scale": (2,),
    "scaled/shift": (2,),
    "table/table": (5, 3),
    "out/kernel": (35, 1),
    "out/bias": (1,),
}


def _network() -> PrivateModel:
    """One of every operation that has numbers of its own."""
    layers = (
        Layer(
            name="conv",
            op="conv2d",
            inputs=("x",),
            config={"strides": (1, 1), "padding": "same"},
            weights={"kernel": (3, 3, 1, 2), "bias": (2,)},
        ),
        Layer(name="scaled", op="affine", inputs=("conv",), weights={"scale": (2,), "shift": (2,)}),
        Layer(name="relu", op="relu", inputs=("scaled",)),
        Layer(
            name="pool",
            op="average_pool",
            inputs=("relu",),
            config={"pool": (2, 2), "strides": (2, 2), "padding": "valid"},
        ),
        Layer(name="flat", op="reshape", inputs=("pool",), config={"shape": (32,)}),
        Layer(name="table", op="embedding", inputs=("c",), weights={"table": (5, 3)}),
        Layer(name="row", op="reshape", inputs=("table",), config={"shape": (3,)}),
        Layer(name="both", op="concatenate", inputs=("flat", "row"), config={"axis": 0}),
        Layer(name="out", op="dense", inputs=("both",), weights={"kernel": (35, 1), "bias": (1,)}),
    )
    inputs = (Input(name="x", shape=(8, 8, 1)), Input(name="c", shape=(1,), vocabulary=5))
    weights = {name: np.zeros(shape) for name, shape in _SHAPES_OF_WEIGHTS.items()}
    return PrivateModel(inputs=inputs, layers=layers, output="out", weights=weights)


def networks(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Architecture and weights of a private model, as its owner gives them to the parties."""
    model_format.save(_network(), folder)
    public, secret = folder / model_format.ARCHITECTURE, folder / model_format.WEIGHTS
    tree, packed = json.loads(public.read_bytes()), secret.read_bytes()

    def draw(rng: Random) -> Case:
        weights = packed
        if rng.random() < 0.4:
            weights = mutated_bytes(rng, packed) if rng.random() < 0.6 else _repacked(rng, packed)
        if rng.random() < 0.0005:  # it takes seconds to make
            weights = _squeezed()
        changed = tree if weights is not packed else mutated_tree(rng, tree, [tree], (*VALUES, *_SHAPES))
        if isinstance(changed, dict):
            changed = {**changed, "weights_sha256": hashlib.sha256(weights).hexdigest()}
        raw = as_json(rng, json.dumps(changed), garbage=0.1 if weights is packed else 0.0)

        def read() -> None:
            public.write_bytes(raw)
            secret.write_bytes(weights)
            model_format.load_architecture(folder)
            model_format.load(folder).digest()

        return Case(content=raw if weights is packed else weights, read=read)

    return draw


def _repacked(rng: Random, packed: bytes) -> bytes:
    """The weights in an archive that another program may have made."""
    written = io.BytesIO()
    ways = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(io.BytesIO(packed)) as given, zipfile.ZipFile(written, "w", rng.choice(ways)) as made:
        for name in given.namelist():
            content = given.read(name)
            if rng.random() < 0.5:
                content = _array(rng, content)
            for _ in range(rng.choice((1, 1, 1, 2))):
                made.writestr(name if rng.random() < 0.95 else f"../{name}", content)
    return written.getvalue()


def _array(rng: Random, content: bytes) -> bytes:
    dtype = rng.choice(("<f8", ">f8", "<f4", "<i8", "|b1", "<U4", "<c16", "|O", "|V8", "<M8[s]"))
    shape = rng.choice(((), (0,), (2**40,), (2**62, 2), (35, 1), (1,), (-1,)))
    head = f"{{'descr': {dtype!r}, 'fortran_order': {rng.random() < 0.5}, 'shape': {shape!r}, }}"
    head = rng.choice((head, head, head[:-4], "(" * 2_000, "9" * 5_000, "{'descr': '<f8'}", "__import__('os')"))
    made = b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head.encode() + b"\n"
    return rng.choice((made + content[128:], mutated_bytes(rng, content), b"", b"x"))


@cache
def _squeezed(size: int = 1_200 << 20) -> bytes:
    """A small archive whose contents are large."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name, shape in _SHAPES_OF_WEIGHTS.items():
            with made.open(f"{name}.npy", "w", force_zip64=True) as entry:
                number = size // 8 if name == "out/kernel" else int(np.prod(shape))
                entry.write(_array_of(number))
                for _ in range(8 * number >> 20 if name == "out/kernel" else 0):
                    entry.write(bytes(1 << 20))
    return written.getvalue()


def _array_of(number: int) -> bytes:
    """The start of an array: its header, and its values where they are few."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (number,)})  # type: ignore[attr-defined]
    return head.getvalue() + (bytes(8 * number) if number < 10_000 else b"")


_PLAN = {
    "delta": 1e-5,
    "clipping_norm": 1.0,
    "units": 1000,
    "expected_batch_size": 50.0,
    "sampling_probability": None,
    "epochs": 2.0,
    "steps": None,
    "epsilon": None,
    "noise_multiplier": 1.0,
    "relation": Relation.ZERO_OUT,
    "sampling": "poisson",
    "truncate_at": None,
    "per_layer": False,
    "hardened": False,
    "correlation": "none",
    "bands": None,
}
_OF_PLAN = {
    "relation": (*Relation, "zero_out", None),
    "sampling": ("poisson", "truncated_poisson", "shuffled", "cyclic", "x", None, 1),
    "correlation": ("none", "banded", "tree", "x", None),
    "truncate_at": (None, 60, 1, 0, 10**9, 2.5),
    "bands": (None, 1, 2, 10**6, 0),
    "per_layer": (True, False, "x"),
    "hardened": (True, False),
}
_NUMBERS = (
    None, True, 0, -1, 1, 2, 0.5, 1.5, 1e-300, 5e-324, 1e300, 10**6, 10**9, 2**63, 10**400, float("nan"), float("inf"),
    "x", "1", [], {}, 1j, np.float32(0.5), np.int64(3), np.nan, np.array(1.0), np.array([1.0, 2.0]),
)  # fmt: skip


def plans(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Privacy plans from all kinds of numbers."""

    def draw(rng: Random) -> Case:
        asked: dict[str, Any] = dict(_PLAN)
        for name in rng.sample(sorted(asked), rng.choice((1, 1, 2, 3))):
            asked[name] = rng.choice(_OF_PLAN.get(name, _NUMBERS))
        if rng.random() < 0.1:
            asked.update(epsilon=rng.choice((0.01, 1.0, 8.0, 1e6)), noise_multiplier=None)
        extra, numbers = rng.random(), [rng.choice(_NUMBERS) for _ in range(3)]

        def read() -> None:
            if extra < 0.1:
                quantile, rate, noise = numbers
                asked["adaptive"] = AdaptiveClipping(quantile=quantile, learning_rate=rate, count_noise=noise)
            elif extra < 0.2:
                asked["users"] = UserBound(max_examples=numbers[0], clip="sum" if extra < 0.15 else numbers[1])
            with watch.dp_check():
                plan = PrivacyPlan.calibrated(**asked)
                if asked["epsilon"] is not None or extra > 0.97:
                    plan.epsilon()
            plan.event_of(plan.steps)

        return Case(content=repr(asked).encode(), read=read)

    return draw
