"""A client's file: what it becomes is what the pipeline trained on, and what is wrong with it is named."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from privacy_pipeline.backends import keras_io
from privacy_pipeline.encrypted.client import predictions, rows
from privacy_pipeline.encrypted.client.client import probabilities
from privacy_pipeline.encrypted.model import model_format, published
from privacy_pipeline.encrypted.model.inputs import encode_inputs
from privacy_pipeline.encrypted.model.layers import Input
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.published import Published
from privacy_pipeline.errors import BadInputError
from tests.backends.conftest import PLAN, Split, split  # noqa: F401 (a fixture)
from tests.encrypted.programs.networks import mlp


@pytest.fixture
def public(split: Split, tmp_path: Path) -> Published:  # noqa: F811
    """The public side of a small model behind the split's transform."""
    width = keras_io.input_specs(split.transform_graph)["features"].shape[0]
    return publish(tmp_path, split, width)


def publish(folder: Path, split: Split, width: int) -> Published:  # noqa: F811
    model = mlp([width, 4, 1], name="features")
    model_format.save(model, folder / "private")
    published.publish(
        private_model=folder / "private",
        features=PLAN,
        transform_graph=split.transform_graph,
        folder=folder / "published",
    )
    return published.load(folder / "published")


def write(path: Path, lines: list[dict[str, object]], names: list[str]) -> Path:
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(lines)
    return path


@pytest.mark.slow
def test_rows_become_what_the_pipeline_trains_on(split: Split, public: Published, tmp_path: Path) -> None:  # noqa: F811
    """The label is not there, columns are in another order, and some sizes are missing."""
    lines = [{**row, "colour": row["colour"].decode(), "unused": "x"} for row in split.raw]
    checked = rows.check(file=write(tmp_path / "f.csv", lines, ["unused", "size", "colour"]), published=public)
    found = rows.transform(checked, published=public)
    expected = keras_io.read_rows(split.files, transform_graph=split.transform_graph, classes=2).inputs["features"]
    assert set(found) == {"features"}
    np.testing.assert_allclose(found["features"], expected, atol=1e-6)
    assert list(checked.lines) == list(range(2, len(split.raw) + 2))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("colour\nred\n", r"f\.csv: column 'size' is missing \(the model needs it\)"),
        ("colour,size,size\nred,1,2\n", r"f\.csv:1: column 'size' is named twice"),
        ("colour,size\nred ,1\n", r"f\.csv:2: column 'colour': 'red ' is not in the schema's domain"),
        ("colour,size\nred,inf\n", r"f\.csv:2: column 'size': 'inf' is not a finite number"),
        ("colour,size\nred,big\n", r"f\.csv:2: column 'size': 'big' is not a number"),
        ("colour,size\nred,11\n", r"f\.csv:2: column 'size': '11' is above the schema's maximum 10"),
        ("colour,size\npink,1\n", r"f\.csv:2: column 'colour': 'pink' is not in the schema's domain"),
        ("colour,size\n,1\n", r"f\.csv:2: column 'colour': the value is missing"),
        ("colour,size\nred,1,2\n", r"f\.csv:2: the row has 3 fields, the header has 2"),
        ('colour,size\n"red,1\n', r"f\.csv:2: the quotes"),
        ("colour,size\n", r"f\.csv: has no rows"),
        ("", r"f\.csv: column 'colour' is missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(public: Published, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "f.csv").write_text(content)
    with pytest.raises(BadInputError, match=says):
        rows.check(file=tmp_path / "f.csv", published=public)


def test_a_file_that_is_not_there_is_named(public: Published, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.csv: cannot be read"):
        rows.check(file=tmp_path / "none.csv", published=public)


@pytest.mark.parametrize(
    ("x", "kind", "says"),
    [
        ([[0.0], [128.5]], [0, 1], "line 8: input 'x' is 128.5, and private predictions are proven from -128 to 128"),
        ([[0.0], [np.nan]], [0, 1], "line 8: input 'x' is nan"),
        ([[0.0], [1.0]], [2, 1], "line 7: input 'kind' is not an integer from 0 to 1"),
        ([[0.0], [1.0]], [0, 0.5], "line 8: input 'kind' is not an integer"),
        ([[0.0], [1.0]], [0, np.nan], "line 8: input 'kind' is not an integer"),
        ([[0.0]], [0, 1], "input 'x' has shape"),
    ],
)
def test_a_value_that_cannot_be_shared_is_named(x: list[list[float]], kind: list[float], says: str) -> None:
    model = PrivateModel(
        inputs=(Input(name="x", shape=(1,)), Input(name="kind", shape=(), vocabulary=2)),
        layers=(), output="x", weights={},
    )  # fmt: skip
    given = {"x": np.array(x), "kind": np.array(kind)}
    with pytest.raises(BadInputError, match=says):
        encode_inputs(model, given, rows=2, where=lambda index: f"line {7 + index}")


def test_a_public_side_has_no_weights_and_is_replaced_as_a_whole(public: Published, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    assert not list(folder.rglob("*.npz")) and not public.model.weights
    published.copy(folder, tmp_path / "copy")
    (tmp_path / "copy" / "old").touch()
    published.copy(folder, tmp_path / "copy")
    assert not (tmp_path / "copy" / "old").exists() and published.load(tmp_path / "copy").digest == public.digest
    (folder / "features.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"features\.json: cannot be read"):
        published.copy(folder, tmp_path / "copy")
    assert published.load(tmp_path / "copy").digest == public.digest


def test_predictions_are_written_with_the_line_of_their_row(tmp_path: Path) -> None:
    logits = np.array([[0.0], [800.0], [-4e-8]])
    predictions.write(tmp_path / "p.csv", logits=logits, lines=[2, 3, 7], features=PLAN)
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "line,logit(yes),probability(yes)",
        "2,0,0.5",
        "3,800,1",
        "7,-4e-08,0.49999999",
    ]


def test_several_logits_become_a_softmax() -> None:
    np.testing.assert_allclose(probabilities(np.array([[0.0, np.log(3.0)], [1e4, 0.0]])), [[0.25, 0.75], [1.0, 0.0]])
