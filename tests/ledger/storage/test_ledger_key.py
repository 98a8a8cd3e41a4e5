"""A ledger that was replaced or deleted is not begun anew, and what a reservation trusts is signed."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.ledger.storage.schema import LedgerError
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION
from tests.ledger.audit.test_verify import WAYS, check, edit, edit_all, file_of, lower_totals, used
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.old_ledgers import as_format_3, make_old_ledger
from tests.ledger.test_ledger import abandon, run, spend

__all__ = ["used"]


def remove(url: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file_of(url)}{suffix}").unlink(missing_ok=True)


def register(url: str, **options: bool) -> Ledger:
    ledger = Ledger.open(url, create=True, **options)
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
    return ledger


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_format_where_a_key_is_was_put_there_by_somebody(used: str, version: int) -> None:
    first = keys.read_public(file_of(used).with_name("ledger_key.pub"))
    remove(used)
    make_old_ledger(used, runs=[], version=version)
    with pytest.raises(LedgerError, match="not the database that the key signed") as caught:
        Ledger.open(used)
    assert "budget migrate --accept" in caught.value.fix
    with sqlite3.connect(file_of(used)) as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchall()
    connection.close()
    Ledger.migrate(used, accept=True)  # a decision of its own, under a name
    found = check(used)
    assert found.ok and list(found.keys) == [first.id] and any("accepted by" in note for note in found.notes)


def test_imports_that_nobody_accepted_are_a_problem_even_under_a_new_key(used: str) -> None:
    remove(used)
    for file in file_of(used).parent.glob("ledger_key*"):
        file.unlink()
    make_old_ledger(used, runs=[], version=2)
    assert not check(used).ok
    with pytest.raises(BadInputError, match="nothing was imported"):
        Ledger.migrate(f"{register(used.replace('new', 'other'))._engine.url}", accept=True)


@pytest.mark.parametrize("kept", [("ledger_key.pem", "ledger_key.pub"), ("ledger_key.pem",), ("ledger_key.pub",)])
def test_a_ledger_that_was_deleted_does_not_begin_anew(used: str, kept: tuple[str, ...]) -> None:
    remove(used)
    for file in file_of(used).parent.glob("ledger_key*"):
        if file.name not in kept:
            file.unlink()
    for ask in (lambda: Ledger.open(used), lambda: register(used)):
        with pytest.raises(LedgerError, match=f"{kept[0]} is here, but its ledger is gone") as caught:
            ask()
        assert "restore" in caught.value.fix
    for file in kept:
        file_of(used).with_name(file).rename(file_of(used).with_name(f"old-{file}"))
    assert register(used).status()[0].spent_epsilon == 0 and check(used).ok


def test_a_key_that_was_made_beforehand_is_taken_by_name_alone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = tmp_path / "team.pem", keys.generate()
    keys.store(path, key)
    monkeypatch.setenv(keys.ENVIRONMENT, str(path))
    with pytest.raises(LedgerError, match="its ledger is gone"):
        register(url)
    register(url, existing_key=True)
    assert list(check(url).keys) == [key.public.id] and keys.read_public(path.with_suffix(".pub")) == key.public


def test_a_ledger_that_could_not_be_made_leaves_no_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy_pipeline.ledger.storage import journal

    def fails(*_: object) -> None:
        raise LedgerError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "begin", fails)
        with pytest.raises(LedgerError, match="no room"):
            register(url)
    assert not list(file_of(url).parent.glob("ledger_key*"))
    assert register(url).status()


def killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["begin", "install"])
def test_a_kill_while_a_ledger_is_made_does_not_lock_its_owner_out(
    url: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from privacy_pipeline.ledger.storage import journal

    with monkeypatch.context() as patch:
        patch.setattr(journal if where == "begin" else keys, where, killed)
        with pytest.raises(KeyboardInterrupt):
            register(url)
    run(register(url), make_plan())
    assert check(url).ok


def more(column: str, value: object) -> Callable[[str], None]:
    return lambda url: edit(url, f"UPDATE budgets SET {column} = {value!r}")


UNSIGNED: dict[str, Callable[[str], None]] = {
    "a higher cap": more("epsilon", 100.0),
    "a higher delta": more("delta", 0.01),
    "lower totals": lower_totals,
    "another policy": more("policy", Policy(dataset="adult", epsilon=3.0, delta=1e-5, unit="row").to_json()),
    "another order": more("filter_order", 2.0),
    "an infinite cap": lambda url: edit(url, "UPDATE budgets SET epsilon = 9e999"),
    "other data": lambda url: edit(url, "UPDATE registrations SET digest = 'other'"),
    "other counts": lambda url: edit(url, "UPDATE registrations SET splits = replace(splits, '1000', '9000')"),
    "another budget": lambda url: edit_all(
        url,
        (
            "INSERT INTO budgets SELECT 9, dataset, 'eval', span_key, unit, relation, 50.0, delta, policy, NULL, 0,"
            " NULL, 1, '{}' FROM budgets",
        ),
    ),
    "no budget": lambda url: edit(url, "UPDATE budgets SET dataset = 'else'"),
    "no state": lambda url: edit(
        url, "UPDATE ledger_meta SET value = json_remove(value, '$.state') WHERE key = 'head'"
    ),
    "the former format": lambda url: edit_all(
        url,
        (
            "UPDATE ledger_meta SET value = json_remove(value, '$.state') WHERE key = 'head'",
            "UPDATE ledger_meta SET value = '3' WHERE key = 'schema_version'",
        ),
    ),
}


@pytest.mark.parametrize("way", UNSIGNED)
def test_what_a_reservation_trusts_is_held_against_the_head_before_each_write(used: str, way: str) -> None:
    grant = abandon(Ledger.open(used), make_plan(noise=50.0), run_id="held")
    UNSIGNED[way](used)
    ledger = Ledger.open(used)
    for write in (
        lambda: spend(ledger, make_plan(noise=50.0), run_id="next").__enter__(),
        grant.start,
        grant.release,
        lambda: ledger.set_cap("adult", epsilon=9.0, delta=1e-5),
        lambda: ledger.expire_reserved("held"),
        ledger.rotate_key,
    ):
        with pytest.raises(LedgerError, match=r"nothing was written|not signed") as caught:
            write()
        assert "verify" in caught.value.fix
    assert not check(used).ok


def test_a_ledger_of_format_3_is_read_as_it_is_and_upgraded_by_the_first_write(used: str) -> None:
    as_format_3(used)
    before = Ledger.open(used).status()
    assert check(used).ok and stored(used) == "3"
    run(Ledger.open(used), make_plan(noise=20.0), run_id="run-5")
    assert stored(used) == SCHEMA_VERSION and check(used).ok and Ledger.open(used).status() != before
    more("epsilon", 100.0)(used)
    with pytest.raises(LedgerError, match="nothing was written"):
        Ledger.open(used).rotate_key()


def stored(url: str) -> str:
    with sqlite3.connect(file_of(url)) as connection:
        ((value,),) = connection.execute("SELECT value FROM ledger_meta WHERE key = 'schema_version'").fetchall()
    connection.close()
    return str(value)


@pytest.mark.slow_but(
    "an edited entry",
    "an added entry",
    "an edited time",
    "a deleted record",
    "a cut tail",
    "lowered totals",
    "a changed cap",
    "forgotten cap changes",
    "another key of the ledger",
)
@pytest.mark.parametrize("way", WAYS)
def test_a_tampered_ledger_of_format_3_is_not_laundered(used: str, way: str) -> None:
    as_format_3(used)
    change, _ = WAYS[way]
    change(used) if callable(change) else edit_all(used, change)
    for write in (lambda: Ledger.migrate(used), lambda: run(Ledger.open(used), make_plan(noise=20.0), run_id="n")):
        with pytest.raises(PipelineError):
            write()
    assert not check(used).ok and stored(used) == "3"


def test_a_lost_key_does_not_keep_format_3_and_is_told_as_before(used: str) -> None:
    ledger, key = Ledger.open(used), file_of(used).with_name("ledger_key.pem")
    key.unlink()
    as_3 = ledger.rotate_key(lost=True)
    as_format_3(used)
    Ledger.migrate(used)
    found = check(used)
    assert stored(used) == SCHEMA_VERSION and found.problems == found.unaccepted != []
    assert check(used, accepted=[as_3[1]]).ok


@pytest.mark.parametrize("lost", [False, True])
def test_a_rotation_brings_format_3_up_to_date(used: str, lost: bool) -> None:
    as_format_3(used)
    if lost:
        file_of(used).with_name("ledger_key.pem").unlink()
    Ledger.open(used).rotate_key(lost=lost)
    found = check(used)
    assert stored(used) == SCHEMA_VERSION
    assert found.problems == found.unaccepted and bool(found.problems) == lost


def test_an_old_head_is_no_way_back(used: str, tmp_path: Path) -> None:
    """The head of format 3 stays signed, but the migration noted in the journal which registrations it found."""
    as_format_3(used)
    with sqlite3.connect(file_of(used)) as connection:
        ((head,),) = connection.execute("SELECT value FROM ledger_meta WHERE key = 'head'").fetchall()
    connection.close()
    Ledger.migrate(used)
    assert json.loads(head)["seq"] == check(used).records - 1
    edit(used, f"UPDATE ledger_meta SET value = '{head}' WHERE key = 'head'")
    first, second = check(used).problems
    assert "but the journal ends with" in first and "does not sign budgets" in second
    more("epsilon", 100.0)(used)
    with pytest.raises(LedgerError, match="does not end with record"):
        run(Ledger.open(used), make_plan(), run_id="next")


def test_the_pin_beside_the_ledger_is_told_to_be_no_proof(used: str, tmp_path: Path) -> None:
    assert any("beside the private key" in note for note in check(used).notes)
    kept = Path(shutil.copy(file_of(used).with_name("ledger_key.pub"), tmp_path))
    assert not any("beside" in note for note in check(used, public_key=keys.read_public(kept)).notes)


def test_what_was_started_cannot_be_given_back_by_editing_its_row(used: str) -> None:
    edit(used, "UPDATE entries SET state = 'reserved' WHERE id IN (1, 4)")
    ledger, before = Ledger.open(used), Ledger.open(used).status()
    for write in (
        lambda: ledger.expire_reserved("run-1"),
        lambda: run(ledger, make_plan(noise=13.0), run_id="run-4"),  # would go on with it, and read for nothing
    ):
        with pytest.raises(LedgerError, match="should not be"):
            write()
    assert [status.spent_epsilon for status in ledger.status()] == [status.spent_epsilon for status in before]


def of_another_algorithm(pem: bytes) -> bytes:
    """The key under the object identifier of no known algorithm: 1.3.69.112 in place of 1.3.101.112."""
    begin, *body, end = pem.strip().split(b"\n")
    der = base64.b64decode(b"".join(body)).replace(bytes.fromhex("2b6570"), bytes.fromhex("2b4570"))
    return b"\n".join([begin, base64.b64encode(der), end, b""])


def test_a_key_of_an_algorithm_that_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "ledger_key.pem"
    key = keys.generate()
    keys.store(path, key)
    keys.write_public(path, key.public)
    for held in (path, keys.public_file(path)):
        held.write_bytes(of_another_algorithm(held.read_bytes()))
    with pytest.raises(BadInputError, match="no public key in it: Unknown key type"):
        keys.read_public(keys.public_file(path))
    with pytest.raises(LedgerError, match="is not a private key in PEM: Unknown key type"):
        keys.load_any(path)
