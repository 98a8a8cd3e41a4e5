"""Keys that a killed registration or rotation left: the next write removes those that no ledger knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import keys
from tests.ledger.conftest import make_registration

_ID = "0123456789abcdef"


def opened(folder: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{folder}/ledger.db", create=True)


def registered(folder: Path) -> Ledger:
    ledger = opened(folder)
    ledger.register(make_registration(), epsilon=1.0, delta=1e-5)
    return ledger


def leave_a_key(folder: Path) -> Path:
    left = folder / f"ledger_key.pem.{_ID}"
    keys.store(left, keys.generate())
    (folder / f".ledger_key.pem.{_ID}.abcdefgh.part").touch()
    return left


@pytest.mark.parametrize("write", ["set_cap", "rotate_key"])
def test_a_write_removes_a_key_that_no_ledger_knows(write: str, tmp_path: Path) -> None:
    ledger = registered(tmp_path)
    left = leave_a_key(tmp_path)
    if write == "set_cap":
        ledger.set_cap("adult", epsilon=2.0, delta=1e-5)
    else:
        ledger.rotate_key()
    assert not left.exists() and not list(tmp_path.glob(".ledger_key.pem*"))
    assert ledger.verify().problems == []


@pytest.mark.parametrize("where", ["another ledger", "the environment"])
def test_a_key_that_another_ledger_may_know_stays(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = registered(tmp_path)
    left = leave_a_key(tmp_path)
    if where == "another ledger":
        (tmp_path / "other.db").touch()
    else:
        monkeypatch.setenv(keys.ENVIRONMENT, str(tmp_path / "ledger_key.pem"))
    ledger.set_cap("adult", epsilon=2.0, delta=1e-5)
    assert left.exists()


def test_a_killed_rotation_whose_key_the_ledger_knows_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public copy never is one of another key than the private one for longer than until the next write."""
    ledger = registered(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(keys, "install", lambda *_: None)  # killed right after the commit
        _, new = ledger.rotate_key()
    assert (tmp_path / f"ledger_key.pem.{new}").exists()
    ledger.set_cap("adult", epsilon=2.0, delta=1e-5)
    assert keys.waiting(tmp_path / "ledger_key.pem") == []
    assert keys.read_public(tmp_path / "ledger_key.pub").id == new


def test_an_empty_file_of_an_earlier_version_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f"ledger_key.pem.{_ID}").touch(mode=0o600)
    registered(tmp_path)
    assert keys.waiting(tmp_path / "ledger_key.pem") == []
