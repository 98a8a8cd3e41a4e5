"""A process that trains in forked children, kills them, and tells whether they went on to the same weights.

Run as a program: TensorFlow may be forked only before its runtime starts, which it has in a test process.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp import AdaptiveClipping, PrivacyPlan, UserBound, make_private
from privacy_pipeline.dp.training import run_state

UNITS, STEPS = 200, 9
KINDS: dict[str, dict[str, Any]] = {
    "everything": {
        "optimizer": "adam",
        "dropout": 0.5,
        "virtual_batch_size": 9,
        "users": 100,
        "plan": {"adaptive": AdaptiveClipping(count_noise=2.0), "users": UserBound(max_examples=2), "units": 100},
    },
    "adam_dropout": {"optimizer": "adam", "dropout": 0.5, "virtual_batch_size": 9},
    "tree": {"optimizer": "sgd", "plan": {"sampling": "cyclic", "correlation": "tree", "expected_batch_size": 30}},
    "banded": {"optimizer": "sgd", "plan": {"sampling": "cyclic", "correlation": "banded", "bands": 4}},
    "fallback": {"optimizer": "sgd", "dropout": 0.3, "whole": True, "plan": {"hardened": True}},
    "partition": {"optimizer": "rmsprop", "plan": {"sampling": "shuffled", "steps": STEPS}},
}


class Die(tf.keras.callbacks.Callback):
    """Kills the process before or after a step."""

    def __init__(self, step: int, *, before: bool) -> None:
        super().__init__()
        self.left, self.before = step, before

    def _count(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.before:
            self._count()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.before:
            self._count()


class OwnVariable(tf.keras.Model):
    """A model with a variable outside of any layer, which no clipping rule covers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.scale = self.add_weight("scale", shape=[6], initializer="ones")
        self.drop, self.out = tf.keras.layers.Dropout(dropout), tf.keras.layers.Dense(1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.out(self.drop(inputs * self.scale, training=training))


def network(dropout: float = 0.0, whole: bool = False) -> Any:
    keras = tf.keras.layers
    if whole:
        model = OwnVariable(dropout)
        model(tf.zeros([1, 6]))
        return model
    layers = [keras.GaussianNoise(0.1), keras.Dense(8, "tanh"), keras.Dropout(dropout), keras.Dense(1)]
    return tf.keras.Sequential([keras.Input((6,)), *layers])


def train(state: Path, kind: str, *callbacks: Any) -> None:
    """Trains in this process, which then ends."""
    options = dict(KINDS[kind])
    numbers = {
        "units": UNITS,
        "expected_batch_size": 20,
        "steps": STEPS,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        **options.pop("plan", {}),
    }
    model = network(options.pop("dropout", 0.0), options.pop("whole", False))
    users = options.pop("users", None)
    x = np.random.default_rng(0).normal(size=(UNITS, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    if users is not None:
        users = np.arange(UNITS) % users
    run_state.CHECKPOINT_SECONDS = 0.0
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    private = make_private(model, PrivacyPlan.calibrated(**numbers), loss=loss, state_dir=state, **options)
    execution = private.fit(x, y, callbacks=list(callbacks), **({} if users is None else {"users": users}))
    np.savez(state / "weights.npz", *model.get_weights(), steps=execution.steps, at=execution.resumed_at or -1)


def forked(state: Path, kind: str, *callbacks: Any) -> bool:
    """Whether a child that trains comes to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(state, kind, *callbacks)
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"training failed: {kind}")
    return not os.WIFSIGNALED(status)


def experiment(folder: Path, kind: str) -> dict[str, Any]:
    """One uninterrupted run, and one of the same key that is killed three times."""
    draw = random.Random()
    whole, broken = folder / f"{kind}_whole", folder / f"{kind}_broken"
    killed = [not forked(broken, kind, Die(0, before=True))]  # the initial weights and the key are there
    shutil.copytree(broken, whole, copy_function=shutil.copy2)
    whole.chmod(0o700)
    finished = [forked(whole, kind)]
    for _ in range(2):
        killed.append(not forked(broken, kind, Die(draw.randint(0, 2), before=draw.random() < 0.5)))
    finished.append(forked(broken, kind))
    one, two = (np.load(place / "weights.npz") for place in (whole, broken))
    same = all(np.array_equal(one[name], two[name]) for name in one.files if name != "at")
    return {"killed": killed, "finished": finished, "same": same, "at": int(two["at"]), "steps": int(two["steps"])}


if __name__ == "__main__":
    print(json.dumps({kind: experiment(Path(sys.argv[1]), kind) for kind in sys.argv[2:]}))
