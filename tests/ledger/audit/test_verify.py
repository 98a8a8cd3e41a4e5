"""The journal and its verification: every way of tampering is found, and what is honest passes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.accounting.events import gaussian_passes
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.audit.verify import Verification
from privacy_pipeline.ledger.charging import charges
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.ledger.storage import journal, keys
from privacy_pipeline.ledger.storage.journal import Receipt
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.old_ledgers import TOKEN, make_old_ledger
from tests.ledger.test_ledger import abandon, run, spend


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def edit(url: str, *statements: str) -> None:
    connection = sqlite3.connect(file_of(url))
    with connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement
    connection.close()


@pytest.fixture
def used(ledger: Ledger, url: str) -> str:
    """A ledger with two committed runs, one that expired, one that is started, and a new cap. Gives its URL."""
    run(ledger, make_plan(noise=10.0), run_id="run-1")
    with spend(ledger, make_plan(noise=11.0), run_id="run-2"):
        pass
    run(ledger, make_plan(noise=12.0), run_id="run-3")
    abandon(ledger, make_plan(noise=13.0), run_id="run-4", start=True)
    ledger.set_cap("adult", epsilon=4.0, delta=1e-5)
    return url


def check(url: str, **options: Any) -> Verification:
    return Ledger.open(url).verify(**options)


def test_an_honest_ledger_passes(used: str) -> None:
    found = check(used)
    assert found.ok and not found.problems
    # genesis, register, (reserve start commit) * 2, reserve expire, reserve start, cap
    assert (found.records, found.entries, len(found.keys)) == (13, 4, 1)
    assert any("no receipt" in note for note in found.notes)


def rehash(url: str, seq: int) -> None:
    """Hashes records from `seq` on anew, as somebody without the key would."""
    connection = sqlite3.connect(file_of(url))
    connection.row_factory = sqlite3.Row
    with connection:
        query = "SELECT * FROM journal WHERE seq >= ? - 1 ORDER BY seq"
        previous, *rest = [dict(row) for row in connection.execute(query, (seq,))]
        for row in rest:
            row["prev_hash"] = previous["hash"]
            row["hash"] = journal.record_hash(**{k: row[k] for k in ("seq", "at", "kind", "body", "prev_hash")})
            update = "UPDATE journal SET prev_hash = :prev_hash, hash = :hash WHERE seq = :seq"
            connection.execute(update, row)
            previous = row
    connection.close()


def cheaper(url: str) -> None:
    """Makes entry 1 cost what entry 3 costs, in the entry and its record."""
    edit(
        url,
        "UPDATE entries SET planned = (SELECT planned FROM entries WHERE id = 3) WHERE id = 1",
        "UPDATE journal SET body = (SELECT replace(body, '\"id\":3', '\"id\":1') FROM journal WHERE seq = 8)"
        " WHERE seq = 3",
    )


def swap(url: str) -> None:
    edit(
        url,
        "UPDATE journal SET seq = -4 WHERE seq = 4",
        "UPDATE journal SET seq = 4 WHERE seq = 5",
        "UPDATE journal SET seq = 5 WHERE seq = -4",
    )


def lower_totals(url: str) -> None:
    connection = sqlite3.connect(file_of(url))
    with connection:
        ((text,),) = connection.execute("SELECT totals FROM budgets").fetchall()
        document = json.loads(text)
        document["spent"]["train"][1] = [number // 2 for number in document["spent"]["train"][1]]
        connection.execute("UPDATE budgets SET totals = ?", (json.dumps(document, sort_keys=True),))
    connection.close()


def lower_a_charge(url: str) -> None:
    """With a right digest, and everywhere, so that only the journal and the event contradict it."""
    connection = sqlite3.connect(file_of(url))
    connection.row_factory = sqlite3.Row
    with connection:
        (row,) = connection.execute("SELECT c.* FROM charges c JOIN entries e ON e.planned = c.digest WHERE e.id = 1")
        new = dict(row) | {"rdp": json.dumps([value / 2 for value in json.loads(row["rdp"])])}
        new["digest"] = charges.content_digest(new)
        connection.execute(
            "INSERT INTO charges VALUES (:digest, :plan, :event, :orders_version, :rdp, :total_variation)", new
        )
        connection.execute("UPDATE entries SET planned = ?, executed = ? WHERE id = 1", (new["digest"],) * 2)
    connection.close()


WAYS: dict[str, tuple[Callable[[str], None] | tuple[str, ...], str]] = {
    "an edited entry": (("UPDATE entries SET state = 'expired' WHERE id = 3",), "entry 3 "),
    "an entry under another run": (("UPDATE entries SET run_id = 'other' WHERE id = 1",), "entry 1 "),
    "a deleted entry": (("DELETE FROM entries WHERE id = 1",), "entry 1 was deleted"),
    "an added entry": (
        (
            "CREATE TEMP TABLE copy AS SELECT * FROM entries WHERE id = 1",
            "UPDATE copy SET id = 9, attempt = 9",
            "INSERT INTO entries SELECT * FROM copy",
        ),
        "entry 9 .* is in no journal record",
    ),
    "an edited record": (
        ("UPDATE journal SET body = replace(body, 'run-1', 'run-9') WHERE seq = 3",),
        r"record 3 \(reserve, entry 1\) was changed",
    ),
    "an edited time": (("UPDATE journal SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 4",), "record 4 .* changed"),
    "an edited record, hashed anew": (lambda url: (cheaper(url), rehash(url, 3))[-1], "record 3 .* signature"),
    "a record of another key": (
        ("UPDATE journal SET key_id = '0000000000000000' WHERE seq = 5",),
        "record 5 .* may not",
    ),
    "a deleted record": (("DELETE FROM journal WHERE seq = 6",), "record 6 is missing"),
    "swapped records": (swap, "record 4 "),
    "a cut tail": (("DELETE FROM journal WHERE seq > 11",), "record 12 is missing: .* the tail was cut"),
    "a cut tail with a new head": (
        (
            "DELETE FROM journal WHERE seq > 11",
            "UPDATE ledger_meta SET value = json_set(value, '$.seq', 11, '$.hash', "
            "(SELECT hash FROM journal WHERE seq = 11)) WHERE key = 'head'",
        ),
        "head at record 11 is not signed",
    ),
    "no head": (("DELETE FROM ledger_meta WHERE key = 'head'",), "head is missing"),
    "lowered totals": (lower_totals, "totals are not the sum"),
    "a lowered charge": (lower_a_charge, "entry 1 "),
    "an edited charge": (("UPDATE charges SET rdp = replace(rdp, '0.', '0.0')",), "stored charge .* damaged"),
    "a changed cap": (("UPDATE budgets SET epsilon = 100",), "epsilon is 100.0, the journal has 4.0"),
    "an unset filter order": (("UPDATE budgets SET filter_order = 2.0",), "filter_order"),
    "forgotten cap changes": (("UPDATE budgets SET cap_changes = 0",), "cap_changes is 0, the journal has 1"),
    "an edited registration": (("UPDATE registrations SET digest = 'other'",), "registration of dataset adult"),
    "another key in genesis": (
        ("UPDATE journal SET body = json_set(body, '$.public_key', hex(randomblob(32))) WHERE seq = 1",),
        "record 1 ",
    ),
    "another key of the ledger": (
        (f"UPDATE ledger_meta SET value = '{'ab' * 32}' WHERE key = 'public_key'",),
        "names key .* as its own",
    ),
}


@pytest.mark.slow_but(
    "an edited entry",
    "a deleted entry",
    "an edited record",
    "a deleted record",
    "a cut tail",
    "lowered totals",
    "swapped records",
    "a record of another key",
    "an unset filter order",
    "another key of the ledger",
)
@pytest.mark.parametrize("way", WAYS)
def test_tampering_is_found_and_named(used: str, way: str) -> None:
    assert check(used).ok
    change, says = WAYS[way]
    if callable(change):
        change(used)
    else:
        edit_all(used, change)
    found = check(used)
    assert not found.ok
    import re

    assert re.search(says, found.problems[0]), found.problems


def test_a_cached_node_is_recorded_as_zero_spend(used: str) -> None:
    ledger = Ledger.open(used)
    before = ledger.status()
    for paid_by in (1, 99, None):  # an entry of another ledger is not claimed
        ledger.zero(dataset="adult", run_id="cached", node="Trainer", paid_by=paid_by)
    assert ledger.status() == before
    with sqlite3.connect(file_of(used)) as connection:
        bodies = connection.execute("SELECT body FROM journal WHERE kind = 'zero' ORDER BY seq").fetchall()
    connection.close()
    assert [json.loads(body)["paid_by"] for (body,) in bodies] == [1, None, None]
    assert check(used).ok


def edit_all(url: str, statements: tuple[str, ...]) -> None:
    connection = sqlite3.connect(file_of(url))
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def receipt(ledger: Ledger, entry: int) -> Receipt:
    composed = ledger.composition(entry)
    assert composed.journal_seq is not None and composed.journal_hash and composed.key_id
    return Receipt(seq=composed.journal_seq, hash=composed.journal_hash, key_id=composed.key_id)


def test_without_a_mark_a_rollback_is_found_by_a_receipt_alone(ledger: Ledger, url: str, tmp_path: Path) -> None:
    run(ledger, make_plan(), run_id="run-1")
    early = receipt(ledger, 1)
    copy_database(url, tmp_path / "earlier.db")
    run(ledger, make_plan(), run_id="run-2")
    late = receipt(ledger, 2)
    assert check(url, receipts=[early, late]).ok
    restore_database(tmp_path / "earlier.db", url)
    assert not check(url).ok
    for mark in file_of(url).parent.glob("ledger_seen_*.json"):
        mark.unlink()
    assert check(url).ok
    assert check(url, receipts=[early]).ok
    found = check(url, receipts=[early, late])
    assert not found.ok and f"record {late.seq}" in found.problems[0] and "tail was cut" in found.problems[0]
    run(Ledger.open(url), make_plan(noise=20.0), run_id="run-3")  # the history goes another way, as long as the first
    found = check(url, receipts=[late])
    assert not found.ok and "rewritten" in found.problems[0]


def copy_database(url: str, target: Path) -> None:
    with sqlite3.connect(file_of(url)) as source, sqlite3.connect(target) as copy:
        source.backup(copy)
    source.close()
    copy.close()


def restore_database(source: Path, url: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file_of(url)}{suffix}").unlink(missing_ok=True)
    shutil.copy(source, file_of(url))


def test_a_forged_ledger_is_not_signed_by_the_pinned_key(used: str, tmp_path: Path) -> None:
    forged = f"sqlite:///{tmp_path}/forged/ledger.db"
    Ledger.open(forged, create=True).register(make_registration(), epsilon=100.0, delta=1e-5)
    assert check(forged).ok
    pinned = keys.read_public(file_of(used).parent / "ledger_key.pub")
    found = check(forged, public_key=pinned)
    assert not found.ok and f"pinned key {pinned.id} signed nothing here" in found.problems[0]
    # The forger names the pinned key as successor, but cannot sign with it.
    edit(forged, f"UPDATE ledger_meta SET value = '{pinned.hex}' WHERE key = 'public_key'")
    assert not check(forged, public_key=pinned).ok


@pytest.mark.parametrize("way", ["a cut tail", "a cut tail with a new head", "no head", "another key of the ledger"])
def test_nothing_is_written_to_a_journal_whose_end_was_tampered_with(used: str, way: str) -> None:
    statements = WAYS[way][0]
    assert isinstance(statements, tuple)
    edit_all(used, statements)
    with pytest.raises(LedgerError), spend(Ledger.open(used), make_plan(), run_id="next"):
        pass


def test_rotation(used: str) -> None:
    ledger = Ledger.open(used)
    first = keys.read_public(file_of(used).parent / "ledger_key.pub")
    old, new = ledger.rotate_key()
    assert old == first.id != new
    run(ledger, make_plan(noise=20.0), run_id="run-5")
    found = check(used)
    assert found.ok and list(found.keys) == [old, new]
    assert check(used, public_key=first).ok  # a copy of the old public key is good for ever
    key = file_of(used).parent / "ledger_key.pem"
    assert oct(key.stat().st_mode & 0o777) == "0o600"
    assert keys.read_public(key.with_suffix(".pub")).id == new
    assert sorted(path.name for path in key.parent.glob("ledger_key*")) == ["ledger_key.pem", "ledger_key.pub"]


def test_a_rotation_that_was_killed_before_its_file_was_in_place_is_finished(
    used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(used)

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keys, "install", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.rotate_key()
    run(ledger, make_plan(noise=20.0), run_id="run-5")
    assert check(used).ok


def test_a_lost_key_is_an_error_until_it_is_replaced_and_accepted(used: str) -> None:
    ledger, key = Ledger.open(used), file_of(used).parent / "ledger_key.pem"
    with pytest.raises(LedgerError, match="is not lost"):
        ledger.rotate_key(lost=True)
    key.unlink()
    with pytest.raises(LedgerError, match="nothing can be written") as caught, spend(ledger, make_plan(), run_id="n"):
        pass
    assert "rotate-key --lost" in caught.value.fix
    with pytest.raises(LedgerError):
        ledger.rotate_key()
    assert ledger.status() and ledger.entries("adult") and check(used).ok  # reading needs no private key
    old, new = ledger.rotate_key(lost=True)
    run(ledger, make_plan(noise=20.0), run_id="run-5")
    found = check(used)
    assert not found.ok and old in found.problems[0] and f"--accept-lost-key {new}" in found.problems[0]
    assert not check(used, accepted=[old]).ok
    accepted = check(used, accepted=[new])
    assert accepted.ok and any(new in note for note in accepted.notes)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_signs_nothing(ledger: Ledger, url: str, mode: int) -> None:
    key = file_of(url).parent / "ledger_key.pem"
    assert oct(key.stat().st_mode & 0o777) == "0o600"
    key.chmod(mode)
    with pytest.raises(LedgerError, match="by others") as caught, spend(ledger, make_plan()):
        pass
    assert f"chmod 600 {key}" in caught.value.fix
    assert ledger.entries("adult") == []


def test_a_key_that_the_ledger_does_not_know_signs_nothing(
    ledger: Ledger, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (None, "no key"):
        other = tmp_path / "other.pem"
        if content is None:
            keys.store(other, keys.generate())
        else:
            other.write_text(content)
        monkeypatch.setenv(keys.ENVIRONMENT, str(other))
        with pytest.raises(LedgerError, match="signed by key" if content is None else "not a private key"):
            ledger.set_cap("adult", epsilon=9.0, delta=1e-5)
    monkeypatch.delenv(keys.ENVIRONMENT)
    assert ledger.status()[0].cap_epsilon == 3.0


def test_the_private_key_is_nowhere_in_the_ledger(used: str) -> None:
    key = file_of(used).parent / "ledger_key.pem"
    secret = keys.load(key, expected=keys.read_public(key.with_suffix(".pub")).id)
    raw = secret.private.private_bytes_raw()
    assert raw.hex() not in repr(secret)
    for path in file_of(used).parent.iterdir():
        if path != key:
            content = path.read_bytes()
            assert raw not in content and raw.hex().encode() not in content and b"PRIVATE" not in content


def test_a_server_needs_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy as sa

    monkeypatch.delenv(keys.ENVIRONMENT, raising=False)
    with pytest.raises(LedgerError) as caught:
        keys.key_file(sa.make_url("postgresql+psycopg://host/db"))
    assert keys.ENVIRONMENT in caught.value.fix
    monkeypatch.setenv(keys.ENVIRONMENT, "/somewhere/key.pem")
    assert keys.key_file(sa.make_url("sqlite:///x/ledger.db")) == Path("/somewhere/key.pem")


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_ledger_is_imported_and_verifies_from_then_on(url: str, version: int) -> None:
    states = ["committed", "expired", "started", "committed", "reserved"]
    make_old_ledger(url, runs=[f"run-{n}" for n in range(5)], version=version, states=states)
    ledger = Ledger.open(url)
    assert [entry.state.value for entry in ledger.entries("adult")] == states
    (status,) = ledger.status()
    assert [status.entries[state] for state in State] == [1, 1, 2, 1]
    before = status.spent_epsilon
    found = check(url)
    assert not found.ok and found.entries == 5 and found.problems == found.unaccepted
    assert "budget migrate --accept" in found.problems[0]
    Ledger.migrate(url, accept=True)
    found = check(url)
    assert found.ok and found.entries == 5 and any("accepted by" in note for note in found.notes)
    run(ledger, make_plan(), run_id="new")
    assert ledger.entries("adult")[-1].id == 6 and ledger.status()[0].spent_epsilon > before
    assert ledger.expire_reserved("run-4") == 1
    assert check(url).ok
    edit(url, "UPDATE entries SET state = 'expired' WHERE id = 1")
    assert check(url).problems[0].startswith("entry 1 ")
    with sqlite3.connect(file_of(url)) as connection:
        assert TOKEN not in {token for (token,) in connection.execute("SELECT token FROM entries")}
    connection.close()


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "start", "commit", "more", "expire", "again", "cap"]),
            st.integers(0, 5),
            st.sampled_from([5.0, 9.0, 40.0]),
        ),
        max_size=14,
    )
)
@settings(max_examples=20, deadline=None)
def test_totals_equal_a_full_recompute(steps: list[tuple[str, int, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        ledger = Ledger.open(url, create=True)
        ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
        grants: dict[int, Any] = {}
        for what, number, noise in steps:
            try:
                if what == "reserve" or number not in grants:
                    grants[number] = abandon(ledger, make_plan(noise), run_id=f"run-{number}")
                elif what == "again":
                    abandon(ledger, make_plan(noise), run_id=f"run-{number}")
                elif what == "start":
                    grants[number].start()
                elif what in ("commit", "more"):
                    grants[number].commit(gaussian_passes(noise_multiplier=noise, epochs=1 + (what == "more")))
                elif what == "expire":
                    ledger.expire_reserved(f"run-{number}")
                else:
                    ledger.set_cap("adult", epsilon=3.0, delta=noise * 1e-6)
            except (BudgetRefusedError, BadInputError):  # no room, or another delta after a charge
                continue
        found = ledger.verify(reprice=False)
        assert found.ok, found.problems
        (status,) = ledger.status()
        counted = [entry for entry in ledger.entries("adult") if entry.state is not State.EXPIRED]
        assert status.simple_epsilon == pytest.approx(sum(entry.epsilon for entry in counted))


def test_a_read_needs_no_private_key_and_a_write_does(used: str) -> None:
    (file_of(used).parent / "ledger_key.pem").unlink()
    os.environ.pop(keys.ENVIRONMENT, None)
    ledger = Ledger.open(used)
    assert ledger.history(limit=2)[0].run_id == "run-4" and len(ledger.history(limit=2)) == 2
    with pytest.raises(LedgerError):
        ledger.set_cap("adult", epsilon=9.0, delta=1e-5)
