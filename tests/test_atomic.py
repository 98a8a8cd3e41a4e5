"""Files that are whole or absent, and what killed writers leave beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files import atomic
from privacy_pipeline.files.file_rights import private_file
from tests.clean_fork import clean_process

WRITERS: dict[str, Callable[[Path], object]] = {
    "write_bytes_atomically": lambda path: atomic.write_bytes_atomically(path=path, content=b"new"),
    "write_whole": lambda path: atomic.write_whole(path=path, content=b"new"),
    "write_new": lambda path: atomic.write_new(path=path, content=b"new"),
}


def killed_before_it_is_in_its_place(name: str, path: Path) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = os.link = die  # type: ignore[assignment]
    WRITERS[name](path)


@pytest.mark.parametrize("name", WRITERS)
def test_the_next_writer_removes_what_a_killed_one_left(name: str, tmp_path: Path) -> None:
    path, others = tmp_path / "file.json", [tmp_path / ".file.json.swp", tmp_path / ".other.json.abcdefgh.part"]
    for other in others:
        other.touch()
    child = clean_process(killed_before_it_is_in_its_place, name, path)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and not path.exists()
    (left,) = set(tmp_path.iterdir()) - set(others)
    assert left.name.startswith(".file.json.") and left.stat().st_mode & 0o777 == 0o600
    WRITERS[name](path)
    assert path.read_bytes() == b"new" and set(tmp_path.iterdir()) == {path, *others}


def test_what_a_living_writer_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic._beside(path, b"mine", 0o600) as waiting:
        atomic.write_whole(path=path, content=b"theirs")
        assert Path(waiting).read_bytes() == b"mine"
        os.replace(waiting, path)
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert atomic.write_new(path=path, content=b"first") and not atomic.write_new(path=path, content=b"second")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_waits_under_the_id_of_a_key_is_swept_too(tmp_path: Path) -> None:
    left = tmp_path / ".ledger_key.pem.0123456789abcdef.a1b2c3d4.part"
    left.touch()
    atomic.sweep(tmp_path / "ledger_key.pem")
    assert list(tmp_path.iterdir()) == []


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """As root, a device such as /dev/full would be a file from then on."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BadInputError, match="pipe: cannot be written \\(not a regular file\\)"):
        atomic.write_atomically(path=pipe, text="new")
    with pytest.raises(OSError, match="not a regular file"):
        private_file(pipe)
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
    with pytest.raises(BadInputError, match="cannot be written"):
        atomic.write_atomically(path=tmp_path, text="new")
