"""A private run's preprocessing must not read the data to set itself up."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.components.transform.executor import refuse_analyzers
from privacy_pipeline.data.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError

FRAMEWORK = "privacy_pipeline.components.transform.preprocessing.preprocessing_fn"
INFERRED = "privacy_pipeline.components.transform.inferred.preprocessing_fn"
SCHEMA = """
feature { name: "colour" type: BYTES presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
feature { name: "size" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
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

    def look(function: str) -> None:
        path = function if "." in function else f"{name}.{function}"
        refuse_analyzers(path=path, config=config, schema_uri=str(tmp_path / "schema"))

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
        (INFERRED, "colour, size"),
    ],
)
def test_analyzers_are_refused_with_the_columns_they_read(refuse, function: str, columns: str) -> None:
    with pytest.raises(BadInputError, match=rf"analyzes {columns}:") as caught:
        refuse(function)
    assert "publicly known" in caught.value.fix


@pytest.mark.parametrize("function", [FRAMEWORK, "constants", "checked", "looked_up"])
def test_what_reads_no_data_is_accepted(refuse, function: str) -> None:
    refuse(function)
