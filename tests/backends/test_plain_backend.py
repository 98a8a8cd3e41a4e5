"""The plain backend, and what the Keras backends share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.backends import keras_io
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.plain import PlainBackend
from privacy_pipeline.errors import BadInputError, PipelineError

ROWS = 600


def make_inputs(split: Any, folder: Path, **training: Any) -> TrainingInputs:
    steps: list[tuple[int, int, str]] = training.pop("steps", [])
    files = training.pop("train_files", split.files)
    report = {"report_progress": lambda done, total, unit: steps.append((done, total, unit))}
    return split.inputs(split.config(**training), folder, plan=None, train_files=files, **report)


@pytest.mark.slow
def test_it_learns_counts_and_reports(split: Any, tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    executed = PlainBackend().train(make_inputs(split, tmp_path, epochs=5, seed=1, steps=steps))
    assert (executed.steps, executed.epochs, executed.examples) == (50, 5, ROWS)
    assert executed.seed_fixed
    assert executed.history["val_accuracy"][-1] > 0.9
    assert steps[-1] == (50, 50, "steps")
    assert list((tmp_path / "logs").rglob("events*"))


@pytest.mark.slow
def test_the_saved_model_takes_raw_examples(split: Any, tmp_path: Path) -> None:
    PlainBackend().train(make_inputs(split, tmp_path, epochs=5, seed=1))
    model = tf.saved_model.load(str(tmp_path / "model"))
    bare = split.serialized(without=("bought", "person", "unused"))
    probability = model.signatures["serving_default"](bare)["probability"]
    assert probability.dtype == tf.float32 and probability.shape == (ROWS, 1)
    labels = np.array([[row["bought"] == b"yes"] for row in split.raw])
    assert ((probability.numpy() > 0.5) == labels).mean() > 0.9

    transformed = model.signatures["transform_features"](split.serialized())
    np.testing.assert_array_equal(transformed["label"], labels.astype(np.int64))
    unlabelled = model.signatures["transform_features"](bare)
    assert set(unlabelled["label"].numpy().ravel().tolist()) == {-1}
    np.testing.assert_array_equal(unlabelled["features"], transformed["features"])


@pytest.mark.slow
def test_a_seed_repeats_the_run(split: Any, tmp_path: Path) -> None:
    first, second = (PlainBackend().train(make_inputs(split, tmp_path / name, seed=7)) for name in "ab")
    assert first.history == second.history


def test_divergence_is_an_error(split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steep_model.py").write_text(
        "import tensorflow as tf\n"
        "def build_model(context):\n"
        "    source = tf.keras.Input(context.inputs['features'].shape, name='features')\n"
        "    cubed = tf.keras.layers.Dense(1)(source) ** 3\n"
        "    return tf.keras.Model(source, cubed ** 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="diverged"):
        PlainBackend().train(make_inputs(split, tmp_path, optimizer="sgd", learning_rate=1e10, model="steep_model"))


def test_an_empty_split_is_an_error(split: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no rows"):
        PlainBackend().train(make_inputs(split, tmp_path, train_files=(str(tmp_path / "none-*"),)))


def test_rows_without_a_usable_label_are_an_error(split: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.gz"
    split.write(path, [{"features": np.zeros(70, np.float32), "label": [-1], "privacy_unit_key": [b"p"]}])
    with pytest.raises(BadInputError, match=r"dataset\.label"):
        keras_io.read_rows((str(path),), transform_graph=split.transform_graph, classes=2)


def test_the_unit_key_never_reaches_the_model(split: Any) -> None:
    rows = keras_io.read_rows(split.files, transform_graph=split.transform_graph, classes=2)
    assert set(rows.inputs) == {"features"} == set(keras_io.input_specs(split.transform_graph))
    assert rows.labels.shape == (ROWS, 1)


@pytest.mark.slow_but("nothing", "two outputs")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return None", "functional"),
        ("return net(Dense(2)(source))", r"\(None, 2\)"),
        ("return net(Dense(1, activation='sigmoid')(source))", "sigmoid"),
        ("source = tf.keras.Input((3,), name='other'); return net(Dense(1)(source))", "other"),
    ],
    ids=["nothing", "two outputs", "sigmoid", "other input"],
)
def test_unusable_models_are_refused(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    name = f"model_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(
        "import tensorflow as tf\n"
        "from tensorflow.keras.layers import Dense\n"
        "def build_model(context):\n"
        "    source = tf.keras.Input(context.inputs['features'].shape, name='features')\n"
        "    def net(output): return tf.keras.Model(source, output)\n"
        f"    {body}\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=says):
        keras_io.build_model(make_inputs(split, tmp_path, model=name))


def test_planning_imports_no_tensorflow() -> None:
    code = (
        "import sys; from privacy_pipeline.backends import listed\n"
        "[listed.load(name) for name in listed.BACKENDS]\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_a_sequential_model_of_the_users_is_served_too(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sequential_model.py").write_text(
        "import tensorflow as tf\n"
        "def build_model(context):\n"
        "    source = tf.keras.Input(context.inputs['features'].shape, name='features')\n"
        "    return tf.keras.Sequential([source, tf.keras.layers.Dense(context.params['width']), "
        "tf.keras.layers.Dense(1)])\n"
    )
    monkeypatch.chdir(tmp_path)
    PlainBackend().train(make_inputs(split, tmp_path, model={"use": "sequential_model", "params": {"width": 3}}))
    model = tf.saved_model.load(str(tmp_path / "model"))
    assert model.signatures["serving_default"](split.serialized()[:2])["probability"].shape == (2, 1)
