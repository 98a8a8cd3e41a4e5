"""A dataset with several budgets: statistics, a tuning, noisy evaluations, a changed cap, spans with their own one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import ChargedPlan, MechanismPlan, Relation
from privacy_pipeline.accounting.record import Composition
from privacy_pipeline.accounting.release_plan import ReleasePlan
from privacy_pipeline.ledger.charging.unprotected import Use
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.releases.evaluation import PURPOSE as EVALUATE
from privacy_pipeline.releases.evaluation import DpEvaluation
from privacy_pipeline.releases.statistics import PURPOSE as PREPROCESS
from privacy_pipeline.releases.statistics import DpStatistics
from privacy_pipeline.reports.record.build import build_record
from privacy_pipeline.reports.record.dp_evaluation import slices_of, with_evaluation
from privacy_pipeline.reports.record.summary import RunSummary
from privacy_pipeline.spans import union_digest
from tests.releases.test_dp_evaluation import evaluation
from tests.reports.records import FACTS, make_config, make_summary, poisson_executed, poisson_plan
from tests.reports.report_project import save
from tests.reports.test_build_record import statistics
from tests.reports.tuned import SELECT, tuned_executed, tuned_plan

RUNS = [f"run-{number}" for number in range(1, 6)]
UNITS, FEWER, EVALUATED = 1000, 700, 200
OWN_SPACE = {"id_space": "members of a shop"}
FURTHER = (1,)  # a list of runs in the points names four, and tells how many there are beside
# What the project holds, counted by hand: for `trace.Files`.
COUNTS = {
    "runs without a guarantee elsewhere": 2,
    "trainings": 4,
    "registered spans": 3,
    "runs with a guarantee": 4,
    "blessed runs with a guarantee": 4,
    "records that agree with the ledger": 4,
    "records with a ledger entry": 4,
    "runs with a guarantee and without an audit": 4,
    "charged runs without a record": 0,
}


def registration(span: int, units: int) -> Registration:
    return Registration(
        dataset="things",
        span=span,
        unit="person",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        splits={"train": SplitCount(rows=units, units=units), "eval": SplitCount(rows=EVALUATED, units=EVALUATED)},
        columns=("colour",),
        digest=str(span) * 64,
        registered="2026-01-01T00:00:00+00:00",
        id_space="the shop",
        reasons={"id_space": "members of a shop", "distinct_rows": "coarse columns"} if span == 1 else OWN_SPACE,
    )


def policy(epsilon: float) -> Policy:
    shares = {"train": 0.5, "tune": 0.4, "preprocess": 0.1}
    caps = {"epsilon": epsilon, "delta": 1e-5, "eval_epsilon": 3.0, "ceiling": 12.0}
    return Policy.model_validate({"dataset": "things", "unit": "person", "shares": shares, **caps})


def make_several(folder: Path) -> str:
    """A ledger and a workspace in a folder; returns the ledger's URL."""
    url = f"sqlite:///{folder}/ledger/ledger.db"
    ledger = Ledger.open(url, create=True)
    ledger.register(registration(1, UNITS), epsilon=10.0, delta=1e-5, units=["ann"], policy=policy(10.0))
    for span, person in ((2, "bob"), (3, "cid")):
        ledger.register(registration(span, FEWER), epsilon=10.0, delta=1e-5, units=[person], disjoint=True)
    first = evaluated(ledger, prepared(ledger, "run-1"), rho=0.01)
    save(folder, first)
    ledger.apply_policy(policy(12.0))
    second = evaluated(ledger, tuned(ledger, "run-2"), rho=0.02)
    save(folder, second)
    save(folder, evaluated(ledger, second.model_copy(update={"run_id": "run-3"}), rho=0.03))
    save(folder, elsewhere(ledger, "run-4"))
    save(folder, together(ledger, "run-5"))
    plain = {"dataset": "things", "data_digest": "1" * 64, "backend": "plain", "guarantee": False}
    for run_id in ("run-5", "else-1", "else-2"):  # the first one is in the workspace
        ledger.run_unprotected(Use(span=1, **plain), run_id=run_id)  # type: ignore[arg-type]
    return url


def charge(
    ledger: Ledger, run_id: str, plan: ChargedPlan, *, node: str, purpose: str, split: str = "train", span: int = 1
) -> Composition:
    """Spends a plan's cost."""
    where: dict[str, Any] = {"dataset": "things", "span": span, "split": split, "data_digest": str(span) * 64}
    with ledger.spend(**where, run_id=run_id, node=node, plan=plan, purpose=purpose) as grant:
        grant.start()
        grant.commit(plan.event)
    return ledger.composition(grant.entry_id)


def release(kind: str, *, rho: float, units: int) -> ReleasePlan:
    return ReleasePlan(
        kind=kind,
        unit="person",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        units=units,
        delta=1e-6,
        rho=rho,
        threshold_delta=1e-14 if kind == "dp_statistics" else 0.0,
    )


def stated(ledger: Ledger, run_id: str, plan: MechanismPlan, composition: Composition, **parts: Any) -> RunSummary:
    section = {"span": parts.pop("span", 1), "path": "data/things-{SPAN}.csv", "format": "csv"}
    record = build_record(
        config=make_config(dataset={"privacy_unit": {"key": "person"}, **section}, training=parts.pop("training", {})),
        facts=dataclasses.replace(FACTS, run_id=run_id, statistics=parts.pop("statistics", None)),
        executed=parts.pop("executed"),
        plan=plan,
        composition=composition,
        further=parts.pop("further", []),
    )
    return make_summary(record)


def prepared(ledger: Ledger, run_id: str) -> RunSummary:
    """A training after a release of statistics."""
    noisy = release("dp_statistics", rho=0.02, units=UNITS)
    paid = charge(ledger, run_id, noisy, node="DpStatistics", purpose=PREPROCESS)
    known = {"unit": "person", "budget": paid.budget, "ledger_entry": paid.ledger_entry, "composition": paid}
    released: DpStatistics = statistics().model_copy(update=known)
    plan = poisson_plan(unit="person")
    training = charge(ledger, run_id, plan, node="Trainer", purpose="train")
    return stated(ledger, run_id, plan, training, executed=poisson_executed(), statistics=released)


def tuned(ledger: Ledger, run_id: str) -> RunSummary:
    """A training that is the best of a secret number of trials."""
    plan = dataclasses.replace(tuned_plan(), unit="person")
    paid = charge(ledger, run_id, plan, node="Trainer", purpose="tune")
    return stated(ledger, run_id, plan, paid, executed=tuned_executed(), training={"tuning": SELECT})


def elsewhere(ledger: Ledger, run_id: str) -> RunSummary:
    """A training on the span that has its own budget."""
    event = poisson_gaussian(sampling_probability=0.1, noise_multiplier=3.0, steps=20)
    plan = poisson_plan(unit="person", units=FEWER, noise_multiplier=3.0, event=event)
    paid = charge(ledger, run_id, plan, node="Trainer", purpose="train", span=2)
    return stated(ledger, run_id, plan, paid, executed=poisson_executed(units=FEWER, examples=FEWER), span=2)


def together(ledger: Ledger, run_id: str) -> RunSummary:
    """One training on two spans with a budget each: both are charged."""
    spans, units = (1, 2), UNITS + FEWER
    event = poisson_gaussian(sampling_probability=0.1, noise_multiplier=4.0, steps=20)
    plan = poisson_plan(unit="person", units=units, noise_multiplier=4.0, event=event)
    digest = union_digest({span: str(span) * 64 for span in spans})
    where: dict[str, Any] = {"dataset": "things", "span": spans, "split": "train", "data_digest": digest}
    with ledger.spend(**where, run_id=run_id, node="Trainer", plan=plan) as grant:
        grant.start()
        grant.commit(plan.event)
    first, second = (ledger.composition(entry) for entry in grant.entry_ids)
    executed = poisson_executed(units=units, examples=units)
    return stated(ledger, run_id, plan, first, executed=executed, span=list(spans), further=[second])


def evaluated(ledger: Ledger, summary: RunSummary, *, rho: float) -> RunSummary:
    """The run with a noisy evaluation of its own, which the eval split pays for."""
    noisy = release("dp_evaluation", rho=rho, units=EVALUATED)
    paid = charge(ledger, summary.run_id, noisy, node="DpEvaluator", purpose=EVALUATE, split="eval")
    found: DpEvaluation = evaluation().model_copy(
        update={"unit": "person", "budget": paid.budget, "ledger_entry": paid.ledger_entry, "composition": paid}
    )
    record = with_evaluation(summary.record, found)
    return summary.model_copy(update={"record": record, "slices": slices_of(found), "dp_evaluation": found})
