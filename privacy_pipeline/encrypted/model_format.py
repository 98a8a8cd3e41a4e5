"""The plain, checked format in which a network goes to the parties: architecture as JSON, weights as npz, no pickle.

It needs NumPy alone, so that both environments read it. The architecture is public; the weights are the owner's secret.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.atomic import write_bytes_atomically
from privacy_pipeline.bounded import json_value, read_bounded
from privacy_pipeline.encrypted import weights_file
from privacy_pipeline.errors import BadInputError

FORMAT, VERSION = "privacy-pipeline-private-model", 1
ARCHITECTURE, WEIGHTS = "architecture.json", "weights.npz"
LARGEST_FILE = 2**31  # bytes; a network that does not fit is refused before it is read
_LARGEST_ARCHITECTURE = 1 << 24  # bytes
_MOST_AXES = 8
# Absolute value of a float input; what overflows below it is refused by `reference.require_range`.
LARGEST_INPUT = 2.0**7

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of the network: a float vector or tensor, or the integer that an embedding looks up.

    Attributes:
        name: of the transformed feature.
        shape: of one row.
        vocabulary: number of values of an integer input, which the client turns into a one-hot vector; 0 for a float.
    """

    name: str
    shape: Shape
    vocabulary: int = 0


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation on the outputs of earlier ones.

    Attributes:
        name: of the Keras layer, with a suffix where one layer becomes several operations.
        op: one of OPS.
        inputs: names of inputs or earlier layers.
        config: public integers of the operation: strides, pool sizes, target shape.
        weights: shapes of its weights by role; the values are in the npz as "layer/role".
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PrivateModel:
    """A network that the parties can evaluate, with its weights.

    Attributes:
        inputs: its inputs in order.
        layers: in an order in which each comes after what it takes.
        output: name of the layer whose output is the logit.
        weights: float64 by "layer/role".
    """

    inputs: tuple[Input, ...]
    layers: tuple[Layer, ...]
    output: str
    weights: Mapping[str, NDArray[np.float64]]

    def shapes(self) -> dict[str, Shape]:
        """Shape of one row of every input and layer."""
        return _check(self)

    def digest(self) -> str:
        """sha256 over architecture and weights."""
        return hashlib.sha256(_architecture(self, _packed(self))).hexdigest()


def save(model: PrivateModel, folder: Path) -> str:
    """Writes both files to a folder that its owner alone can open.

    Returns:
        The sha256 of the architecture file, which holds that of the weights.

    Raises:
        BadInputError: the network is not consistent.
    """
    _check(model)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    packed = _packed(model)
    architecture = _architecture(model, packed)
    write_bytes_atomically(path=folder / WEIGHTS, content=packed)
    write_bytes_atomically(path=folder / ARCHITECTURE, content=architecture)
    return hashlib.sha256(architecture).hexdigest()


def load_architecture(folder: Path, *, digest: str | None = None) -> PrivateModel:
    """Reads the public part alone; `weights` is empty.

    Args:
        folder: what `save` wrote; its weights need not be there.
        digest: sha256 that the file must have; None where the caller has none.

    Raises:
        BadInputError: the file is missing, is not of this format, or is another one.
    """
    path = folder / ARCHITECTURE
    content = _read(path)
    _require_digest(content, digest, path)
    model = _parse(content, path)[0]
    _check(model)
    return model


def digest_of(folder: Path) -> str:
    """The sha256 of the architecture file, which names a model and its weights.

    Raises:
        BadInputError: the file cannot be read.
    """
    return hashlib.sha256(_read(folder / ARCHITECTURE)).hexdigest()


def parse_architecture(content: bytes) -> PrivateModel:
    """The public part of a model from the bytes of its file, checked; `weights` is empty.

    Raises:
        BadInputError: it is not of this format, or not consistent.
    """
    model = _parse(content, Path(ARCHITECTURE))[0]
    _check(model)
    return model


def load(folder: Path, *, digest: str | None = None) -> PrivateModel:
    """Reads a network and checks everything about it: format, digests, shapes, finite weights.

    Args:
        folder: what `save` wrote.
        digest: sha256 that the architecture file must have; None where the caller has none.

    Raises:
        BadInputError: something does not hold.
    """
    path = folder / ARCHITECTURE
    content = _read(path)
    _require_digest(content, digest, path)
    public, weights_digest = _parse(content, path)
    wanted = {f"{layer.name}/{role}": shape for layer in public.layers for role, shape in layer.weights.items()}
    packed = _read(folder / WEIGHTS, most=weights_file.largest(wanted))
    if hashlib.sha256(packed).hexdigest() != weights_digest:
        raise BadInputError(f"{folder / WEIGHTS} does not belong to {path}", fix="convert the model anew")
    try:
        weights = weights_file.read(packed, wanted)
    except ValueError as error:
        raise BadInputError(f"{folder / WEIGHTS}: {error}", fix="convert the model anew") from error
    model = PrivateModel(inputs=public.inputs, layers=public.layers, output=public.output, weights=weights)
    _check(model)
    return model


def _require_digest(content: bytes, digest: str | None, path: Path) -> None:
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise BadInputError(f"{path} is not the model that was asked for", fix="give the model's own folder")


def _read(path: Path, *, most: int = _LARGEST_ARCHITECTURE) -> bytes:
    try:
        return read_bounded(path, most=min(most, LARGEST_FILE))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}", fix="give a folder that holds a converted model") from error


def _packed(model: PrivateModel) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value, np.float64) for name, value in sorted(model.weights.items())})
    return buffer.getvalue()


def _architecture(model: PrivateModel, packed: bytes) -> bytes:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": [{"name": i.name, "shape": i.shape, "vocabulary": i.vocabulary} for i in model.inputs],
        "layers": [
            {"name": n.name, "op": n.op, "inputs": n.inputs, "config": dict(n.config), "weights": dict(n.weights)}
            for n in model.layers
        ],
        "output": model.output,
        "weights_sha256": hashlib.sha256(packed).hexdigest(),
    }
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _parse(content: bytes, path: Path) -> tuple[PrivateModel, str]:
    try:
        found = json_value(content)
        if (found["format"], found["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {found['format']} version {found['version']}, not {FORMAT} {VERSION}")
        inputs = tuple(
            Input(name=str(i["name"]), shape=_shape(i["shape"]), vocabulary=_count(i["vocabulary"]))
            for i in found["inputs"]
        )
        layers = tuple(_layer(entry) for entry in found["layers"])
        model = PrivateModel(inputs=inputs, layers=layers, output=str(found["output"]), weights={})
        return model, str(found["weights_sha256"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{path} is no converted model: {error}", fix="convert the model anew") from error


def _layer(entry: Mapping[str, Any]) -> Layer:
    return Layer(
        name=str(entry["name"]),
        op=str(entry["op"]),
        inputs=tuple(str(name) for name in entry["inputs"]),
        config={str(key): tuple(value) if isinstance(value, list) else value for key, value in entry["config"].items()},
        weights={str(role): _shape(shape) for role, shape in entry["weights"].items()},
    )


def _shape(value: Any) -> Shape:
    shape = tuple(value)
    if len(shape) > _MOST_AXES or not all(_count(size) for size in shape):
        raise ValueError(f"{value} is no shape")
    return shape


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{value} is no number of elements")
    return value


def _check(model: PrivateModel) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for one in model.inputs:
        _new(one.name, shapes)
        shapes[one.name] = one.shape
    vocabularies = {one.name: one.vocabulary for one in model.inputs}
    for layer in model.layers:
        _new(layer.name, shapes)
        rows = (layer.weights.get("table") or (0,))[0]
        if any(vocabularies.get(name, 0) != rows for name in layer.inputs):
            raise BadInputError(
                f"layer '{layer.name}' ({layer.op}): an integer input goes into an embedding with as many rows as it "
                "has values, and nothing else does",
                fix="",
            )
        try:
            shapes[layer.name] = _OPS[layer.op](layer, [shapes[name] for name in layer.inputs])
        except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
            raise BadInputError(f"layer '{layer.name}' ({layer.op}) is not consistent: {error!r}", fix="") from error
    if model.output not in shapes:
        raise BadInputError(f"the model has no layer '{model.output}', which should be its output", fix="")
    if model.weights:
        _check_weights(model)
    return shapes


def _new(name: str, shapes: Mapping[str, Shape]) -> None:
    if name in shapes:
        raise BadInputError(f"two parts of the model are called '{name}'", fix="give each layer its own name")


def _check_weights(model: PrivateModel) -> None:
    wanted = {f"{layer.name}/{role}": shape for layer in model.layers for role, shape in layer.weights.items()}
    if set(wanted) != set(model.weights):
        odd = sorted(set(wanted) ^ set(model.weights))
        raise BadInputError(f"weights and architecture differ in {', '.join(odd[:3])}", fix="convert the model anew")
    for name, shape in wanted.items():
        value = model.weights[name]
        if value.shape != shape or value.dtype != np.float64:
            raise BadInputError(f"weight '{name}' is {value.dtype}{value.shape}, not float64{shape}", fix="")
        if not np.isfinite(value).all():
            raise BadInputError(f"weight '{name}' is not finite", fix="train the model anew")


def padding_of(size: int, *, window: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros before and after one dimension, as Keras pads."""
    if padding == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def windows(layer: Layer, shape: Shape, window: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the output of a sliding window over [height, width, channels]."""
    found = []
    for size, length, stride in zip(shape[:2], window, layer.config["strides"], strict=True):
        padded = size + sum(padding_of(size, window=length, stride=stride, padding=layer.config["padding"]))
        if padded < length:
            raise ValueError(f"a window of {length} does not fit into {size}")
        found.append((padded - length) // stride + 1)
    return found[0], found[1]


def _dense(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), kernel = given, layer.weights["kernel"]
    _require(len(kernel) == 2 and shape[-1] == kernel[0], f"{shape} times {kernel}")
    _require(layer.weights.get("bias", (kernel[1],)) == (kernel[1],), "bias")
    return (*shape[:-1], kernel[1])


def _conv2d(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), kernel = given, layer.weights["kernel"]
    _require(len(kernel) == 4 and len(shape) == 3 and shape[2] == kernel[2], f"{shape} by {kernel}")
    filters = kernel[3] if layer.op == "conv2d" else kernel[2] * kernel[3]
    _require(layer.weights.get("bias", (filters,)) == (filters,), "bias")
    return (*windows(layer, shape, (kernel[0], kernel[1])), filters)


def _pool(layer: Layer, given: list[Shape]) -> Shape:
    (shape,) = given
    height, width = layer.config["pool"]
    if layer.op == "max_pool":
        for size, window, stride in zip(shape[:2], (height, width), layer.config["strides"], strict=True):
            _require(
                padding_of(size, window=window, stride=stride, padding=layer.config["padding"]) == (0, 0), "padding"
            )
    return (*windows(layer, shape, (height, width)), shape[2])


def _affine(layer: Layer, given: list[Shape]) -> Shape:
    (shape,) = given
    _require(layer.weights == {"scale": shape[-1:], "shift": shape[-1:]}, "scale and shift")
    return shape


def _same(layer: Layer, given: list[Shape]) -> Shape:
    _require(len(set(given)) == 1 and not layer.weights, f"{given}")
    return given[0]


def _relu(layer: Layer, given: list[Shape]) -> Shape:
    _require(len(given) == 1, f"{given}")
    return _same(layer, given)


def _reshape(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), target = given, _shape(layer.config["shape"])
    _require(math.prod(shape) == math.prod(target), f"{shape} to {target}")
    return target


def _concatenate(layer: Layer, given: list[Shape]) -> Shape:
    axis = layer.config["axis"]
    _require(isinstance(axis, int) and 0 <= axis < len(given[0]), "axis")
    rest = {shape[:axis] + shape[axis + 1 :] for shape in given}
    _require(len(rest) == 1, f"{given}")
    return (*given[0][:axis], sum(shape[axis] for shape in given), *given[0][axis + 1 :])


def _embedding(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), table = given, layer.weights["table"]
    _require(len(table) == 2, f"{table}")
    return (*shape, table[1])


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


_OPS = {
    "dense": _dense,
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "average_pool": _pool,
    "max_pool": _pool,
    "affine": _affine,
    "relu": _relu,
    "reshape": _reshape,
    "add": _same,
    "concatenate": _concatenate,
    "embedding": _embedding,
}
OPS = frozenset(_OPS)
