"""A small project with the shipped configs, schemas and made-up data, registered in a ledger of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

import yaml

from privacy_pipeline.config.loader import load_config
from privacy_pipeline.data.schema.schema_reader import parse_schema
from privacy_pipeline.pipelines.registration.register import register_dataset

ROOT = Path(__file__).resolve().parents[2]
ROWS = 40
LEDGER = "sqlite:///registered/ledger/ledger.db"
REGISTERED = ("adult_dp_sgd", "nlswork_dp_sgd")


def copy_shipped(folder: Path) -> list[Path]:
    """Copies `configs/` to a folder, and makes data of every config there; gives the configs of pipelines."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    configs = sorted((folder / "configs").glob("*.yaml"))
    for config in configs:
        dataset = load_config(config).dataset
        if isinstance(dataset.schema_path, Path) and not (folder / dataset.path).exists():
            make_data(folder / dataset.path, schema=folder / dataset.schema_path)
    return configs


def make_data(data: Path, *, schema: Path) -> None:
    """Rows that a schema allows, in both splits of span 1; no key is in both."""
    rng, features = Random(1), list(parse_schema(schema_path=schema).feature)
    for at, split in enumerate(("train", "eval")):
        lines = [",".join(feature.name for feature in features)]
        for row in range(at * ROWS, (at + 1) * ROWS):
            lines.append(",".join(_cell(rng, feature, row) for feature in features))
        file = data / "span-1" / split / "rows.csv"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(rng: Random, feature, row: int) -> str:  # type: ignore[no-untyped-def]
    if feature.string_domain.value:
        return rng.choice(list(feature.string_domain.value))
    if feature.int_domain.HasField("max"):
        low, high = feature.int_domain.min, feature.int_domain.max
        return str(low + row % (high - low + 1))
    if feature.float_domain.HasField("max"):
        return f"{rng.uniform(feature.float_domain.min, feature.float_domain.max):.3f}"
    return str(row + 1)


def registered(configs: list[Path]) -> list[Any]:
    """Registers a copy of some configs' data, below the folder that the process works in; gives configs on it."""
    found = []
    for path in configs:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem in REGISTERED:
            given = Path(tree["dataset"]["path"])
            tree["ledger"], tree["workspace"] = LEDGER, "registered/workspace"
            tree["dataset"]["path"] = str("registered" / given)
            shutil.copytree(given, tree["dataset"]["path"])
            written = {"ledger": LEDGER, "workspace": tree["workspace"], "dataset.path": tree["dataset"]["path"]}
            overrides = [f"{key}={value}" for key, value in written.items()]
            register_dataset(config=load_config(path, overrides=overrides), epsilon=10.0, delta=1e-5)
            found.append(tree)
    return found
