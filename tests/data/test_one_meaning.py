"""Each command reads a CSV file as `tests.data.meaning` says that it is read."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from federated.tables import clients_from_table
from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data import source
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.reading import csv_table
from privacy_pipeline.data.schema.encoder import is_missing, spelled
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.data.starting.profile import profile_csv
from privacy_pipeline.encrypted.client import rows as client_rows
from privacy_pipeline.errors import BadInputError
from tests.data import meaning
from tests.data.meaning import Meaning, RefusedError
from tests.data.samples import dataset

NAMES = ("person", "load", "hours", "kind", "late")
TEXTS = ("red", " red", "Red", "1000000", "grün", "a,b", 'say ""hi""', "two\nlines", "nan", "NaN", "-", "'", "\u00a0")
KEYS = {
    "texts": ("p1", "p1 ", " p1", "P1", "007", "7", "ann", "Zoë"),
    "integers": ("7", "007", " 7", "+7", "8", "-0", "0", "9223372036854775807", "1_0"),
    "huge": ("9223372036854775808", "7", "07", "12345678901234567890"),
}
LOADS = ("0.5", "1", "1e1", "NaN", "nan", "", ".5", " 2.5", "3.", "1_0.5", "16777217")
HOURS = ("3", "003", " 3", "+4", "", "99", "-0")
ODD_LOADS, ODD_HOURS = ("inf", "1e39", "x", "99999999999999999999"), ("3.0", "NaN", "x", "99999999999999999999")


def content_of(seed: int) -> bytes:
    """A generated file: mostly one that can be read, with something odd in it."""
    drawn = random.Random(seed)
    keys = KEYS[drawn.choice(list(KEYS))]
    odd = drawn.random() < 0.3
    end = drawn.choice(["\n", "\n", "\r\n"])

    def quoted(cell: str) -> str:
        doubled = cell.replace('""', '"').replace('"', '""')
        must = any(letter in cell for letter in ',"\n')
        return f'"{doubled}"' if must or drawn.random() < 0.1 else cell

    lines = [",".join(NAMES)]
    for _ in range(drawn.randint(1, 12)):
        load = drawn.choice(ODD_LOADS if odd and drawn.random() < 0.1 else LOADS)
        hours = drawn.choice(ODD_HOURS if odd and drawn.random() < 0.1 else HOURS)
        row = [drawn.choice(keys), load, hours, drawn.choice(TEXTS), drawn.choice(["yes", "no"])]
        lines.append(",".join(map(quoted, row)))
        if drawn.random() < 0.1:
            lines.append("")
    if odd and drawn.random() < 0.5:
        broken = [
            'a,b"c,3,red,no',
            "1,2",
            'x"y,1,3,"z,no',
            "a\0,1,3,red,no",
            ",1,3,red,no",
            "1\r2,1,3,red,no",
            "7,1,3,,no",
        ]
        lines.insert(drawn.randint(1, len(lines)), drawn.choice(broken))
    body = end.join(lines).encode() + drawn.choice([b"", end.encode()])
    if odd and drawn.random() < 0.1:
        body = drawn.choice([b"\xef\xbb\xbf" + body, gzip.compress(body), body.replace(b"red", b"r\xe9d"), b""])
    return body


def plan_of(found: Meaning) -> FeaturePlan:
    """A schema that the file keeps, as far as one can be written."""
    kinds = tuple(sorted({cell for cell in found.column("kind") if cell}))
    return FeaturePlan(
        columns=(
            Column(name="load", kind="numeric", dtype="float", minimum=0, maximum=2**25, optional=True),
            Column(name="hours", kind="categorical", dtype="int", domain=("3", "4", "99", "0"), optional=True),
            Column(name="kind", kind="categorical", dtype="bytes", domain=(*kinds, "never"), optional=True),
        ),
        label="late",
        label_domain=("no", "yes"),
        label_dtype="bytes",
        positive_class="yes",
        unit_key="person",
        unit_key_dtype="int" if found.kind("person") == "int" else "bytes",
    )


def allowed(found: Meaning) -> bool:
    """Whether a run with `plan_of` would take the rows."""
    if not found.rows or found.missing("person") or found.missing("late"):
        return False
    if any(not np.isfinite(value) for value in found.values("load") if isinstance(value, float)):
        return False
    return (
        found.kind("load") in ("empty", "float")
        and found.kind("hours") in ("empty", "int")
        and found.kind("kind") in ("empty", "bytes")
        and found.kind("person") in ("int", "bytes")
    )


def cells_of(file: Path) -> list[list[str]]:
    return [
        list(row)
        for cells in csv_table.batches(file=file)
        for row in zip(*(column.to_pylist() for column in cells.columns), strict=True)
    ]


def agreed(file: Path, content: bytes) -> bool:
    """Holds each reader against the meaning; whether the file could be read."""
    file.write_bytes(content)
    try:
        found = meaning.read(content)
    except RefusedError:
        found = None
    if found is None or found.names != list(NAMES):
        for reader in (lambda: cells_of(file) if found is None else refuse(), lambda: profile_csv(csv_path=file)):
            with pytest.raises(BadInputError) as caught:
                reader()
            one_line(caught.value)
        return False
    assert cells_of(file) == found.rows
    init(file, found)
    if allowed(found):
        survey_and_registration(file, found)
        experiment(file, found)
        prediction(file, found)
        return True
    section = section_of(file)
    with pytest.raises(BadInputError) as caught:
        if not source.survey(source=source.resolve(dataset=section), dataset=section, features=plan_of(found)).rows[
            "all"
        ]:
            refuse()
    one_line(caught.value)
    return False


def section_of(file: Path) -> DatasetConfig:
    unit = {"key": "person", "contribution_bound": 100}
    return dataset(
        file.parent,
        input=file.name,
        hash_split={"train": 1, "eval": 1},
        label="late",
        positive_class="yes",
        privacy_unit=unit,
    )


def refuse() -> None:
    raise BadInputError("refused by the caller")


def one_line(error: BadInputError) -> None:
    assert "\n" not in error.message and len(error.message) < 500


def init(file: Path, found: Meaning) -> None:
    if not found.rows:
        with pytest.raises(BadInputError, match="has no rows"):
            profile_csv(csv_path=file)
        return
    for name in NAMES:
        if found.kind(name) == "float" and any(np.isinf(v) for v in found.values(name) if isinstance(v, float)):
            with pytest.raises(BadInputError, match="is not a finite number"):
                profile_csv(csv_path=file)
            return
    profile = profile_csv(csv_path=file)
    assert profile.rows == len(found.rows)
    for column in profile.columns:
        values = [value for value in found.values(column.name) if value is not None]
        kind = found.kind(column.name)
        assert column.kind == (kind if values else "empty")
        assert column.missing == found.missing(column.name)
        if kind in ("int", "bytes"):
            assert column.values == Counter(map(str, values))
        if values and kind in ("int", "float"):
            assert (np.float32(column.low), np.float32(column.high)) == (
                np.float32(min(values)),
                np.float32(max(values)),
            )


def survey_and_registration(file: Path, found: Meaning) -> None:
    section = section_of(file)
    resolved = source.resolve(dataset=section)
    survey = source.survey(source=resolved, dataset=section, features=plan_of(found))
    assert survey is not None and survey.rows == {"all": len(found.rows)}
    for name in ("load", "hours", "kind", "late"):
        assert survey.missing["all"][name] == found.missing(name)
        assert survey.kinds["all"][name] == found.kind(name)
    assert survey.counts is not None
    units = sum(count.units for count in survey.counts.values())
    assert (sum(count.rows for count in survey.counts.values()), units) == (len(found.rows), len(found.keys("person")))
    try:
        contents = source.read_contents(source=resolved, dataset=section, hasher=RowHasher(bytes(32)))
    except BadInputError as error:
        assert "has no rows" in error.message  # the hash has put all units into one split
        return
    assert contents.keys is not None
    registered = Counter[str]()
    for keys in contents.keys.values():
        registered.update(dict(zip(keys, keys.counts.tolist(), strict=True)))
    assert registered == {str(key): rows for key, rows in found.keys("person").items()}
    hasher = RowHasher(bytes(32))
    assert sorted(contents.rows["all"].tolist()) == sorted(hasher.rows(found.rows).tolist())


def experiment(file: Path, found: Meaning) -> None:
    plan = plan_of(found)
    store = clients_from_table(file, key="person", label="late", plan=plan)
    assert dict(zip(store.keys.tolist(), store.counts.tolist(), strict=True)) == found.keys("person")
    keys, loads, hours, kinds = (found.values(name) for name in ("person", "load", "hours", "kind"))
    order = sorted(range(len(keys)), key=lambda at: keys[at])  # stable, as clients keep the order of their rows
    expected = np.array([encoded(plan, loads[at], hours[at], kinds[at]) for at in order], np.float32)
    np.testing.assert_array_equal(store.features["features"], expected)
    assert store.labels.tolist() == [int(found.column("late")[at] == "yes") for at in order]


def encoded(plan: FeaturePlan, load: Any, hours: Any, kind: Any) -> list[float]:
    parts = [0.0 if load is None else min(load / 2**25, 1.0), float(load is None)]
    for value, column in ((hours, plan.columns[1]), (kind, plan.columns[2])):
        parts += [float(value is not None and str(value) == known) for known in column.domain] + [float(value is None)]
    return parts


def prediction(file: Path, found: Meaning) -> None:
    plan = plan_of(found)
    published: Any = SimpleNamespace(features=plan)
    checked = client_rows.check(file=file, published=published)
    assert checked.rows == len(found.rows) == len(checked.lines)
    for column in plan.columns:
        assert checked.raw[column.name] == found.column(column.name)
        gone = [is_missing(cell, column.dtype) for cell in checked.raw[column.name]]
        assert sum(gone) == found.missing(column.name)
        if column.kind == "categorical":
            texts = [spelled(cell, column.dtype) for cell in checked.raw[column.name]]
            assert texts == ["" if value is None else str(value) for value in found.values(column.name)]


def test_generated_files_mean_the_same_to_each_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several(tmp_path, monkeypatch, range(100))


@pytest.mark.slow
def test_many_generated_files_mean_the_same_to_each_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several(tmp_path, monkeypatch, range(100, 2100))


def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: range) -> None:
    read = 0
    for seed in seeds:
        monkeypatch.setattr(csv_table, "_BLOCK", (200, 2**22)[seed % 2])
        read += agreed(tmp_path / "a.csv", content_of(seed))
    assert len(seeds) * 0.4 < read < len(seeds) * 0.95  # both kinds of files were met
