"""A ledger moves to another database, and goes on there alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.copies import moving
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import keys, schema
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.test_ledger import abandon, run


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """Two committed runs, one that is started, and a second dataset."""
    for number in range(2):
        run(ledger, make_plan(), run_id=f"run-{number}")
    abandon(ledger, make_plan(noise=20.0), run_id="alive", start=True)
    ledger.register(make_registration("census", digest="c" * 64), epsilon=1.0, delta=1e-5)
    return ledger


@pytest.fixture
def target(fresh: str, url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database without a ledger; one on a server needs to be told where the key is."""
    if fresh.startswith("postgresql"):
        monkeypatch.setenv(keys.ENVIRONMENT, str(Path(url.removeprefix("sqlite:///")).with_name("ledger_key.pem")))
    return fresh


def test_everything_arrives_and_goes_on(filled: Ledger, url: str, target: str, tmp_path: Path) -> None:
    pins.note(filled, [tmp_path])
    before, entries = filled.status(), filled.entries("adult")
    moving.move(url, target)
    moved = Ledger.open(target)
    assert (moved.status(), moved.entries("adult")) == (before, entries)
    assert moved.verify().ok and filled.verify().ok
    kinds = [[record.kind for record in one.records(limit=2)] for one in (filled, moved)]
    assert kinds[0][0] == "moved_to" and kinds[1] == ["moved_from", "moved_to"]
    run(moved, make_plan(), run_id="later")
    assert moved.entries("adult")[-1].id == entries[-1].id + 1 and moved.verify().ok
    assert pins.open_pinned(target, data=tmp_path, workspace=None) is not None


def test_the_old_one_grants_nothing_and_says_where_to_go(filled: Ledger, url: str, target: str) -> None:
    moving.move(url, target)
    for write in (lambda: run(filled, make_plan(), run_id="late"), lambda: filled.rotate_key()):
        with pytest.raises(LedgerError, match="was moved to"):
            write()
    assert filled.status()  # it can be read
    with pytest.raises(BadInputError, match="there is a ledger at"):
        moving.move(url, target)


def test_a_move_that_was_broken_off_is_made_again(
    filled: Ledger, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    target = f"sqlite:///{tmp_path}/there/l.db"
    with monkeypatch.context() as patched:
        patched.setattr(moving, "number_on", killed)
        with pytest.raises(KeyboardInterrupt):
            moving.move(url, target)
    with pytest.raises(LedgerError, match="was moved to"):
        run(filled, make_plan(), run_id="late")
    with pytest.raises(BadInputError, match="was moved to"):
        moving.move(url, f"sqlite:///{tmp_path}/elsewhere/l.db")
    moving.move(url, target)
    assert Ledger.open(target).verify().ok and len(Ledger.open(target).entries("adult")) == 3


def test_a_move_that_was_struck_from_the_journal_is_found(filled: Ledger, url: str, tmp_path: Path) -> None:
    moving.move(url, f"sqlite:///{tmp_path}/there/l.db")
    engine = sa.create_engine(schema.parse(url))
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM journal WHERE kind = 'moved_to'")
    engine.dispose()
    with pytest.raises(LedgerError, match="does not end with record"):
        run(filled, make_plan(), run_id="late")


def test_there_has_to_be_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no ledger"):
        moving.move(f"sqlite:///{tmp_path}/none.db", f"sqlite:///{tmp_path}/l.db")
    assert not (tmp_path / "l.db").exists()
