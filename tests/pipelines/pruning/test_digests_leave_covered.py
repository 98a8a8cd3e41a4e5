"""Nothing that leaves the ledger's host lets a digest be tried: brute force over one cell finds it nowhere."""

from __future__ import annotations

import datetime
import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.audit.export import exported
from privacy_pipeline.ledger.charging import entries
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage import journal
from privacy_pipeline.ledger.storage.journal import canonical, record_hash
from privacy_pipeline.pipelines.execution import earlier_runs, runs
from privacy_pipeline.pipelines.graph import cache_keys
from privacy_pipeline.pipelines.preflight.preflight import check_source, read_features
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.reports.published import public_entry
from tests.adversary import digest_of, recovered, worlds
from tests.ledger.conftest import make_plan, make_registration
from tests.pipelines.projects import write_project


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    """A registered dataset."""
    monkeypatch.chdir(tmp_path)
    found = write_project(tmp_path, backend="dp_sgd")
    register_dataset(config=found, epsilon=9.0, delta=1e-5)
    return found


@pytest.fixture
def digests(config: PipelineConfig) -> dict[str, str]:
    """The plain digest for each value of the unknown cell."""
    train, evaluation = (config.dataset.path / f"span-1/{split}/rows.csv" for split in ("train", "eval"))
    other = evaluation.read_bytes()
    found = {value: digest_of({"train": [world], "eval": [other]}) for value, world in worlds(train, 1)}
    plain = source.resolve(dataset=config.dataset).plain_digest()
    assert [value for value, digest in found.items() if digest == plain], "the truth is among the worlds"
    return found


def cli(*arguments: str) -> str:
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_adversary_finds_the_cell_where_a_digest_is_plain(config: PipelineConfig, digests: dict[str, str]) -> None:
    (value,) = recovered(digests, source.resolve(dataset=config.dataset).plain_digest())
    row = (config.dataset.path / "span-1/train/rows.csv").read_text().split("\n")[17]
    assert float(row.split(",")[1]) == float(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("budget", "export"),
        ("budget", "export", "--format", "csv"),
        ("budget", "export", "--records"),
        ("budget", "history", "--all", "--json"),
        ("budget", "status", "--json"),
        ("budget", "verify", "--json"),
        ("budget", "report", "things", "--output", "-", "--format", "json"),
        ("budget", "report", "things", "--output", "-", "--format", "html"),
    ],
)
def test_no_command_prints_a_digest_that_can_be_tried(
    config: PipelineConfig, digests: dict[str, str], arguments: tuple[str, ...]
) -> None:
    spec = _spec(config)
    ledger, plan = Ledger.open(config.ledger), make_plan(units=160)
    with ledger.spend(
        dataset="things", span=1, data_digest=spec.data_digest, split="train", run_id="r", node="n", plan=plan
    ) as grant:
        grant.start()
        grant.commit(plan.event)
    assert recovered(digests, cli(*arguments)) == []


def test_verify_prints_no_digest_of_the_tables(config: PipelineConfig) -> None:
    """What the head signs is a hash over all registrations, unsalted: the adversary could make it for each world."""
    ended = json.loads(cli("budget", "verify", "--json"))
    assert set(ended["head"]) == {"seq", "hash", "key_id"}


def test_registering_prints_no_digest_that_can_be_tried(config: PipelineConfig, digests: dict[str, str]) -> None:
    registered = register_dataset(config=config, epsilon=9.0, delta=1e-5)
    assert registered.digest.startswith("hmac-sha256:") and recovered(digests, registered.digest) == []


def test_spec_fingerprints_and_cache_keys_hold_none(config: PipelineConfig, digests: dict[str, str]) -> None:
    """All else that a fingerprint is made of is known: the adversary makes it for each world."""
    spec = _spec(config)
    state = runs._state(spec, Path("c.yaml"))
    text = spec.model_dump_json() + state.model_dump_json()

    def fingerprint(digest: str) -> str:
        return cache_keys.fingerprint(
            config=config,
            data_digest=f"{digest}, span 1, version None",
            schema_digest=spec.schema_digest,
            code=spec.code,
            lock=spec.lock,
        )

    assert recovered(digests, text) == [] and recovered(digests, text, oracle=fingerprint) == []
    assert fingerprint(spec.data_digest) == state.fingerprint


def test_a_run_whose_spec_has_the_plain_digest_is_known_again(config: PipelineConfig) -> None:
    """Specs of earlier versions have it; other data is still other data."""
    spec, plain = _spec(config), source.resolve(dataset=config.dataset).plain_digest()
    earlier_runs.refuse_changed(spec.model_copy(update={"data_digest": plain}), spec)
    with pytest.raises(BadInputError, match="data, or the ledger"):
        earlier_runs.refuse_changed(spec.model_copy(update={"data_digest": "e" * 64}), spec)


def test_without_a_ledger_the_workspace_has_the_secret(tmp_path: Path, digests: dict[str, str]) -> None:
    config = write_project(tmp_path / "other")
    one, two = _spec(config).data_digest, _spec(config).data_digest
    file = config.workspace / "digests.key"
    assert one == two and file.stat().st_mode & 0o777 == 0o600 and recovered(digests, one) == []
    assert not (tmp_path / "other/ledger").exists()
    file.chmod(0o644)
    with pytest.raises(BadInputError, match="read or written by others"):
        _spec(config)


def test_a_refusal_quotes_no_digest(config: PipelineConfig, digests: dict[str, str]) -> None:
    file = config.dataset.path / "span-1/train/rows.csv"
    file.write_text(file.read_text().replace("red", "blue", 1))
    with pytest.raises(BudgetRefusedError, match="not what was registered") as refused:
        Ledger.open(config.ledger).spend(
            dataset="things",
            span=1,
            data_digest=_spec(config).data_digest,
            split="train",
            run_id="r",
            node="n",
            plan=make_plan(units=160),
        ).__enter__()
    assert recovered(digests, f"{refused.value.message} {refused.value.fix}") == []


def test_hashes_of_journal_records_tell_nothing_of_their_bodies(tmp_path: Path) -> None:
    """Receipts and pins hold them: without a salt the adversary hashes the record of each world."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger/ledger.db", create=True)
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)  # by a client that digested neither units nor rows
    genesis, register = ledger.records()[::-1]
    body = _body(tmp_path, 2)
    told = {name: value for name, value in json.loads(body).items() if name != "salt"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    same = {"seq": 2, "at": register.at, "kind": register.kind, "prev_hash": genesis.hash}
    assert record_hash(**same, body=body) == register.hash != record_hash(**same, body=text)


@pytest.mark.parametrize("salted", [True, False])
def test_hashes_that_are_published_tell_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, salted: bool) -> None:
    """Everything else of a run's records is known: without a salt the adversary tries each pair of seconds."""
    if not salted:
        monkeypatch.setattr(journal, "UNSALTED", (journal.RESERVE, journal.START, journal.COMMIT))
    url = f"sqlite:///{tmp_path}/ledger/ledger.db"
    ledger, plan = Ledger.open(url, create=True), make_plan()
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
    clock = datetime.datetime(2030, 1, 31, 12, tzinfo=datetime.timezone.utc)
    seconds = iter([0, 1, 14])
    moments = (str((clock + datetime.timedelta(seconds=second)).isoformat()) for second in seconds)
    monkeypatch.setattr(entries, "now", lambda: next(moments))
    with ledger.spend(
        dataset="adult",
        span=None,
        data_digest=make_registration().digest,
        split="train",
        run_id="r",
        node="n",
        plan=plan,
    ) as grant:
        grant.start()
        grant.commit(plan.event)
    (row,) = exported(url, dataset="adult")
    told = public_entry(row, cover=lambda digest: digest)
    bodies = {one.kind: json.loads(_body(tmp_path, one.seq)) for one in ledger.records()}
    known = {kind: canonical({k: v for k, v in bodies[kind].items() if k != "salt"}) for kind in ("start", "commit")}

    def tried(started: int, took: int) -> str:
        at = [(clock + datetime.timedelta(seconds=second)).isoformat() for second in (started, started + took)]
        first = record_hash(
            seq=told["reserve_seq"] + 1, at=at[0], kind="start", body=known["start"], prev_hash=told["reserve_hash"]
        )
        return record_hash(seq=told["commit_seq"], at=at[1], kind="commit", body=known["commit"], prev_hash=first)

    found = [(s, t) for s in range(3) for t in range(60) if tried(s, t) == told["commit_hash"]]
    assert found == ([] if salted else [(1, 13)])


def _body(folder: Path, seq: int) -> str:
    with sqlite3.connect(folder / "ledger/ledger.db") as connection:
        (body,) = connection.execute("SELECT body FROM journal WHERE seq = ?", (seq,)).fetchone()
    return str(body)


def _spec(config: PipelineConfig) -> runs.RunSpec:
    features = read_features(config)
    return runs._spec(config, check_source(config, features), features)
