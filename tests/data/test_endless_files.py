"""Files that never end, or hold one line without end, are refused before they take memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from federated.experiments.binding import bound
from federated.experiments.config import load_experiment
from privacy_pipeline.data.reading import csv_rows
from privacy_pipeline.data.reading.csv_rows import read_header, rows
from privacy_pipeline.data.starting.starter import write_starter
from privacy_pipeline.encrypted.model import model_format, published
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger import pins
from tests.federated.experiments.experiment_files import write_experiment, write_people

MOST = 200 << 20  # bytes


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """As `/dev/zero`, but for a machine on which a test fails."""
    file = tmp_path / "endless"
    with file.open("wb") as stream:
        stream.truncate(512 << 20)
    return file


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST


def test_a_header_without_end(tmp_path: Path, endless: Path) -> None:
    with pytest.raises(BadInputError, match="endless:1: the header is longer than 16 MiB"):
        read_header(file=endless)
    with pytest.raises(BadInputError, match="endless:1: the header is longer than 16 MiB"):
        write_starter(csv=endless, folder=tmp_path, label="y")


def test_a_row_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "LONGEST_RECORD", 1 << 16)
    file = tmp_path / "d.csv"
    file.write_bytes(b"a,b\n1,2\n" + b"3," * (1 << 25))
    first, second = [next(found) for found in [rows(file=file)] for _ in range(2)]
    assert (first.line, list(first.cells)) == (2, ["1", "2"])
    assert second.line == 3 and len(second.cells) > 2


def test_a_pin_without_end(tmp_path: Path, endless: Path) -> None:
    """It may be another user's: pins are looked for in all folders above the data too."""
    (tmp_path / pins.FILE).symlink_to(endless)
    with pytest.raises(BadInputError, match=f"{pins.FILE}: is larger than 64 KiB"):
        pins.pinned([tmp_path])


def test_a_schema_of_an_experiment_without_end(tmp_path: Path, endless: Path) -> None:
    write_people(tmp_path)
    (point, *_) = load_experiment(write_experiment(tmp_path))[1]
    schema = Path(point.config.data.dataset.schema_path)
    schema.unlink()
    schema.symlink_to(endless)
    with pytest.raises(BadInputError, match="is larger than 4,096 KiB"):
        bound([point])


def test_what_a_provider_publishes_without_end(tmp_path: Path, endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "architecture.json").symlink_to(endless)
    with pytest.raises(BadInputError, match="is larger than"):
        published.load(tmp_path)
    monkeypatch.setattr(model_format, "digest_of", lambda folder: "")
    monkeypatch.setattr(model_format, "load_architecture", lambda folder, digest: None)
    (tmp_path / "features.json").symlink_to(endless)
    with pytest.raises(BadInputError, match="is larger than 65,536 KiB"):
        published.load(tmp_path)
