"""Folders that remember which ledger their data belongs to: another one, a copy and an older state are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.grants import Grant
from privacy_pipeline.ledger.charging.sequence import charged
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.ledger.audit.test_verify import edit, file_of
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.test_ledger import run, spend


@pytest.fixture
def folders(tmp_path: Path, ledger: Ledger) -> list[Path]:
    """A workspace and a folder of data that belong to the ledger."""
    found = [tmp_path / "workspace", tmp_path / "data" / "adult"]
    for folder in found:
        folder.mkdir(parents=True)
    assert pins.note(ledger, found) == []
    return found


def charge(grant: Grant, ledger: Ledger, *, data: Path, workspace: Path) -> None:
    with charged(
        nullcontext(grant),
        composition=ledger.composition,
        note=lambda: pins.note_again(ledger, data=data, workspace=workspace),
    ) as charging:
        charging.start()


def opened(url: str, folders: list[Path]) -> Ledger | None:
    return pins.open_pinned(url, data=folders[1], workspace=folders[0])


def test_the_ledger_goes_on_and_is_still_the_one(ledger: Ledger, url: str, folders: list[Path]) -> None:
    run(ledger, make_plan())
    assert opened(url, folders) is not None
    ledger.rotate_key()
    assert opened(url, folders) is not None
    assert pins.note(ledger, folders) == []
    for pin in pins.pinned(folders).values():
        assert pin.seq == ledger.lineage().seq
    assert opened(url, folders) is not None


def test_an_older_record_does_not_replace_a_newer_one(ledger: Ledger, folders: list[Path]) -> None:
    run(ledger, make_plan())
    pins.note(ledger, folders)
    (pin, *_) = pins.pinned(folders).values()
    later = pin.model_copy(update={"seq": pin.seq + 10})
    (folders[0] / pins.FILE).write_text(later.model_dump_json())
    pins.note(ledger, folders)
    assert pins.pinned(folders)[folders[0] / pins.FILE] == later


@pytest.mark.parametrize("kept", [0, 1], ids=["workspace", "data"])
def test_another_ledger_is_refused_by_either_folder(tmp_path: Path, folders: list[Path], kept: int) -> None:
    (folders[1 - kept] / pins.FILE).unlink()
    other = f"sqlite:///{tmp_path}/other/l.db"
    with pytest.raises(BudgetRefusedError, match="is registered with a ledger, and there is none at"):
        opened(other, folders)
    Ledger.open(other, create=True).register(make_registration(), epsilon=9.0, delta=1e-5)
    with pytest.raises(BudgetRefusedError, match="is registered with another ledger than"):
        opened(other, folders)


def test_a_pin_holds_for_what_lies_below_it(tmp_path: Path, folders: list[Path]) -> None:
    below = tmp_path / "data" / "adult" / "span-1" / "train.csv"
    below.parent.mkdir()
    below.write_text("a\n1\n")
    link = tmp_path / "link"
    link.symlink_to(below.parent)
    for data in (below, below.parent, link):
        with pytest.raises(BudgetRefusedError, match="there is none at"):
            pins.open_pinned(f"sqlite:///{tmp_path}/other/l.db", data=data, workspace=None)
    assert pins.open_pinned(f"sqlite:///{tmp_path}/other/l.db", data=tmp_path, workspace=None) is None


def copied(url: str, tmp_path: Path) -> str:
    shutil.copytree(file_of(url).parent, tmp_path / "copy")
    return f"sqlite:///{tmp_path}/copy/{file_of(url).name}"


def test_a_copy_that_was_taken_before_is_an_older_state(
    ledger: Ledger, url: str, tmp_path: Path, folders: list[Path]
) -> None:
    copy = copied(url, tmp_path)
    run(ledger, make_plan())
    pins.note(ledger, folders)
    with pytest.raises(BudgetRefusedError, match="was rolled back, or is a copy that went on by itself"):
        opened(copy, folders)


def test_a_charge_of_a_run_that_was_killed_is_not_undone_by_a_copy(
    ledger: Ledger, url: str, tmp_path: Path, folders: list[Path]
) -> None:
    copy = copied(url, tmp_path)
    with spend(ledger, make_plan()) as grant:
        charge(grant, ledger, data=folders[1], workspace=folders[0])
    assert opened(url, folders) is not None
    with pytest.raises(BudgetRefusedError, match="was rolled back, or is a copy that went on by itself"):
        opened(copy, folders)


def test_no_pin_is_made_where_there_is_none(ledger: Ledger, tmp_path: Path) -> None:
    with spend(ledger, make_plan()) as grant:
        charge(grant, ledger, data=tmp_path / "data", workspace=tmp_path)
    assert pins.pinned([tmp_path, tmp_path / "data"]) == {}


def test_a_copy_that_went_on_by_itself_is_found(ledger: Ledger, url: str, tmp_path: Path, folders: list[Path]) -> None:
    copy = copied(url, tmp_path)
    run(ledger, make_plan())
    pins.note(ledger, folders)
    for number in range(3):
        run(Ledger.open(copy), make_plan(), run_id=f"copy-{number}")
    with pytest.raises(BudgetRefusedError, match="went on by itself"):
        opened(copy, folders)


def test_a_key_that_was_declared_lost_is_asked_for(ledger: Ledger, url: str, folders: list[Path]) -> None:
    keys.key_file(ledger._engine.url).unlink()
    _, new = ledger.rotate_key(lost=True)
    with pytest.raises(BudgetRefusedError, match=f"key {new} took over") as caught:
        opened(url, folders)
    assert f"--accept-lost-key {new}" in str(caught.value.fix)
    assert pins.note(ledger, folders, accept=[new]) == []
    assert opened(url, folders) is not None


FORGED: dict[str, tuple[str, ...]] = {
    "another first key": ("UPDATE journal SET body = replace(body, 'public_key', 'other_key') WHERE seq = 1",),
    "no first record": ("DELETE FROM journal WHERE seq = 1",),
    "a signature": ("UPDATE journal SET signature = hash WHERE seq = 1",),
    "a head of another record": ("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",),
}


@pytest.mark.parametrize("way", FORGED)
def test_a_forged_lineage_is_an_error(url: str, folders: list[Path], way: str) -> None:
    edit(url, *FORGED[way])
    with pytest.raises(LedgerError, match=r"journal|head"):
        opened(url, folders)


BROKEN: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda file: file.write_text("{"),
    "another form": lambda file: file.write_text('{"origin": 1}'),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_damaged_pin_is_not_taken_for_none(url: str, folders: list[Path], way: str) -> None:
    BROKEN[way](folders[1] / pins.FILE)
    with pytest.raises(BadInputError, match=pins.FILE):
        opened(url, folders)


def test_a_folder_that_cannot_be_written_is_named(ledger: Ledger, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert pins.note(ledger, [tmp_path, missing]) == [missing]


def test_where_nothing_is_pinned_any_ledger_or_none_will_do(tmp_path: Path, url: str, ledger: Ledger) -> None:
    assert pins.open_pinned(f"sqlite:///{tmp_path}/none.db", data=tmp_path, workspace=None) is None
    assert pins.open_pinned(url, data=tmp_path, workspace=None) is not None
    with pytest.raises(BadInputError, match="is not a SQLAlchemy URL"):
        pins.open_pinned("nonsense", data=tmp_path, workspace=None)
