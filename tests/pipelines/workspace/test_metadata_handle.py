"""The handle of ML Metadata, where its store does not open."""

from __future__ import annotations

import pytest

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.pipelines.execution import scheduler
from privacy_pipeline.pipelines.workspace import metadata_handle


def _refusing(monkeypatch: pytest.MonkeyPatch, words: str) -> list[object]:
    asked: list[object] = []

    def store_of(connection: object) -> None:
        asked.append(connection)
        raise RuntimeError(words)

    monkeypatch.setattr(metadata_handle, "store_of", store_of)
    monkeypatch.setattr(metadata_handle.time, "sleep", lambda seconds: None)
    return asked


def test_a_full_disk_is_not_tried_again_and_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _refusing(monkeypatch, "Error when executing query: database or disk is full query: COMMIT;")
    with pytest.raises(OSError) as raised, metadata_handle.Handle("a connection"):
        pass
    assert asked == ["a connection"]
    failure = scheduler.failure("ExampleGen", raised.value)
    assert (failure.message, failure.fix) == ("ExampleGen: no space left on the disk", "free space, then resume")


def test_a_store_that_stays_closed_is_one_line_after_ten_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _refusing(monkeypatch, "table Type already exists")
    with pytest.raises(PipelineError, match=r"^ML Metadata cannot be opened: table Type already exists$"):
        metadata_handle.Handle("a connection").__enter__()
    assert len(asked) == 10
