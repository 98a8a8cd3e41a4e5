"""The secret of digests is one for all clients of a ledger, stays when keys change, and is never made twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.covered_digests import NOT_HERE, covered, is_covered
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.copies.moving import move
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import journal
from privacy_pipeline.ledger.storage.digest_secret import covering, secret_file
from privacy_pipeline.ledger.storage.schema import LedgerError, parse
from tests.ledger.conftest import DIGEST, make_plan, make_registration
from tests.ledger.test_ledger import run


def test_a_digest_is_covered_once_and_only_under_its_secret() -> None:
    one, other = covered(DIGEST, b"1" * 32), covered(DIGEST, b"2" * 32)
    assert is_covered(one) and one != other and len(one) == len("hmac-sha256:") + 64
    assert covered(one, b"2" * 32) == one and not is_covered(DIGEST)
    assert not is_covered(DIGEST) and DIGEST[:8] not in one


def test_the_file_is_private_and_survives_a_rotation(ledger: Ledger, url: str) -> None:
    secret = ledger.digest_secret()
    file = secret_file(parse(url))
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent == Path(url.removeprefix("sqlite:///")).parent
    told = ledger.registrations()[0].digest
    ledger.rotate_key()
    assert Ledger.open(url).digest_secret() == secret and Ledger.open(url).registrations()[0].digest == told


def test_a_second_client_without_the_file_makes_no_other_secret(fresh: str, tmp_path: Path) -> None:
    first = Ledger.open(fresh, create=True)
    first.register(make_registration(), epsilon=3.0, delta=1e-5)
    secret, file = first.digest_secret(), secret_file(parse(fresh))
    kept = shutil.move(file, tmp_path / "kept")
    with pytest.raises(LedgerError, match="is missing"):
        Ledger.open(fresh).digest_secret()
    assert not file.exists()
    assert Ledger.open(fresh).registrations()[0].digest == NOT_HERE  # reading goes on, and tells nothing
    file.write_text("ab" * 32)
    file.chmod(0o600)
    with pytest.raises(LedgerError, match="made under"):
        Ledger.open(fresh).digest_secret()
    shutil.copy(kept, file)
    assert Ledger.open(fresh).digest_secret() == secret


@pytest.mark.parametrize("damage", [lambda file: file.chmod(0o644), lambda file: file.write_text("ab")])
def test_a_readable_or_damaged_file_is_refused(ledger: Ledger, url: str, damage: object) -> None:
    ledger.digest_secret()
    damage(secret_file(parse(url)))  # type: ignore[operator]
    with pytest.raises(LedgerError, match=r"ledger_units\.key"):
        Ledger.open(url).digest_secret()
    assert covering(parse(url))(DIGEST) == NOT_HERE


def test_a_moved_ledger_takes_its_secret_along(ledger: Ledger, url: str, tmp_path: Path) -> None:
    secret, target = ledger.digest_secret(), f"sqlite:///{tmp_path}/elsewhere/ledger.db"
    move(url, target)
    assert Ledger.open(target).digest_secret() == secret


def test_the_ledger_knows_its_data_by_the_covered_digest(ledger: Ledger) -> None:
    told = ledger.registrations()[0].digest
    assert told == covered(DIGEST, ledger.digest_secret())
    plan = make_plan()
    request = {"dataset": "adult", "span": None, "split": "train", "node": "n", "plan": plan}
    with ledger.spend(**request, data_digest=told, run_id="covered") as grant:
        grant.start()
        grant.commit(plan.event)
    run(ledger, plan, run_id="plain")
    other = covered("e" * 64, ledger.digest_secret())
    with (
        pytest.raises(BudgetRefusedError, match="not what was registered"),
        ledger.spend(**request, data_digest=other, run_id="other"),
    ):
        pass
    assert [entry.run_id for entry in ledger.entries("adult")] == ["covered", "plain"]
    assert ledger.verify().ok


def test_a_covered_digest_of_unknown_data_is_not_registered(ledger: Ledger) -> None:
    strange = make_registration("other", digest=covered("e" * 64, b"1" * 32))
    with pytest.raises(BadInputError, match="plain digests"):
        ledger.register(strange, epsilon=3.0, delta=1e-5)


def test_a_registration_without_a_salt_is_named(ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger.unsalted_records() == []
    assert "without a salt" not in CliRunner().invoke(app, ["budget", "status", "--ledger", url]).output
    with monkeypatch.context() as older:  # as a version before this one wrote it
        older.setattr(journal, "UNSALTED", (journal.REGISTER, journal.BIND))
        ledger.register(make_registration("census", digest="c" * 64), epsilon=1.0, delta=1e-5)
    assert ledger.unsalted_records() == [3]
    told = " ".join(CliRunner().invoke(app, ["budget", "status", "--ledger", url]).output.split())
    assert "journal record(s) 3 without a salt" in told
