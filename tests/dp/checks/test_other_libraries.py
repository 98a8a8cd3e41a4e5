"""Optimizers, models and losses of other libraries: one line that names what to use. Models of dicts train."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.checks.other_libraries import other_model, other_optimizer, require_loss, require_own_step
from privacy_pipeline.errors import BadInputError

ROWS = 64
Layers = tf.keras.layers
Legacy = tf.keras.optimizers.legacy


@functools.cache
def _plan() -> PrivacyPlan:
    return PrivacyPlan.calibrated(
        units=ROWS, expected_batch_size=16, epochs=1, epsilon=5.0, delta=1e-3, clipping_norm=1.0
    )


def _network() -> Any:
    return tf.keras.Sequential([Layers.Input((3,)), Layers.Dense(1)])


def _of(module: str, name: str, *bases: type) -> Any:
    """An object of a class of a library that need not be installed."""
    return type(name, bases or (object,), {"__module__": module})()


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl"])
def test_a_legacy_optimizer_is_told_its_successor(name: str) -> None:
    for optimizer in (getattr(Legacy, name)(), type("Mine", (getattr(Legacy, name),), {})()):
        with pytest.raises(BadInputError, match="legacy ones are not supported") as caught:
            make_private(_network(), _plan(), optimizer=optimizer, loss="mse")
        assert caught.value.fix == f"use tf.keras.optimizers.{name}(...)"


def test_a_compiled_legacy_optimizer_is_told_its_successor() -> None:
    model = _network()
    model.compile(optimizer=Legacy.Adam(), loss="mse")
    with pytest.raises(BadInputError, match="legacy ones are not supported") as caught:
        make_private(model, _plan())
    assert "tf.keras.optimizers.Adam(...)" in caught.value.fix


@pytest.mark.parametrize(
    ("optimizer", "instead"),
    [
        (tf.compat.v1.train.AdamOptimizer(), "Adam"),
        (tf.compat.v1.train.GradientDescentOptimizer(0.1), "SGD"),
        (tf.compat.v1.train.MomentumOptimizer(0.1, 0.9), "SGD"),
        (tf.compat.v1.train.RMSPropOptimizer(0.1), "RMSprop"),
        (_of("keras.src.optimizers.adamw", "AdamW"), "AdamW"),  # of Keras 3
        (_of("keras_core.src.optimizers.nadam", "Nadam"), "Nadam"),
        (_of("tf_keras.src.optimizers.lion", "Lion"), "Lion"),
        (_of("torch.optim.adamax", "Adamax"), "Adamax"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__module__,
)
def test_an_optimizer_of_another_library_is_told_what_to_use(optimizer: Any, instead: str) -> None:
    with pytest.raises(BadInputError, match=r"is not one of tf\.keras\.optimizers") as caught:
        make_private(_network(), _plan(), optimizer=optimizer, loss="mse")
    assert caught.value.fix == f"use tf.keras.optimizers.{instead}(...)"
    assert hasattr(tf.keras.optimizers, instead)


def test_an_optimizer_that_adds_noise_is_not_used_on_top_of_the_plan() -> None:
    refused = other_optimizer(_of("tensorflow_privacy.privacy.optimizers", "DPKerasSGDOptimizer"))
    assert "the plan clips and adds the noise" in refused.message
    assert refused.fix == "use tf.keras.optimizers.SGD(...), without noise of its own"


def test_what_is_no_optimizer_is_told_so() -> None:
    with pytest.raises(BadInputError, match=r"is not one of tf\.keras\.optimizers") as caught:
        make_private(_network(), _plan(), optimizer=3, loss="mse")
    assert '"sgd" or "adam"' in caught.value.fix


@pytest.mark.parametrize("library", ["keras", "keras_core", "tf_keras"])
def test_a_model_of_another_keras_is_told_how_to_go_on(library: str) -> None:
    with pytest.raises(BadInputError, match=rf"is a model of another Keras \({library}\) than tf.keras") as caught:
        make_private(_of(f"{library}.src.models.functional", "Functional"), _plan(), optimizer="sgd", loss="mse")
    for word in ("set_weights", "tf.keras.layers", "TF_USE_LEGACY_KERAS"):
        assert word in caught.value.fix
    mine = type("Mine", (type(_of(f"{library}.src.models.model", "Model")),), {"__module__": "my_code"})()
    assert f"another Keras ({library})" in other_model(mine).message


def test_what_is_no_model_is_told_so() -> None:
    for given, told in ((3, "a int"), (_network, "a function"), (tf.keras.Model, "class Model")):
        assert other_model(given).message == f"{told} is not a Keras model"


def test_a_model_of_tensorflow_privacy_is_told_to_give_its_layers() -> None:
    kind = type("DPModel", (tf.keras.Model,), {"__module__": "tensorflow_privacy.privacy.keras_models.dp_keras_model"})
    with pytest.raises(BadInputError, match=r"TensorFlow Privacy's DPModel; the plan clips and adds the noise"):
        require_own_step(type("Mine", (kind,), {"__module__": "my_code"})())
    require_own_step(_network())


def test_a_loss_of_another_keras_is_told_what_to_use() -> None:
    base = type("Loss", (), {"__module__": "keras.src.losses.loss"})
    other = type("BinaryCrossentropy", (base,), {"__module__": "keras.src.losses.losses"})()
    for loss in (other, {"p": "mse", "q": other}, [None, other]):
        with pytest.raises(BadInputError, match=r"is of another Keras than tf\.keras") as caught:
            require_loss(loss)
        assert caught.value.fix == "use tf.keras.losses.BinaryCrossentropy(...)"
    for loss in ("mse", tf.keras.losses.MeanSquaredError(), tf.keras.losses.mse, lambda y, p: y - p, None):
        require_loss(loss)


# --- models of dicts -----------------------------------------------------------------------------------------------

_DRAW = np.random.default_rng(7)
A, B = _DRAW.normal(size=(ROWS, 2)).astype(np.float32), _DRAW.normal(size=(ROWS, 1)).astype(np.float32)
P = (A[:, :1] > 0).astype(np.float32)
Q = _DRAW.normal(size=(ROWS, 2)).astype(np.float32)


def _inputs(**names: str) -> tuple[dict[str, Any], Any]:
    inputs = {key: Layers.Input((width,), name=names.get(key, key)) for key, width in (("a", 2), ("b", 1))}
    return inputs, Layers.Concatenate()([Layers.Dense(2)(inputs["a"]), Layers.Dense(2)(inputs["b"])])


def _two_outputs(order: tuple[str, str] = ("p", "q")) -> Any:
    inputs, joined = _inputs()
    outputs = {"p": Layers.Dense(1, name="p", activation="sigmoid")(joined), "q": Layers.Dense(2, name="q")(joined)}
    return tf.keras.Model(inputs, {key: outputs[key] for key in order})


def _one_output(inputs: Callable[[dict[str, Any]], Any], **names: str) -> Any:
    made, joined = _inputs(**names)
    return tf.keras.Model(inputs(made), Layers.Dense(1, activation="sigmoid")(joined))


INPUTS = {
    "dict": (lambda made: made, {"a": A, "b": B}),
    "data in another order": (lambda made: made, {"b": B, "a": A}),
    "model in another order": (lambda made: {"b": made["b"], "a": made["a"]}, {"a": A, "b": B}),
    "list": (lambda made: [made["a"], made["b"]], [A, B]),
    "list, data by names": (lambda made: [made["a"], made["b"]], {"b": B, "a": A}),
}


@pytest.mark.slow_but("model in another order")
@pytest.mark.parametrize("case", INPUTS)
def test_inputs_by_name_reach_the_layer_of_that_name(case: str) -> None:
    """They are of different widths, so that a mix-up would not fit."""
    build, given = INPUTS[case]
    model = _one_output(build)
    before = model.predict(given, verbose=0)
    made = make_private(model, _plan(), optimizer="sgd", loss="binary_crossentropy").fit(given, P)
    assert made.steps == _plan().steps
    assert not np.allclose(model.predict(given, verbose=0), before)


@pytest.mark.slow
@pytest.mark.parametrize("order", [("p", "q"), ("q", "p")])
def test_outputs_by_name_meet_the_labels_of_that_name(order: tuple[str, str]) -> None:
    losses = {"p": "binary_crossentropy", "q": "mse"}
    given, labels = {"a": A, "b": B}, {"q": Q, "p": P}  # of different widths: a mix-up would not fit
    made = make_private(_two_outputs(order), _plan(), optimizer="sgd", loss=losses).fit(given, labels)
    assert made.steps == _plan().steps
    compiled = _two_outputs(order)
    compiled.compile("sgd", losses, loss_weights={"q": 0.5})
    assert make_private(compiled, _plan()).fit(given, labels).steps == _plan().steps


@pytest.mark.slow
def test_batches_of_dicts_train_a_model_of_dicts() -> None:
    batches = tf.data.Dataset.from_tensor_slices(({"a": A, "b": B}, {"p": P, "q": Q})).batch(16)
    made = make_private(_two_outputs(), _plan(), optimizer="sgd", loss={"p": "mse", "q": "mse"}).fit(batches)
    assert made.steps == _plan().steps


@pytest.mark.slow_but("no input b")
@pytest.mark.parametrize(
    ("given", "labels"),
    [
        pytest.param({"a": A}, {"p": P, "q": Q}, id="no input b"),
        pytest.param({"a": A, "c": B}, {"p": P, "q": Q}, id="c for b"),
        pytest.param({"a": A, "b": B}, {"p": P}, id="no label q"),
        pytest.param({"a": A, "b": B}, {"p": P, "other": Q}, id="other for q"),
        pytest.param({"a": B, "b": A}, {"p": P, "q": Q}, id="inputs swapped"),
        pytest.param({"a": A, "b": B}, P, id="one array of labels"),
    ],
)
def test_a_dict_that_does_not_fit_is_one_error(given: Any, labels: Any) -> None:
    private = make_private(_two_outputs(), _plan(), optimizer="sgd", loss={"p": "mse", "q": "mse"})
    with pytest.raises(BadInputError) as caught:
        private.fit(given, labels)
    assert "Traceback" not in caught.value.message and len(caught.value.message) < 1_000


@pytest.mark.slow
def test_a_dict_within_a_dict_is_refused_as_keras_refuses_it() -> None:
    model = _one_output(lambda made: {"u": {"a": made["a"]}, "v": made["b"]})
    with pytest.raises(AttributeError):
        model.predict({"u": {"a": A}, "v": B}, verbose=0)
    with pytest.raises(BadInputError, match="the model or its loss fails"):
        make_private(model, _plan(), optimizer="sgd", loss="mse").fit({"u": {"a": A}, "v": B}, P)
