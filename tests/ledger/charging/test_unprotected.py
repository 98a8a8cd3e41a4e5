"""Runs on registered data that claim no guarantee are journalled, or refused by the policy of the registration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.charging.unprotected import Use
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.unit_digests import ALL
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.ledger.storage.digest_secret import secret_file
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.ledger.conftest import DIGEST, make_plan, make_registration
from tests.ledger.test_ledger import run, spend


def use(**changes: Any) -> Use:
    given = {"dataset": "adult", "span": None, "data_digest": DIGEST, "backend": "plain", "guarantee": False, **changes}
    return Use(**given)


def policy(**changes: Any) -> Policy:
    return Policy.model_validate({"dataset": "adult", "epsilon": 3.0, "delta": 1e-5, "unit": "row", **changes})


def test_a_run_on_registered_data_is_journalled_and_charged_nothing(ledger: Ledger) -> None:
    assert ledger.run_unprotected(use(), run_id="run-1") == ["adult"]
    assert ledger.run_unprotected(use(), run_id="run-1") == ["adult"]  # resumed
    assert ledger.run_unprotected(use(backend="federated"), run_id="run-2") == ["adult"]
    found = ledger.unprotected_runs("adult")
    assert [(one.run_id, one.backend) for one in found] == [("run-1", "plain"), ("run-2", "federated")]
    assert found[0].principal and ledger.status()[0].enforced_epsilon == 0.0
    assert [record.kind for record in ledger.records(limit=3)] == ["no_guarantee"] * 3
    assert ledger.verify().ok and ledger.unprotected_runs("other") == []


@pytest.mark.parametrize("known_by", ["name", "content"])
def test_data_is_known_by_its_name_and_by_its_content(ledger: Ledger, known_by: str) -> None:
    asked = use(dataset="renamed") if known_by == "content" else use(data_digest="f" * 64)
    assert ledger.run_unprotected(asked, run_id="run-1") == ["adult"]
    ledger.apply_policy(policy(require_guarantee=True))
    with pytest.raises(BudgetRefusedError, match="asks for a guarantee of every run"):
        ledger.run_unprotected(asked, run_id="run-2")


def test_data_that_nobody_registered_is_nobodys_business(ledger: Ledger) -> None:
    before = ledger.lineage().seq
    assert ledger.run_unprotected(use(dataset="else", data_digest="f" * 64), run_id="run-1") == []
    assert ledger.lineage().seq == before


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"require_guarantee": True}, "asks for a guarantee of every run"),
        ({"allowed_backends": ["dp_sgd"]}, "does not allow backend 'plain'"),
        ({"may_spend": ["somebody-else"]}, "may not use dataset adult"),
    ],
)
def test_the_policy_of_the_registration_refuses(ledger: Ledger, rule: dict[str, Any], says: str) -> None:
    ledger.apply_policy(policy(**rule))
    for refused in (lambda: ledger.require_allowed(use()), lambda: ledger.run_unprotected(use(), run_id="run-1")):
        with pytest.raises(BudgetRefusedError, match=says):
            refused()
    assert ledger.unprotected_runs("adult") == []


def test_a_fixed_seed_is_no_guarantee_and_a_backend_is_held_to_the_policy_where_it_spends(ledger: Ledger) -> None:
    ledger.apply_policy(policy(require_guarantee=True, allowed_backends=["federated"]))
    with pytest.raises(BudgetRefusedError, match="asks for a guarantee"):
        ledger.require_allowed(use(backend="federated", guarantee=False))
    with pytest.raises(BudgetRefusedError, match="does not allow backend 'dp_sgd'"), spend(ledger, make_plan()):
        pass
    ledger.apply_policy(policy(require_guarantee=True, allowed_backends=["federated", "dp_sgd"]))
    run(ledger, make_plan())


def test_where_the_journal_cannot_be_written_the_run_does_not_begin(ledger: Ledger) -> None:
    keys.key_file(ledger._engine.url).unlink()
    with pytest.raises(LedgerError):
        ledger.run_unprotected(use(), run_id="run-1")
    assert ledger.run_unprotected(use(dataset="else", data_digest="f" * 64), run_id="run-1") == []


def test_a_policy_of_before_reads_and_writes_as_it_did() -> None:
    old = '{"alerts":[0.5,0.8],"dataset":"adult","delta":1e-05,"epsilon":3.0,"eval_epsilon":null,"may_spend":null,'
    old += '"shares":{"train":1.0},"unit":"row"}'
    assert Policy.model_validate_json(old).to_json() == old


def digests(content: list[str]) -> Callable[[bytes], NDArray[np.uint64]]:
    """Digests one-cell rows, as `data.source.row_digests` does for files."""

    def under(secret: bytes) -> NDArray[np.uint64]:
        hasher = RowHasher(secret)
        return hasher.rows([[cell] for cell in content])

    return under


PEOPLE, STRANGERS = ([f"{letter}{number}" for number in range(40)] for letter in "ps")
EDITED = ["x0", *PEOPLE[:0:-1]]  # in another order, one cell edited


@pytest.fixture
def two(url: str) -> Ledger:
    """A dataset that asks for a guarantee, and one that asks for nothing."""
    opened = Ledger.open(url, create=True)
    for name, digest, content in (("adult", DIGEST, PEOPLE), ("lenient", "b" * 64, STRANGERS)):
        rows = {ALL: digests(content)(opened.digest_secret())}
        opened.register(make_registration(name, digest=digest), epsilon=3.0, delta=1e-5, rows=rows)
    opened.apply_policy(policy(require_guarantee=True))
    return opened


@pytest.mark.parametrize("named", ["else", "lenient", "adult"])
def test_edited_data_is_known_by_its_rows_whatever_it_is_named(two: Ledger, named: str) -> None:
    asked = use(dataset=named, data_digest="f" * 64)
    with pytest.raises(BudgetRefusedError, match="asks for a guarantee of every run"):
        two.run_unprotected(asked, run_id="run-1", rows=digests(EDITED))
    two.apply_policy(policy())
    assert "adult" in two.run_unprotected(asked, run_id="run-1", rows=digests(EDITED))
    assert len(two.unprotected_runs("adult")) == 1 and two.verify().ok


def test_other_peoples_rows_are_nobodys_business(two: Ledger) -> None:
    others = digests([f"other{number}" for number in range(40)])
    assert two.run_unprotected(use(dataset="else", data_digest="f" * 64), run_id="run-1", rows=others) == []


def test_registered_files_are_not_read_for_their_rows(two: Ledger) -> None:
    def read(_: bytes) -> NDArray[np.uint64]:
        raise AssertionError("it is known whose they are")

    assert two.run_unprotected(use(dataset="else", data_digest="b" * 64), run_id="run-1", rows=read) == ["lenient"]


def test_without_the_secret_of_the_digests_nothing_tells_and_nothing_runs(two: Ledger, url: str) -> None:
    secret_file(two._engine.url).unlink()
    with pytest.raises(LedgerError, match="is missing: this ledger's digests are made under it"):
        Ledger.open(url).run_unprotected(
            use(dataset="else", data_digest="f" * 64), run_id="run-1", rows=digests(EDITED)
        )
