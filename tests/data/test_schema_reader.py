"""Schemas become feature plans, or errors that name the feature."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.data.schema.schema_reader import read_feature_plan, unreviewed
from privacy_pipeline.errors import BadInputError

pytest.importorskip("tensorflow_metadata")

SCHEMA = """
string_domain { name: "yn" value: "no" value: "yes" }
feature { name: "age" type: INT presence { min_fraction: 1 } int_domain { min: 0 max: 120 } }
feature { name: "w" type: FLOAT float_domain { min: 0 max: 0.5 } annotation { tag: "unreviewed" } }
feature { name: "site" type: INT int_domain { min: 2 max: 4 is_categorical: true } }
feature { name: "c" type: BYTES string_domain { value: "a" value: "b" } }
feature { name: "note" type: BYTES annotation { tag: "ignore" } }
feature { name: "person" type: INT }
feature { name: "y" type: BYTES domain: "yn" }
"""


def read(tmp_path: Path, text: str, **changes: object) -> FeaturePlan:
    path = tmp_path / "s.pbtxt"
    path.write_text(text)
    arguments: dict[str, object] = {"label": "y", "positive_class": "yes", "unit_key": "person", **changes}
    return read_feature_plan(schema_path=path, **arguments)  # type: ignore[arg-type]


def test_plan(tmp_path: Path) -> None:
    plan = read(tmp_path, SCHEMA)
    age, weight, site, category = plan.columns
    assert (age.kind, age.dtype, age.minimum, age.maximum, age.optional) == ("numeric", "int", 0, 120, False)
    assert (weight.kind, weight.dtype, weight.maximum, weight.optional) == ("numeric", "float", 0.5, True)
    assert (site.kind, site.dtype, site.domain) == ("categorical", "int", ("2", "3", "4"))
    assert (category.kind, category.dtype, category.domain) == ("categorical", "bytes", ("a", "b"))
    assert (plan.label, plan.label_domain, plan.positive_class) == ("y", ("no", "yes"), "yes")
    assert (plan.unit_key, plan.unit_key_dtype) == ("person", "int")
    assert FeaturePlan.model_validate_json(plan.model_dump_json()) == plan
    assert unreviewed(tmp_path / "s.pbtxt") == ["w"]


NOTHING = {
    "age": " int_domain { min: 0 max: 120 }",
    "site": " min: 2 max: 4",
    "c": ' string_domain { value: "a" value: "b" }',
}


def without(*names: str) -> str:
    text = SCHEMA
    for name in names:
        assert NOTHING[name] in text
        text = text.replace(NOTHING[name], "")
    return text


def test_what_dp_statistics_will_find_may_be_left_out(tmp_path: Path) -> None:
    whole = read(tmp_path, SCHEMA, may_be_unknown=True)
    assert whole == read(tmp_path, SCHEMA) and whole.unknown == ()
    plan = read(tmp_path, without(*NOTHING), may_be_unknown=True)
    assert plan.unknown == ("age", "site", "c")
    assert [(c.kind, c.dtype) for c in plan.columns] == [(c.kind, c.dtype) for c in whole.columns]
    assert plan.columns[1] == whole.columns[1]  # what is public stays


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_left_out_without_them_is_refused_and_the_block_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match=f"feature '{name}'") as caught:
        read(tmp_path, without(name))
    assert "preprocessing: {dp:" in caught.value.fix


@pytest.mark.parametrize(
    ("old", "new"),
    [("min: 0 max: 120", "min: 0"), ('value: "a" value: "b"', ""), ("min: 0 max: 120", "min: 9 max: 9")],
    ids=["half a range", "an empty domain", "an empty range"],
)
def test_what_is_half_there_is_a_mistake_with_them_too(tmp_path: Path, old: str, new: str) -> None:
    assert old in SCHEMA
    with pytest.raises(BadInputError, match=r"feature '(age|c)'"):
        read(tmp_path, SCHEMA.replace(old, new), may_be_unknown=True)


def test_the_label_needs_its_domain_always(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="feature 'y'"):
        read(tmp_path, SCHEMA.replace(' domain: "yn"', ""), may_be_unknown=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" int_domain { min: 0 max: 120 }", "", "feature 'age': a numeric feature needs a public range"),
        ("min: 0 max: 120", "min: 0", "feature 'age': a numeric feature needs a public range"),
        ("min: 0 max: 0.5", "max: 0.5", "feature 'w': a numeric feature needs a public range"),
        ("min: 0 max: 120", "min: 9 max: 9", "feature 'age': min 9 is not below max 9"),
        (' string_domain { value: "a" value: "b" }', "", "feature 'c': a BYTES feature needs a domain"),
        ('value: "a" value: "b"', 'value: "a" value: "a"', "feature 'c': 'a' is twice in the domain"),
        ('domain: "yn" }', 'domain: "ny" }', "feature 'y': there is no string_domain named 'ny'"),
        ('"c"', '"age"', "feature 'age': is described twice"),
        ('"c"', '"label"', "feature 'label': this name is reserved"),
        ("min: 2 max: 4", "min: 2 max: 400000", "feature 'site': 399999 categories are too many"),
        ("type: FLOAT", "type: STRUCT", "feature 'w': type STRUCT is not supported"),
        ('"person" type: INT', '"person" type: FLOAT', "feature 'person': the key of the privacy unit cannot be FLOAT"),
        ('name: "person"', 'name: "people"', "dataset.privacy_unit.key 'person' is not in the schema"),
        ('name: "y"', 'name: "z"', "dataset.label 'y' is not in the schema"),
        ('value: "no" value: "yes"', 'value: "yes"', "feature 'y': the label's domain needs at least two values"),
        ('name: "c"', 'nam: "c"', 's.pbtxt:6: Message type "tensorflow.metadata.v0.Feature" has no field named "nam"'),
        ("presence { min_fraction: 1 }", "value_count { max: 3 }", "feature 'age': a row may hold one value only"),
    ],
)
def test_mistakes_name_the_feature(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SCHEMA
    with pytest.raises(BadInputError) as caught:
        read(tmp_path, SCHEMA.replace(old, new, 1))
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_positive_class_must_be_in_the_domain(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"'maybe' \(dataset.positive_class\) is not in the domain: no, yes"):
        read(tmp_path, SCHEMA, positive_class="maybe")


def test_integer_label(tmp_path: Path) -> None:
    text = SCHEMA.replace('"y" type: BYTES domain: "yn"', '"y" type: INT int_domain { min: 0 max: 1 }')
    plan = read(tmp_path, text, positive_class=1)
    assert (plan.label_domain, plan.label_dtype, plan.positive_class) == (("0", "1"), "int", "1")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        unreviewed(tmp_path / "none.pbtxt")
    with pytest.raises(BadInputError, match="cannot be read"):
        unreviewed(tmp_path)
    (tmp_path / "s").write_bytes(b"\xff")
    with pytest.raises(BadInputError, match="not a UTF-8 text file"):
        unreviewed(tmp_path / "s")


def test_unit_key_and_ignored_features_may_lack_a_domain(tmp_path: Path) -> None:
    names = [column.name for column in read(tmp_path, SCHEMA).columns]
    assert names == ["age", "w", "site", "c"]


@pytest.mark.parametrize(
    ("low", "high", "refused"),
    [
        ("1700000000", "1700000600", True),  # ten minutes, in seconds since 1970: six numbers of 32 bits
        ("-1700000600", "-1700000000", True),
        ("20240101", "20241231", True),
        ("16777216", "16777300", True),
        ("0", "1700000600", False),
        ("1600000000", "1700000000", False),  # three years
        ("0", "1e-30", False),
        ("-0.5", "0.5", False),
        ("1e20", "2e20", False),
    ],
)
def test_a_range_that_32_bits_do_not_divide_is_refused(tmp_path: Path, low: str, high: str, refused: bool) -> None:
    text = SCHEMA.replace("float_domain { min: 0 max: 0.5 }", f"float_domain {{ min: {low} max: {high} }}")
    if not refused:
        assert read(tmp_path, text).columns[1].kind == "numeric"
        return
    with pytest.raises(BadInputError, match=r"feature 'w': numbers near .* with 32 bits are .* apart") as caught:
        read(tmp_path, text)
    assert "INT" in caught.value.fix


NUMBER = """
feature { name: "x" type: INT int_domain { min: 0 max: 9 } }
feature { name: "f" type: FLOAT float_domain { min: -2.5 max: 7 } }
feature { name: "i" type: INT int_domain { min: 1500000000 max: 1600000000 } }
feature { name: "b" type: BYTES string_domain { value: "a" value: "b" } }
feature { name: "bare" type: FLOAT }
"""
OF_A_NUMBER = {"positive_class": None, "unit_key": None, "is_number": True}


def test_a_number_to_predict_has_a_range_and_no_classes(tmp_path: Path) -> None:
    schema = NUMBER.replace('feature { name: "bare" type: FLOAT }\n', "")
    for label, dtype, ends in (("f", "float", (-2.5, 7.0)), ("i", "int", (1_500_000_000, 1_600_000_000))):
        plan = read(tmp_path, schema, label=label, **OF_A_NUMBER)
        assert (plan.task, plan.label_dtype, plan.label_range, plan.label_domain) == ("regression", dtype, ends, ())
        assert label not in [column.name for column in plan.columns]
        assert FeaturePlan.model_validate_json(plan.model_dump_json()) == plan
        assert plan.answers != plan.model_copy(update={"label_range": (0, 1)}).answers != ""


@pytest.mark.parametrize(
    ("label", "is_number", "message", "fix"),
    [
        ("b", True, "feature 'b': the label of a regression cannot be BYTES", "write it as INT or FLOAT"),
        ("bare", True, "feature 'bare': a numeric feature needs a public range", "add float_domain"),
        (
            "f",
            False,
            "feature 'f': the label of classes cannot be FLOAT",
            "to predict the number, write `task:",
        ),
        ("i", False, "feature 'i': 100000001 categories are too many", "to predict the number, write `task:"),
    ],
)
def test_a_label_that_does_not_fit_its_task_is_refused(
    tmp_path: Path, label: str, is_number: bool, message: str, fix: str
) -> None:
    with pytest.raises(BadInputError) as raised:
        read(tmp_path, NUMBER, label=label, **{**OF_A_NUMBER, "is_number": is_number})
    assert message in raised.value.message and raised.value.fix.startswith(fix)
    assert "ignore" not in raised.value.fix  # a label that is left out of the model helps nobody


def test_a_plan_of_classes_is_written_as_before_there_were_numbers(tmp_path: Path) -> None:
    assert "label_range" not in read(tmp_path, SCHEMA).model_dump_json()
