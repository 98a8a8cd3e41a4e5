"""A span has fresh budget only where its units are proven to be in no other span; nobody pays from two budgets."""

from __future__ import annotations

import hashlib
import json
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.unit_digests import UnitDigests, digest_units
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.ledger.conftest import make_plan, make_registration

SECRET = b"s" * 32


def register(
    ledger: Ledger, span: int, units: set[str] | None, *, disjoint: bool = False, unit: str = "person"
) -> None:
    digest = hashlib.sha256(f"span {span}".encode()).hexdigest()
    registration = make_registration(span=span, digest=digest, unit=unit)
    ledger.register(registration, epsilon=3.0, delta=1e-5, units=units, disjoint=disjoint)


def train(ledger: Ledger, span: int, *, noise: float = 4.0, run_id: str = "run") -> None:
    plan, digest = make_plan(noise=noise, unit="person"), hashlib.sha256(f"span {span}".encode()).hexdigest()
    where = {"dataset": "adult", "span": span, "split": "train", "data_digest": digest}
    with ledger.spend(**where, run_id=run_id, node="Trainer", plan=plan) as grant:  # type: ignore[arg-type]
        grant.start()
        grant.commit(plan.event)


@contextmanager
def new_ledger() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        yield Ledger.open(f"sqlite:///{folder}/ledger.db", create=True)


@pytest.fixture
def opened(tmp_path: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path}/ledger.db", create=True)


def test_a_disjoint_span_has_a_budget_of_its_own(opened: Ledger) -> None:
    register(opened, 1, {"ann", "bob"})
    register(opened, 2, {"cid", "dan"}, disjoint=True)
    register(opened, 3, {"ann", "eve"})  # shares with span 1, and has none of span 2
    register(opened, 2, {"cid", "dan"}, disjoint=True)  # the same again
    train(opened, 2)
    spent = {status.budget: status.spent_epsilon for status in opened.status("adult")}
    assert set(spent) == {"adult/train/person", "adult/train/person/span-2"}
    assert spent["adult/train/person"] == 0 < spent["adult/train/person/span-2"]
    train(opened, 1, run_id="one")
    train(opened, 3, run_id="three")
    shared, own = opened.status("adult")
    assert shared.spent_epsilon > own.spent_epsilon
    assert opened.verify().ok


@pytest.mark.parametrize("same", ["bob", "BOB", " bob ", "07"])
def test_a_unit_in_two_spans_keeps_them_together(opened: Ledger, same: str) -> None:
    register(opened, 1, {"ann", "bob", "7"})
    with pytest.raises(BadInputError, match="units of the new span are in span 1 too") as caught:
        register(opened, 2, {"cid", same}, disjoint=True)
    assert "without --disjoint" in caught.value.fix
    assert opened.registration("adult", 2) is None
    register(opened, 2, {"cid", same})
    assert len(opened.status("adult")) == 1


def test_a_shared_span_may_have_no_unit_of_a_span_with_its_own_budget(opened: Ledger) -> None:
    """Else that unit would pay from the shared budget and from the other one."""
    register(opened, 1, {"ann"})
    register(opened, 2, {"bob"}, disjoint=True)
    for units in ({"bob", "cid"}, None):
        with pytest.raises(BadInputError, match=r"two budgets|not known"):
            register(opened, 3, units)
    assert opened.registration("adult", 3) is None


def test_rows_have_no_proof(opened: Ledger) -> None:
    register(opened, 1, None, unit="row")
    with pytest.raises(BadInputError, match="no key that would show"):
        register(opened, 2, None, unit="row", disjoint=True)
    register(opened, 2, None, unit="row")
    assert len(opened.status("adult")) == 1


def test_spans_without_digests_prove_nothing(opened: Ledger) -> None:
    register(opened, 1, None)
    with pytest.raises(BadInputError, match="span 1 was registered without digests"):
        register(opened, 2, {"bob"}, disjoint=True)


def test_a_lost_secret_proves_nothing(opened: Ledger, tmp_path: Path) -> None:
    register(opened, 1, {"ann"})
    secret = tmp_path / "ledger_units.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.unlink()
    for found in (None, "zz", "ab" * 32):
        if found is not None:
            secret.write_text(found)
            secret.chmod(0o600)
        with pytest.raises(LedgerError, match=r"ledger_units\.key"):
            register(Ledger.open(str(opened._engine.url)), 2, {"bob"}, disjoint=True)


def test_a_registered_span_does_not_change_its_budget(opened: Ledger) -> None:
    register(opened, 1, {"ann"})
    register(opened, 2, {"bob"})
    with pytest.raises(BadInputError, match="shares a budget"):
        register(opened, 2, {"bob"}, disjoint=True)


def test_a_fresh_budget_is_no_way_around_the_policy(opened: Ledger) -> None:
    register(opened, 1, {"ann"})
    policy = Policy(dataset="adult", epsilon=3.0, delta=1e-5, unit="person", shares={"train": 0.0})
    opened.apply_policy(policy)
    register(opened, 2, {"bob"}, disjoint=True)
    with pytest.raises(BudgetRefusedError, match="may use 0%"):
        train(opened, 2)
    opened.apply_policy(policy.model_copy(update={"shares": {"train": 1.0}}))
    train(opened, 2)
    opened.set_cap("adult", epsilon=0.5, delta=1e-5)
    assert [status.cap_epsilon for status in opened.status("adult")] == [0.5, 0.5]
    with pytest.raises(BudgetRefusedError):
        train(opened, 2, run_id="two")
    assert opened.verify().ok


def test_digests_tell_no_key_without_the_secret(opened: Ledger, tmp_path: Path) -> None:
    register(opened, 1, {"ann"})
    with sa.create_engine(f"sqlite:///{tmp_path}/ledger.db").connect() as connection:
        body = json.loads(connection.execute(sa.text("SELECT body FROM journal WHERE kind = 'register'")).scalar_one())
        (table,) = connection.execute(sa.text("SELECT data FROM unit_digests")).scalars()
    assert (body["digests"]["unit"]["all"][0], len(table)) == (1, 8)
    others = {hashlib.sha256(b"ann").digest()[:8], digest_units({"ann"}, SECRET)["all"].astype(">u8").tobytes()}
    assert table not in others


def test_an_edited_proof_is_found(opened: Ledger, tmp_path: Path) -> None:
    register(opened, 1, {"ann"})
    with sa.create_engine(f"sqlite:///{tmp_path}/ledger.db").begin() as connection:
        body = json.loads(connection.execute(sa.text("SELECT body FROM journal WHERE kind = 'register'")).scalar_one())
        body["digests"]["unit"]["all"] = [0, ""]
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        connection.execute(sa.text("UPDATE journal SET body = :text WHERE kind = 'register'"), {"text": text})
    assert not opened.verify().ok


EDITS = {
    "another digest": "UPDATE unit_digests SET data = zeroblob(8)",
    "none": "DELETE FROM unit_digests",
    "one more": "INSERT INTO unit_digests SELECT dataset, '9', kind, split, part, data FROM unit_digests",
    "a further part": "INSERT INTO unit_digests SELECT dataset, span_key, kind, split, 1, data FROM unit_digests",
}


@pytest.mark.parametrize("way", EDITS)
def test_an_edited_table_is_found_and_proves_nothing(opened: Ledger, tmp_path: Path, way: str) -> None:
    register(opened, 1, {"ann"})
    with sa.create_engine(f"sqlite:///{tmp_path}/ledger.db").begin() as connection:
        connection.execute(sa.text(EDITS[way]))
    assert any("are not those that were registered" in problem for problem in opened.verify().problems)
    if way != "one more":
        with pytest.raises(LedgerError, match="are not those that were registered"):
            register(opened, 2, {"bob"}, disjoint=True)


UNITS = st.sets(st.sampled_from("abcdef"), min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(UNITS, st.booleans()), min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=6))
def test_no_unit_ever_pays_from_two_budgets(spans: list[tuple[set[str], bool]], trained: list[int]) -> None:
    """Whatever is registered, what a unit loses in all its spans together is within one cap."""
    with new_ledger() as ledger:
        registered = {}
        for span, (units, disjoint) in enumerate(spans):
            with suppress(BadInputError):
                register(ledger, span, units, disjoint=disjoint)
                registered[span] = units
        for number, span in enumerate(trained):
            if span in registered:
                with suppress(BudgetRefusedError):
                    train(ledger, span, noise=6.0, run_id=f"run-{number}")
        entries = ledger.entries("adult")
        budgets = {span: {entry.budget for entry in entries if entry.span == span} for span in registered}
        for unit in "abcdef":
            of_unit = set().union(*(budgets[span] for span, units in registered.items() if unit in units))
            assert len(of_unit) <= 1, f"{unit} pays from {of_unit}"
        owns = {status.budget for status in ledger.status("adult") if "/span-" in status.budget}
        for name in owns:  # the span of an own budget shares no unit with any other span
            span = int(name.rpartition("-")[2])
            assert all(registered[span].isdisjoint(units) for other, units in registered.items() if other != span)
        assert ledger.verify(reprice=False).ok


@given(st.sets(st.text(max_size=8), max_size=6), st.sets(st.text(max_size=8), max_size=6))
def test_digests_meet_where_units_do(one: set[str], other: set[str]) -> None:
    left, right = (set(digest_units(side, SECRET)["all"].tolist()) for side in (one, other))
    split = digest_units({"train": one, "eval": other}, SECRET)
    assert (set(split["train"].tolist()), set(split["eval"].tolist())) == (left, right)
    both = UnitDigests(key_id="", units=split)
    assert set(both.every_unit.tolist()) == left | right
    if one & other:
        assert left & right
    plain = {text for text in one | other if text.isascii() and text.isalpha() and text.islower()}
    assert len(digest_units(plain, SECRET)["all"]) == len(plain)
