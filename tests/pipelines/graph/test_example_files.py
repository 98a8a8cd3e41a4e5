"""ExampleGen reads the files that were registered, whatever they and their folders are called."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from apache_beam.io.filesystems import FileSystems
from tfx.dsl.io import fileio

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import private_copy, source
from privacy_pipeline.files.literal_paths import PATTERN, as_named
from privacy_pipeline.pipelines.graph.example_files import as_copied
from privacy_pipeline.pipelines.registration.count_rows import count_hashed_rows
from tests.pipelines.projects import HASHED, csv_text, write_project, write_spans


def _matched(dataset: DatasetConfig) -> dict[str, list[str]]:
    """Contents of the files that the libraries of ExampleGen match, by split; they have to agree."""
    inputs = {"all": dataset.input} if isinstance(dataset.input, str) else dict(dataset.input)
    found = {}
    for split, pattern in inputs.items():
        where = str(dataset.path / pattern.replace("{SPAN}", "1"))
        by_beam = {one.path for one in FileSystems.match([where])[0].metadata_list}
        assert set(fileio.glob(where)) == by_beam
        found[str(split)] = sorted(Path(path).read_text() for path in by_beam)
    return found


def _registered(dataset: DatasetConfig) -> dict[str, list[str]]:
    return {k: sorted(file.read_text() for file in files) for k, files in source.resolve(dataset=dataset).files.items()}


@contextmanager
def _read(dataset: DatasetConfig, tmp_path: Path) -> Iterator[DatasetConfig]:
    with private_copy.taken(source.resolve(dataset=dataset), below=tmp_path / "copies") as copy:
        yield as_copied(dataset, folder=copy.folder)


@pytest.mark.parametrize("name", ["data [v2]", "a*b", "why?", "back\\slash", "[1]/[2] x"])
def test_an_odd_folder_is_read_through_a_plain_path(tmp_path: Path, name: str) -> None:
    dataset = write_project(tmp_path).dataset
    folder = tmp_path / name
    folder.parent.mkdir(exist_ok=True)
    shutil.move(dataset.path, folder)
    odd = dataset.model_copy(update={"path": folder})
    with _read(odd, tmp_path / name) as read:
        assert not PATTERN.search(str(read.path))
        assert as_named(read.path).is_relative_to(tmp_path / name)
        assert _matched(read) == _registered(odd) != {}


@pytest.mark.parametrize("name", [".hidden.csv", "._rows.csv", ".nfs0001"])
def test_a_hidden_file_is_not_read(tmp_path: Path, name: str) -> None:
    dataset = write_project(tmp_path).dataset
    (dataset.path / "span-1/train" / name).write_text(csv_text(50, first=900))
    assert _matched(dataset) != _registered(dataset)  # as the libraries read it
    with _read(dataset, tmp_path) as read:
        assert _matched(read) == _registered(dataset)
        assert [len(texts) for texts in _matched(read).values()] == [1, 1]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("my [1].csv", "my [[]1].csv"),
        ("a*b.csv", "a[*]b.csv"),
        ("back\\slash.csv", "back?slash.csv"),
        ("é " + "x" * 240 + ".csv", "*.csv"),
        ("sub/.deep/rows.csv", "sub/.deep/*.csv"),
    ],
)
def test_an_odd_file_is_read(tmp_path: Path, name: str, pattern: str) -> None:
    dataset = write_project(tmp_path, dataset=HASHED).dataset
    shutil.rmtree(dataset.path)
    (dataset.path / name).parent.mkdir(parents=True)
    (dataset.path / name).write_text(csv_text(20))
    (dataset.path / "back-slash.CSV").write_text(csv_text(5))  # of no pattern
    odd = dataset.model_copy(update={"input": pattern})
    with _read(odd, tmp_path) as read:
        assert list(_matched(read).values()) == list(_registered(odd).values()) == [[csv_text(20)]]


def test_several_spans_are_read_together(tmp_path: Path) -> None:
    dataset = write_project(tmp_path).dataset
    write_spans(tmp_path, 2, 3, 4)
    (dataset.path / "span-2/train/more.csv").write_text(csv_text(3, first=70_000))
    several = dataset.model_copy(update={"span": (2, 4)})
    with _read(several, tmp_path) as read:
        assert (read.span, read.version, read.input) == ("latest", "latest", {"train": "train/*", "eval": "eval/*"})
        assert _matched(read) == _registered(several)
        assert [len(texts) for texts in _matched(read).values()] == [3, 2]


@pytest.mark.parametrize("beside", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["alone", "beside plain"])
def test_rows_are_counted_in_the_files_that_are_read(tmp_path: Path, beside: bool) -> None:
    config = write_project(tmp_path, dataset=HASHED)

    def rows(config: PipelineConfig) -> dict[str, int]:
        with private_copy.taken(source.resolve(dataset=config.dataset), below=tmp_path / "copies") as copy:
            return {name: count.rows for name, count in count_hashed_rows(config, folder=copy.folder).items()}

    plain = rows(config) if beside else None
    folder = tmp_path / "odd [1]*"
    shutil.move(config.dataset.path, folder)
    (folder / "all/.hidden.csv").write_text(csv_text(70, first=900))
    odd = config.model_copy(update={"dataset": config.dataset.model_copy(update={"path": folder})})
    found = rows(odd)
    assert sum(found.values()) == 200 and plain in (None, found)
