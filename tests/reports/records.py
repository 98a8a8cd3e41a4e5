"""Records and summaries as runs make them, for the tests of reports, the command line and the pipelines."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.accounting.record import Composition, PrivacyRecord
from privacy_pipeline.backends.base import Executed
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.reports.record.build import build_record
from privacy_pipeline.reports.record.run_facts import RunFacts
from privacy_pipeline.reports.record.summary import RunSummary, SliceMetrics

UNITS = 1000
SCHEMA = Path(__file__).parents[2] / "configs" / "schemas" / "adult.pbtxt"  # a public one, fully reviewed
FACTS = RunFacts(run_id="run-1", pipeline="things", code="c0de", lock="10c4", data="da7a", schema_is_public=True)
COMPOSITION = Composition(
    ledger_entry=7,
    budget="things/train/row",
    entries_before=0,
    epsilon_before=0.0,
    epsilon_after=1.5,
    epsilon_cap=10.0,
    delta=1e-5,
)


def make_config(backend: str = "dp_sgd", **sections: Any) -> PipelineConfig:
    """A config; keyword arguments replace keys of the section they name."""
    private = {"dp_sgd": {"noise_multiplier": 8.0, "delta": 1e-5}} if backend == "dp_sgd" else {}
    document: dict[str, Any] = {
        "pipeline": "things",
        "dataset": {
            "name": "things",
            "path": "data/things",
            "schema": str(SCHEMA),
            "label": "bought",
            "positive_class": "yes",
        },
        "training": {"backend": backend, "epochs": 2, "batch_size": 100, **private},
        "evaluation": {"thresholds": {"accuracy": {"min": 0.5}}},
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values} if isinstance(values, dict) else values
    return PipelineConfig.model_validate(document)


def make_plan(**changes: Any) -> MechanismPlan:
    """Two passes over 1,000 rows."""
    plan = MechanismPlan(
        backend="dp_sgd",
        mechanism="DP-SGD (Gaussian)",
        unit="row",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        sampler=Sampler.SHUFFLED,
        units=UNITS,
        epochs=2,
        batch_size=100,
        steps=20,
        clipping_norm=1.0,
        noise_multiplier=8.0,
        delta=1e-5,
        event=gaussian_passes(noise_multiplier=8.0, epochs=2),
    )
    return dataclasses.replace(plan, **changes)


def make_executed(**changes: Any) -> Executed:
    """What `make_plan` planned."""
    executed = Executed(
        steps=20,
        epochs=2,
        examples=UNITS,
        largest_participation=1,
        seed_fixed=False,
        generator="a generator",
        cryptographic=False,
        history={},
        units=UNITS,
        sampler="fixed_partition",
        withheld=("training losses", "realised batch sizes"),
    )
    return dataclasses.replace(executed, **changes)


def poisson_plan(**changes: Any) -> MechanismPlan:
    """Twenty Poisson samples of 1,000 rows."""
    event = poisson_gaussian(sampling_probability=0.1, noise_multiplier=2.0, steps=20)
    return make_plan(**{"sampler": Sampler.POISSON, "noise_multiplier": 2.0, "event": event, **changes})


def poisson_executed(**changes: Any) -> Executed:
    """What `poisson_plan` planned."""
    return make_executed(**{"sampler": "poisson", "largest_participation": None, **changes})


@functools.cache
def dp_record() -> PrivacyRecord:
    """The record of a DP run."""
    return build_record(
        config=make_config(), facts=FACTS, executed=make_executed(), plan=make_plan(), composition=COMPOSITION
    )


@functools.cache
def plain_record() -> PrivacyRecord:
    """The record of a plain run."""
    return build_record(config=make_config("plain"), facts=FACTS, executed=make_executed(), plan=None, composition=None)


def make_summary(record: PrivacyRecord, **changes: Any) -> RunSummary:
    """A blessed run with one slice."""
    metrics = {"accuracy": 0.8, "auc": 0.9, "precision": 0.7, "recall": None}
    summary = RunSummary(
        run_id=record.run_id,
        pipeline=record.pipeline,
        backend=record.backend,
        training_run=record.run_id,
        evaluation_reasons=[],
        blessed=True,
        reasons=[],
        slices=[
            SliceMetrics(name="overall", examples=200, metrics=metrics),
            SliceMetrics(name="colour=red", examples=50, metrics={**metrics, "accuracy": 0.5}),
        ],
        model_uri="/nowhere/model",
        tensorboard="/nowhere/logs",
        record=record,
    )
    return summary.model_copy(update=changes)
