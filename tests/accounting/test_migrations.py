"""Older ledgers, on SQLite and on PostgreSQL, and what is refused there."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from privacy_pipeline.accounting import journal, keys
from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting.cap_history import ledger_changes
from privacy_pipeline.accounting.ledger import Ledger
from privacy_pipeline.accounting.ledger_entries import State
from privacy_pipeline.accounting.ledger_schema import LedgerError
from tests.accounting.conftest import make_plan, make_registration
from tests.accounting.old_ledgers import as_format_3, make_old_ledger
from tests.accounting.test_ledger import run, spend


def execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(schema.parse(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize("version", [1, 2])
def test_an_unsigned_ledger_is_imported_and_goes_on(fresh: str, version: int) -> None:
    states = ["committed", "expired", "started", "reserved"]
    make_old_ledger(fresh, runs=[f"run-{n}" for n in range(4)], version=version, states=states)
    ledger = Ledger.open(fresh)
    assert [entry.state.value for entry in ledger.entries("adult")] == states
    before = ledger.status()[0].spent_epsilon
    assert before > 0 and ledger.verify().problems == ledger.verify().unaccepted != []
    Ledger.migrate(fresh, accept=True)
    assert ledger.verify().ok
    (*_, accepted) = ledger_changes(fresh, "adult")
    assert accepted.kind == journal.ACCEPT and accepted.principal
    run(ledger, make_plan(), run_id="new")
    assert ledger.entries("adult")[-1].id == 5  # numbered on, although the ids were given
    assert ledger.status()[0].spent_epsilon > before
    ledger.register(make_registration("census", digest="c" * 64), epsilon=1.0, delta=1e-5)
    assert [status.dataset for status in ledger.status()] == ["adult", "census"]
    assert ledger.expire_reserved("run-3") == 1 and ledger.verify().ok
    assert ledger.status()[0].entries[State.EXPIRED] == 2


def test_an_unsigned_ledger_in_the_place_of_a_signed_one_is_refused(fresh: str) -> None:
    Ledger.open(fresh, create=True)
    tables = ("entries", "charges", "budgets", "registrations", "journal", "ledger_meta", "ledger_version")
    execute(fresh, *(f"DROP TABLE {table}" for table in tables))
    for create in (True, False):
        with pytest.raises(LedgerError, match="its ledger is gone"):
            Ledger.open(fresh, create=create)
    make_old_ledger(fresh, runs=[], version=2)
    with pytest.raises(LedgerError, match="not the database that the key signed"):
        Ledger.open(fresh)


def test_a_team_makes_its_key_beforehand(fresh: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made-beforehand.pem"
    keys.store(path, keys.generate())
    monkeypatch.setenv(keys.ENVIRONMENT, str(path))
    with pytest.raises(LedgerError, match="its ledger is gone"):
        Ledger.open(fresh, create=True)
    Ledger.open(fresh, create=True, existing_key=True).register(make_registration(), epsilon=3.0, delta=1e-5)
    assert Ledger.open(fresh).verify().ok


def test_format_3_is_verified_before_it_is_signed_anew(fresh: str) -> None:
    ledger = Ledger.open(fresh, create=True)
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
    run(ledger, make_plan(), run_id="first")
    as_format_3(fresh)
    assert ledger.verify().ok
    execute(fresh, "UPDATE budgets SET epsilon = 100")
    with pytest.raises(LedgerError, match=r"format 3 does not verify.*epsilon is 100.0"):
        run(ledger, make_plan(noise=1.0), run_id="large")
    execute(fresh, "UPDATE budgets SET epsilon = 3")
    run(ledger, make_plan(), run_id="second")
    assert ledger.verify().ok


def test_a_raised_cap_grants_nothing(fresh: str) -> None:
    ledger = Ledger.open(fresh, create=True)
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
    execute(fresh, "UPDATE budgets SET epsilon = 100")
    with pytest.raises(LedgerError, match="changed by somebody other"), spend(ledger, make_plan(noise=1.0)):
        pass
    execute(fresh, "UPDATE budgets SET epsilon = 3")
    run(ledger, make_plan())
