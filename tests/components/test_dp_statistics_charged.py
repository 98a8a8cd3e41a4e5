"""DP statistics and their charge: exactly the columns left out, and nothing is read before the ledger has started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import apache_beam as beam
import pytest
import tensorflow as tf

from privacy_pipeline.components.dp_statistics.charged import (
    STATISTICS_FILE,
    Places,
    StatisticsRequest,
    plan_from,
    read_statistics,
    release_of,
    released_charged,
    request_of,
)
from privacy_pipeline.components.dp_statistics.rows import RawRows
from privacy_pipeline.components.noisy_answers import from_text, write_noisy
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.files import folders_of
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, PipelineError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import Entry, State
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.releases.release import Noisy, Release
from privacy_pipeline.releases.statistics import DpStatistics
from tests.pipelines.projects import HASHED, KEYED, SCHEMA, write_project

OPEN = SCHEMA.replace("  float_domain { min: 0 max: 10 }\n", "").replace(
    '  string_domain { value: "red" value: "green" value: "blue" }\n', ""
)
BLOCK = {"dp": {"epsilon": 8.0, "delta": 1e-6}}  # so that 160 rows stand out


def project(root: Path, *, schema: str = OPEN, epsilon: float = 10.0, **sections: dict[str, object]) -> PipelineConfig:
    sections = {"preprocessing": BLOCK, **sections}
    config = write_project(root, backend="dp_sgd", schema=schema, **sections)
    register_dataset(config=config, epsilon=epsilon, delta=1e-5)
    return config


def features_of(config: PipelineConfig) -> FeaturePlan:
    plan = preflight.read_features(config)
    assert plan is not None
    return plan


def span_of(config: PipelineConfig) -> int | None:
    return None if isinstance(config.dataset.input, str) else 1


def request(config: PipelineConfig) -> StatisticsRequest:
    asked = request_of(config, features=features_of(config), span=span_of(config))
    assert asked is not None
    return asked


def digest(config: PipelineConfig) -> str:
    registration = Ledger.open(config.ledger).registration("things", span_of(config))
    assert registration is not None
    return registration.digest


def example(colour: str, size: float, person: int) -> bytes:
    feature = {
        "colour": tf.train.Feature(bytes_list=tf.train.BytesList(value=[colour.encode()] if colour else [])),
        "size": tf.train.Feature(float_list=tf.train.FloatList(value=[size])),
        "person": tf.train.Feature(int64_list=tf.train.Int64List(value=[person])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    """160 rows of 40 persons, of whom the first has 30 of the only white ones more."""
    path = str(tmp_path / "rows.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for number in range(160):
            writer.write(example(("red", "green")[number % 2], 5.0 + number % 3, number % 40))
        for _ in range(30):
            writer.write(example("white", 1e6, 0))
    return path


def counted(file: str, asked: StatisticsRequest, root: Path, release: Release) -> Mapping[str, Noisy]:
    rows = RawRows(columns=[column.name for column in asked.columns], unit_key=asked.unit_key)
    target = root / "answers.json"
    with beam.Pipeline() as pipeline:
        write_noisy(pipeline, files=[file], rows=rows, release=release, to=str(target))
    return from_text(release, target.read_text())


def release(config: PipelineConfig, count: object, *, run_id: str = "run-1") -> DpStatistics:
    return released_charged(
        request(config),
        data_digest=digest(config),
        run_id=run_id,
        node="DpStatistics",
        places=Places(data=tuple(folders_of(config.dataset)), workspace=config.workspace),
        count=count,  # type: ignore[arg-type]
    )


def entries(config: PipelineConfig) -> list[Entry]:
    return list(Ledger.open(config.ledger).entries("things"))


def test_exactly_what_the_schema_leaves_out_is_asked(tmp_path: Path) -> None:
    half = SCHEMA.replace("  float_domain { min: 0 max: 10 }\n", "")
    config = project(tmp_path, schema=half)
    assert [column.name for column in request(config).columns] == ["size"]


def test_a_request_knows_neither_the_model_nor_public_columns(tmp_path: Path) -> None:
    config = project(tmp_path)
    other = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 9})})
    assert request(config) == request(other)


def test_a_schema_that_leaves_nothing_out_is_refused(tmp_path: Path) -> None:
    config = project(tmp_path, schema=SCHEMA)
    with pytest.raises(BadInputError, match="has a range or domain for every column") as caught:
        request_of(config, features=features_of(config), span=1)
    assert "drop the block" in caught.value.fix


def test_the_entry_is_started_before_the_first_read_and_committed_after(tmp_path: Path, rows_file: str) -> None:
    config = project(tmp_path)
    seen: list[tuple[State, str]] = []

    def count(asked: Release) -> Mapping[str, Noisy]:
        seen.extend((entry.state, entry.purpose) for entry in entries(config))
        return counted(rows_file, request(config), tmp_path, asked)

    found = release(config, count)
    assert seen == [(State.STARTED, "preprocess")]
    (entry,) = entries(config)
    assert (entry.state, entry.id, entry.event) == (State.COMMITTED, found.ledger_entry, found.event)
    assert found.composition is not None and found.composition.journal_hash is not None
    # A unit is a row here: white is met thirty times.
    assert set(found.vocabularies["colour"]) == {"red", "green", "white"}
    (tmp_path / STATISTICS_FILE).write_text(found.model_dump_json())
    plan = plan_from(features_of(config).model_dump_json(), read_statistics(tmp_path))
    assert plan.unknown == () and plan.columns[1].minimum == 4.0
    assert plan.label_domain == features_of(config).label_domain


def test_a_unit_is_bounded_before_it_is_counted(tmp_path: Path, rows_file: str) -> None:
    config = project(tmp_path, dataset={**HASHED, **KEYED})
    found = release(config, lambda asked: counted(rows_file, request(config), tmp_path, asked))
    assert found.unit == "person" and found.contribution_bound == 1
    assert "white" not in found.vocabularies.get("colour", ()) and found.ranges["size"][1] == 8.0


def never(asked: Release) -> Mapping[str, Noisy]:
    raise AssertionError("data was read")


def test_over_budget_nothing_is_read(tmp_path: Path) -> None:
    config = project(tmp_path, epsilon=1.0)
    with pytest.raises(BudgetRefusedError):
        release(config, never)
    assert not [entry for entry in entries(config) if entry.state is not State.EXPIRED]


def test_a_policy_without_a_share_for_preprocessing_refuses(tmp_path: Path) -> None:
    config = project(tmp_path)
    Ledger.open(config.ledger).apply_policy(Policy(dataset="things", epsilon=10.0, delta=1e-5, unit="row"))
    with pytest.raises(BudgetRefusedError, match="purpose 'preprocess' may use 0%"):
        release(config, never)


def test_a_release_that_failed_while_reading_stays_charged(tmp_path: Path) -> None:
    config = project(tmp_path)
    with pytest.raises(AssertionError, match="data was read"):
        release(config, never)
    assert [entry.state for entry in entries(config)] == [State.STARTED]


def test_another_unit_than_the_registered_one_is_refused(tmp_path: Path) -> None:
    config = project(tmp_path)
    registration = Ledger.open(config.ledger).registration("things", 1)
    assert registration is not None
    with pytest.raises(BudgetRefusedError, match="registered with privacy unit 'row', the config has 'person'"):
        release_of(request(config).model_copy(update={"unit_key": "person"}), registration=registration)


def test_the_pins_of_the_data_are_at_the_charge_before_anything_is_read(tmp_path: Path) -> None:
    config = project(tmp_path)
    seen: list[int] = []

    def count(release: Release) -> Mapping[str, Noisy]:
        folders = pins.places(data=folders_of(config.dataset), workspace=config.workspace)
        seen.extend(pin.seq for pin in pins.pinned(folders).values())
        raise PipelineError("the machine went down")

    with pytest.raises(PipelineError, match="went down"):
        release(config, count)
    started = Ledger.open(config.ledger).lineage().seq
    assert seen and set(seen) == {started}
