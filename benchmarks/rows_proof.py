"""Measure the seconds of the proof that examples stay apart, by model.

    python -m benchmarks.rows_proof

The models are those of `dp_sgd.py`, and recurrent, attention and convolution models of the tests. Tracing builds the
graph of the per-example norms; the proof includes reading that graph; cached is the same call again.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.dp_sgd_models import make_loss, make_model
from benchmarks.dp_sgd_shapes import TASKS
from privacy_pipeline.dp.clipping.gradients import BookKeeping
from privacy_pipeline.dp.clipping.groups import make_groups
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.noise.masks import keyed_masks
from privacy_pipeline.dp.training.choice import proof_of
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss
from tests.dp.zoo import honest_layers

ZOO = ("lstm", "transformer_block", "u_net")


def _specs(nest: Any) -> Any:
    return tf.nest.map_structure(lambda v: tf.TensorSpec([None, *v.shape[1:]], tf.as_dtype(v.dtype)), nest)


def measure(name: str, model: Any, loss: Any, x: Any, y: Any) -> str:
    """Return a row of the table."""
    function = per_example_loss(loss)
    keeping = BookKeeping(
        model=model,
        losses=lambda a, b, training: function(b, model(a, training=training)),
        variables=model.trainable_variables,
        groups=make_groups(model, model.trainable_variables, norm=1.0, per_layer=False),
        memory_cap=2**20,
    )

    def norms(a: Any, b: Any, present: Any, seed: Any) -> Any:
        with keyed_masks(model, seed):
            return keeping.squared_norms(a, b, training=True, present=present)

    specs = _specs(x), _specs(y)
    traced, tracing = _timed(
        lambda: Traced(norms, *specs, tf.TensorSpec([None], tf.bool), tf.TensorSpec([2], tf.int64)).concrete
    )
    proof, proving = _timed(lambda: proof_of(traced.graph, x=specs[0], y=specs[1], unit=1))
    _, cached = _timed(lambda: proof_of(traced.graph, x=specs[0], y=specs[1], unit=1))
    verdict = "proven" if proof.proven else "not proven"
    return f"| {name} | {verdict} | {proof.ops:,} | {tracing:.2f} | {proving:.2f} | {cached:.3f} |"


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| model | verdict | ops | tracing, s | proof, s | cached, s |")
    print("|---|---|---:|---:|---:|---:|")
    for name in TASKS:
        x, y = TASKS[name].data()
        print(measure(name, make_model(name), make_loss(name), x[:8], y[:8]), flush=True)
    for name in ZOO:
        made = honest_layers.ZOO[name].made()
        print(measure(f"{name} (tests)", made.model, made.loss, made.x, made.y), flush=True)


if __name__ == "__main__":
    main()
