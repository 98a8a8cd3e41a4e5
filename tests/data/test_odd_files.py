"""The functions behind six commands on the same odd files: all agree, or all refuse with one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from federated.experiments.data import look_through
from federated.tables import clients_from_table
from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data import source
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.schema.encoder import Texts, categories, is_missing
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.data.schema.schema_reader import parse_schema, read_feature_plan
from privacy_pipeline.data.starting.profile import profile_csv
from privacy_pipeline.data.starting.starter import write_starter
from privacy_pipeline.encrypted.client import rows as client_rows
from privacy_pipeline.errors import BadInputError
from tests.data.odd_files import GOOD, HEAD, ODD
from tests.data.samples import dataset

REFUSED = {
    "CR alone", "CR in a row", "byte-order mark", "UTF-16", "latin-1", "gzip", "NUL", "line of blanks",
    "one stray quote", "quote that never closes", "quotes that TFX never comes back from", "empty key", "empty label",
    "infinity", "too large for 32 bits", "fractions as keys", "too many cells", "too few cells",
    "a cell that is too long", "no rows", "no header", "a name twice", "quoted header",
}  # fmt: skip


@dataclass
class Facts:
    """What a command made of a file; None for what it does not look at."""

    rows: int
    keys: Counter[str] | None = None
    missing: dict[str, int] | None = None
    kinds: Counter[str] | None = None

    def agrees(self, other: Facts) -> bool:
        pairs = (
            (self.rows, other.rows),
            (self.keys, other.keys),
            (self.missing, other.missing),
            (self.kinds, other.kinds),
        )
        return all(one == two for one, two in pairs if one is not None and two is not None)


class Case:
    """A file with the schema that `init` writes for it, or for a file of good rows where it writes none."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.file = folder / "odd.csv"
        self.file.write_bytes(content)
        self.refused = ""
        try:
            _, self.schema, _ = write_starter(csv=self.file, folder=folder, label="late", name="odd")
            self.plan = self._plan()
        except BadInputError as error:
            self.refused = error.message
            good = folder / "good.csv"
            good.write_text(HEAD + GOOD)
            _, self.schema, _ = write_starter(csv=good, folder=folder, label="late", name="good")
            self.plan = self._plan()
        self.section: DatasetConfig = dataset(
            folder, input="odd.csv", hash_split={"train": 1, "eval": 1}, label="late", positive_class="yes",
            privacy_unit={"key": "person", "contribution_bound": 100}, schema=self.schema,
        )  # fmt: skip

    def _plan(self) -> FeaturePlan:
        return read_feature_plan(schema_path=self.schema, label="late", positive_class="yes", unit_key="person")

    def by_init(self) -> Facts:
        if self.refused:
            raise BadInputError(self.refused)
        found = profile_csv(csv_path=self.file)
        columns = {column.name: column for column in found.columns}
        if columns["person"].missing:
            raise BadInputError("init makes no key of a column: this is said when one is named as the unit")
        missing = {name: columns[name].missing for name in ("load", "hours", "kind")}
        return Facts(found.rows, Counter(columns["person"].values), missing, Counter(columns["kind"].values))

    def by_check(self) -> Facts:
        resolved = source.resolve(dataset=self.section)
        unit = self.section.privacy_unit
        source.check_headers(
            source=resolved, dataset=self.section, columns=[c.name for c in self.plan.columns], label="late",
            unit_key=getattr(unit, "key", None),
        )  # fmt: skip
        found = source.survey(source=resolved, dataset=self.section, features=self.plan)
        assert found is not None
        missing = {name: found.missing["all"].get(name, 0) for name in ("load", "hours", "kind")}
        return Facts(found.rows["all"], missing=missing)

    def by_register(self) -> Facts:
        self.by_check()  # registration begins with it
        resolved = source.resolve(dataset=self.section)
        contents = source.read_contents(source=resolved, dataset=self.section, hasher=RowHasher(bytes(32)))
        assert contents.keys is not None
        keys = Counter[str]()
        for found in contents.keys.values():
            keys.update(dict(zip(found, found.counts.tolist(), strict=True)))
        return Facts(len(contents.rows["all"]), keys)

    def by_experiment(self) -> Facts:
        data: Any = SimpleNamespace(dataset=self.section, client_column="person")
        resolved = source.resolve(dataset=self.section)
        source.check_headers(source=resolved, dataset=self.section, columns=[], label="late", unit_key="person")
        look_through(data, source=resolved)
        store = clients_from_table(resolved.files["all"], key="person", label="late", plan=self.plan)
        keys = Counter({str(key): int(rows) for key, rows in zip(store.keys, store.counts, strict=True)})
        at, missing, kinds = 0, {"load": 0, "hours": 0, "kind": 0}, None
        for column in self.plan.columns:
            width = (len(column.domain) if column.kind == "categorical" else 1) + column.optional
            part = store.features["features"][:, at : at + width]
            at += width
            if column.optional:
                missing[column.name] = int(part[:, -1].sum())
            if column.name == "kind":
                counts = part[:, : len(column.domain)].sum(axis=0).astype(int).tolist()
                kinds = Counter({value: rows for value, rows in zip(column.domain, counts, strict=True) if rows})
        return Facts(store.num_examples, keys, missing, kinds)

    def by_predict(self) -> Facts:
        published: Any = SimpleNamespace(features=self.plan)
        found = client_rows.check(file=self.file, published=published)
        missing, kinds = {"load": 0, "hours": 0, "kind": 0}, None
        for column in self.plan.columns:
            cells = found.raw[column.name]
            missing[column.name] = sum(is_missing(cell, column.dtype) for cell in cells)
            if column.name == "kind":
                import pyarrow as pa

                texts = Texts.of(pa.array(cells))
                kinds = Counter(
                    value for value in texts.spread(np.array(categories(texts.different, "bytes"))) if value
                )
        return Facts(found.rows, missing={n: missing[n] for n in ("load", "hours", "kind")}, kinds=kinds)

    def by_run(self) -> Facts:
        """ExampleGen's own functions, the statistics of what they make, and ExampleValidator's checks of these."""
        from tests.data.stock_reading import examples_of, refused_by_validation

        self.by_check()  # a run begins with it
        table = examples_of(self.file)
        said = refused_by_validation(table, parse_schema(schema_path=self.schema))
        if said:
            raise BadInputError(said)
        columns = {name: table[name] for name in table}
        keys = Counter(str(value[0]) for value in columns["person"])
        missing = {name: sum(_is_gone(value) for value in columns[name]) for name in ("load", "hours", "kind")}
        texts = Counter(str(value[0]) for value in columns["kind"] if not _is_gone(value))
        return Facts(len(columns["person"]), keys, missing, texts)


def _is_gone(values: list[Any]) -> bool:
    return not values or values[0] != values[0]


COMMANDS: dict[str, Callable[[Case], Facts]] = {
    "init": Case.by_init,
    "check": Case.by_check,
    "register": Case.by_register,
    "run": Case.by_run,
    "experiment": Case.by_experiment,
    "predict": Case.by_predict,
}
# Rows to be predicted have neither key nor label, and are not divided.
NOT_FOR_PREDICT = {"empty key", "empty label", "fractions as keys"}


@pytest.mark.parametrize("name", ODD)
def test_six_commands_agree_on_an_odd_file(name: str, tmp_path: Path) -> None:
    case = Case(tmp_path, ODD[name])
    found: dict[str, Facts | BadInputError] = {}
    for command, read in COMMANDS.items():
        if command == "predict" and name in NOT_FOR_PREDICT:
            continue
        try:
            found[command] = read(case)
        except BadInputError as error:
            assert "\n" not in error.message and len(error.message) < 400
            found[command] = error
    refusals = {command for command, fact in found.items() if isinstance(fact, BadInputError)}
    assert refusals == (set(found) if name in REFUSED else set()), {c: str(f) for c, f in found.items()}
    facts = [fact for fact in found.values() if isinstance(fact, Facts)]
    assert all(one.agrees(two) for one in facts for two in facts), found


def test_the_table_is_long_and_told_apart() -> None:
    assert len(ODD) >= 45 and set(ODD) > REFUSED
    assert Facts(1, Counter("a")).agrees(Facts(1)) and not Facts(1, Counter("a")).agrees(Facts(1, Counter("b")))
