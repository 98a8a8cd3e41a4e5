"""The framework's preprocessing: bounded, from the plan alone, and tolerant of missing values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.components.transform.exact_log import log1p
from privacy_pipeline.components.transform.preprocessing import encode, label_of, preprocessing_fn
from privacy_pipeline.data.schema.encoded import BUCKETS, FEATURES, range_of, width_of
from privacy_pipeline.data.schema.features import Column, FeaturePlan

COLOUR = Column(name="colour", kind="categorical", dtype="bytes", domain=("red", "green"))
LEVEL = Column(name="level", kind="categorical", dtype="int", domain=("1", "2", "3"), optional=True)
GAIN = Column(name="gain", kind="numeric", dtype="int", minimum=0, maximum=1000)
SIZE = Column(name="size", kind="numeric", dtype="float", minimum=-1.0, maximum=1.0, optional=True)


def sparse(values: list[Any], dtype: Any) -> tf.SparseTensor:
    """A column as VarLenFeature parses it: None is missing."""
    present = [(row, value) for row, value in enumerate(values) if value is not None]
    return tf.SparseTensor(
        indices=np.array([[row, 0] for row, _ in present], np.int64).reshape(-1, 2),
        values=tf.constant([value for _, value in present], dtype),
        dense_shape=[len(values), 1 if present else 0],
    )


def test_categories_are_one_hot_and_unknown_ones_are_zero() -> None:
    coded = encode(COLOUR, tf.constant([b"green", b"red", b"mauve", b""]))
    np.testing.assert_array_equal(coded, [[0, 1], [1, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_integer_categories_and_both_dense_shapes(shape: tuple[int, ...]) -> None:
    coded = encode(LEVEL, tf.constant([3, 1, 7], tf.int64, shape=shape))
    np.testing.assert_array_equal(coded, [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def test_float_categories_match_how_the_domain_spells_them() -> None:
    column = Column(name="x", kind="categorical", dtype="float", domain=("1", "0.5"))
    np.testing.assert_array_equal(encode(column, tf.constant([1.0, 0.5, np.nan])), [[1, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("column", "values", "dtype"),
    [(LEVEL, [None, 2], tf.int64), (SIZE, [None, 0.5], tf.float32), (LEVEL, [None, None], tf.int64)],
)
def test_a_missing_optional_value_is_all_zero_but_for_its_flag(column: Column, values: list[Any], dtype: Any) -> None:
    coded = encode(column, sparse(values, dtype)).numpy()
    assert coded.shape == (2, width_of(column))
    assert coded[0, -1] == 1 and not coded[0, :-1].any()
    assert coded[1, -1] == (values[1] is None)


def test_numbers_are_scaled_by_the_public_range_and_clipped_to_it() -> None:
    coded = encode(GAIN, tf.constant([0, 1000, 500, 10**9, -5], tf.int64)).numpy()
    np.testing.assert_allclose(coded[:, 0], [0, 1, 0.5, 1, 0])
    np.testing.assert_allclose(coded[:, 1 + BUCKETS], np.log1p([0, 1000, 500, 1000, 0]) / np.log1p(1000), atol=1e-6)
    one_hots = coded[:, [i for i in range(2 + 2 * BUCKETS) if i not in (0, 1 + BUCKETS)]]
    np.testing.assert_array_equal(one_hots.sum(axis=1), np.full(5, 2))
    assert coded.min() >= 0 and coded.max() <= 1


@pytest.mark.parametrize(
    "column",
    [
        COLOUR, LEVEL, GAIN, SIZE,
        Column(name="x", kind="numeric", dtype="float"),
        Column(name="x", kind="numeric", dtype="float", optional=True),
        Column(name="x", kind="numeric", dtype="int"),
        Column(name="x", kind="numeric", dtype="float", minimum=-1e-30, maximum=3e38),
        Column(name="x", kind="numeric", dtype="float", minimum=0.0, maximum=0.0),
        Column(name="x", kind="numeric", dtype="int", minimum=-(2**63) + 1, maximum=2**63 - 1),
        Column(name="x", kind="numeric", dtype="float", minimum=0.1, maximum=0.7),
    ],
)  # fmt: skip
def test_features_stay_within_the_ranges_that_private_predictions_are_proven_for(column: Column) -> None:
    """Also of values that no schema allows: the client is never refused for what the framework makes."""
    random = np.random.default_rng(0)
    if column.dtype == "bytes":
        values = tf.constant(["red", "green", "", "other"])
    elif column.dtype == "int":
        edges = [0, 1, -1, 2**63 - 1, -(2**63), column.minimum or 0, column.maximum or 0]
        values = tf.constant([*edges, *random.integers(-(2**62), 2**62, 200)], tf.int64)
    else:
        edges = [0.0, -0.0, np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, column.minimum or 0, column.maximum or 0]
        spread = random.uniform(column.minimum or -9, column.maximum or 9, 500)
        values = tf.constant(
            [*edges, *spread, *random.normal(size=200) * 10 ** random.uniform(-40, 38, 200)], tf.float32
        )
    lower, upper = range_of([column])
    coded = encode(column, values).numpy()
    assert len(lower) == len(upper) == coded.shape[1]
    assert (np.array(lower) <= coded).all() and (coded <= np.array(upper)).all()


@pytest.mark.parametrize(
    "low",
    [0, 1_700_000_000, 20_240_101, 10**12, 2**53 + 1, 123_456_789_012_345_678, -(10**18), 2**63 - 64, -(2**63) + 1],
)
def test_integers_keep_the_digits_in_which_they_differ(low: int) -> None:
    stamps = list(range(low, low + 64))
    column = Column(name="t", kind="numeric", dtype="int", minimum=low, maximum=low + 63)
    again = Column.model_validate_json(column.model_dump_json())
    control = Column(name="t", kind="numeric", dtype="int", minimum=0, maximum=63)
    coded = encode(again, tf.constant(stamps, tf.int64)).numpy()
    np.testing.assert_array_equal(coded, encode(control, tf.range(64, dtype=tf.int64)).numpy())
    assert len(np.unique(coded[:, 0])) == 64
    np.testing.assert_array_equal(coded[:, 0], (np.arange(64) / 63).astype(np.float32))


def test_integers_over_the_whole_of_int64_and_ranges_of_floats_are_bounded() -> None:
    whole = Column(name="t", kind="numeric", dtype="int", minimum=-(2**63), maximum=2**63 - 1)
    ends = encode(whole, tf.constant([-(2**63) + 1, 0, 2**63 - 1], tf.int64)).numpy()
    np.testing.assert_allclose(ends[:, 0], [0, 0.5, 1], atol=1e-7)
    released = Column(name="t", kind="numeric", dtype="int", minimum=0.5, maximum=2.5)
    np.testing.assert_allclose(encode(released, tf.constant([0, 1, 2, 3], tf.int64)).numpy()[:, 0], [0, 0.25, 0.75, 1])


def test_nan_and_infinity_stay_bounded() -> None:
    coded = encode(SIZE, tf.constant([np.nan, np.inf, -np.inf])).numpy()
    assert np.isfinite(coded).all() and coded[0, :-1].sum() == 0 and coded[0, -1] == 1
    assert coded[1, 0] == 1 and coded[2, 0] == 0


def test_a_range_of_one_point_and_no_range_at_all() -> None:
    point = Column(name="x", kind="numeric", dtype="float", minimum=3, maximum=3)
    free = Column(name="x", kind="numeric", dtype="float")
    assert np.isfinite(encode(point, tf.constant([3.0])).numpy()).all()
    np.testing.assert_allclose(encode(free, tf.constant([0.0, -9.0])), [[0], [-np.log(10)]], rtol=1e-6)


def test_a_row_has_the_same_features_in_any_place_among_any_rows() -> None:
    """tf.math.log1p rounds otherwise in the tail of a batch, and a bucket makes a whole one of the difference."""
    free = Column(name="free", kind="numeric", dtype="float")
    wide = Column(name="wide", kind="numeric", dtype="float", minimum=0, maximum=1e5)
    columns = (free, wide, SIZE)
    encoded = tf.function(
        lambda values: tf.concat([encode(column, values) for column in columns], axis=1),
        input_signature=[tf.TensorSpec([None], tf.float32)],
    )
    random = np.random.default_rng(0)
    told = 0
    for value in (10.0 ** random.uniform(0, 5, 40)).astype(np.float32):
        told += len(np.unique(tf.math.log1p(tf.fill([4095], value)))) > 1
        alone = encoded(tf.constant([value])).numpy()
        for rows, place in ((2, 1), (9, 0), (17, 7), (17, 16), (4096, 5), (4095, 4094)):
            beside = (10.0 ** random.uniform(-5, 5, rows)).astype(np.float32)
            beside[place] = value
            assert encoded(tf.constant(beside)).numpy()[place].tobytes() == alone.tobytes()
    assert told, "no row tells of its place: this test shows nothing on this machine"


def test_the_logarithm_is_right_to_a_bit() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([10.0 ** random.uniform(-36, 38, 20000), [0.0, 1.0, 3.4e38]]).astype(np.float32)
    np.testing.assert_allclose(log1p(tf.constant(values)), np.log1p(values.astype(np.float64)), rtol=6.1e-8)
    assert np.isfinite(log1p(tf.constant([np.inf]))).all() and np.isnan(log1p(tf.constant([np.nan]))).all()


@pytest.mark.parametrize(
    ("dtype", "domain", "positive", "raw", "labels"),
    [
        ("bytes", ("yes", "no"), "yes", tf.constant([b"yes", b"no", b"maybe", b""]), [1, 0, -1, -1]),
        ("int", ("0", "1"), "1", tf.constant([1, 0, 7, -(2**63)], tf.int64), [1, 0, -1, -1]),
        ("float", (), "1", tf.constant([1.0, 0.0, 2.0, np.nan]), [1, 0, 0, -1]),
    ],
)
def test_labels(dtype: Any, domain: tuple[str, ...], positive: str, raw: Any, labels: list[int]) -> None:
    plan = FeaturePlan(
        columns=(COLOUR,), label="y", label_domain=domain, label_dtype=dtype, positive_class=positive, unit_key=None
    )
    inputs = {"colour": tf.constant([b"red"] * 4), "y": raw}
    outputs = preprocessing_fn(inputs, {"feature_plan": plan.model_dump_json()})
    assert outputs["label"].dtype == tf.int64
    np.testing.assert_array_equal(outputs["label"], np.array(labels)[:, None])


def test_the_unit_key_passes_through_beside_the_features() -> None:
    plan = FeaturePlan(
        columns=(COLOUR, GAIN),
        label="y",
        label_domain=("a", "b"),
        label_dtype="bytes",
        positive_class="a",
        unit_key="person",
        unit_key_dtype="int",
    )
    columns = {"colour": tf.constant([b"red"]), "gain": tf.constant([5], tf.int64), "ignored": tf.constant([1.0])}
    config = {"feature_plan": plan.model_dump_json()}
    assert set(preprocessing_fn(columns, config)) == {FEATURES}  # as when serving
    outputs = preprocessing_fn({**columns, "y": tf.constant([b"a"]), "person": tf.constant([42], tf.int64)}, config)
    assert set(outputs) == {FEATURES, "label", "privacy_unit_key"}
    np.testing.assert_array_equal(outputs["privacy_unit_key"], [[42]])
    assert outputs[FEATURES].shape == (1, width_of(COLOUR) + width_of(GAIN))


@pytest.mark.parametrize("silo", ["colour", "site"])
def test_the_silo_passes_through_whether_or_not_the_model_sees_it(silo: str) -> None:
    plan = FeaturePlan(
        columns=(COLOUR,),
        label="y",
        label_domain=("a", "b"),
        label_dtype="bytes",
        positive_class="a",
        unit_key=None,
        silo=silo,
    )
    columns = {"colour": tf.constant([b"red"]), "site": tf.constant([3], tf.int64), "y": tf.constant([b"a"])}
    outputs = preprocessing_fn(columns, {"feature_plan": plan.model_dump_json()})
    assert set(outputs) == {FEATURES, "label", "silo_name"}
    np.testing.assert_array_equal(outputs["silo_name"], [[b"red"]] if silo == "colour" else [[3]])
    del columns["site"]
    assert (silo == "colour") == ("silo_name" in preprocessing_fn(columns, {"feature_plan": plan.model_dump_json()}))


@pytest.mark.parametrize("listed", [True, False])
def test_whole_labels_beyond_the_digits_of_float64_are_told_apart(listed: bool) -> None:
    low = 2**53
    plan = FeaturePlan(
        columns=(COLOUR,),
        label="y",
        label_domain=(str(low), str(low + 1)) if listed else (),
        label_dtype="int",
        positive_class=str(low + 1),
        unit_key=None,
    )
    found = label_of(plan, tf.constant([low, low + 1, low + 2], tf.int64)).numpy()
    assert found.tolist() == [0, 1, -1 if listed else 0]


def _of_a_number(dtype: str, minimum: float, maximum: float) -> FeaturePlan:
    return FeaturePlan(
        columns=(COLOUR,),
        label="y",
        label_domain=(),
        label_dtype=dtype,  # type: ignore[arg-type]
        positive_class=None,
        unit_key=None,
        label_range=(minimum, maximum),
    )


def test_a_number_becomes_its_place_in_the_range_and_one_outside_is_not_a_number() -> None:
    plan = _of_a_number("float", -2.0, 6.0)
    found = label_of(plan, tf.constant([-2.0, 6.0, 0.0, 6.5, -2.5, np.nan, np.inf]))
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, np.array([0, 1, 0.25, np.nan, np.nan, np.nan, np.nan], np.float32))
    missing = label_of(plan, sparse([None, 2.0], tf.float32))
    np.testing.assert_array_equal(missing, np.array([np.nan, 0.5], np.float32))
    outputs = preprocessing_fn(
        {"colour": tf.constant([b"red"]), "y": tf.constant([2.0])}, {"feature_plan": plan.model_dump_json()}
    )
    assert outputs["label"].shape == (1, 1) and float(outputs["label"][0, 0]) == 0.5


def test_whole_numbers_are_subtracted_before_they_are_rounded() -> None:
    low = 1_700_000_000_000_000_000  # nanoseconds since 1970, whose float64 has steps of 256
    plan = _of_a_number("int", low, low + 1000)
    found = label_of(plan, tf.constant([low, low + 1, low + 500, low + 1000, low + 1001, -(2**63)], tf.int64))
    np.testing.assert_allclose(found, [0, 0.001, 0.5, 1, np.nan, np.nan], rtol=1e-6)


def test_the_ends_of_a_range_that_float32_rounds_are_inside() -> None:
    for low, high in ((0.1, 0.7), (-0.7, 0.3), (1e-3, 16777217.0)):
        found = label_of(_of_a_number("float", low, high), tf.constant([low, high], tf.float32)).numpy()
        assert found.min() >= 0 and found.max() <= 1 and found[0] < found[1]
