"""Each Python block of a page runs as it stands, with small data for what it takes as given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.docs.pages import PAGES, RUN_BY, of_page

# What makes a training long, and what stands for it here.
SMALLER = {"60_000": "600", "expected_batch_size=256": "expected_batch_size=20", "epochs=15": "epochs=1"}


def runnable(page: str) -> list[str]:
    """The Python blocks of a page that run by themselves, in their order."""
    return [block.code for block in of_page(page) if block.language == "python" and not block.title]


def keras_model(units: int = 600, *, logits: int = 10) -> dict[str, Any]:
    """A model of ten classes and its data."""
    import tensorflow as tf

    def model() -> Any:
        layers = tf.keras.layers
        return tf.keras.Sequential([layers.Input((4,)), layers.Dense(logits, activation="softmax")])

    random = np.random.default_rng(0)
    x, y = random.normal(size=(units, 4)).astype(np.float32), random.integers(0, logits, units)
    return {"model": model(), "other_model": model(), "x": x, "y": y}


def regression() -> dict[str, Any]:
    """A model of one number and its data."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    x, y = random.normal(size=(240, 3)).astype(np.float32), random.normal(size=(240, 1)).astype(np.float32)
    return {"model": tf.keras.Sequential([tf.keras.layers.Input((3,)), tf.keras.layers.Dense(1)]), "x": x, "y": y}


def binary_model() -> dict[str, Any]:
    """A model of one logit and its data."""
    given = keras_model(logits=1)
    return {**given, "y": (given["y"] > 0).astype(np.float32)[:, None]}


def visits() -> dict[str, Any]:
    """A table of visits in the working folder, and arrays."""
    rows = [f"{person},{30 + person},{60 + visit},{(person + visit) % 2}" for person in range(8) for visit in range(3)]
    Path("visits.csv").write_text("\n".join(["person,age,weight,ill", *rows]) + "\n")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(1_000, 2)).astype(np.float32), random.integers(0, 2, 1_000)
    return {"folder": Path("clients"), "x": x, "y": y}


def store_of_runs() -> dict[str, Any]:
    """A workspace whose ML Metadata holds one run."""
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as proto

    Path("workspace").mkdir()
    connection = proto.ConnectionConfig()
    connection.sqlite.filename_uri = "workspace/metadata.db"
    store = metadata_store.MetadataStore(connection)
    kind = store.put_artifact_type(proto.ArtifactType(name="RunMetrics", properties={"epsilon": proto.DOUBLE}))
    store.put_artifacts([proto.Artifact(type_id=kind, properties={"epsilon": proto.Value(double_value=2.5)})])
    return {}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/architecture.md": binary_model,
    "docs/guides/dp_engine.md": keras_model,
    "docs/guides/dp_statistics.md": dict,
    "docs/guides/federated.md": visits,
    "docs/guides/own_models.md": dict,
    "docs/guides/records.md": store_of_runs,
    "docs/migration/opacus.md": regression,
    "docs/migration/tf_privacy.md": regression,
}
SEEN: dict[str, Callable[[dict[str, Any], str], object]] = {
    "docs/guides/dp_engine.md": lambda names, out: "epsilon" in out and names["model"].count_params() == 50,
    "docs/guides/federated.md": lambda names, out: names["store"].num_clients == 8 and len(names["labels"]) == 3,
    "docs/guides/records.md": lambda names, out: "{'epsilon': 2.5}" in out,
    "docs/migration/opacus.md": lambda names, out: 0 < names["training"].execution.epsilon(1e-5) <= 3,
    "docs/migration/tf_privacy.md": lambda names, out: names["execution"].steps == names["plan"].steps,
}


@pytest.mark.slow_but(*(page for page in GIVEN if GIVEN[page] not in (binary_model, regression)))
@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_BY and runnable(page)])
def test_the_blocks_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page in GIVEN, f"add to GIVEN what {page} takes as given; an empty dict where that is nothing"
    monkeypatch.chdir(tmp_path)
    names = GIVEN[page]()
    for code in runnable(page):
        for large, small in SMALLER.items():
            code = code.replace(large, small)
        exec(compile(code, page, "exec"), names)
    assert SEEN.get(page, lambda names, out: True)(names, capsys.readouterr().out)
