"""A backup that is restored never says less than was spent."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, PipelineError
from privacy_pipeline.ledger.copies import backup as backups
from privacy_pipeline.ledger.copies import restoring
from privacy_pipeline.ledger.copies.backup import backup
from privacy_pipeline.ledger.copies.moving import move
from privacy_pipeline.ledger.copies.restoring import Restoring
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.ledger.storage import keys, schema
from tests.ledger.conftest import make_plan
from tests.ledger.postgresql_server import program, server
from tests.ledger.storage.test_high_water import database, kept, mark, noted, put_back

DIGEST = "ab" * 32


class Book:
    """A ledger with one dataset.

    Args:
        url: SQLAlchemy URL.
        folder: where backups go.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def begun(self) -> Book:
        """With one charge."""
        self.register("things", DIGEST)
        self.spend("first")
        return self

    def open(self) -> Ledger:
        return Ledger.open(self.url)

    def register(self, dataset: str, digest: str) -> None:
        registration = Registration(
            dataset=dataset,
            span=None,
            unit="row",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            splits={"train": SplitCount(rows=1000, units=1000), "eval": SplitCount(rows=10, units=10)},
            columns=("a",),
            digest=digest,
            registered="2026-01-01T00:00:00+00:00",
        )
        Ledger.open(self.url, create=True).register(registration, epsilon=8.0, delta=1e-5)

    def spend(self, run_id: str, *, dataset: str = "things", digest: str = DIGEST) -> Any:
        plan = make_plan(5.0)
        with self.open().spend(
            dataset=dataset, span=None, data_digest=digest, split="train", run_id=run_id, node="Trainer", plan=plan
        ) as grant:
            grant.start()
            return grant.commit(plan.event)

    def spent(self) -> list[float]:
        return [status.enforced_epsilon for status in self.open().status()]

    def backup(self, name: str = "backup.db") -> Path:
        backup(self.url, self.folder / name)
        return self.folder / name

    def restore(self, file: Path, *, write: bool = True) -> Restoring:
        return restoring.restore(self.url, file, write=write)

    def sound(self) -> bool:
        return not self.open().verify().problems


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ledger with one charge."""
    folder = tmp_path_factory.mktemp("written")
    return folder_of(Book(f"sqlite:///{folder}/ledger/ledger.db", folder).begun())


@pytest.fixture
def book(written: Path, tmp_path: Path) -> Book:
    shutil.copytree(written, tmp_path / "ledger")
    return Book(f"sqlite:///{tmp_path}/ledger/ledger.db", tmp_path)


def folder_of(book: Book) -> Path:
    return book.folder / "ledger"


def test_a_backup_is_a_ledger_of_its_own(book: Book) -> None:
    file = book.backup()
    assert file.stat().st_mode & 0o777 == 0o600 and not list(book.folder.glob(".*part*"))
    with backups.opened(file) as copy:
        assert Ledger(copy).status() == book.open().status()
    with pytest.raises(BadInputError, match="exists"):
        book.backup()


def test_a_backup_of_a_ledger_that_is_written_meanwhile_is_whole(book: Book) -> None:
    engine = book.open()._engine
    with engine.connect() as holding:  # keeps the write-ahead log from being written back
        holding.exec_driver_sql("SELECT 1")
        book.spend("second")
        file = book.backup()
    with backups.opened(file) as copy:
        assert Ledger(copy).status() == book.open().status()


def test_what_was_spent_after_the_backup_is_carried_over(book: Book) -> None:
    file = book.backup()
    receipt = book.spend("second")
    book.register("others", "cd" * 32)
    book.spend("third", dataset="others", digest="cd" * 32)
    before, entries = book.spent(), book.open().history()
    told = book.restore(file, write=False)
    assert book.spent() == before and told.carried["commit"] == 2 and not told.lost
    assert book.restore(file) == told
    assert book.spent() == before and book.open().history() == entries and book.sound()
    assert book.open().verify(receipts=[receipt]).ok
    assert noted(folder_of(book)) == book.open().verify(reprice=False).records
    book.spend("fourth")


def _edited(book: Book) -> None:
    with sqlite3.connect(database(folder_of(book))) as connection:
        connection.execute("UPDATE budgets SET epsilon = 100")


def test_tables_that_somebody_edited_are_made_anew_from_the_journal(book: Book) -> None:
    file = book.backup()
    book.spend("second")
    before = book.spent()
    _edited(book)
    with pytest.raises(PipelineError, match="changed by somebody other than the ledger"):
        book.spend("third")
    assert not book.restore(file).lost and book.spent() == before and book.sound()


def _gone(folder: Path) -> None:
    for path in folder.glob("ledger.db*"):
        path.unlink()


def _no_database(folder: Path) -> None:
    _gone(folder)
    database(folder).write_bytes(b"no database" * 1000)


def _cut(folder: Path) -> None:
    with sqlite3.connect(database(folder)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    database(folder).write_bytes(database(folder).read_bytes()[:20_000])


def _last_record_gone(folder: Path) -> None:
    with sqlite3.connect(database(folder)) as connection:
        connection.execute("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")


@pytest.mark.parametrize("lose", [_gone, _no_database, _cut, _last_record_gone])
@pytest.mark.parametrize("with_mark", [True, False])
def test_what_cannot_be_known_is_charged_without_limit(
    book: Book, lose: Callable[[Path], None], with_mark: bool
) -> None:
    file, folder = book.backup(), folder_of(book)
    book.spend("second")
    lose(folder)
    if not with_mark:
        mark(folder).unlink()
    damaged = kept(folder)
    told = book.restore(file, write=False)
    assert told.lost and told.charged == ("things/train/row",) and kept(folder) == damaged
    done = book.restore(file)
    assert done.lost == told.lost and math.isinf(book.spent()[0]) and book.sound()
    assert (done.aside is None) == (lose in (_gone, _last_record_gone))
    with pytest.raises(BudgetRefusedError):
        book.spend("third")


def test_a_backup_that_is_the_newest_state_is_restored_as_it_is(book: Book) -> None:
    file, before = book.backup(), book.spent()
    _gone(folder_of(book))
    assert not book.restore(file).lost and book.spent() == before
    book.spend("second")
    assert book.sound()


def test_a_ledger_that_was_put_back_is_charged_without_limit(book: Book) -> None:
    file, earlier = book.backup(), kept(folder_of(book))
    book.spend("second")
    put_back(folder_of(book), earlier)
    assert "put back" in book.open().put_back()
    assert "seen record" in book.restore(file).lost[0] and math.isinf(book.spent()[0])
    assert book.open().put_back() == ""


def test_a_ledger_that_went_another_way_is_charged_without_limit(book: Book, tmp_path: Path) -> None:
    shutil.copytree(folder_of(book), tmp_path / "away")
    away = Book(f"sqlite:///{tmp_path}/away/ledger.db", tmp_path)
    away.spend("there")
    file = away.backup()
    book.spend("here")
    assert "another way" in " ".join(book.restore(file).lost) and math.isinf(book.spent()[0])


def test_a_newer_backup_repairs_a_ledger_that_lost_its_log(book: Book) -> None:
    earlier = kept(folder_of(book))
    book.spend("second")
    file, before = book.backup(), book.spent()
    put_back(folder_of(book), earlier)
    assert not book.restore(file).lost and book.spent() == before


def test_keys_that_changed_are_carried_over(book: Book) -> None:
    file = book.backup()
    book.open().rotate_key()
    book.spend("second")
    before = book.spent()
    assert not book.restore(file).lost and book.spent() == before and book.sound()


def test_a_key_that_was_replaced_after_the_backup_takes_over_and_has_to_be_accepted(book: Book) -> None:
    file = book.backup()
    _, new = book.open().rotate_key()
    _gone(folder_of(book))
    assert "it takes over" in book.restore(file).lost[-1] and math.isinf(book.spent()[0])
    assert not book.open().verify().ok and book.open().verify(accepted=[new]).ok


def test_another_key_takes_over_nothing_that_is_known_to_be_whole(book: Book) -> None:
    file = book.backup()
    key = folder_of(book) / "ledger_key.pem"
    key.unlink()
    keys.store(key, keys.generate())
    with pytest.raises(PipelineError, match="but the ledger is signed by key"):
        book.restore(file)


def test_a_restore_that_was_killed_is_ended_by_the_next(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    file = book.backup()
    book.spend("second")
    _gone(folder_of(book))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for where, name in ((os, "replace"), (restoring.high_water, "replace")):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(where, name, killed)
            book.restore(file)
    book.restore(file)
    assert math.isinf(book.spent()[0]) and book.sound()
    assert sorted(path.name for path in folder_of(book).glob(".*")) == []


def test_a_backup_of_another_ledger_or_of_nothing_is_refused(book: Book, tmp_path: Path) -> None:
    other = Book(f"sqlite:///{tmp_path}/other/ledger.db", tmp_path).begun()
    with pytest.raises(BadInputError, match="of another ledger"):
        book.restore(other.backup("other.db"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BadInputError, match="is not a backup of a ledger"):
        book.restore(tmp_path / "text")
    with pytest.raises(BadInputError, match="cannot be read"):
        book.restore(tmp_path / "missing")


def test_a_backup_that_was_edited_is_refused(book: Book) -> None:
    file = book.backup()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE journal SET body = replace(body, '8.0', '9.0') WHERE seq = 2")
    with pytest.raises(PipelineError, match="is not what a ledger wrote"):
        book.restore(file)


def test_a_ledger_that_was_moved_is_not_opened_again(book: Book, tmp_path: Path) -> None:
    file = book.backup()
    os.makedirs(tmp_path / "new", mode=0o700)
    move(book.url, f"sqlite:///{tmp_path}/new/ledger.db")
    with pytest.raises(PipelineError, match="this ledger was moved to"):
        book.restore(file)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    with server() as url:
        yield url


def test_a_ledger_on_a_server(postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dumped and restored there; its password is on no command line."""
    monkeypatch.setenv(keys.ENVIRONMENT, str(tmp_path / "keys/key.pem"))
    words: list[str] = []
    run = backups.subprocess.run
    monkeypatch.setattr(backups.subprocess, "run", lambda given, **named: (words.extend(given), run(given, **named))[1])
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    book = Book(postgresql, tmp_path).begun()
    book.spend("a\\b\tc\nd")
    file = book.backup("backup.dump")
    book.spend("second")
    before, entries = book.spent(), book.open().history()
    assert not book.restore(file).lost and book.spent() == before and book.open().history() == entries and book.sound()
    assert words and "hunter2" not in " ".join(words)
    book.spend("third")
    with schema.transaction(book.open()._engine, write=True) as connection:
        connection.exec_driver_sql("DELETE FROM journal WHERE seq > 3")
    told = book.restore(file)
    assert told.lost and math.isinf(book.spent()[0]) and book.sound()
