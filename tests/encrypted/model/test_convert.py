"""Every layer that is converted gives what Keras gives, in NumPy and privately; every other is refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.encrypted.model import model_format, reference
from privacy_pipeline.encrypted.model.conversion.convert import convert
from privacy_pipeline.errors import BadInputError

keras = tf.keras.layers
ROWS = 3


def mlp() -> Any:
    one, two = tf.keras.Input((3,), name="one"), tf.keras.Input((2,), name="two")
    x = keras.Dense(8, activation="relu")(keras.Concatenate()([two, one]))
    x = keras.BatchNormalization()(keras.Dropout(0.5)(x))
    skip = keras.Dense(8)(x)
    x = keras.ReLU()(keras.BatchNormalization()(keras.Dense(8, use_bias=False)(x)))
    return tf.keras.Model([one, two], keras.Dense(1, activation="sigmoid")(keras.Add()([x, skip])))


def image() -> Any:
    x = given = tf.keras.Input((49,), name="pixels")
    x = keras.Reshape((7, 7, 1))(x)
    x = keras.BatchNormalization()(keras.Conv2D(4, 3, strides=2, padding="same")(x))
    x = keras.Activation("relu")(x)
    x = keras.BatchNormalization()(keras.DepthwiseConv2D(2, padding="same", depth_multiplier=2)(x))
    x = keras.AveragePooling2D(2, padding="same", strides=1)(x)
    x = keras.MaxPooling2D((2, 3), strides=1)(x)
    side = keras.GlobalAveragePooling2D()(x)
    x = keras.Concatenate()([keras.Flatten()(x), side])
    return tf.keras.Model(given, keras.Softmax()(keras.Dense(3)(x)))


def words() -> Any:
    size, word = tf.keras.Input((2,), name="size"), tf.keras.Input((4,), dtype="int64", name="word")
    x = keras.Flatten()(keras.Embedding(6, 3)(word))
    return tf.keras.Model([size, word], keras.Dense(1)(keras.Concatenate(axis=1)([x, size])))


def sequential() -> Any:
    return tf.keras.Sequential([tf.keras.Input((4,), name="x"), keras.Dense(5, "relu"), keras.Dense(1)])


def shapes() -> Any:
    """What the other models leave out: several channels, uneven windows and strides, no biases, odd trees of maxima."""
    x = given = tf.keras.Input((11, 9, 2), name="picture")
    x = keras.Conv2D(3, (3, 2), strides=(2, 1), use_bias=False, activation="relu")(x)
    x = keras.DepthwiseConv2D((1, 2), use_bias=False)(x)
    x = keras.SpatialDropout2D(0.2)(keras.ReLU()(x))
    side = keras.AveragePooling2D((3, 2), strides=(1, 2), padding="valid")(x)
    x = keras.BatchNormalization(scale=False)(keras.MaxPooling2D((3, 3), strides=(1, 2))(x))
    x = keras.Concatenate(axis=2)([x, side])
    x = keras.GaussianNoise(0.1)(keras.BatchNormalization(center=False)(keras.Conv2D(4, 2, padding="same")(x)))
    return tf.keras.Model(given, keras.Conv2D(1, 1)(keras.GlobalAveragePooling2D(keepdims=True)(x)))


MODELS = {"mlp": mlp, "image": image, "words": words, "sequential": sequential, "shapes": shapes}
SLOW = ("shapes",)  # their private runs


def trained_like(model: Any, seed: int = 0) -> Any:
    """Weights as after a training: also the statistics of batch normalisation are not their initial ones."""
    random = np.random.default_rng(seed)
    model.set_weights([weight + random.uniform(0.05, 0.5, weight.shape) for weight in model.get_weights()])
    return model


def rows_of(model: Any, count: int = ROWS) -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {
        tensor.name: random.integers(0, 6, (count, *tensor.shape[1:]))
        if tensor.dtype == tf.int64
        else random.normal(size=(count, *tensor.shape[1:])).astype(np.float32)
        for tensor in model.inputs
    }


def logits_of(model: Any, inputs: dict[str, Any]) -> Any:
    last = model.layers[-1]
    if isinstance(last, keras.Softmax):
        model = tf.keras.Model(model.inputs, last.input)
    elif last.activation is tf.keras.activations.sigmoid:
        last.activation = tf.keras.activations.linear
    return model(inputs).numpy()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path, dict[str, Any]]]:
    """Keras model, folder of the converted one, and rows."""
    found = {}
    for name, make in MODELS.items():
        model, folder = trained_like(make()), tmp_path_factory.mktemp("models") / name
        inputs = rows_of(model)
        model_format.save(convert(model), folder)
        np.savez(folder / "inputs.npz", **inputs)
        found[name] = (model, folder, inputs)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_converted_model_computes_what_keras_does(converted: Any, name: str) -> None:
    model, folder, inputs = converted[name]
    read = model_format.load(folder)
    logits = reference.evaluate(read, inputs)[read.output]
    np.testing.assert_allclose(logits, logits_of(model, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS])
def test_the_parties_compute_what_keras_does(converted: Any, program: Callable[..., Any], name: str) -> None:
    together = [other for other in MODELS if (other in SLOW) == (name in SLOW)]
    differences = program("predict.py", *(str(converted[other][1]) for other in together))
    model, folder, inputs = converted[name]
    np.testing.assert_allclose(np.load(folder / "logits.npy"), logits_of(model, inputs), rtol=1e-3, atol=5e-3)
    assert differences[name] < 1e-2


def test_batch_normalisation_behind_a_linear_layer_is_folded(converted: Any) -> None:
    ops = [layer.op for layer in model_format.load(converted["image"][1]).layers]
    assert "affine" not in ops
    assert [layer.op for layer in model_format.load(converted["mlp"][1]).layers].count("affine") == 1  # behind a ReLU


def one_layer(layer: Any, shape: tuple[int, ...] = (4, 4, 2)) -> Any:
    given = tf.keras.Input(shape, name="x")
    return tf.keras.Model(given, keras.Dense(1)(keras.Flatten()(layer(given))))


REFUSED = {
    "LSTM": lambda: one_layer(keras.LSTM(2, name="odd"), (3, 2)),
    "LayerNormalization": lambda: one_layer(keras.LayerNormalization(name="odd")),
    "Lambda": lambda: one_layer(keras.Lambda(lambda x: x * 2, name="odd")),
    "tanh": lambda: one_layer(keras.Dense(2, activation="tanh", name="odd")),
    "sigmoid": lambda: one_layer(keras.Dense(2, activation="sigmoid", name="odd")),
    "dilation": lambda: one_layer(keras.Conv2D(2, 2, dilation_rate=2, name="odd")),
    "pads": lambda: one_layer(keras.MaxPooling2D(3, padding="same", name="odd")),
    "ceiling": lambda: one_layer(keras.ReLU(6.0, name="odd")),
    "axis": lambda: one_layer(keras.BatchNormalization(axis=1, name="odd")),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_layer_that_cannot_be_converted_is_named(why: str) -> None:
    with pytest.raises(BadInputError, match=f"'odd'.*{why}"):
        convert(REFUSED[why]())


def test_a_layer_that_is_used_twice_is_refused() -> None:
    given, shared = tf.keras.Input((2,)), keras.Dense(2, name="odd")
    with pytest.raises(BadInputError, match=r"'odd'.*more than once"):
        convert(tf.keras.Model(given, shared(shared(given))))


def test_a_subclass_that_computes_something_else_is_refused() -> None:
    class Dense(keras.Dense):
        def call(self, inputs: Any) -> Any:
            return super().call(inputs) ** 2

    with pytest.raises(BadInputError, match=r"'odd' \(Dense\) is not supported"):
        convert(one_layer(Dense(2, name="odd")))


def damaged(folder: Path, target: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    target.mkdir()
    for file in (model_format.ARCHITECTURE, model_format.WEIGHTS):
        content = (folder / file).read_bytes()
        (target / file).write_bytes(change(content) if file == name else content)
    return target


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (model_format.ARCHITECTURE, lambda content: content.replace(b'"version": 2', b'"version": 3')),
        (model_format.ARCHITECTURE, lambda content: content.replace(b'"cut": ', b'"cut": 9', 1)),
        (model_format.ARCHITECTURE, lambda content: content.replace(b'"scale": ', b'"scale": -', 1)),
        (model_format.ARCHITECTURE, lambda content: content.replace(b'"lower"', b'"upper"', 1)),
        (model_format.ARCHITECTURE, lambda content: content.replace(b'"dense"', b'"relu"', 1)),
        (model_format.ARCHITECTURE, lambda content: content.replace(b'"dense"', b'"exec"', 1)),
        (model_format.ARCHITECTURE, lambda content: content[:-40]),
        (model_format.WEIGHTS, lambda content: content[:-1] + b"!"),
        (model_format.WEIGHTS, lambda content: b""),
    ],
)
def test_a_damaged_model_is_refused(converted: Any, tmp_path: Path, name: str, change: Any) -> None:
    folder = converted["sequential"][1]
    model_format.load(damaged(folder, tmp_path / "whole", name, lambda content: content))
    with pytest.raises(BadInputError):
        model_format.load(damaged(folder, tmp_path / "damaged", name, change))


def test_a_model_of_an_earlier_version_is_to_be_exported_again(converted: Any, tmp_path: Path) -> None:
    def earlier(content: bytes) -> bytes:
        found = json.loads(content) | {"version": 1}
        del found["logit_error"]
        for part in (*found["inputs"], *found["layers"]):
            for name in ("scale", "cut", "factor", "lower", "upper"):
                part.pop(name, None)
        return json.dumps(found).encode()

    folder = damaged(converted["mlp"][1], tmp_path / "old", model_format.ARCHITECTURE, earlier)
    with pytest.raises(BadInputError, match="an earlier version exported it") as refusal:
        model_format.load(folder)
    assert refusal.value.fix.startswith("export the model again")


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_what_is_nested_deeply_is_refused(depth: int) -> None:
    with pytest.raises(BadInputError, match="is not a converted model"):
        model_format.parse_architecture(b'{"format":' + b"[" * depth + b"]" * depth + b"}")


def test_another_model_is_not_taken_for_the_one_asked_for(converted: Any) -> None:
    folder, other = converted["sequential"][1], converted["mlp"][1]
    digest = model_format.load(folder).digest()
    model_format.load(folder, digest=digest)
    with pytest.raises(BadInputError, match="not the model"):
        model_format.load(other, digest=digest)


def with_weights(
    converted: Any,
    target: Path,
    change: Callable[[dict[str, bytes]], dict[str, bytes]],
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """The sequential model with other members in its npz, whose digest the architecture has."""
    folder = converted["sequential"][1]
    with zipfile.ZipFile(folder / model_format.WEIGHTS) as archive:
        members = change({name: archive.read(name) for name in archive.namelist()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    old, new = (
        hashlib.sha256(content).hexdigest().encode()
        for content in ((folder / model_format.WEIGHTS).read_bytes(), buffer.getvalue())
    )
    damaged(folder, target, model_format.ARCHITECTURE, lambda content: content.replace(old, new))
    (target / model_format.WEIGHTS).write_bytes(buffer.getvalue())
    return target


def array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def claimed(shape: tuple[int, ...]) -> bytes:
    """An array that states a shape, with ten times a thousand zeros in place of its content."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(10_000)


@pytest.mark.parametrize(
    "content",
    [
        array(np.array([{"a": 1}], dtype=object)),
        array(np.zeros((2, 2))),
        array(np.zeros(3, np.float32)),
        claimed((2**29,)),
        claimed((10**30,)),
        b"no array",
        b"",
    ],
)
def test_weights_are_read_as_the_architecture_says_and_never_unpickled(
    converted: Any, tmp_path: Path, content: bytes
) -> None:
    folder = with_weights(converted, tmp_path / "m", lambda members: dict.fromkeys(members, content))
    with pytest.raises(BadInputError, match=r"is not an array of float64|is larger than"):
        model_format.load(folder)


def test_compressed_weights_are_not_inflated(converted: Any, tmp_path: Path) -> None:
    folder = with_weights(converted, tmp_path / "m", lambda members: members, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BadInputError, match="its arrays are compressed"):
        model_format.load(folder)


def test_a_weight_that_is_cut_off_or_left_out_is_no_weight(converted: Any, tmp_path: Path) -> None:
    model_format.load(with_weights(converted, tmp_path / "whole", lambda members: members))
    cut = with_weights(converted, tmp_path / "cut", lambda members: {n: c[:-8] for n, c in members.items()})
    with pytest.raises(BadInputError, match="is cut off"):
        model_format.load(cut)
    fewer = with_weights(converted, tmp_path / "fewer", lambda members: dict(list(members.items())[1:]))
    with pytest.raises(BadInputError, match="weights and architecture differ"):
        model_format.load(fewer)
