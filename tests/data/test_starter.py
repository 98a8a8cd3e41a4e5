"""`init` writes a config and a schema that load as they are."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from privacy_pipeline.config.loader import load_config
from privacy_pipeline.data.counting.survey import require_readable
from privacy_pipeline.data.schema.schema_reader import read_feature_plan, unreviewed
from privacy_pipeline.data.source import resolve
from privacy_pipeline.data.starting.starter import write_starter
from privacy_pipeline.errors import BadInputError

ROWS = """\
id,age,weight,note,color,same,empty,outcome
1,30,0.1,a b,red,5,,yes
2,41,2.5,c,"gr""een\\",5,,no
3,,3,d,red,5,,no
"""


def written(tmp_path: Path, text: str, name: str = "My Data 1.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_config_and_schema_load(tmp_path: Path) -> None:
    csv = written(tmp_path, ROWS)
    config_path, schema_path, _ = write_starter(csv=csv, folder=tmp_path / "configs", label="outcome")
    assert config_path == tmp_path / "configs" / "my_data_1.yaml"
    config = load_config(config_path)
    assert config.dataset.positive_class == "yes"
    assert config.training.backend == "plain"
    assert resolve(dataset=config.dataset).files == {"all": (csv,)}
    assert config.dataset.schema_path == schema_path
    plan = read_feature_plan(schema_path=schema_path, label="outcome", positive_class="yes")
    columns = {column.name: column for column in plan.columns}
    assert list(columns) == ["id", "age", "weight", "note", "color"]  # constant and empty columns are ignored
    assert (columns["age"].minimum, columns["age"].maximum, columns["age"].optional) == (30, 41, True)
    assert columns["weight"].dtype == "float"
    assert columns["color"].domain == ('gr"een\\', "red")
    assert not columns["color"].optional
    assert set(unreviewed(schema_path)) == {"id", "age", "weight", "note", "color", "same", "empty", "outcome"}


@pytest.mark.parametrize("values", [("a", "b", "c"), ("3", "1", "2")], ids=["text", "whole numbers"])
def test_a_label_of_several_values_is_multiclass(tmp_path: Path, values: tuple[str, ...]) -> None:
    rows = "".join(f"{number},{value}\n" for number, value in enumerate(values))
    config_path, schema_path, _ = write_starter(
        csv=written(tmp_path, f"x,y\n{rows}"), folder=tmp_path, label="y", name="m"
    )
    config = load_config(config_path)
    assert (config.dataset.task, config.dataset.positive_class) == ("multiclass", None)
    assert set(config.evaluation.thresholds) == {"accuracy"}
    plan = read_feature_plan(schema_path=schema_path, label="y", positive_class=None)
    assert (plan.label_domain, plan.classes, plan.task) == (tuple(sorted(values)), 3, "multiclass")


@pytest.mark.parametrize(
    ("values", "dtype", "ends"),
    [(("0.5", "1", "-2"), "float", (-2.0, 1.0)), (tuple(map(str, range(7, 300))), "int", (7, 299))],
    ids=["fractions", "whole numbers"],
)
def test_a_label_of_numbers_is_predicted_as_a_number(
    tmp_path: Path, values: tuple[str, ...], dtype: str, ends: tuple[float, float]
) -> None:
    rows = "".join(f"{number},{value}\n" for number, value in enumerate(values))
    config_path, schema_path, _ = write_starter(
        csv=written(tmp_path, f"x,y\n{rows}"), folder=tmp_path, label="y", name="m"
    )
    config = load_config(config_path)
    assert (config.dataset.task, config.dataset.positive_class) == ("regression", None)
    assert set(config.evaluation.thresholds) == {"r2"}
    plan = read_feature_plan(schema_path=schema_path, label="y", positive_class=None, is_number=True)
    assert (plan.label_dtype, plan.label_range, plan.task) == (dtype, ends, "regression")
    assert (plan.label_column.kind, plan.label_column.optional) == ("numeric", False)


def test_commented_dp_block_is_valid_once_uncommented(tmp_path: Path) -> None:
    csv = written(tmp_path, "x,y\n1,0\n2,0\n3,1\n")
    config_path, _, _ = write_starter(csv=csv, folder=tmp_path, label="y", name="mine")
    text = config_path.read_text().replace("backend: plain", "backend: dp_sgd")
    for line in ("dp_sgd:", "  target_epsilon", "  delta", "  clipping_norm"):
        text = text.replace(f"  # {line}", f"  {line}")
    config_path.write_text(text)
    config = load_config(config_path)
    assert config.dataset.positive_class == 1
    assert config.training.dp_sgd is not None
    assert config.training.dp_sgd.delta < 1 / 3


def test_int_label_has_its_values_as_domain(tmp_path: Path) -> None:
    csv = written(tmp_path, "x,y\n1,0\n2,0\n3,1\n")
    _, schema_path, _ = write_starter(csv=csv, folder=tmp_path, label="y", name="mine")
    plan = read_feature_plan(schema_path=schema_path, label="y", positive_class=1)
    assert (plan.label_domain, plan.label_dtype) == (("0", "1"), "int")


def test_free_text_is_ignored(tmp_path: Path) -> None:
    lines = "".join(f"t{i},{i % 7},{'a' if i % 3 else 'b'}\n" for i in range(300))
    csv = written(tmp_path, "t,x,y\n" + lines)
    _, schema_path, _ = write_starter(csv=csv, folder=tmp_path, label="y", name="mine")
    plan = read_feature_plan(schema_path=schema_path, label="y", positive_class="b")
    assert [column.name for column in plan.columns] == ["x"]


def test_refuses_to_overwrite_unless_forced(tmp_path: Path) -> None:
    csv = written(tmp_path, "x,y\n1,a\n2,b\n")
    write_starter(csv=csv, folder=tmp_path, label="y", name="mine")
    with pytest.raises(BadInputError, match=r"mine\.yaml: exists already"):
        write_starter(csv=csv, folder=tmp_path, label="y", name="mine")
    write_starter(csv=csv, folder=tmp_path, label="y", name="mine", force=True)


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        ("x,y\n1,a\n", "y", "label 'y' has 1 distinct values; a label needs from two to 200"),
        ("x,y\n1,a\n2,\n", "y", "1 rows have no label 'y'"),
        ("x,y\n1,0.5\n2,0.5\n", "y", "label 'y' has 1 distinct values; a label needs from two to 200"),
        ("x,y\n1,0.5\n2,\n", "y", "1 rows have no label 'y'"),
        ("x,y\n1,1.5e9\n2,1500000000.25\n", "y", "label 'y': "),
        ("x,y\n1,a\n2,b\n", "z", "there is no label column 'z'"),
        ("x,y\n1,a\n2,b,c\n", "y", ":3: the row has 3 fields, the header has 2"),
        ('x,y\n1,"a\n2,b\n', "y", ':2: the quotes (") in this row are not balanced'),
        ("x,y\n1,a\n1e39,b\n", "y", ":3: column 'x': '1e39' is not a finite number"),
        ("x,x\n1,a\n", "x", "column 'x' is named twice"),
        ('"x",y\n1,a\n', "y", "is not plain"),
        ("x,y\n", "y", "has no rows"),
        ("", "y", "has no header"),
    ],
)
def test_unusable_files(tmp_path: Path, text: str, label: str, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        write_starter(csv=written(tmp_path, text), folder=tmp_path / "out", label=label)
    assert message in caught.value.message
    assert not (tmp_path / "out").exists()


def test_bad_name_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="name 'My'"):
        write_starter(csv=tmp_path / "a.csv", folder=tmp_path, label="y", name="My")
    with pytest.raises(BadInputError, match="no such file"):
        write_starter(csv=tmp_path / "a.csv", folder=tmp_path, label="y")


@pytest.mark.parametrize("name", ["a\nq: 1.csv", "a\u2028q: 1.csv", "a\x85q: 1.csv", "a\rq: 1\x01.csv", 'a"b\\c #.csv'])
def test_a_name_that_would_end_a_comment_loads(tmp_path: Path, name: str) -> None:
    csv = written(tmp_path, ROWS, name)
    config_path, schema_path, _ = write_starter(csv=csv, folder=tmp_path / "to\n: 1", label="outcome")
    config = load_config(config_path)
    assert resolve(dataset=config.dataset).files == {"all": (csv,)}
    assert read_feature_plan(schema_path=schema_path, label="outcome", positive_class="yes").columns


@pytest.mark.parametrize("odd", ["csv", "folder"])
def test_a_path_that_no_config_can_hold_is_refused(tmp_path: Path, odd: str) -> None:
    name = os.fsdecode(b"a\xff")
    csv = written(tmp_path, ROWS, f"{name}.csv" if odd == "csv" else "a.csv")
    with pytest.raises(BadInputError, match=r"a\\udcff.*: a name in this path is not UTF-8"):
        write_starter(csv=csv, folder=tmp_path / (name if odd == "folder" else "to"), label="outcome")
    assert list(tmp_path.iterdir()) == [csv]


def test_numbers_that_32_bits_do_not_tell_apart_are_left_out_and_said(tmp_path: Path) -> None:
    """pandas writes whole numbers with `.0` where a cell is empty; ExampleGen would make one number of all of these."""
    csv = tmp_path / "times.csv"
    rows = "".join(f"{1_700_000_000 + n}.0,{n % 7}.5,{int(n >= 32)}\n" for n in range(64))
    csv.write_text("seen,near,late\n" + rows)
    started = write_starter(csv=csv, folder=tmp_path, label="late", name="mine")
    (note,) = started.notes
    assert note.startswith("column 'seen' is left out: numbers near 1.70000006e+09 with 32 bits are 128 apart")
    text = started.schema.read_text()
    assert "# Left out: numbers near 1.70000006e+09" in text and "All rows have the same value" not in text
    plan = read_feature_plan(schema_path=started.schema, label="late", positive_class=1)
    assert [column.name for column in plan.columns] == ["near"]


def test_a_range_is_that_of_the_texts_and_not_of_32_bits(tmp_path: Path) -> None:
    csv = tmp_path / "times.csv"
    csv.write_text("seen,late\n" + "".join(f"{1_700_000_000 + 3_000 * n}.25,{n % 2}\n" for n in range(64)))
    started = write_starter(csv=csv, folder=tmp_path, label="late", name="mine")
    assert "min: 1700000000.25 max: 1700189000.25" in started.schema.read_text()


def test_a_run_without_a_schema_is_refused_where_32_bits_lose_the_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{1_700_000_000 + n}.0,{int(n >= 32)}\n" for n in range(64))
    for split in ("train", "eval"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "rows.csv").write_text("seen,late\n" + rows)
    files = {split: (tmp_path / split / "rows.csv",) for split in ("train", "eval")}
    with pytest.raises(BadInputError, match="column 'seen': numbers near"):
        require_readable(source=SimpleNamespace(files=files), dataset=SimpleNamespace(format="csv", path=tmp_path))
    (tmp_path / "eval" / "rows.csv").write_text("seen,late\n0.5,1\n")  # as one range, they are far apart
    require_readable(source=SimpleNamespace(files=files), dataset=SimpleNamespace(format="csv", path=tmp_path))


def test_what_cannot_be_seen_is_spelled_out_in_the_schema(tmp_path: Path) -> None:
    """The user is asked to review it, in an editor that may show it in another order, or on another line."""
    csv = written(tmp_path, "x\u202e,y\n1,a\u2028b\n2,\u00fc\x7f\n")
    _, schema_path, _ = write_starter(csv=csv, folder=tmp_path, label="y", name="mine")
    text = schema_path.read_text()
    assert not {"\u202e", "\u2028", "\x7f"} & set(text) and "\u00fc" in text
    plan = read_feature_plan(schema_path=schema_path, label="y", positive_class="a\u2028b")
    assert [column.name for column in plan.columns] == ["x\u202e"] and "\u00fc\x7f" in plan.label_domain
