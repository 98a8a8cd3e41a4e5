"""What the fuzzer of networks found, each kind as the smallest inputs that showed it."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.errors import BadInputError
from tests.encrypted.programs.networks import mlp


def test_files_that_never_end(tmp_path: Path) -> None:
    (tmp_path / model_format.ARCHITECTURE).symlink_to("/dev/zero")
    with pytest.raises(BadInputError, match="is larger than"):
        model_format.load(tmp_path)


def packed(change: Any) -> bytes:
    """The archive of a small model, each array changed."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, value in mlp([2, 1]).weights.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, value)
            name, content_, way = change(f"{name}.npy", content.getvalue())
            archive.writestr(name, content_, way)
    return written.getvalue()


STORED = zipfile.ZIP_STORED


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda name, content: (name, content[:-8], STORED), "cut off"),
        (lambda name, content: (name, b"x", STORED), "weights.npz: "),
        (lambda name, content: (name, content.replace(b"<f8", b"|O "), STORED), "weights.npz: "),
        (lambda name, content: (name, content.replace(b"{'descr'", b"(((((((("), STORED), "weights.npz: "),
        (lambda name, content: (name + "x", content, STORED), "differ in"),
        (lambda name, content: ("a.npy", content, STORED), "differ in"),
    ],
)
def test_weights_that_another_program_packed(tmp_path: Path, change: Any, why: str) -> None:
    model_format.save(mlp([2, 1]), tmp_path)
    content = packed(change)
    (tmp_path / model_format.WEIGHTS).write_bytes(content)
    architecture = json.loads((tmp_path / model_format.ARCHITECTURE).read_text())
    architecture["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (tmp_path / model_format.ARCHITECTURE).write_text(json.dumps(architecture))
    with pytest.raises(BadInputError, match=why):
        model_format.load(tmp_path)


def test_weights_are_not_read_beyond_what_the_architecture_has(tmp_path: Path) -> None:
    model_format.save(mlp([2, 1]), tmp_path)
    with (tmp_path / model_format.WEIGHTS).open("ab") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(BadInputError, match="is larger than"):
        model_format.load(tmp_path)


def test_weights_in_either_order_are_read(tmp_path: Path) -> None:
    model = mlp([3, 2, 1])
    turned = {name: np.asfortranarray(value) for name, value in model.weights.items()}
    model_format.save(model, tmp_path / "c")
    changed = model_format.PrivateModel(inputs=model.inputs, layers=model.layers, output=model.output, weights=turned)
    model_format.save(changed, tmp_path / "f")
    for name, value in model.weights.items():
        for folder in ("c", "f"):
            np.testing.assert_array_equal(model_format.load(tmp_path / folder).weights[name], value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("inputs.0.shape", [True]),
        ("inputs.0.shape", [1] * 9),
        ("inputs.0.vocabulary", 1e999),
        ("inputs.0.vocabulary", "3"),
        ("layers.0.weights.table", [-1]),
        ("layers.0.op", ["dense"]),
        ("layers.0.config", []),
    ],
)
def test_an_architecture_with_numbers_that_are_none(tmp_path: Path, part: str, value: Any) -> None:
    model_format.save(mlp([2, 1]), tmp_path)
    tree = json.loads((tmp_path / model_format.ARCHITECTURE).read_text())
    *way, last = (int(key) if key.isdigit() else key for key in part.split("."))
    inner = tree
    for key in way:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(BadInputError):
        model_format.parse_architecture(json.dumps(tree).encode())


def test_an_architecture_nested_too_deeply() -> None:
    with pytest.raises(BadInputError, match="nested too deeply"):
        model_format.parse_architecture(b'{"format":' + b"[" * 100_000)
