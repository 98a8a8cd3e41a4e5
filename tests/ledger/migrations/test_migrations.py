"""Older ledgers, on SQLite and on PostgreSQL, and what is refused there."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import sqlalchemy as sa

from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.ledger.audit.cap_history import ledger_changes
from privacy_pipeline.ledger.charging.charges import Charges
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.budgets import set_totals, totals_of
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.ledger.storage import journal, keys, schema
from privacy_pipeline.ledger.storage.schema import LedgerError
from privacy_pipeline.ledger.write_transactions import writing
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.old_ledgers import as_format, as_format_3, make_old_ledger
from tests.ledger.test_ledger import run, spend


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
    ledger = Ledger.open(fresh)
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


def bodies(url: str, kind: str) -> list[Any]:
    """The journal's records of one kind, the oldest first."""
    engine = sa.create_engine(schema.parse(url))
    with engine.connect() as connection:
        query = sa.select(schema.journal.c.body).where(schema.journal.c.kind == kind).order_by(schema.journal.c.seq)
        found = [json.loads(body) for body in connection.scalars(query)]
    engine.dispose()
    return found


def at_new_delta(connection: sa.Connection, delta: float) -> None:
    """Totals hold entries' own epsilons at the cap's delta; version 0.1.0 added them anew when that changed."""
    budget = connection.execute(sa.select(schema.budgets)).mappings().one()
    (charge,) = connection.scalars(sa.select(schema.entries.c.executed))
    spent = {"train": Charges(connection).sum(charge, delta)}
    set_totals(connection, budget["id"], dataclasses.replace(totals_of(budget), spent=spent))


def as_0_1_0_left_it(url: str, *, again: bool, delta: float = 1e-5, first: bool = True) -> Ledger:
    """A ledger of format 4 with a run, a change of its cap, and perhaps a run after that."""
    ledger = Ledger.open(url, create=True)
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
    if first:
        run(ledger, make_plan(), run_id="first")
    with writing(ledger._engine) as writer:
        changes = {"epsilon": 4.0, "delta": delta, "policy": None, "filter_order": None, "cap_changes": 1}
        writer.connection.execute(schema.budgets.update().values(**changes))
        if first:
            at_new_delta(writer.connection, delta)
        writer.append(journal.POLICY, {"budget": 1, "changes": changes})
    if again:
        run(ledger, make_plan(30.0), run_id="second")
    as_format(url, "4")
    return ledger


@pytest.mark.parametrize("again", [False, True])
def test_what_format_4_left_unfixed_is_stated(fresh: str, again: bool) -> None:
    as_0_1_0_left_it(fresh, again=again)
    ledger = Ledger.open(fresh)
    (before,) = ledger.status()
    assert ledger.verify().ok and next(entry.run_id for entry in ledger.entries("adult")) == "first"
    orders = [body["order"] for body in bodies(fresh, journal.RESERVE)]
    Ledger.migrate(fresh)
    (after,) = ledger.status()
    assert before == after  # a reader has no key to migrate, and claims no more for that
    assert after.filter_order == orders[-1] and after.enforced_epsilon > 0
    assert after.delta_factor == (len(ORDERS) if again else 1)
    assert ledger.verify().ok and Ledger.open(fresh).verify().ok
    run(ledger, make_plan(40.0), run_id="third")
    assert (ledger.status()[0].filter_order, ledger.status()[0].delta_factor) == (orders[-1], after.delta_factor)
    fixed = bodies(fresh, journal.POLICY)[-1]["changes"]
    assert fixed == ({"delta_factor": len(ORDERS)} if again else {"filter_order": orders[-1]})


@pytest.mark.parametrize(
    ("delta", "first", "again", "factor"),
    [
        (1e-6, True, False, 10),  # a smaller delta that was chosen after results were seen: the larger one is proven
        (1e-6, True, True, 10 * len(ORDERS)),
        (1e-4, True, False, 1),
        (1e-4, True, True, len(ORDERS)),
        (1e-6, False, True, 1),  # before any run
    ],
)
def test_a_delta_that_was_chosen_again_is_no_smaller(
    url: str, delta: float, first: bool, again: bool, factor: int
) -> None:
    as_0_1_0_left_it(url, delta=delta, first=first, again=again)
    (before,) = Ledger.open(url).status()
    Ledger.migrate(url)
    (after,) = Ledger.open(url).status()
    assert before.delta_factor == after.delta_factor == factor
    assert after.cap_delta == delta and Ledger.open(url).verify().ok


def test_format_4_is_verified_before_it_is_signed_anew(fresh: str) -> None:
    as_0_1_0_left_it(fresh, again=True)
    execute(fresh, "UPDATE budgets SET cap_changes = 0")
    assert not Ledger.open(fresh).verify().ok
    with pytest.raises(LedgerError, match="changed by somebody other"):
        run(Ledger.open(fresh), make_plan(), run_id="third")
    execute(fresh, "UPDATE budgets SET cap_changes = 1", "DELETE FROM entries WHERE id = 2")
    with pytest.raises(LedgerError, match=r"format 4 does not verify.*entry 2 was deleted"):
        Ledger.migrate(fresh)
    assert [entry.id for entry in Ledger.open(fresh).entries("adult")] == [1]
