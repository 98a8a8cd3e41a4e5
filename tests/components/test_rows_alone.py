"""A private run's preprocessing must not read the data to set itself up, nor keep something of a row for the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.components.transform.rows_alone import keeps_rows_apart
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError

FRAMEWORK = "privacy_pipeline.components.transform.preprocessing.preprocessing_fn"
INFERRED = "privacy_pipeline.components.transform.inferred.preprocessing_fn"
SCHEMA = """
feature { name: "colour" type: BYTES presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
feature { name: "size" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
feature { name: "words" type: BYTES }
feature { name: "weights" type: FLOAT value_count { min: 1 max: 3 } }
feature { name: "bought" type: BYTES presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
"""
PLAN = FeaturePlan(
    columns=(
        Column(name="colour", kind="categorical", dtype="bytes", domain=("red", "green")),
        Column(name="size", kind="numeric", dtype="float", minimum=0.0, maximum=10.0),
    ),
    label="bought",
    label_domain=("yes", "no"),
    label_dtype="bytes",
    positive_class="yes",
    unit_key=None,
)
MODULE = """
import tensorflow as tf
import tensorflow_transform as tft

SEEN = tf.Variable(0.0)

def scaled(inputs, custom_config):
    return {"x": tft.scale_to_0_1(inputs["size"])}

def derived(inputs, custom_config):
    return {"x": tft.scale_to_z_score(tf.math.log1p(inputs["size"]) * 2)}

def vocabulary(inputs, custom_config):
    return {"x": tft.compute_and_apply_vocabulary(inputs["colour"])}

def two(inputs, custom_config):
    return {"x": tft.scale_to_0_1(inputs["size"]), "y": tft.compute_and_apply_vocabulary(inputs["colour"])}

def label_mean(inputs, custom_config):
    positive = tf.cast(tf.equal(inputs["bought"], "yes"), tf.float32)
    return {"x": inputs["size"] - tft.mean(positive)}

def unused(inputs, custom_config):
    tft.vocabulary(inputs["colour"], vocab_filename="leak")
    return {"x": inputs["size"]}

def checked(inputs, custom_config):
    with tf.control_dependencies([tf.debugging.assert_non_negative(inputs["size"])]):
        return {"x": tf.identity(inputs["size"])}

def looked_up(inputs, custom_config):
    keys, values = tf.constant(["red", "green"]), tf.constant([0, 1], tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
    return {"x": table.lookup(inputs["colour"])}

def counted(inputs, custom_config):
    return {"x": inputs["size"] + SEEN.assign_add(tf.reduce_sum(inputs["size"]))}

def remembered(inputs, custom_config):
    with tf.init_scope():
        table = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, 0.0)
    before = table.lookup(inputs["colour"])
    with tf.control_dependencies([table.insert(inputs["colour"], before + inputs["size"])]):
        return {"x": tf.identity(before)}

def printed(inputs, custom_config):
    with tf.control_dependencies([tf.print(inputs["size"])]):
        return {"x": tf.identity(inputs["size"])}

def called(inputs, custom_config):
    return {"x": tf.numpy_function(lambda size: size, [inputs["size"]], tf.float32)}

def drawn(inputs, custom_config):
    return {"x": inputs["size"] + tf.random.normal(tf.shape(inputs["size"]))}

def drawn_without_state(inputs, custom_config):
    return {"x": inputs["size"] + tf.random.stateless_normal(tf.shape(inputs["size"]), [1, 2])}

def centred(inputs, custom_config):
    return {"x": inputs["size"] - tf.reduce_mean(inputs["size"])}

def first_row(inputs, custom_config):
    return {"x": inputs["size"] - inputs["size"][:1], "y": inputs["colour"]}

def sorted_rows(inputs, custom_config):
    return {"x": inputs["size"], "y": tf.sort(inputs["size"], axis=0)}

def ranked(inputs, custom_config):
    row = tf.range(tf.shape(inputs["size"])[0])
    return {"x": inputs["size"] + tf.cast(row[:, tf.newaxis], tf.float32)}

def dense(inputs, custom_config):
    return {"x": tf.sparse.to_dense(inputs["weights"])[:, :1]}

def filled_in(x, default):
    return tf.squeeze(tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], 1]), default), 1)

def optional(inputs, custom_config):
    return {"x": filled_in(inputs["weights"], 0.0) + 1.0, "w": filled_in(inputs["words"], "")}

def longest(inputs, custom_config):
    x = inputs["weights"]
    return {"x": tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], x.dense_shape[1]]))[:, 0]}

def of_another(inputs, custom_config):
    x, w = inputs["weights"], inputs["words"]
    return {"x": tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [w.dense_shape[0], 1]))[:, 0]}

def of_the_first(inputs, custom_config):
    x = inputs["weights"]
    values = x.values - x.values[0]
    return {"x": tf.sparse.to_dense(tf.SparseTensor(x.indices, values, [x.dense_shape[0], 1]))[:, 0]}

def of_all_weights(inputs, custom_config):
    return {"x": inputs["size"] - tf.reduce_sum(inputs["weights"].values)}

def number_of_words(inputs, custom_config):
    return {"x": inputs["size"] + tf.cast(tf.shape(inputs["words"].indices)[0], tf.float32)}

def as_it_is(inputs, custom_config):
    return {"x": inputs["size"], "words": inputs["words"]}

def bucketized(inputs, custom_config):
    return {"x": tft.apply_buckets(inputs["size"], [[1.0, 2.0]])}

def claimed(inputs, custom_config):
    table = tf.lookup.KeyValueTensorInitializer(tf.constant([0]), tf.constant([4]))
    four = tf.lookup.StaticHashTable(table, -1).lookup(tf.constant(0))
    cut = tf.ones([8])[:four]
    cut.set_shape([1])
    size = inputs["size"]
    whole = lambda: size - tf.reduce_mean(size)
    return {"x": tf.cond(tf.equal(tf.raw_ops.Shape(input=cut)[0], 1), lambda: size, whole)}

def filled(inputs, custom_config):
    colours = inputs["colour"][:, 0]
    values = tf.range(tf.shape(colours)[0])
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(colours, values), -1)
    return {"x": table.lookup(inputs["colour"])}

def constants(inputs, custom_config):
    return {"x": inputs["size"] / 10.0}
"""


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Looks at one function of MODULE, or at a dotted path."""
    name = f"preprocessing_under_test_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "schema.pbtxt").write_text(SCHEMA)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {
        "feature_plan": PLAN.model_dump_json(),
        "label": "bought",
        "positive_class": "yes",
        "unit_key": "",
    }

    def look(function: str) -> bool:
        path = function if "." in function else f"{name}.{function}"
        return keeps_rows_apart(path=path, config=config, schema_uri=str(tmp_path / "schema"))

    return look


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        ("scaled", "size"),
        ("derived", "size"),
        ("vocabulary", "colour"),
        ("two", "colour, size"),
        ("label_mean", "bought"),
        ("unused", "colour"),
        (INFERRED, "colour, size, weights, words"),
    ],
)
def test_analyzers_are_refused_with_the_columns_they_read(refuse, function: str, columns: str) -> None:
    with pytest.raises(BadInputError, match=rf"analyzes {columns}:") as caught:
        refuse(function)
    assert "publicly known" in caught.value.fix


@pytest.mark.parametrize(
    ("function", "op"),
    [
        ("counted", "AssignAddVariableOp"),
        ("remembered", "LookupTableInsertV2"),
        ("filled", "LookupTableImportV2"),
        ("printed", "PrintV2"),
        ("called", "PyFunc"),
        ("drawn", "RandomStandardNormal"),
    ],
)
def test_what_may_carry_something_to_another_row_is_refused(refuse, function: str, op: str) -> None:
    with pytest.raises(BadInputError, match=f"does more than to read its columns: .*{op}"):
        refuse(function)


@pytest.mark.parametrize("function", ["centred", "first_row", "sorted_rows"])
def test_what_a_rule_shows_to_mix_rows_is_refused(refuse, function: str) -> None:
    with pytest.raises(BadInputError, match="mixes the rows of a batch"):
        refuse(function)


@pytest.mark.parametrize("function", [FRAMEWORK, "constants", "checked", "looked_up", "optional"])
def test_what_reads_no_data_and_keeps_rows_apart_is_proven(refuse, function: str) -> None:
    assert refuse(function)


@pytest.mark.parametrize(
    "function",
    [
        "dense",
        "longest",
        "of_another",
        "of_the_first",
        "of_all_weights",
        "number_of_words",
        "as_it_is",
        "bucketized",
        "ranked",
        "drawn_without_state",
        "claimed",
    ],
)
def test_what_no_rule_covers_takes_one_row_at_a_time(refuse, function: str) -> None:
    assert not refuse(function)
