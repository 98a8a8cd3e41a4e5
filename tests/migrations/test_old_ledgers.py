"""Ledgers of earlier releases are read, verified, charged and registered into, and never say less than was spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.cli.main import app
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import BudgetStatus, State
from privacy_pipeline.ledger.state.registration import Division, Registration
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.old_ledgers import format_of

THINGS, EVAL, VISITS = "things/train/row", "things/eval/row", "visits/train/person"


def told(*words: str, code: int = 0) -> str:
    """What a command of `budget` writes, line breaks and colours apart."""
    ended = CliRunner().invoke(app, ["budget", *words], env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert ended.exit_code == code, ended.output
    return ended.output


def statuses(url: str) -> dict[str, BudgetStatus]:
    return {one.budget: one for one in Ledger.open(url).status()}


def bound(known: Registration) -> Registration:
    """The same data, registered again by today's code."""
    return make_registration(known.dataset, known.span, digest=known.digest, unit=known.unit)


def require_no_less(before: dict[str, Any], after: BudgetStatus) -> None:
    """What is spent, held and closed is not less than an earlier version said; caps are as they were left."""
    assert after.spent_epsilon >= before["spent_epsilon"] * (1 - 1e-12)
    assert after.simple_epsilon >= before["simple_epsilon"] * (1 - 1e-12)
    assert after.enforced_epsilon >= before["held_epsilon"] * (1 - 1e-12)
    assert (after.cap_epsilon, after.cap_delta) == (before["cap_epsilon"], before["cap_delta"])
    assert after.cap_changes == before["cap_changes"] and after.closed == before["closed"]
    assert {state.value: number for state, number in after.entries.items()} == before["entries"]


def test_reading_says_no_less_and_changes_nothing(old_ledger: tuple[str, str], said: Any) -> None:
    kind, url = old_ledger
    as_it_was = format_of(url)
    found = statuses(url)
    assert set(found) == {one["budget"] for one in said[kind]["status"]} == {THINGS, EVAL, VISITS}
    for one in said[kind]["status"]:
        require_no_less(one, found[one["budget"]])
    history = json.loads(told("history", "--ledger", url, "--json"))
    for then, now in zip(said[kind]["history"], history, strict=True):
        assert {key: now[key] for key in then if key != "epsilon"} == {k: v for k, v in then.items() if k != "epsilon"}
        assert now["epsilon"] >= then["epsilon"] * (1 - 1e-12)
    assert "no receipt was given" in told("verify", "--ledger", url)
    assert told("history", "--all", "--ledger", url) and told("export", "things", "--ledger", url)
    assert told("report", "things", "--ledger", url, "--format", "json", "--output", "-")
    assert format_of(url) == as_it_was  # a reader has no key


def test_the_migration_claims_what_reading_claimed(old_ledger: tuple[str, str]) -> None:
    _, url = old_ledger
    before = statuses(url)
    told("migrate", "--ledger", url)
    assert statuses(url) == before
    assert Ledger.open(url).verify().ok
    # The order of `things` was chosen again after a charge, that of the others was not.
    assert {name: one.delta_factor for name, one in before.items()} == {THINGS: len(ORDERS), EVAL: 1, VISITS: 1}
    assert all(one.filter_order is not None for one in before.values())
    assert before[THINGS].ceiling == 12.0  # statistics with a threshold were charged: the largest cap there was


def test_what_is_not_kept_is_one_line_with_what_to_do(old_ledger: tuple[str, str]) -> None:
    _, url = old_ledger
    lines = told("status", "--ledger", url).splitlines()
    (things,) = [line for line in lines if "dataset things is of version 0.1.0" in line]
    (visits,) = [line for line in lines if "dataset visits is of version 0.1.0" in line]
    assert f"train at {len(ORDERS)} times the cap's delta" in things and "--disjoint" in things
    assert "times the cap's delta" not in visits
    for line in (things, visits):
        assert "not compared with other datasets" in line and "register it again" in line
        assert "plain (SHA-256)" in line and "publish none of those" in line
    ledger = Ledger.open(url)
    rows = RowHasher(ledger.digest_secret()).rows([["1", "a"]])
    again = Division(buckets=None, patterns={})
    for known in ledger.registrations():
        cap = statuses(url)[THINGS if known.dataset == "things" else VISITS]
        known = Registration(**{**vars(known), "division": again})
        ledger.register(known, epsilon=cap.cap_epsilon, delta=cap.cap_delta, rows={"train": rows, "eval": rows})
    lines = told("status", "--ledger", url).splitlines()
    (visits,) = [line for line in lines if "dataset visits is of version 0.1.0" in line]
    assert "not compared with other datasets" not in visits and "plain (SHA-256)" in visits
    assert ledger.verify().ok


def test_a_new_charge_after_the_migration(old_ledger: tuple[str, str]) -> None:
    _, url = old_ledger
    ledger, before = Ledger.open(url), statuses(url)
    known = ledger.registration("things", None)
    assert known is not None
    plan = make_plan(20.0, units=600)
    asked = {"dataset": "things", "span": None, "data_digest": known.digest, "split": "train", "node": "Trainer"}
    with ledger.spend(**asked, run_id="new", plan=plan) as grant:
        grant.start()
        grant.commit(plan.event)
    after = statuses(url)
    assert after[THINGS].spent_epsilon > before[THINGS].spent_epsilon
    assert after[THINGS].filter_order == before[THINGS].filter_order
    assert after[THINGS].delta_factor == len(ORDERS)
    assert after[VISITS] == before[VISITS] and after[EVAL] == before[EVAL]
    assert ledger.verify().ok
    large = ledger.spend(**asked, run_id="large", plan=make_plan(0.5, units=600))
    with pytest.raises(BudgetRefusedError, match=r"of 12\.000"), large:
        pass
    with pytest.raises(BadInputError, match="its delta is"):
        ledger.set_cap("things", epsilon=12.0, delta=1e-6)
    with pytest.raises(BadInputError, match="while no cap was to pass epsilon 12"):
        ledger.set_cap("things", epsilon=13.0, delta=1e-5)
    ledger.set_cap("visits", epsilon=9.0, delta=1e-5)
    assert statuses(url)[VISITS].filter_order == before[VISITS].filter_order


def test_what_was_started_counts_for_ever_and_what_was_reserved_expires(old_ledger: tuple[str, str]) -> None:
    _, url = old_ledger
    ledger, before = Ledger.open(url), statuses(url)
    for run in ("killed", "keyed-killed"):
        assert ledger.expire_reserved(run) == 0
    assert statuses(url)[VISITS] == before[VISITS]
    assert ledger.expire_reserved("waiting") == 1
    after = statuses(url)[THINGS]
    assert after.entries[State.STARTED] == 1 and after.entries[State.EXPIRED] == 1
    assert 0 < after.enforced_epsilon < before[THINGS].enforced_epsilon
    assert ledger.verify().ok


def test_units_of_an_old_registration_have_no_second_budget(old_ledger: tuple[str, str]) -> None:
    _, url = old_ledger
    ledger = Ledger.open(url)
    keys = {"train": ["T1-5", "new"], "eval": ["other"]}
    other = make_registration("second", None, digest="c" * 64, unit="person")
    with pytest.raises(BadInputError, match="registered as visits already"):
        ledger.register(other, epsilon=2.0, delta=1e-5, units=keys)
    third = make_registration("visits", 3, digest="c" * 64, unit="person")
    with pytest.raises(BadInputError, match="nobody may pay from two budgets"):
        ledger.register(third, epsilon=11.0, delta=1e-5, units={"train": ["e2-7"], "eval": []}, disjoint=True)
    with pytest.raises(BadInputError, match="already, as dataset things"):
        ledger.register(
            make_registration("second", digest=digest_of(ledger, "things")), epsilon=2.0, delta=1e-5, units=None
        )


def test_rows_of_an_old_registration_are_told_before_others_are_compared(old_ledger: tuple[str, str]) -> None:
    _, url = old_ledger
    ledger = Ledger.open(url)
    rows = {"train": RowHasher(ledger.digest_secret()).rows([["1", "a"], ["2", "b"]])}
    with pytest.raises(BadInputError, match="without digests of its rows") as caught:
        ledger.register(make_registration("second", digest="c" * 64), epsilon=2.0, delta=1e-5, rows=rows)
    assert "register things again first" in caught.value.fix
    declared = Registration(
        **{**vars(make_registration("second", digest="c" * 64)), "reasons": {"distinct_rows": "mine"}}
    )
    ledger.register(declared, epsilon=2.0, delta=1e-5, rows=rows)
    assert statuses(url)["second/train/row"].spent_epsilon == 0


def test_a_tampered_ledger_is_not_migrated(old_ledger: tuple[str, str]) -> None:
    _, url = old_ledger
    engine = sa.create_engine(schema.parse(url))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE journal SET body = replace(body, '\"delta\":', '\"delto\":') WHERE kind = 'policy'"
        )
    engine.dispose()
    as_it_was = format_of(url)
    assert "malformed" in told("status", "--ledger", url, code=1)
    assert "was changed" in told("verify", "--ledger", url, code=1)
    assert "does not verify" in told("migrate", "--ledger", url, code=1)
    assert format_of(url) == as_it_was


def digest_of(ledger: Ledger, dataset: str) -> str:
    known = ledger.registration(dataset, None)
    assert known is not None
    return known.digest


def test_keys_are_rotated_and_the_ledger_is_moved(old_ledger: tuple[str, str], tmp_path: Path) -> None:
    _, url = old_ledger
    before, target = statuses(url), f"sqlite:///{tmp_path}/moved/ledger.db"
    told("rotate-key", "--ledger", url)
    assert statuses(url) == before and Ledger.open(url).verify().ok
    told("move", target, "--ledger", url)
    assert statuses(target) == before and Ledger.open(target).verify().ok
    with pytest.raises(LedgerError, match="was moved to"):
        Ledger.open(url).set_cap("visits", epsilon=9.0, delta=1e-5)
