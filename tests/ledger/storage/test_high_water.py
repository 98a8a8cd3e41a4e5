"""A ledger that is put back to an earlier state is found by what this host has seen of it."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.cli.budget import group
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.ledger import pins, write_transactions
from privacy_pipeline.ledger.audit import verify
from privacy_pipeline.ledger.copies.moving import move
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.ledger.storage import high_water, journal, keys


def database(folder: Path) -> Path:
    return folder / "ledger.db"


def opened(folder: Path, *, create: bool = False) -> Ledger:
    return Ledger.open(f"sqlite:///{database(folder)}", create=create)


def write(folder: Path, times: int = 1) -> None:
    """Appends a record for each time: a dataset is registered."""
    for _ in range(times):
        registration = Registration(
            dataset=f"made-up-{secrets.token_hex(8)}",
            span=None,
            unit="row",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            splits={"train": SplitCount(rows=100, units=100), "eval": SplitCount(rows=10, units=10)},
            columns=("a",),
            digest=secrets.token_hex(32),
            registered="2026-01-01T00:00:00+00:00",
        )
        opened(folder).register(registration, epsilon=1.0, delta=1e-5)


def mark(folder: Path) -> Path:
    (file,) = folder.glob("ledger_seen_*.json")
    return file


def noted(folder: Path) -> int:
    return int(json.loads(mark(folder).read_bytes())["seq"])


def kept(folder: Path) -> dict[str, bytes]:
    """The database as it is now, with its write-ahead log."""
    return {path.name: path.read_bytes() for path in folder.glob("ledger.db*")}


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.glob("ledger.db*"):
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    opened(tmp_path / "ledger", create=True)
    write(tmp_path / "ledger", 2)
    return tmp_path / "ledger"


def test_each_commit_moves_the_mark(folder: Path) -> None:
    before = noted(folder)
    write(folder, 3)
    assert noted(folder) == before + 3 and mark(folder).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("lost", [1, 5])
def test_a_ledger_that_was_put_back_is_not_written(folder: Path, lost: int) -> None:
    earlier = kept(folder)
    write(folder, lost)
    newest = noted(folder)
    put_back(folder, earlier)
    with pytest.raises(PipelineError, match=f"put back: this host has seen record {newest} .*does not hold it"):
        write(folder)
    assert not opened(folder).verify(reprice=False).ok
    assert any(f"record {newest}" in told for told in opened(folder).verify(reprice=False).problems)


def test_a_ledger_that_went_another_way_is_not_written(folder: Path, tmp_path: Path) -> None:
    """A copy is taken elsewhere, both go on, and the copy comes back."""
    away = tmp_path / "away"
    shutil.copytree(folder, away)
    write(folder)
    write(away, 2)
    put_back(folder, kept(away))
    with pytest.raises(PipelineError, match="holds another one"):
        write(folder)


def test_a_write_ahead_log_that_is_lost_is_found(folder: Path) -> None:
    engine = opened(folder)._engine
    with engine.connect() as holding:  # keeps the log from being written back
        holding.exec_driver_sql("SELECT 1")
        write(folder)
        without = {"ledger.db": database(folder).read_bytes()}
    put_back(folder, without)
    with pytest.raises(PipelineError, match=r"put back|no ledger|no such table"):
        write(folder)


def test_a_crash_between_commit_and_mark_leaves_it_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = noted(folder)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(high_water, "advance", killed)
        write(folder)
    assert noted(folder) == before
    write(folder)
    assert noted(folder) == before + 2


def test_a_write_that_is_rolled_back_leaves_the_mark(folder: Path) -> None:
    before = noted(folder)
    with pytest.raises(ZeroDivisionError), write_transactions.writing(opened(folder)._engine) as writer:
        writer.append("note", {})
        raise ZeroDivisionError
    assert noted(folder) == before
    write(folder)


def test_a_ledger_of_before_there_were_marks_gets_one(folder: Path) -> None:
    mark(folder).unlink()
    assert "by nothing" in str(opened(folder).verify(reprice=False).notes)
    write(folder)
    assert noted(folder) and "this host has seen" in str(opened(folder).verify(reprice=False).notes)


def test_a_new_key_signs_the_mark_and_an_old_one_counts_still(folder: Path) -> None:
    old = mark(folder).read_bytes()
    opened(folder).rotate_key()
    assert mark(folder).read_bytes() != old
    mark(folder).write_bytes(old)  # as a crash in the rotation leaves it
    write(folder)


def test_a_ledger_that_is_put_back_before_a_rotation_is_found(folder: Path) -> None:
    earlier = kept(folder)
    opened(folder).rotate_key()
    put_back(folder, earlier)
    with pytest.raises(PipelineError):
        write(folder)
    with pytest.raises(PipelineError, match=r"not signed by a key of this ledger|put back"):
        opened(folder).rotate_key(lost=True)


def _lower(found: dict[str, object]) -> None:
    found["seq"] = 1


def _other_hash(found: dict[str, object]) -> None:
    found["hash"] = "0" * 64


def _no_signature(found: dict[str, object]) -> None:
    found["signature"] = ""


@pytest.mark.parametrize("change", [_lower, _other_hash, _no_signature])
def test_a_mark_that_was_edited_is_refused(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    found = json.loads(mark(folder).read_bytes())
    change(found)
    mark(folder).write_text(json.dumps(found))
    with pytest.raises(PipelineError, match="not signed by a key of this ledger") as told:
        write(folder)
    assert "move the file away" in told.value.fix


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 512, b"[]"])
def test_a_mark_that_is_damaged_is_refused(folder: Path, content: bytes) -> None:
    mark(folder).write_bytes(content)
    with pytest.raises(PipelineError, match="not a mark of a ledger") as told:
        write(folder)
    assert f"mv {mark(folder)}" in told.value.fix


def test_a_mark_that_others_may_change_is_refused(folder: Path) -> None:
    mark(folder).chmod(0o666)
    with pytest.raises(PipelineError, match="other users may change it"):
        write(folder)


def test_the_mark_never_goes_back(folder: Path) -> None:
    key = keys.load(folder / "ledger_key.pem", expected=opened(folder).verify(reprice=False).keys[-1])
    before = noted(folder)
    high_water.advance(mark(folder), seq=before - 1, digest="0" * 64, key=key)
    assert noted(folder) == before


def test_writers_at_once_leave_the_newest(folder: Path) -> None:
    before = noted(folder)
    threads = [threading.Thread(target=write, args=(folder, 5)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert noted(folder) == before + 30 == opened(folder).verify(reprice=False).records


def test_a_ledger_that_moves_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ENVIRONMENT, str(folder / "ledger_key.pem"))  # both have one key, and so one mark
    os.makedirs(tmp_path / "new", mode=0o700)
    move(f"sqlite:///{database(folder)}", f"sqlite:///{database(tmp_path / 'new')}")
    write(tmp_path / "new")
    assert noted(folder) == opened(tmp_path / "new").verify(reprice=False).records


def test_a_folder_that_moves_with_its_ledger_keeps_the_mark(folder: Path, tmp_path: Path) -> None:
    earlier = kept(folder)
    write(folder)
    folder.rename(tmp_path / "renamed")
    write(tmp_path / "renamed")
    put_back(tmp_path / "renamed", earlier)
    with pytest.raises(PipelineError, match="put back"):
        write(tmp_path / "renamed")


def test_a_key_in_a_folder_that_cannot_be_written_stops_before_the_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(folder).verify(reprice=False).records
    mark(folder).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: Path(path) != folder)  # as a read-only mount
        with pytest.raises(PipelineError, match="cannot be written, and this host") as told:
            write(folder)
        assert opened(folder).verify(reprice=False).records == before
        assert "PRIVACY_PIPELINE_LEDGER_SEEN=FOLDER" in told.value.fix
        (tmp_path / "seen").mkdir(mode=0o700)
        patched.setenv(high_water.ENVIRONMENT, str(tmp_path / "seen"))
        write(folder)
        assert noted(tmp_path / "seen") == before + 1


@pytest.mark.parametrize("missing", ["folder", "link"])
def test_a_folder_for_marks_that_is_gone_stops_before_the_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    before = opened(folder).verify(reprice=False).records
    place = tmp_path / "seen"
    if missing == "link":
        place.symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv(high_water.ENVIRONMENT, str(place))
    with pytest.raises(PipelineError, match="cannot be written, and this host"):
        write(folder)
    monkeypatch.delenv(high_water.ENVIRONMENT)
    assert opened(folder).verify(reprice=False).records == before


def test_a_ledger_that_is_written_while_it_is_verified_was_not_put_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = verify._read

    def read_while_another_writes(*given: Any, **named: Any) -> Any:
        head = reading(*given, **named)
        write(folder)
        return head

    monkeypatch.setattr(verify, "_read", read_while_another_writes)
    assert opened(folder).verify(reprice=False).problems == []


def test_a_first_mark_is_never_there_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may read it at any time, and a crash may come."""
    mark(folder).unlink()

    def killed(_: int) -> None:
        assert not list(folder.glob("ledger_seen_*"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "fsync", killed)
        write(folder)
    assert not list(folder.glob("*ledger_seen_*"))
    write(folder)
    assert noted(folder)


def test_the_advice_on_a_damaged_mark_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "a b (1)"
    opened(folder, create=True)
    write(folder)
    mark(folder).write_bytes(b"{")
    with pytest.raises(PipelineError) as told:
        write(folder)
    words = shlex.split(told.value.fix.partition("mv ")[2])
    assert words == [str(mark(folder)), f"{mark(folder)}.old"]


def test_a_mark_that_leads_nowhere_is_found_before_the_commit(folder: Path) -> None:
    file = mark(folder)
    before = opened(folder).verify(reprice=False).records
    file.unlink()
    file.symlink_to(folder / "nothing")
    with pytest.raises(PipelineError, match="nothing was written"):
        write(folder)
    assert opened(folder).verify(reprice=False).records == before


def test_a_ledger_stays_open_where_its_new_place_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new").chmod(0o770)
    with pytest.raises(PipelineError, match="other users may change it"):
        move(f"sqlite:///{database(folder)}", f"sqlite:///{database(tmp_path / 'new')}")
    write(folder)


def test_a_lost_log_is_found_by_the_pins_where_the_mark_is_gone_too(folder: Path, tmp_path: Path) -> None:
    engine = opened(folder)._engine
    with engine.connect() as holding:  # keeps the log from being written back
        holding.exec_driver_sql("SELECT 1")
        write(folder)
        (tmp_path / "data").mkdir()
        pins.note(opened(folder), [tmp_path / "data"])
        without = {"ledger.db": database(folder).read_bytes()}
    put_back(folder, without)
    mark(folder).unlink()
    with pytest.raises(PipelineError, match=r"does not hold record|rolled back|no ledger|gone|no such table"):
        pins.open_pinned(f"sqlite:///{database(folder)}", data=tmp_path / "data", workspace=None)


def test_reads_of_a_ledger_that_was_put_back_say_so(folder: Path) -> None:
    earlier = kept(folder)
    write(folder)
    assert opened(folder).put_back() == ""
    opened(folder).require_newest()
    put_back(folder, earlier)
    assert "put back" in opened(folder).put_back()
    with pytest.raises(PipelineError, match="put back"):
        opened(folder).require_newest()
    told = CliRunner().invoke(group.app, ["status", "--ledger", f"sqlite:///{database(folder)}"])
    assert told.exit_code == 0 and "not the newest" in told.output


def test_a_key_that_a_killed_registration_left_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(journal, "begin", killed)
            opened(tmp_path / "ledger", create=True)
    (left,) = (tmp_path / "ledger").glob("ledger_key.pem.*")
    write_new = opened(tmp_path / "ledger", create=True)
    assert not list((tmp_path / "ledger").glob("ledger_key.pem.*"))
    assert left.name.endswith(write_new.verify(reprice=False).keys[0])


def test_a_key_that_an_error_leaves_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PipelineError("no")

    with monkeypatch.context() as patched, pytest.raises(PipelineError, match="no"):
        patched.setattr(journal, "begin", refused)
        opened(tmp_path / "ledger", create=True)
    assert not list((tmp_path / "ledger").glob("ledger_key*"))
