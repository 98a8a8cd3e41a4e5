"""Small projects on disk: 200 rows of CSV, a public schema, a ledger and a config."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.pipelines.workspace.run_state import RunSpec

ROWS = 200
DIGEST = "d" * 64

SCHEMA = """
feature {
  name: "colour"
  type: BYTES
  presence { min_fraction: 1 min_count: 1 }
  shape { dim { size: 1 } }
  string_domain { value: "red" value: "green" value: "blue" }
}
feature {
  name: "size"
  type: FLOAT
  presence { min_fraction: 1 min_count: 1 }
  shape { dim { size: 1 } }
  float_domain { min: 0 max: 10 }
}
feature {
  name: "person"
  type: INT
  presence { min_fraction: 1 min_count: 1 }
  shape { dim { size: 1 } }
  annotation { tag: "ignore" }
}
feature {
  name: "bought"
  type: BYTES
  presence { min_fraction: 1 min_count: 1 }
  shape { dim { size: 1 } }
  string_domain { value: "yes" value: "no" }
}
"""
HASHED = {"input": "all/*.csv", "hash_split": {"eval": 1, "train": 3}}  # the order a person may well write
KEYED = {"privacy_unit": {"key": "person"}}


def csv_text(rows: int, *, first: int = 0) -> str:
    """Rows of three persons' worth each; labels that follow from the columns."""
    lines = ["colour,size,person,bought"]
    for number in range(first, first + rows):
        colour, size = ("red", "green", "blue")[number % 3], number * 7 % 100 / 10 + 0.05
        lines.append(f"{colour},{size},{number // 3},{'yes' if colour == 'red' or size > 7 else 'no'}")
    return "\n".join(lines) + "\n"


def write_project(
    root: Path, *, backend: str = "plain", schema: str = SCHEMA, **sections: dict[str, Any]
) -> PipelineConfig:
    """Writes data and schema below `root`; keyword arguments replace keys of the section they name."""
    for name, rows, first in (("span-1/train", 160, 0), ("span-1/eval", 40, 160), ("all", ROWS, 0)):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text(csv_text(rows, first=first))
    (root / "schema.pbtxt").write_text(schema)
    private = {"dp_sgd": {"noise_multiplier": 8.0, "delta": 1e-5}} if backend == "dp_sgd" else {}
    document: dict[str, Any] = {
        "pipeline": "things",
        "dataset": {
            "name": "things",
            "path": str(root / "data"),
            "schema": str(root / "schema.pbtxt"),
            "label": "bought",
            "positive_class": "yes",
        },
        "training": {"backend": backend, "epochs": 2, "batch_size": 40, **private},
        "evaluation": {"thresholds": {"accuracy": {"min": 0.5}}},
        "workspace": str(root / "workspace"),
        "ledger": f"sqlite:///{root}/ledger/ledger.db",
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values}
    return PipelineConfig.model_validate(document)


def write_spans(root: Path, *spans: int, train: int = 240, evaluation: int = 60) -> None:
    """Spans of different persons, in place of the one that `write_project` wrote."""
    shutil.rmtree(root / "data/span-1")
    for span in spans:
        for split, rows, first in (("train", train, 0), ("eval", evaluation, 3000)):
            folder = root / f"data/span-{span}" / split
            folder.mkdir(parents=True)
            (folder / "rows.csv").write_text(csv_text(rows, first=span * 9000 + first))


def make_spec(config: PipelineConfig, **changes: Any) -> RunSpec:
    """A spec of a run of it."""
    from privacy_pipeline.pipelines.preflight import preflight

    values: dict[str, Any] = {
        "run_id": "run-1",
        "run_dir": config.workspace / "runs" / "run-1",
        "config": config,
        "features": preflight.read_features(config),
        "code": "c0de",
        "lock": "10c4",
        "data_digest": DIGEST,
        "span": None if isinstance(config.dataset.input, str) else 1,
        "version": None,
        "copied": config.workspace / ".reading" / "1" / "files",
    }
    return RunSpec(**(values | changes))
