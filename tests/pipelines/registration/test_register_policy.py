"""`budget register --policy`: registration and policy together, or neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.ledger.conftest import make_registration
from tests.pipelines.projects import write_project

POLICY: dict[str, Any] = {
    "dataset": "things",
    "epsilon": 2.5,
    "delta": 1e-6,
    "unit": "row",
    "shares": {"train": 0.5, "evaluate": 0.1},
    "eval_epsilon": 1.0,
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    document = write_project(tmp_path, backend="dp_sgd").model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_unset=True
    )
    Path("c.yaml").write_text(yaml.safe_dump(document))
    return "c.yaml"


def register(config: str, *options: str, **changes: Any) -> Any:
    Path("p.yaml").write_text(yaml.safe_dump({**POLICY, **changes}))
    return CliRunner().invoke(app, ["budget", "register", config, *options])


def test_a_policy_registers_with_its_caps(config: str) -> None:
    assert register(config, "--policy", "p.yaml").exit_code == 0
    ledger = Ledger.open("sqlite:///ledger/ledger.db")
    assert {(s.split, s.cap_epsilon, s.cap_delta, s.cap_changes) for s in ledger.status("things")} == {
        ("train", 2.5, 1e-6, 0),
        ("eval", 1.0, 1e-6, 0),
    }
    assert ledger.verify().ok
    assert register(config, "--policy", "p.yaml").exit_code == 0  # the same again changes nothing
    assert [s.cap_changes for s in ledger.status("things")] == [0, 0]


@pytest.mark.parametrize(
    "changes", [{"dataset": "other"}, {"unit": "person"}, {"epsilon": -1}, {"shares": {"train": 2}}, {"extra": 1}]
)
def test_a_bad_policy_registers_nothing(config: str, changes: dict[str, Any]) -> None:
    assert register(config, "--policy", "p.yaml", **changes).exit_code == 2
    assert not Path("ledger").exists()


@pytest.mark.parametrize("options", [(), ("--policy", "p.yaml", "--epsilon", "3"), ("--delta", "1e-5")])
def test_the_cap_is_given_once(config: str, options: tuple[str, ...]) -> None:
    ended = register(config, *options)
    assert ended.exit_code == 2 and "--policy FILE" in " ".join(ended.output.split())


def test_registration_and_policy_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", create=True)
    policy = Policy.model_validate({**POLICY, "dataset": "adult"})

    def fails(*_: Any) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr("privacy_pipeline.ledger.registrations.apply_policy", fails)
    with pytest.raises(LedgerError, match="full"):
        ledger.register(make_registration(), epsilon=2.5, delta=1e-6, policy=policy)
    assert ledger.registration("adult", None) is None and ledger.status() == [] and ledger.verify().ok
