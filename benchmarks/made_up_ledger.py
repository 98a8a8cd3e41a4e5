"""A ledger with one made-up dataset, and what asks it for budget."""

from __future__ import annotations

import hashlib
from typing import Any

from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.ledger.storage import keys, schema

UNITS = 100_000
DIGEST = hashlib.sha256(b"made up").hexdigest()


def plan(noise: float = 50.0) -> MechanismPlan:
    """Return a small training."""
    return MechanismPlan(
        backend="dp_sgd",
        mechanism="DP-SGD (Gaussian)",
        unit="row",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        sampler=Sampler.POISSON,
        units=UNITS,
        epochs=1,
        batch_size=100,
        steps=1000,
        clipping_norm=1.0,
        noise_multiplier=noise,
        delta=1e-5,
        event=poisson_gaussian(sampling_probability=0.001, noise_multiplier=noise, steps=1000),
    )


def create(url: str, *, epsilon: float) -> Ledger:
    """Return a ledger with one dataset."""
    ledger = Ledger.open(url, create=True, existing_key=bool(keys.traces(schema.parse(url))))
    registration = Registration(
        dataset="made-up",
        span=None,
        unit="row",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        splits={"train": SplitCount(rows=UNITS, units=UNITS), "eval": SplitCount(rows=100, units=100)},
        columns=("a",),
        digest=DIGEST,
        registered="2026-01-01T00:00:00+00:00",
    )
    ledger.register(registration, epsilon=epsilon, delta=1e-5)
    return ledger


def reserve(ledger: Ledger, run_id: str, asked: MechanismPlan) -> Any:
    """Return a block that reserves."""
    return ledger.spend(
        dataset="made-up", span=None, data_digest=DIGEST, split="train", run_id=run_id, node="Trainer", plan=asked
    )
