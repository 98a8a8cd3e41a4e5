"""A model of a user's own that mixes rows reaches no budget."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.backends.dp_sgd import DpSgdBackend
from privacy_pipeline.components.trainer.executor import train_charged
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.reports.record.run_facts import RunFacts

ROWS, DIGEST = 600, "d" * 64
MIXING = """
import tensorflow as tf

def build_model(context):
    (name, spec), = context.inputs.items()
    features = tf.keras.Input(shape=spec.shape, dtype=spec.dtype, name=name)
    centred = tf.keras.layers.Lambda(lambda x: x - tf.reduce_mean(x, axis=0, keepdims=True), name="centred")(features)
    return tf.keras.Model(features, tf.keras.layers.Dense(1)(centred))
"""


def test_a_model_that_mixes_rows_leaves_the_ledger_as_it_was(
    split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("centring_rows.py").write_text(MIXING)
    url = f"sqlite:///{tmp_path}/ledger/ledger.db"
    ledger = Ledger.open(url, create=True)
    ledger.register(
        Registration(
            dataset="things",
            span=1,
            unit="row",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            splits={"train": SplitCount(rows=ROWS, units=ROWS)},
            columns=(),
            digest=DIGEST,
            registered="2026-01-01T00:00:00+00:00",
        ),
        epsilon=30.0,
        delta=1e-4,
    )
    config = split.config(
        backend="dp_sgd",
        batch_size=100,
        dp_sgd={"noise_multiplier": 2.0, "delta": 1e-5},
        dataset={"span": 1},
        model={"use": "centring_rows"},
    ).model_copy(update={"ledger": url})
    unread = ("no/such/file",)
    inputs = split.inputs(config, tmp_path, plan=None, train_files=unread, eval_files=unread, log_dir=None)
    facts = RunFacts(run_id="run-1", pipeline="things", code="c", lock="l", data=DIGEST, schema_is_public=True)
    with pytest.raises(BadInputError, match=r"centred.*\(Mean\)"):
        train_charged(backend=DpSgdBackend(), inputs=inputs, facts=facts, node="Trainer")
    assert ledger.entries("things") == []
