"""What a command reads once: the first answer holds, in forks and where it is handed over, and for it alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy_pipeline.files import read_once
from privacy_pipeline.files.read_once import once, reading_once


@pytest.fixture(autouse=True)
def nothing_is_held() -> Iterator[None]:
    yield
    read_once._held = None


def test_the_first_reading_answers_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "schema"
    file.write_text("one")
    with reading_once():
        assert once("schema", file.read_text) == "one"
        file.write_text("two")
        with reading_once():
            assert once("schema", file.read_text) == "one"
        assert once("schema", file.read_text) == "one"
        child = os.fork()
        if child == 0:
            os._exit(0 if once("schema", file.read_text) == "one" else 1)
        assert os.waitpid(child, 0)[1] == 0
        handed = read_once.held()
    assert once("schema", file.read_text) == "two"
    read_once.hold(handed)
    assert once("schema", file.read_text) == "one"


def test_an_error_is_not_held(tmp_path: Path) -> None:
    file = tmp_path / "schema"
    with reading_once():
        with pytest.raises(FileNotFoundError):
            once("schema", file.read_text)
        file.write_text("one")
        assert once("schema", file.read_text) == "one"
