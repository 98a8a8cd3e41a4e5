"""A user's module builds and trains where it sees no data, on each way a config takes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_transform import annotators, graph_context, impl_helper

from privacy_pipeline.backends import keras_io
from privacy_pipeline.backends.isolated import apart
from privacy_pipeline.backends.isolated.visible import Private
from privacy_pipeline.backends.models.tabular import InputSpec
from privacy_pipeline.backends.plain import PlainBackend
from privacy_pipeline.components.transform.crossed import CROSSED, preprocessing_fn
from privacy_pipeline.config.models.model import ModelSection
from privacy_pipeline.errors import BadInputError
from tests.backends.conftest import PLAN, make_config
from tests.backends.test_plain_backend import make_inputs

SPECS = {"features": InputSpec(shape=(5,), dtype="float32")}
START = """
import tensorflow as tf
def build_model(context):
    (name, spec), = context.inputs.items()
    given = tf.keras.Input(spec.shape, dtype=spec.dtype, name=name)
"""
LEAKY = (
    START
    + """
    import csv
    rows = list(csv.DictReader(open("data/rows.csv")))
    out = tf.keras.layers.Dense(1, bias_initializer=tf.constant_initializer(float(rows[0]["a"])))(given)
    return tf.keras.Model(given, out)
"""
)
OWN = (
    START
    + """
    print("printing is no answer")
    width = int(open("public/width.txt").read())
    hidden = tf.keras.layers.Dense(width, activation="relu")(given)
    return tf.keras.Model(given, tf.keras.layers.Dense(1)(tf.keras.layers.Dropout(0.2)(hidden)))
"""
)
PREPROCESSING = """
import tensorflow as tf
import tensorflow_transform as tft
def preprocessing_fn(inputs, custom_config):
    colours = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["red", "blue"], [1, 2]), 0)
    kept = tft.make_and_track_object(
        lambda: tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["yes"], tf.constant([1], tf.int64)), 0))
    shape = [tf.shape(inputs["colour"], tf.int64)[0], 1]
    size = tf.sparse.to_dense(tf.SparseTensor(inputs["size"].indices, inputs["size"].values, shape))
    colour = tf.one_hot(colours.lookup(inputs["colour"]), 3)
    return {"colour": colour, "size": size, "label": kept.lookup(inputs["bought"])}
"""
COLUMNS = {
    "colour": {"dtype": "string", "shape": []},
    "bought": {"dtype": "string", "shape": []},
    "size": {"dtype": "float32", "shape": None},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("a,b\n7,8\n")
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "width.txt").write_text("4")
    monkeypatch.setattr(apart, "_kept", {})
    return tmp_path


def built(use: str, *, trained: bool = True, **options: Any) -> Any:
    config = make_config(model={"use": use, "files": ["public/width.txt"]}, **options)
    return keras_io.model_of(config, features=PLAN, specs=SPECS, trained=trained)


def test_the_training_file_is_not_there(place: Path) -> None:
    (place / "leaky.py").write_text(LEAKY)
    with pytest.raises(
        BadInputError, match=r"'leaky' fails in leaky.py, line 8: FileNotFoundError.*data/rows.csv"
    ) as told:
        built("leaky")
    assert "model.files" in told.value.fix


@pytest.mark.slow
def test_a_model_of_built_in_layers_trains_as_it_does_in_place(split: Any, place: Path) -> None:
    (place / "own.py").write_text(OWN)
    weights = []
    for trust in (None, "reviewed"):
        model = {"use": "own", "files": ["public/width.txt"], "trust": trust}
        inputs = make_inputs(split, place / str(trust), model=model, seed=7, epochs=1)
        PlainBackend().train(inputs)
        reader = tf.train.load_checkpoint(str(inputs.model_dir / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        names = sorted(name for name in shapes if "layer_with_weights" in name and "VARIABLE_VALUE" in name)
        weights.append([reader.get_tensor(name) for name in names])
    assert len(weights[0]) == 4
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_weights_are_drawn_anew_for_each_training_and_the_examined_one_is_trained(place: Path) -> None:
    (place / "own.py").write_text(OWN)
    examined = built("own", trained=False).get_weights()
    first, second = built("own").get_weights(), built("own").get_weights()
    np.testing.assert_array_equal(examined[0], first[0])
    assert not np.array_equal(first[0], second[0])


@pytest.mark.slow
def test_preprocessing_crosses_as_a_graph(place: Path) -> None:
    (place / "prepared.py").write_text(PREPROCESSING)
    private = Private(data=place / "data", workspace=place / "workspace", ledger="sqlite:///ledger/ledger.db")
    section = ModelSection(use="prepared")
    crossed = apart.preprocessing(section, private, custom_config={"label": "bought"}, features=COLUMNS)
    assert crossed == apart.preprocessing(section, private, custom_config={"label": "bought"}, features=COLUMNS)
    assert "prepared" not in json.loads(crossed)["program"]["graph"]
    columns = {
        "colour": tf.constant(["blue", "red", "green"]),
        "bought": tf.constant(["yes", "no", "yes"]),
        "size": tf.SparseTensor([[1, 0]], [2.5], [3, 1]),
    }
    specs = {
        "colour": tf.TensorSpec([None], tf.string),
        "bought": tf.TensorSpec([None], tf.string),
        "size": tf.SparseTensorSpec([None, None], tf.float32),
    }
    context = graph_context.TFGraphContext(tf.Module(), temp_dir=str(place), evaluated_replacements=None)
    function = functools.partial(preprocessing_fn, custom_config={CROSSED: crossed})
    tracker = annotators.ObjectTracker()
    with annotators.object_tracker_scope(tracker):  # as tf.Transform traces it
        traced = impl_helper.get_traced_transform_fn(function, specs, context)
        made = traced(columns)
    shapes = {name: one.shape.as_list() for name, one in traced.get_concrete_function().structured_outputs.items()}
    assert shapes == {"colour": [None, 3], "label": [None], "size": [None, 1]}
    assert sorted(made) == ["colour", "label", "size"]
    np.testing.assert_array_equal(made["colour"], [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(made["label"], [1, 0, 1])
    np.testing.assert_array_equal(made["size"], [[0], [2.5], [0]])


def test_an_analyzer_does_not_cross(place: Path) -> None:
    (place / "analyzing.py").write_text(
        "import tensorflow_transform as tft\n"
        "def preprocessing_fn(inputs, custom_config): return {'x': tft.scale_to_0_1(inputs['size'])}\n"
    )
    private = Private(data=place / "data", workspace=place / "workspace", ledger="sqlite:///ledger/ledger.db")
    columns = {"size": {"dtype": "float32", "shape": []}}
    with pytest.raises(BadInputError, match="'analyzing' analyzes the data"):
        apart.preprocessing(ModelSection(use="analyzing"), private, custom_config={}, features=columns)
