"""What would break a training off after its charge is found before it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from privacy_pipeline.backends import keras_io, rehearsal
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.rehearsal import rehearse
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files import atomic
from tests.backends import test_federated_backend, test_federated_silos
from tests.backends.test_dp_sgd_backend import make_inputs


def ready(inputs: TrainingInputs) -> TrainingInputs:
    return dataclasses.replace(inputs, eval_files=inputs.train_files)


def rewritten(split: Any, path: Path, change: Any) -> tuple[str, ...]:
    """The split's files with a change made to one row in the middle."""
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for number, record in enumerate(tf.data.TFRecordDataset(split.files, "GZIP").as_numpy_iterator()):
            row = tf.train.Example.FromString(record)
            if number == 300:
                change(row.features.feature)
            writer.write(row.SerializeToString())
    return (str(path),)


def test_a_training_that_can_be_done_is_left_as_it_was(split: Any, tmp_path: Path) -> None:
    inputs = ready(make_inputs(split, tmp_path))
    rehearse(inputs)
    assert not inputs.model_dir.exists() and list(inputs.work_dir.iterdir()) == []


def unlabelled(features: Any) -> None:
    features["label"].int64_list.value[0] = -1


@pytest.mark.parametrize("which", ["train_files", "eval_files"])
def test_a_row_that_cannot_be_used_is_found_in_either_split(split: Any, tmp_path: Path, which: str) -> None:
    bad = rewritten(split, tmp_path / "bad.gz", unlabelled)
    inputs = dataclasses.replace(ready(make_inputs(split, tmp_path)), **{which: bad})
    with pytest.raises(BadInputError, match="some rows have no label, or one outside the domain"):
        rehearse(inputs)


@pytest.mark.parametrize("which", ["train_files", "eval_files"])
def test_an_empty_split_is_found(split: Any, tmp_path: Path, which: str) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "none.gz"), "GZIP"):
        pass
    inputs = dataclasses.replace(ready(make_inputs(split, tmp_path)), **{which: (str(tmp_path / "none.gz"),)})
    with pytest.raises(BadInputError, match="the split has no rows"):
        rehearse(inputs)


def test_a_full_disk_is_found_and_says_how_much_is_needed(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ready(make_inputs(split, tmp_path))
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 20 << 20))
    with pytest.raises(BadInputError, match=r"MB are to be written, and 21\.0 MB are free") as caught:
        rehearse(inputs)
    assert "workspace" in caught.value.fix


def test_a_model_that_cannot_be_served_is_found(split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ready(make_inputs(split, tmp_path))

    def refused(*_: Any, **__: Any) -> None:
        raise BadInputError("no signature")

    monkeypatch.setattr(keras_io, "save_model", refused)
    with pytest.raises(BadInputError, match="no signature"):
        rehearse(inputs)


def test_a_model_with_more_weights_than_are_encoded_is_found(split: Any, tmp_path: Path) -> None:
    shared = {**test_federated_backend.SHARED, "distributed": {"dimension": 16, "min_clients": 15}}
    config = test_federated_backend.config(privacy=shared)
    inputs = test_federated_backend.inputs_of(split, config, tmp_path, eval_files=split.files, plan=None)
    with pytest.raises(BadInputError, match="more than the 16 that are accounted"):
        rehearse(inputs)


def test_silos_of_other_sizes_than_stated_are_found(split: Any, tmp_path: Path) -> None:
    given = ready(test_federated_silos.inputs_of(split, test_federated_silos.config(), tmp_path))
    rehearse(given)
    section = given.config.training.federated
    assert section is not None and section.silo_privacy is not None
    other = {**section.silo_privacy.silos, "blue": section.silo_privacy.silos["blue"] + 1}
    changed = section.model_copy(update={"silo_privacy": section.silo_privacy.model_copy(update={"silos": other})})
    training = given.config.training.model_copy(update={"federated": changed})
    wrong = dataclasses.replace(given, config=given.config.model_copy(update={"training": training}))
    with pytest.raises(BadInputError, match="nothing was charged") as caught:
        rehearse(wrong)
    assert '"blue":' in caught.value.fix


def test_the_trainer_rehearses_before_it_asks_the_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tfx.types import standard_artifacts

    from privacy_pipeline.components.artifacts import bind_to_data
    from privacy_pipeline.components.trainer import executor
    from tests.reports.records import make_config

    asked: list[str] = []

    def refused(_: Any) -> None:
        asked.append("rehearsed")
        raise BadInputError("a bad row")

    monkeypatch.setattr(rehearsal, "rehearse", refused)
    monkeypatch.setattr(executor, "train_charged", lambda **_: asked.append("charged"))
    made = executor.Executor.__new__(executor.Executor)
    for name, value in {
        "_inputs": lambda *_: None,
        "_get_tmp_dir": lambda: str(tmp_path),
        "_context": SimpleContext,
    }.items():
        monkeypatch.setattr(made, name, value, raising=False)
    monkeypatch.setattr(executor, "_features", lambda *_: None)
    monkeypatch.setattr(executor, "_statistics", lambda *_: None)
    monkeypatch.setattr(executor, "_schema_is_public", lambda *_: True)
    monkeypatch.setattr(executor.artifact_utils, "get_single_uri", lambda *_: "graph")
    config = make_config("dp_sgd").model_dump_json(by_alias=True)
    given = {"config": config, "features": "", "code": "c", "lock": "l", "data_digest": "d"}
    examples = standard_artifacts.Examples()
    bind_to_data([examples], "d")
    with pytest.raises(BadInputError, match="a bad row"):
        made.Do({"transform_graph": [], "examples": [examples]}, {}, given)
    assert asked == ["rehearsed"]


class SimpleContext:
    """What the executor asks TFX's context for."""

    pipeline_run_id = "run-1"

    class pipeline_info:  # noqa: N801
        id = "things"

    class pipeline_node:  # noqa: N801
        class node_info:  # noqa: N801
            id = "Trainer"
