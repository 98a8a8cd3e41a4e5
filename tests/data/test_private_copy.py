"""The private copy: what is digested is what is read, whatever happens to the files meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data import private_copy, source
from privacy_pipeline.data.private_copy import taken
from privacy_pipeline.errors import BadInputError
from tests.pipelines.projects import write_project, write_spans


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetConfig:
    return write_project(tmp_path).dataset


def rows(dataset: DatasetConfig) -> Path:
    return dataset.path / "span-1/train/rows.csv"


def test_the_copy_is_what_was_there_and_gone_after(dataset: DatasetConfig, tmp_path: Path) -> None:
    found = source.resolve(dataset=dataset)
    with taken(found, below=tmp_path / "copies") as copy:
        (train,) = copy.source.files["train"]
        assert train.read_bytes() == rows(dataset).read_bytes() and not os.path.samefile(train, rows(dataset))
        assert copy.source.plain_digest() == found.plain_digest()
        for path in (copy.folder.parent, copy.folder, train):
            assert not path.stat().st_mode & 0o077
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["lock"]


@pytest.mark.parametrize("how", ["in place", "replaced", "removed", "link retargeted", "hard link"])
def test_what_happens_to_a_file_does_not_reach_its_copy(dataset: DatasetConfig, tmp_path: Path, how: str) -> None:
    file = rows(dataset)
    good, bad = file.read_text(), file.read_text().replace("red", "blue")
    if how == "link retargeted":
        shutil.move(file, tmp_path / "good.csv")
        (tmp_path / "bad.csv").write_text(bad)
        file.symlink_to(tmp_path / "good.csv")
    if how == "hard link":
        os.link(file, tmp_path / "other.csv")
    with taken(source.resolve(dataset=dataset), below=tmp_path / "copies") as copy:
        if how == "removed":
            file.unlink()
        elif how == "link retargeted":
            file.unlink()
            file.symlink_to(tmp_path / "bad.csv")
        elif how == "replaced":
            (tmp_path / "bad.csv").write_text(bad)
            os.replace(tmp_path / "bad.csv", file)
        else:
            (tmp_path / "other.csv" if how == "hard link" else file).write_text(bad)
        assert [one.read_text() for one in copy.source.files["train"]] == [good]


def test_the_digest_is_of_the_copy_where_a_file_changes_while_it_is_copied(
    dataset: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = source.resolve(dataset=dataset).plain_digest()
    plainly = private_copy._written

    def swapped(given: Any, made: Any) -> str:
        if "train" in made.name:
            rows(dataset).write_text(rows(dataset).read_text().replace("red", "blue"))
        return plainly(given, made)

    monkeypatch.setattr(private_copy, "_is_clone", lambda given, made: False)
    monkeypatch.setattr(private_copy, "_written", swapped)
    with taken(source.resolve(dataset=dataset), below=tmp_path / "copies") as copy:
        told = copy.source.plain_digest()
        read = source.ResolvedSource(span=1, version=None, patterns=copy.source.patterns, files=copy.source.files)
        assert told == read.plain_digest() != before


def test_several_spans_and_one_file_in_two_splits_are_copied_each(dataset: DatasetConfig, tmp_path: Path) -> None:
    write_spans(tmp_path, 2, 3)
    same = {"train": "span-{SPAN}/train/*", "eval": "span-{SPAN}/t*/*"}
    for asked in (dataset.model_copy(update={"span": (2, 3)}), dataset.model_copy(update={"input": same, "span": 3})):
        found = source.resolve(dataset=asked)
        with taken(found, below=tmp_path / "copies") as copy:
            assert copy.source.plain_digest() == found.plain_digest()
            copies = [file for files in copy.source.files.values() for file in files]
            assert len(set(copies)) == len(copies) == sum(map(len, found.files.values()))
            assert set(copies) == {path for path in copy.folder.rglob("*") if path.is_file()}
            for span, part in copy.source.parts.items():
                assert part.plain_digest() == found.parts[span].plain_digest()


def test_what_a_killed_command_left_is_removed_and_what_is_held_stays(dataset: DatasetConfig, tmp_path: Path) -> None:
    found, below = source.resolve(dataset=dataset), tmp_path / "copies"
    with taken(found, below=below) as held:
        left = below / "left"
        (left / "files").mkdir(parents=True)
        (left / "files/rows.csv").write_text("raw rows")
        (left / "lock").touch()
        with taken(found, below=below):
            assert not left.exists() and held.folder.exists()
            with open(held.folder.parent / "lock") as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_errors_name_the_file_that_a_person_corrects(dataset: DatasetConfig, tmp_path: Path) -> None:
    rows(dataset).write_text("colour,size\nred,1\n")
    with (
        pytest.raises(BadInputError, match="column 'person' is missing") as caught,
        taken(source.resolve(dataset=dataset), below=tmp_path / "copies") as copy,
        copy.original_names(),
    ):
        keyed = dataset.model_copy(update={"privacy_unit": source_key()})
        source.unit_keys(source=copy.source, dataset=keyed)
    assert str(rows(dataset)) in caught.value.message and "copies" not in caught.value.message


def source_key() -> Any:
    from privacy_pipeline.config.models.dataset import KeyedUnit

    return KeyedUnit(key="person")


def test_no_room_is_told_before_anything_is_copied(
    dataset: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_copy, "_is_clone", lambda given, made: False)
    usage = shutil._ntuple_diskusage(10**9, 10**9, 10)
    monkeypatch.setattr("privacy_pipeline.files.atomic.shutil.disk_usage", lambda folder: usage)
    with (
        pytest.raises(BadInputError, match="free on its disk") as caught,
        taken(source.resolve(dataset=dataset), below=tmp_path / "copies"),
    ):
        raise AssertionError("it was copied")
    assert "clones files" in caught.value.fix


def test_a_pipe_is_refused_and_not_waited_for(dataset: DatasetConfig, tmp_path: Path) -> None:
    found = source.resolve(dataset=dataset)
    rows(dataset).unlink()
    os.mkfifo(rows(dataset))
    with (
        pytest.raises(BadInputError, match="is not a regular file"),
        taken(found, below=tmp_path / "copies"),
    ):
        raise AssertionError("it was copied")


def test_a_clone_is_asked_for_and_its_digest_is_that_of_the_clone(
    dataset: DatasetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that shares blocks, which this one may not be."""

    def clone(given: Any, made: Any) -> bool:
        shutil.copyfileobj(given, made)
        made.flush()
        made.seek(0)
        return True

    monkeypatch.setattr(private_copy, "_is_clone", clone)
    found = source.resolve(dataset=dataset)
    with taken(found, below=tmp_path / "copies") as copy:
        assert copy.cloned and copy.source.plain_digest() == found.plain_digest()
