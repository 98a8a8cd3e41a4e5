"""A dataset with a history: five trainings, one of them audited, and everything that can go wrong with a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.reports.record.build import build_record
from privacy_pipeline.reports.record.summary import RunSummary
from tests.cli.test_tables import make_state
from tests.reports.records import FACTS, UNITS, make_config, make_executed, make_plan, make_summary, poisson_executed

DIGEST = "d" * 64
AUDIT = {
    "kind": "one-run canaries",
    "lower_bound": 0.21,
    "upper_bound": 0.62,
    "confidence": 0.95,
    "delta": 1e-5,
    "canaries": 100,
    "statement": "100 canaries; can show an error of scale, not a small one",
}
FACTS_YAML = """\
report:
  product: Purchase model
  description: Predicts purchases from past ones.
  curators: [Example Statistics Office, Łódź University]
  intended_use: Planning of stock.
  product_type: Machine learning model
  sector: Government
  region: European Union (GDPR)
  publication_date: 2026-11-23
  data_domain: All possible tables of purchases with these columns.
  unprotected_quantities: The column names.
  deployment_model: Central
  actors: The office sees the raw data and is trusted; everybody else sees the model only.
  released: The final model.
  release_type: One release
  data_source_type: Static
  access_type: Non-interactive
  tuning: Three trials, each a run of this pipeline.
  post_processing: None.
  side_channels: Timing is not protected.
  access_control: Two named persons.
  justification: A small budget, as the data is sensitive.
  reviews:
    - {by: A. Reviewer, date: 2026-11-20, verdict: approved}
  registry_authors: [A. Author]
"""


def registration(relation: Relation = Relation.ZERO_OUT) -> Registration:
    return Registration(
        dataset="things",
        span=None,
        unit="row",
        contribution_bound=1,
        relation=relation,
        splits={"train": SplitCount(rows=UNITS, units=UNITS), "eval": SplitCount(rows=200, units=200)},
        columns=("colour",),
        digest=DIGEST,
        registered="2026-01-01T00:00:00+00:00",
    )


def small_plan(noise: float) -> MechanismPlan:
    """Poisson samples; the less noise, the more epsilon."""
    event = poisson_gaussian(sampling_probability=0.1, noise_multiplier=noise, steps=20)
    return make_plan(sampler=Sampler.POISSON, noise_multiplier=noise, event=event)


def make_project(folder: Path, *, relation: Relation = Relation.ZERO_OUT) -> str:
    """A ledger and a workspace in a folder; returns the ledger's URL."""
    url = f"sqlite:///{folder}/ledger/ledger.db"
    ledger = Ledger.open(url, create=True)
    ledger.register(registration(relation), epsilon=5.0, delta=1e-5)
    for index, (noise, accuracy) in enumerate(((6.0, 0.71), (4.0, 0.74), (3.0, 0.78)), start=1):
        plan = small_plan(noise)
        if relation is Relation.ADD_OR_REMOVE_ONE:
            plan = dataclasses.replace(plan, relation=relation, units=None)
        summary = train(ledger, f"run-{index}", plan, accuracy=accuracy)
        if index == 2:
            summary = summary.model_copy(update={"record": summary.record.model_copy(update={"audits": [AUDIT]})})
        save(folder, summary)
    if relation is Relation.ZERO_OUT:
        more_runs(folder, ledger)
    return url


def more_runs(folder: Path, ledger: Ledger) -> None:
    """A run with a fixed seed, one without DP, a cached one, one that crashed, one given back, a broken folder."""
    save(folder, train(ledger, "run-4", make_plan(), accuracy=0.76, seed_fixed=True))
    facts = dataclasses.replace(FACTS, run_id="run-5")
    plain = build_record(
        config=make_config("plain"), facts=facts, executed=make_executed(), plan=None, composition=None
    )
    save(folder, make_summary(plain))
    cached = RunFolder(folder / "workspace" / "runs" / "run-1").read_summary()
    assert cached is not None
    save(folder, cached.model_copy(update={"run_id": "run-6"}))
    with ledger.spend(**request("crashed", make_plan())) as grant:
        grant.start()
    with ledger.spend(
        **request("given-back", make_plan(noise_multiplier=9.0, event=gaussian_passes(noise_multiplier=9.0, epochs=2)))
    ):
        pass
    broken = folder / "workspace" / "runs" / "run-9"
    broken.mkdir()
    (broken / "run.json").write_text("{}")
    (broken / "summary.json").write_text("{}")


def request(run_id: str, plan: MechanismPlan) -> dict[str, Any]:
    return {
        "dataset": "things",
        "span": None,
        "data_digest": DIGEST,
        "split": "train",
        "run_id": run_id,
        "node": "Trainer",
        "plan": plan,
    }


def train(ledger: Ledger, run_id: str, plan: MechanismPlan, *, accuracy: float, seed_fixed: bool = False) -> RunSummary:
    """Spends a plan's cost and states it, as the trainer does."""
    with ledger.spend(**request(run_id, plan)) as grant:
        grant.start()
        grant.commit(plan.event)
    executed = poisson_executed() if plan.sampler is Sampler.POISSON else make_executed()
    record = build_record(
        config=make_config(),
        facts=dataclasses.replace(FACTS, run_id=run_id),
        executed=dataclasses.replace(executed, seed_fixed=seed_fixed),
        plan=plan,
        composition=ledger.composition(grant.entry_id),
    )
    summary = make_summary(record)
    overall = summary.slices[0]
    measured = overall.model_copy(update={"metrics": {**overall.metrics, "accuracy": accuracy}})
    return summary.model_copy(update={"slices": [measured, *summary.slices[1:]]})


def save(folder: Path, summary: RunSummary) -> None:
    run = RunFolder(folder / "workspace" / "runs" / summary.run_id)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_state(make_state(run_id=summary.run_id, config_path="c.yaml"))
    run.write_summary(summary)


def summaries(folder: Path, names: Sequence[str]) -> list[RunSummary]:
    found = [RunFolder(folder / "workspace" / "runs" / name).read_summary() for name in names]
    return [summary for summary in found if summary is not None]
