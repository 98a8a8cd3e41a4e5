"""Tables with a key column become clients; what is wrong with a table is one line with file, column and row."""

import numpy as np
import pandas as pd
import pytest

from federated.clients.splits import IidSplit
from federated.tables import clients_by_rule, clients_from_table
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError

PLAN = FeaturePlan(
    columns=(
        Column(name="age", kind="numeric", dtype="int", minimum=10, maximum=20, optional=True),
        Column(name="race", kind="categorical", dtype="int", domain=("1", "2")),
        Column(name="town", kind="categorical", dtype="bytes", domain=("a", "b"), optional=True),
    ),
    label="y",
    label_domain=("no", "yes"),
    label_dtype="bytes",
    positive_class="yes",
    unit_key="who",
)
CSV = "who,age,race,town,y\n7,15,1,a,yes\n3,,2,b,no\n7,99,3,,no\n"


def write(tmp_path, text=CSV):
    path = tmp_path / "people.csv"
    path.write_text(text)
    return path


def test_public_encoding_of_a_csv(tmp_path):
    store = clients_from_table(write(tmp_path), key="who", label="y", plan=PLAN)
    assert store.keys.tolist() == [3, 7]
    assert store.counts.tolist() == [1, 2]
    # age, age missing, race 1, race 2, town a, town b, town missing
    expected = [[0, 1, 0, 1, 0, 1, 0], [0.5, 0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(store.features["features"], expected)
    assert store.labels.tolist() == [0, 1, 0]
    assert "column 'who'" in store.origin.client_is
    assert not store.origin.synthetic


def test_a_data_frame_gives_the_same_store(tmp_path):
    frame = pd.read_csv(write(tmp_path))
    frame["who"] = frame["who"].astype(float)
    from_frame = clients_from_table(frame, key="who", label="y", plan=PLAN)
    from_file = clients_from_table(write(tmp_path), key="who", label="y", plan=PLAN)
    np.testing.assert_array_equal(from_frame.features["features"], from_file.features["features"])
    assert from_frame.keys.tolist() == from_file.keys.tolist()


@pytest.mark.parametrize("low", [0, 1_700_000_000, 20_240_101, 123_456_789_012_345_678])
def test_integers_keep_their_digits(tmp_path, low):
    columns = (
        Column(name="t", kind="numeric", dtype="int", minimum=low, maximum=low + 63, optional=True),
        Column(name="code", kind="categorical", dtype="int", domain=("1000000", "7", "0"), optional=True),
        Column(name="part", kind="categorical", dtype="float", domain=("0.1", "1000000")),
    )
    plan = PLAN.model_copy(update={"columns": columns})
    rows = [(low, 1000000, "0.1"), (low + 21, 7, "1e6"), (low + 63, "", "2"), ("", 0, "0.10")]
    text = "who,t,code,part,y\n" + "".join(f"a,{t},{code},{part},no\n" for t, code, part in rows)
    found = clients_from_table(write(tmp_path, text), key="who", label="y", plan=plan).features["features"]
    np.testing.assert_allclose(found[:, 0], [0, 1 / 3, 1, 0], rtol=1e-6)
    assert found[:, 1:].tolist() == [
        [0, 1, 0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 1, 0, 1, 0],
    ]


def test_without_a_plan_numeric_columns_stay_as_they_are(tmp_path):
    store = clients_from_table(
        write(tmp_path, "who,x,y\nb,1.5,0\na,-2,1\n"), key="who", label="y", features=["x"], name="people"
    )
    assert store.keys.tolist() == ["a", "b"]
    assert store.features["features"].tolist() == [[-2.0], [1.5]]


def test_rows_without_a_key_are_dealt_out(tmp_path):
    store = clients_by_rule(write(tmp_path), rule=IidSplit(clients=3, seed=1), label="y", plan=PLAN)
    assert store.num_clients == 3
    assert store.origin.synthetic


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CSV.replace("3,,2", ",,2"),
            r"people.csv: column 'who' \(the client's key\) is empty in row 2",
        ),
        (CSV.replace("who", "whom"), "people.csv: the client's key 'who' is missing; the columns are: whom, age"),
        (CSV.replace("race", "ras"), "people.csv: column 'race' is missing"),
        (CSV.replace("15", "old"), "people.csv: column 'age', row 1: 'old' is no whole number"),
        (CSV.replace("a,yes", "a,"), r"people.csv: column 'y' \(the label\) is empty in row 1"),
        (CSV.replace("yes", "perhaps"), "people.csv: column 'y', row 1: 'perhaps' is not in the label's public domain"),
        ("who,age,race,town,y\n", "people.csv: the table has no rows"),
        ("", "people.csv: has no header"),
        (CSV + '3,"4\n', r"people.csv:5: the quotes \(\"\) in this row are not balanced"),
    ],
)
def test_bad_tables_are_one_clear_error(tmp_path, text, message):
    with pytest.raises(BadInputError, match=message):
        clients_from_table(write(tmp_path, text), key="who", label="y", plan=PLAN)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"nobody.csv: cannot be read"):
        clients_from_table(tmp_path / "nobody.csv", key="who", label="y", plan=PLAN)
