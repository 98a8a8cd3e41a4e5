"""Policies: who may spend how much on what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import STARTER, Policy, load_policy
from tests.ledger.conftest import make_plan
from tests.ledger.test_ledger import run, spend


def policy(**changes: Any) -> Policy:
    return Policy.model_validate({"dataset": "adult", "epsilon": 3.0, "delta": 1e-5, "unit": "row", **changes})


def test_the_starter_is_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(STARTER.format(dataset="adult", unit="row"))
    assert load_policy(path) == policy(epsilon=4.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset: adult\nepsilon: 3\ndelta: 1.0e-5\nunit: row\nepsilom: 4", "epsilom"),
        ("dataset: adult\ndelta: 1.0e-5\nunit: row", "epsilon"),
        ("dataset: adult\nepsilon: .inf\ndelta: 1.0e-5\nunit: row", "epsilon"),
        ("dataset: adult\nepsilon: 3\ndelta: 1.0e-5\nunit: row\nshares: {train: 0.8, tune: 0.3}", "more than 1"),
        (
            "dataset: adult\nepsilon: 3\ndelta: 1.0e-5\nunit: row\nshares: {trian: 0.8}",
            "p.yaml:5: unknown key 'trian' in `shares`",
        ),
        ("- a", "mapping"),
        ("dataset: adult\nunit: [", "p.yaml:2: not valid YAML: [^\n]*$"),
        ("dataset: adult\nepsilon: 0\ndelta: 1.0e-5\nunit: row", "p.yaml:2: epsilon: must be greater than 0"),
        ("dataset: adult\nepsilon: 3\ndelta: 1.0e-5\nunit: row\nalerts: [0.5, 0]", "p.yaml:5: alerts.*greater than 0"),
    ],
)
def test_unusable_policies_name_the_field(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=says):
        load_policy(path)


def test_a_purpose_may_use_its_share_and_all_together_the_cap(ledger: Ledger) -> None:
    plan, request = make_plan(noise=6.0), {"dataset": "adult", "span": None, "split": "train"}
    whole = ledger.forecast(plan, **request).runs_that_fit
    ledger.apply_policy(policy(shares={"train": 0.5, "tune": 0.4}))
    assert ledger.status()[0].cap_changes == 0  # the first policy of a budget that nothing was charged to
    half = ledger.forecast(plan, **request).runs_that_fit
    assert 0 < half <= whole / 2
    for number in range(half):
        run(ledger, plan, run_id=f"train-{number}")
    with pytest.raises(BudgetRefusedError, match="may use 50%"), spend(ledger, plan, run_id="one-more"):
        pass
    assert ledger.forecast(plan, **request, purpose="tune").runs_that_fit > 0
    run(ledger, plan, run_id="tune", purpose="tune")
    assert [entry.purpose for entry in ledger.history(limit=2)] == ["tune", "train"]
    for purpose in ("evaluate", "anything"):
        with pytest.raises(BudgetRefusedError, match="may use 0%"), spend(ledger, plan, run_id="e", purpose=purpose):
            pass
    assert ledger.verify().ok


def test_who_may_spend(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.apply_policy(policy(may_spend=["alice"]))
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "bob")
    with pytest.raises(BudgetRefusedError, match="bob may not spend"), spend(ledger, make_plan()):
        pass
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "alice")
    run(ledger, make_plan())
    assert ledger.entries("adult")[0].principal == "alice"


def test_who_may_not_spend_may_not_evaluate_either(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.apply_policy(policy(may_spend=["alice"], eval_epsilon=1.5))
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "bob")
    evaluation = make_plan(units=200, noise=5.0)
    with (
        pytest.raises(BudgetRefusedError, match="bob may not spend"),
        spend(ledger, evaluation, split="eval", purpose="evaluate"),
    ):
        pass
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "alice")
    run(ledger, evaluation, split="eval", purpose="evaluate")


def test_the_eval_split_has_units_and_a_budget_of_its_own(ledger: Ledger) -> None:
    plan = make_plan(units=200, noise=5.0)
    with pytest.raises(BudgetRefusedError, match="'eval'"), spend(ledger, plan, split="eval"):
        pass
    ledger.apply_policy(policy(eval_epsilon=1.5))
    run(ledger, plan, split="eval", purpose="evaluate")
    training, evaluation = ledger.status()
    assert (evaluation.split, evaluation.cap_epsilon) == ("eval", 1.5)
    assert evaluation.spent_epsilon > 0 == training.spent_epsilon
    ledger.apply_policy(policy(eval_epsilon=2.0))
    assert [status.cap_changes for status in ledger.status()] == [1, 1]
    assert ledger.verify().ok


def test_changes_are_counted_and_alerts_told(ledger: Ledger) -> None:
    ledger.apply_policy(policy(alerts=[0.01, 0.9]))
    assert ledger.status()[0].alerts == ()
    run(ledger, make_plan())
    assert ledger.status()[0].alerts == (0.01,)
    ledger.apply_policy(policy(alerts=[0.01, 0.9]))
    assert ledger.status()[0].cap_changes == 0
    ledger.apply_policy(policy(epsilon=5.0))
    (status,) = ledger.status()
    assert (status.cap_changes, status.cap_epsilon) == (1, 5.0)
    for wrong in (policy(dataset="nosuch"), policy(unit="person")):
        with pytest.raises(BadInputError):
            ledger.apply_policy(wrong)
    assert ledger.verify().ok


def test_a_policy_without_an_eval_epsilon_closes_the_eval_budget(ledger: Ledger) -> None:
    plan, request = make_plan(units=200, noise=5.0), {"split": "eval", "purpose": "evaluate"}
    ledger.apply_policy(policy(eval_epsilon=1.5))
    run(ledger, plan, **request)
    ledger.apply_policy(policy())
    spent = ledger.status()[1].spent_epsilon
    for purpose in ("evaluate", "train", "anything"):
        with pytest.raises(BudgetRefusedError, match=r"is closed.*`eval_epsilon`"):
            spend(ledger, plan, **{**request, "purpose": purpose}).__enter__()
        with pytest.raises(BudgetRefusedError, match="is closed"):
            ledger.forecast(plan, dataset="adult", span=None, **{**request, "purpose": purpose})
    closed = ledger.status()[1]
    assert (closed.closed, closed.spent_epsilon, closed.remaining_epsilon) == (True, spent, 0.0)
    ledger.apply_policy(policy())
    assert ledger.status()[1].cap_changes == 1  # closed once, however often it is said
    ledger.apply_policy(policy(eval_epsilon=1.5))
    run(ledger, plan, run_id="again", **request)
    again = ledger.status()[1]
    assert (again.closed, again.cap_changes, again.spent_epsilon > spent) == (False, 2, True)
    assert ledger.verify().ok


def test_a_forecast_holds_who_asks_too(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.apply_policy(policy(may_spend=["alice"], eval_epsilon=1.0))
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "bob")
    for split, plan in (("train", make_plan()), ("eval", make_plan(units=200))):
        with pytest.raises(BudgetRefusedError, match="bob may not spend"):
            ledger.forecast(plan, dataset="adult", span=None, split=split)
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "alice")
    assert ledger.forecast(make_plan(), dataset="adult", span=None, split="train").fits


def test_alerts_are_of_the_eval_budget_too(ledger: Ledger) -> None:
    ledger.apply_policy(policy(eval_epsilon=1.0, alerts=[0.01, 0.9]))
    run(ledger, make_plan(units=200, noise=9.0), split="eval", purpose="evaluate")
    assert [status.alerts for status in ledger.status()] == [(), (0.01,)]


def test_a_forecast_and_a_refusal_name_the_limit_that_binds(ledger: Ledger) -> None:
    plan, request = make_plan(noise=6.0), {"dataset": "adult", "span": None, "split": "train"}
    assert ledger.forecast(plan, **request).limit == ""
    assert ledger.forecast(make_plan(noise=0.2), **request).limit == ""  # the cap alone
    ledger.apply_policy(policy(shares={"train": 0.5}))
    for purpose, noise, share in (("tune", 6.0, "0%"), ("tune", 0.2, "0%"), ("train", 1.8, "50%")):
        limit = ledger.forecast(make_plan(noise=noise), **request, purpose=purpose).limit
        assert f"purpose '{purpose}' may use {share}" in limit
        with pytest.raises(BudgetRefusedError, match=f"purpose '{purpose}' may use {share}"):
            spend(ledger, make_plan(noise=noise), purpose=purpose).__enter__()


def test_a_share_is_told_as_the_epsilon_at_which_it_refuses(ledger: Ledger) -> None:
    ledger.apply_policy(policy(epsilon=8.0, shares={"train": 0.3, "tune": 0.7}))
    assert [(share.purpose, share.epsilon, share.used) for share in ledger.shares()] == [
        ("train", None, 0.0),
        ("tune", None, 0.0),
    ]
    number = 0
    while True:
        try:
            run(ledger, make_plan(noise=6.0), run_id=f"run-{number}")
        except BudgetRefusedError:
            break
        number += 1
    train, tune = ledger.shares("adult")
    assert train.epsilon is not None and tune.epsilon is not None
    assert train.epsilon * 0.95 < train.used <= train.epsilon
    assert train.epsilon > 0.3 * 8.0 and train.epsilon < tune.epsilon < 8.0
    assert tune.used == 0.0
