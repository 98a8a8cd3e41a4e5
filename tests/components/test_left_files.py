"""What counts as still there of an artifact's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.components.left_files import EXAMPLES, MODEL, are_left

SPLITS = '["train", "eval"]'


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    for split in ("train", "eval"):
        (tmp_path / f"Split-{split}").mkdir()
        for shard in range(2):
            (tmp_path / f"Split-{split}/data_tfrecord-0000{shard}-of-00002.gz").touch()
    return tmp_path


def test_examples_are_there_while_every_shard_of_every_split_is(examples: Path) -> None:
    assert are_left(EXAMPLES, examples, splits=SPLITS)
    (examples / "Split-eval/data_tfrecord-00001-of-00002.gz").rename(examples / "aside")
    assert not are_left(EXAMPLES, examples, splits=SPLITS)
    assert are_left(EXAMPLES, examples, splits='["train"]')
    (examples / "Split-eval/data_tfrecord-00000-of-00002.gz").unlink()
    assert not are_left(EXAMPLES, examples, splits=SPLITS)
    (examples / "Split-eval").rmdir()
    assert not are_left(EXAMPLES, examples, splits=SPLITS)


def test_examples_whose_files_have_other_names_are_there_while_one_is(tmp_path: Path) -> None:
    (tmp_path / "Split-train").mkdir()
    assert not are_left(EXAMPLES, tmp_path, splits='["train"]')
    (tmp_path / "Split-train/rows").touch()
    assert are_left(EXAMPLES, tmp_path, splits='["train"]')


def test_a_model_is_there_while_its_graph_is_and_anything_else_while_its_folder_is(tmp_path: Path) -> None:
    assert not are_left(MODEL, tmp_path) and are_left("Schema", tmp_path) and not are_left("Schema", tmp_path / "gone")
    (tmp_path / "Format-Serving").mkdir()
    (tmp_path / "Format-Serving/saved_model.pb").touch()
    assert are_left(MODEL, tmp_path)
