"""Fuzzers of schemas and of CSV files."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from privacy_pipeline.config.loader import load_config
from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.schema import schema_reader
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.pipelines.preflight import preflight
from tests.fuzz import project
from tests.fuzz.mutations import mutated_bytes
from tests.fuzz.watching import Case, Watch, WrongValueError

_SCHEMA_TOKENS = (
    b"feature {", b"}", b"int_domain { min: 0 max: 1000000000 is_categorical: true }", b"float_domain { min: -inf max: "
    b"inf }", b"float_domain { min: nan max: nan }", b"float_domain { min: -1e308 max: 1e308 }", b'tag: "ignore"',
    b"int_domain { min: -9223372036854775808 max: 9223372036854775807 }", b"value_count { min: 0 max: -1 }",
    b"shape { dim { size: 2 } }", b'string_domain { value: "\\377\\376" }', b'domain: "nope"', b"type: STRUCT",
    b"type: 99", b"type: INT", b"type: FLOAT", b"type: BYTES", b"presence { min_fraction: nan }", b"bool_domain {}",
    b"struct_domain { feature { name: 'x' } }", b"\xff", b"#", b'"', b"[type.googleapis.com/x] {}", b"deprecated: true",
    b"feature { struct_domain { " * 2_000, b'name: ""', b'name: "' + b"a" * 50_000 + b'"', b'name: "\\000"', b"\x00",
    b'name: "\\355\\240\\200"', b"lifecycle_stage: BETA", b"\xef\xbb\xbf", b"9" * 5_000, b"unknown_field: 1",
    b"string_domain {" + b'value: "v" ' * 2_000 + b"}", b"any { [", b"<", b">", b";", b",", b"int_domain { min: 1 }",
)  # fmt: skip
_CSV_TOKENS = (
    b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"inf", b"1e999", b"\x1a",
    b"\x1b[31m", b"=cmd|'/C calc'!A0", b"a" * 200_000, b",,,,,,", b"9" * 5_000, "é\u202e".encode(), b"\t", b" ",
    b"\x0b", b'"unclosed,\n', b"\xc2\x85", "\u2028".encode(), "１２".encode(), b"0x1f", b"1_000", b"-0", b"+7", b"007",
    b"1e3", b"9223372036854775808", b"\xed\xa0\x80", b"," * 20_000, b"\n" * 1_000, b'"\n' * 999, b"1.0", b"?",
)  # fmt: skip


def schemas(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Schemas; a plan that is read holds finite ranges and can be written."""
    bases = [
        ((project.ROOT / f"configs/schemas/{name}.pbtxt").read_bytes(), label, positive, key)
        for name, label, positive, key in (
            ("adult", "income", ">50K", None),
            ("nlswork", "wage_above_5", "yes", "idcode"),
        )
    ]
    file = folder / "schema.pbtxt"

    def draw(rng: Random) -> Case:
        whole, label, positive, key = rng.choice(bases)
        raw = mutated_bytes(rng, whole, _SCHEMA_TOKENS)
        if rng.random() < 0.1:  # at the top level
            raw += rng.choice(_SCHEMA_TOKENS)

        def read() -> None:
            file.write_bytes(raw)
            plan = schema_reader.read_feature_plan(
                schema_path=file, label=label, positive_class=positive, unit_key=key, may_be_unknown=rng.random() < 0.2
            )
            schema_reader.unreviewed(file)
            schema_reader.public_domains(schema_path=file, columns=[c.name for c in plan.columns], label=label)
            FeaturePlan.model_validate_json(plan.model_dump_json())
            for column in plan.columns:
                if not all(math.isfinite(end) for end in (column.minimum or 0.0, column.maximum or 0.0)):
                    raise WrongValueError(f"{column.name}: {column.minimum} to {column.maximum}")

        return Case(content=raw, read=read)

    return draw


def csv_files(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """CSV files of rows and of rows with keys and silos, read as `check`, `register` and a run's errors read them."""
    shipped = project.copy_shipped(folder)
    os.chdir(folder)
    wanted = ("adult_plain", "nlswork_dp_sgd", "randhie_silos_dp")
    configs = [load_config(path) for path in shipped if path.stem in wanted]
    plans = {config.pipeline: preflight.read_features(config) for config in configs}

    def draw(rng: Random) -> Case:
        config, split = rng.choice(configs), rng.choice(("train", "eval"))
        file = Path(config.dataset.path, "span-1", split, "rows.csv")
        whole = file.read_bytes()
        raw = b"" if rng.random() < 0.01 else mutated_bytes(rng, whole, _CSV_TOKENS)
        changed = _moved(config, folder / "changed", split, raw)
        features = plans[config.pipeline]
        return Case(content=raw, read=lambda: _read(changed, features), told=f"{config.pipeline}, {split}")

    return draw


def _moved(config: PipelineConfig, folder: Path, split: str, raw: bytes) -> PipelineConfig:
    """The config, reading a copy of its data in which one file has other bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(config.dataset.path, folder)
    (folder / "span-1" / split / "rows.csv").write_bytes(raw)
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"path": folder})})


def _read(config: PipelineConfig, features: FeaturePlan | None) -> None:
    resolved = preflight.check_source(config, features)
    dataset: DatasetConfig = config.dataset
    if features is not None:
        source.locate(source=resolved, dataset=dataset, features=features)
    contents = source.read_contents(source=resolved, dataset=dataset, hasher=RowHasher(b"secret"))
    counted = source.count_units(source=resolved, dataset=dataset)
    if contents.counts is not None and contents.counts != counted:
        raise WrongValueError(f"{contents.counts} when registered, {counted} when checked")
    if config.training.silo_column is not None:
        source.count_silos(source=resolved, dataset=dataset, column=config.training.silo_column)
    source.unit_keys(source=resolved, dataset=dataset)
