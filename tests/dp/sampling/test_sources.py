"""Whatever form data comes in, the same examples are trained on, with Keras' weights of examples and classes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private
from privacy_pipeline.dp.sampling.sources import given_data
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
UNITS, WIDTH, CLASSES = 24, 3, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(UNITS, WIDTH)).astype(np.float32)
Y = RNG.integers(0, CLASSES, UNITS)
W = RNG.uniform(0.2, 2.0, UNITS).astype(np.float32)


class Batches(tf.keras.utils.Sequence):  # type: ignore[misc]
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> Any:
        return tuple(part[6 * place : 6 * (place + 1)] for part in self.parts)


def generated(*parts: Any) -> Iterator[Any]:
    for start in (0, 5, 20):
        stop = {0: 5, 5: 20, 20: UNITS}[start]
        yield tuple(part[start:stop] for part in parts)


def table(values: Any) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"c{column}" for column in range(values.shape[1])])


FORMS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "arrays": lambda: (X, Y),
    "double precision": lambda: (X.astype(np.float64), Y),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
    "pandas": lambda: (table(X), pd.Series(Y)),
    "Arrow table": lambda: (pa.Table.from_pandas(table(X)), pa.array(Y)),
    "Arrow lists": lambda: (pa.array(list(X)), pa.chunked_array([Y[:7], Y[7:]])),
    "tf.data": lambda: (tf.data.Dataset.from_tensor_slices((X, Y)).batch(7),),
    "Sequence": lambda: (Batches(X, Y),),
    "generator": lambda: (generated(X, Y),),
    "store": lambda: (ExampleStore.from_arrays(X, Y),),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_examples(form: str) -> None:
    given = given_data(*FORMS[form](), most=UNITS)
    x, y = given.store.rows(np.arange(UNITS))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    assert given.labelled and not given.weighted


def test_inputs_by_name_and_by_place() -> None:
    by_name = given_data({"a": table(X), "b": pa.array(Y)}, {"out": pd.Series(Y)}, most=None).store
    assert sorted(by_name.x) == ["a", "b"] and by_name.y["out"].tolist() == Y.tolist()
    by_place = given_data((X, Y[:, None]), [X, X], most=None).store
    assert [part.shape for part in (*by_place.x, *by_place.y)] == [(UNITS, 3), (UNITS, 1), (UNITS, 3), (UNITS, 3)]


@pytest.mark.parametrize("form", [tf.data.Dataset, Batches, Iterator])
def test_weights_come_with_batches(form: Any) -> None:
    x = {
        tf.data.Dataset: lambda: tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(7),
        Batches: lambda: Batches(X, Y, W),
        Iterator: lambda: generated(X, Y, W),
    }[form]()
    given = given_data(x, most=UNITS)
    assert given.weighted
    labels, weights = given.store.rows(np.arange(UNITS))[1]
    np.testing.assert_array_equal(labels, Y)
    np.testing.assert_array_equal(weights, W)


def test_batches_are_read_once_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read = []

    def once() -> Iterator[Any]:
        for batch in generated(X, Y):
            read.append(len(batch[0]))
            assert list(tmp_path.iterdir()) == []  # nothing is left where the process is killed now
            yield batch

    store = given_data(once(), most=UNITS).store
    assert sum(read) == UNITS
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(store.rows(np.arange(UNITS))[0], X)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "endless dataset": (lambda: given_data(tf.data.Dataset.from_tensors((X, Y)).repeat(), most=UNITS), "never ends"),
    "single examples": (lambda: given_data(tf.data.Dataset.from_tensor_slices((X, Y)), most=UNITS), "single examples"),
    "endless generator": (
        lambda: given_data(iter(lambda: (X, Y), None), most=UNITS),
        f"more than the {UNITS} examples",
    ),
    "no batch": (lambda: given_data(iter(()), most=UNITS), "no batch"),
    "four parts": (lambda: given_data(iter([(X, Y, W, W)]), most=UNITS), "4 parts"),
    "other parts": (lambda: given_data(iter([(X, Y), (X, Y, W)]), most=None), "other parts"),
    "other shapes": (lambda: given_data(iter([(X, Y), (X[:, :2], Y)]), most=None), "the first one of"),
    "uneven": (lambda: given_data(iter([(X, Y[:3])]), most=None), "rows"),
    "labels beside batches": (lambda: given_data(iter([(X, Y)]), Y, most=None), "bring their labels"),
    "labels beside a store": (lambda: given_data(ExampleStore.from_arrays(X, Y), Y, most=None), "itself"),
    "text": (lambda: given_data(np.array([["a"], ["b"]]), Y, most=None), "'x' holds values of type"),
    "text of a table": (
        lambda: given_data(pd.DataFrame({"age": [1, 2], "town": ["a", "b"]}), [0, 1], most=None),
        "in column town",
    ),
    "a string": (lambda: given_data("adult.csv", Y, most=None), "x is text"),
    "missing": (lambda: given_data(pa.table({"a": [1.0, None]}), [0, 1], most=None), "'x.a' has missing values"),
    "ragged": (lambda: given_data(tf.ragged.constant([[1.0], [2.0, 3.0]]), [0, 1], most=None), "RaggedTensor"),
    "sparse": (lambda: given_data(tf.sparse.from_dense(X), Y, most=None), "SparseTensor"),
    "ragged lists": (lambda: given_data([[1.0], [2.0, 3.0]], [0, 1], most=None), "different length"),
    "classes of two outputs": (lambda: given_data(X, (Y, Y), class_weight={0: 2.0}, most=None), "one output"),
    "datasets": (
        lambda: given_data(tf.data.Dataset.from_tensor_slices(X).window(3), most=UNITS),
        "gives datasets",
    ),
    "nothing": (lambda: given_data({}, Y, most=None), "x holds no array"),
    "classes in a list": (lambda: given_data(X, Y, class_weight=[1.0, 2.0], most=None), "not a weight for each class"),
    "classes by a word": (lambda: given_data(X, Y, class_weight="balanced", most=None), "not a weight for each class"),
    "a class of no weight": (lambda: given_data(X, Y, class_weight={0: None}, most=None), "gives class .0. no weight"),
    "a class weighted by text": (lambda: given_data(X, Y, class_weight={0: "2"}, most=None), "must be a finite number"),
    "a list of rows": (lambda: given_data(list(X), Y, most=None), "'x.0' has 3, .* and so on, 25 arrays"),
    "yes and no beside numbers": (
        lambda: given_data(pd.DataFrame({"age": [1.0, 2.0], "own": [True, False]}), [0, 1], most=None),
        "in column own",
    ),
    "classes of nothing": (lambda: given_data(X, class_weight={0: 2.0}, most=None), "one output"),
}


def test_parts_of_a_batch_may_be_a_list_and_end_with_nothing() -> None:
    for batch in ([X, Y], (X, Y, None), [X, Y, None]):
        found = given_data(iter([batch]), most=UNITS)
        np.testing.assert_array_equal(found.store.y, Y)
        assert (found.labelled, found.weighted) == (True, False)
    assert not given_data(iter([(X, None)]), most=UNITS).labelled


def test_batches_that_fill_the_disk_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil._ntuple_diskusage(100, 96, 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(BadInputError, match="is nearly full after 24 examples; do the batches end"):
        given_data(iter(lambda: (X, Y), None), most=None)


@pytest.mark.parametrize("kind", BAD)
def test_other_data_is_one_line(kind: str) -> None:
    make, says = BAD[kind]
    with pytest.raises(BadInputError, match=says):
        make()


# --- weights, as Keras has them --------------------------------------------------------------------------------------


def network(outputs: int = CLASSES) -> Any:
    tf.keras.utils.set_random_seed(2)
    return tf.keras.Sequential([L.Input((WIDTH,)), L.Dense(4, "tanh"), L.Dense(outputs)])


def update(model: Any, *data: Any, loss: Any, **more: Any) -> Any:
    """What one step on all examples, without clipping and next to no noise, adds to the weights."""
    plan = PrivacyPlan.calibrated(
        units=UNITS, expected_batch_size=UNITS, steps=1, noise_multiplier=1e-6, delta=1e-5, clipping_norm=1e3
    )
    before = [value.copy() for value in model.get_weights()]
    make_private(model, plan, optimizer=tf.keras.optimizers.SGD(1.0), loss=loss).fit(*data, **more)
    return np.concatenate([(new - old).ravel() for new, old in zip(model.get_weights(), before, strict=True)])


def right(model: Any, *data: Any, loss: Any, **more: Any) -> Any:
    """What Keras adds in one step on all examples."""
    before = [value.copy() for value in model.get_weights()]
    model.compile(tf.keras.optimizers.SGD(1.0), loss)
    model.fit(*data, batch_size=UNITS, verbose=0, **more)
    return np.concatenate([(new - old).ravel() for new, old in zip(model.get_weights(), before, strict=True)])


SPARSE = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[Y]
BY_CLASS = {0: 0.5, 2: 3.0, 1: 1.0}
WEIGHTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "examples": (Y, {"sample_weight": W}),
    "examples as a column": (Y, {"sample_weight": W[:, None]}),
    "classes": (Y, {"class_weight": BY_CLASS}),
    "classes of columns": (Y[:, None], {"class_weight": BY_CLASS}),
    "both": (Y, {"sample_weight": W, "class_weight": BY_CLASS}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WEIGHTED)
def test_weights_are_those_of_keras(kind: str) -> None:
    labels, more = WEIGHTED[kind]
    found, wanted = update(network(), X, labels, loss=SPARSE, **more), right(network(), X, labels, loss=SPARSE, **more)
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
    plain = right(network(), X, labels, loss=SPARSE)
    assert np.abs(wanted - plain).max() > 0.05 * np.abs(wanted).max()


@pytest.mark.slow
def test_weights_of_classes_of_one_hot_labels() -> None:
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True)
    found = update(network(), X, ONE_HOT, loss=loss, class_weight=BY_CLASS)
    wanted = right(network(), X, ONE_HOT, loss=loss, class_weight=BY_CLASS)
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


@pytest.mark.slow
def test_weights_that_a_dataset_brings_are_used() -> None:
    batches = tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(10)
    found, wanted = update(network(), batches, loss=SPARSE), right(network(), X, Y, loss=SPARSE, sample_weight=W)
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def two() -> Any:
    tf.keras.utils.set_random_seed(2)
    given = L.Input((WIDTH,))
    hidden = L.Dense(4, "tanh")(given)
    return tf.keras.Model(given, [L.Dense(1, name="a")(hidden), L.Dense(1, name="b")(hidden)])


@pytest.mark.slow_but("{'b': 'mse'}-none")
@pytest.mark.parametrize("weights", [None, W, {"a": W, "b": W[::-1].copy()}], ids=["none", "one", "each"])
@pytest.mark.parametrize("loss", ["mse", ["mse", "mae"], {"a": "mse", "b": "mae"}, {"b": "mse"}], ids=str)
def test_several_outputs_are_weighted_as_by_keras(loss: Any, weights: Any) -> None:
    labels = X[:, :1], X[:, 1:2]
    named = {"a": labels[0], "b": labels[1]}
    y = {name: named[name] for name in loss} if isinstance(loss, dict) else labels
    more = {} if weights is None else {"sample_weight": weights}
    if isinstance(loss, dict) and isinstance(weights, dict):
        more = {"sample_weight": {name: weights[name] for name in loss}}
    given = {} if weights is None else more
    if weights is W:  # Keras gives one array to each output only where it is told so
        keras = {"sample_weight": dict.fromkeys(y, W) if isinstance(y, dict) else [W, W]}
    else:
        keras = given if isinstance(y, dict) or not given else {"sample_weight": list(given["sample_weight"].values())}
    if "sample_weight" in given and isinstance(given["sample_weight"], dict) and not isinstance(y, dict):
        given = {"sample_weight": tuple(given["sample_weight"].values())}
    found, wanted = update(two(), X, y, loss=loss, **given), right(two(), X, y, loss=loss, **keras)
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_a_loss_of_the_outputs_alone_needs_no_labels() -> None:
    loss = lambda labels, outputs: tf.reduce_sum(tf.square(outputs), -1)  # noqa: E731
    found = update(network(), X, loss=loss)
    wanted = right(network(), X, np.zeros(UNITS), loss=lambda y, p: tf.reduce_sum(tf.square(p), -1))
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
    with pytest.raises(BadInputError, match="there are no labels"):
        update(network(), X, loss="mse")
