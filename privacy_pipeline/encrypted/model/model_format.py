"""The plain, checked format in which a network goes to the parties: architecture as JSON, weights as npz, no pickle.

It needs NumPy alone, so that both environments read it. The architecture is public; the weights are the owner's secret.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model import weights_file
from privacy_pipeline.encrypted.model.layer_entries import input_from, layer_from, positive
from privacy_pipeline.encrypted.model.layer_shapes import require_scales, shape_of
from privacy_pipeline.encrypted.model.layers import Input, Layer, Shape
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_bytes_atomically
from privacy_pipeline.files.bounded import json_value, read_bounded

FORMAT, VERSION = "privacy-pipeline-private-model", 2
ARCHITECTURE, WEIGHTS = "architecture.json", "weights.npz"
LARGEST_FILE = 2**31  # bytes; a network that does not fit is refused before it is read
_LARGEST_ARCHITECTURE = 1 << 24  # bytes
_EXPORT = "export the model again: run its pipeline"


@dataclass(frozen=True, kw_only=True)
class PrivateModel:
    """A network that the parties can evaluate, with its weights.

    Attributes:
        inputs: its inputs in order.
        layers: in an order in which each comes after what it takes.
        output: name of the layer whose output is the logit.
        weights: float64 by "layer/role".
        logit_error: proven by `fixed_point` for all rows within the inputs' ranges; None where nothing is proven.
    """

    inputs: tuple[Input, ...]
    layers: tuple[Layer, ...]
    output: str
    weights: Mapping[str, NDArray[np.float64]]
    logit_error: float | None = None

    def scales(self) -> dict[str, float]:
        """Return how many units of the ring make 1, of every input and layer."""
        parts: tuple[Input | Layer, ...] = (*self.inputs, *self.layers)
        return {part.name: part.scale for part in parts}

    def weight_scale(self, layer: Layer, role: str) -> float:
        """Return the ring's units that make 1 of a weight: its product with the input has the scale before the cut."""
        product = layer.scale * 2.0**layer.cut
        return product if role in ("bias", "shift") else product / self.scales()[layer.inputs[0]]

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of one row of every input and layer."""
        return _check(self)

    def digest(self) -> str:
        """Return the SHA-256 over architecture and weights."""
        return hashlib.sha256(_architecture(self, weights_file.packed(self.weights))).hexdigest()


def save(model: PrivateModel, folder: Path) -> str:
    """Write both files to a folder that its owner alone can open.

    Returns:
        The sha256 of the architecture file, which holds that of the weights.

    Raises:
        BadInputError: the network is not consistent.
    """
    _check(model)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    packed = weights_file.packed(model.weights)
    architecture = _architecture(model, packed)
    write_bytes_atomically(path=folder / WEIGHTS, content=packed)
    write_bytes_atomically(path=folder / ARCHITECTURE, content=architecture)
    return hashlib.sha256(architecture).hexdigest()


def load_architecture(folder: Path, *, digest: str | None = None) -> PrivateModel:
    """Read the public part alone; `weights` is empty.

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
    """Return the sha256 of the architecture file, which names a model and its weights.

    Raises:
        BadInputError: the file cannot be read.
    """
    return hashlib.sha256(_read(folder / ARCHITECTURE)).hexdigest()


def architecture_of(folder: Path, *, digest: str) -> bytes:
    """Return the architecture file.

    Raises:
        BadInputError: it cannot be read, or has another digest.
    """
    content = _read(folder / ARCHITECTURE)
    _require_digest(content, digest, folder / ARCHITECTURE)
    return content


def parse_architecture(content: bytes) -> PrivateModel:
    """Return the public part of a model from the bytes of its file, checked; `weights` is empty.

    Raises:
        BadInputError: it is not of this format, or not consistent.
    """
    model = _parse(content, Path(ARCHITECTURE))[0]
    _check(model)
    return model


def load(folder: Path, *, digest: str | None = None) -> PrivateModel:
    """Read a network and check everything about it: format, digests, shapes, finite weights.

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
    wanted = _wanted(public)
    packed = _read(folder / WEIGHTS, most=weights_file.largest(wanted))
    if hashlib.sha256(packed).hexdigest() != weights_digest:
        raise BadInputError(f"{folder / WEIGHTS} does not belong to {path}", fix=_EXPORT)
    try:
        weights = weights_file.read(packed, wanted)
    except ValueError as error:
        raise BadInputError(f"{folder / WEIGHTS}: {error}", fix=_EXPORT) from None
    model = dataclasses.replace(public, weights=weights)
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


def _architecture(model: PrivateModel, packed: bytes) -> bytes:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": [dataclasses.asdict(one) for one in model.inputs],
        "layers": [dataclasses.asdict(one) for one in model.layers],
        "output": model.output,
        "logit_error": model.logit_error,
        "weights_sha256": hashlib.sha256(packed).hexdigest(),
    }
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _parse(content: bytes, path: Path) -> tuple[PrivateModel, str]:
    try:
        found = json_value(content)
        if (found["format"], found["version"]) == (FORMAT, 1):
            raise BadInputError(f"{path}: an earlier version exported it, without scales of its layers", fix=_EXPORT)
        if (found["format"], found["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {found['format']} version {found['version']}, not {FORMAT} {VERSION}")
        model = PrivateModel(
            inputs=tuple(input_from(entry) for entry in found["inputs"]),
            layers=tuple(layer_from(entry) for entry in found["layers"]),
            output=str(found["output"]),
            weights={},
            logit_error=None if found["logit_error"] is None else positive(found["logit_error"]),
        )
        return model, str(found["weights_sha256"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInputError(f"{path} is not a converted model: {error}"[:500], fix=_EXPORT) from error


def _check(model: PrivateModel) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    scales = model.scales()
    for one in model.inputs:
        _new(one.name, shapes)
        shapes[one.name] = one.shape
    vocabularies = {one.name: one.vocabulary for one in model.inputs}
    for layer in model.layers:
        _new(layer.name, shapes)
        rows = (*layer.weights.get("table", ()), 0)[0]
        if any(vocabularies.get(name, 0) != rows for name in layer.inputs):
            raise BadInputError(
                f"layer '{layer.name}' ({layer.op}): an integer input goes into an embedding with as many rows as it "
                "has values, and nothing else does",
                fix="",
            )
        try:
            shapes[layer.name] = shape_of(layer, [shapes[name] for name in layer.inputs])
            require_scales(layer, [scales[name] for name in layer.inputs])
        except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
            raise BadInputError(
                f"layer '{layer.name}' ({layer.op}) is not consistent: {error!r}"[:500], fix=_EXPORT
            ) from error
    if model.output not in shapes:
        raise BadInputError(f"the model has no layer '{model.output}', which should be its output", fix="")
    if model.weights:
        _check_weights(model)
    return shapes


def _new(name: str, shapes: Mapping[str, Shape]) -> None:
    if name in shapes:
        raise BadInputError(f"two parts of the model are called '{name}'", fix="give each layer its own name")


def _wanted(model: PrivateModel) -> dict[str, Shape]:
    return {f"{layer.name}/{role}": shape for layer in model.layers for role, shape in layer.weights.items()}


def _check_weights(model: PrivateModel) -> None:
    wanted = _wanted(model)
    if set(wanted) != set(model.weights):
        odd = sorted(set(wanted) ^ set(model.weights))
        raise BadInputError(f"weights and architecture differ in {', '.join(odd[:3])}", fix=_EXPORT)
    for name, shape in wanted.items():
        value = model.weights[name]
        if value.shape != shape or value.dtype != np.float64:
            raise BadInputError(f"weight '{name}' is {value.dtype}{value.shape}, not float64{shape}", fix="")
        if not np.isfinite(value).all():
            raise BadInputError(f"weight '{name}' is not finite", fix="train the model again")
