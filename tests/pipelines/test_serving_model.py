"""Which model a name stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.backends.encrypted import PRIVATE_MODEL, PUBLISHED
from privacy_pipeline.encrypted.model.model_format import ARCHITECTURE
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.workspace.serving_model import find_model
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.cli.test_tables import make_state
from tests.reports.records import dp_record, make_summary


def make_model(folder: Path) -> Path:
    for part in (PRIVATE_MODEL, PUBLISHED):
        (folder / part).mkdir(parents=True)
        (folder / part / ARCHITECTURE).touch()
    return folder


def make_run(workspace: Path, model: Path, *, blessed: bool) -> None:
    folder = RunFolder(workspace / "runs" / "run-1")
    folder.path.mkdir(parents=True)
    folder.write_state(make_state())
    folder.write_summary(make_summary(dp_record()).model_copy(update={"blessed": blessed, "model_uri": str(model)}))


def test_a_blessed_run_has_its_own_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    make_run(tmp_path, model, blessed=True)
    found = find_model("run-1", workspace=tmp_path)
    assert (found.published, found.weights()) == (model / PUBLISHED, model / PRIVATE_MODEL)


def test_a_run_that_is_not_blessed_is_not_served(tmp_path: Path) -> None:
    make_run(tmp_path, make_model(tmp_path / "model"), blessed=False)
    with pytest.raises(BadInputError, match="run run-1 has no blessed model"):
        find_model("run-1", workspace=tmp_path)


def test_of_pushed_versions_the_newest_counts(tmp_path: Path) -> None:
    for version in ("9", "10", ".part-11"):
        make_model(tmp_path / version)
    assert find_model(str(tmp_path), workspace=tmp_path).published == tmp_path / "10" / PUBLISHED


def test_a_public_side_has_no_weights(tmp_path: Path) -> None:
    found = find_model(str(make_model(tmp_path) / PUBLISHED), workspace=tmp_path)
    with pytest.raises(BadInputError, match="holds no weights"):
        found.weights()
