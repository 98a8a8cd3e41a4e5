"""Trains in a forked process, kills it at random moments, and lets it go on; tells what came of it. Run as a script.

TensorFlow is imported once; its runtime starts in the forks alone, which it would not survive.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from privacy_pipeline.processes.die_with_parent import die_with_parent

ROUNDS, CLIENTS, ROWS = 300, 60, 6


def train(folder: Path, mechanism: str) -> None:
    """One attempt, to the end; writes the weights and where it went on."""
    import tensorflow as tf

    from federated.clients.store import ClientStore
    from federated.privacy.plan import FederatedPlan
    from privacy_pipeline.backends.simulation.federated_rounds import PipelineRounds, assign
    from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection
    from privacy_pipeline.dp.training import run_state
    from privacy_pipeline.tasks.binary import BINARY

    run_state.CHECKPOINT_SECONDS = 0.02
    draws = np.random.default_rng(0)
    x = draws.normal(size=(CLIENTS * ROWS, 4)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    clients = ClientStore.from_arrays(keys_of_rows=np.arange(CLIENTS * ROWS) % CLIENTS, features={"x": x}, labels=y)
    tf.keras.utils.set_random_seed(3)
    given = tf.keras.Input([4], name="x")
    model = tf.keras.Model(given, tf.keras.layers.Dense(1)(tf.keras.layers.Dense(8, "relu")(given)))
    plan = FederatedPlan.calibrated(
        rounds=ROUNDS,
        clients=CLIENTS,
        clients_per_round=12,
        delta=1e-5,
        clipping_norm=0.5,
        noise_multiplier=1.0,
        **mechanism_of(mechanism),
    )
    training = PipelineRounds.of_clients(
        model=model,
        clients=clients,
        algorithm=FederatedAlgorithm(server_optimizer=OptimizerSection(name="adam", learning_rate=0.01)),
        cohorts=plan,
        plan=plan,
        seed=3,  # so that two runs have one key; a run of its own would draw it from the system
        state_dir=folder / "state",
        binding="",
        task=BINARY,
    )
    assign(model, training.rounds.run())
    np.savez(folder / "partial.npz", *model.get_weights(), resumed=np.array(training.rounds.resumed_at or 0))
    os.replace(folder / "partial.npz", folder / "weights.npz")


def mechanism_of(name: str) -> dict[str, Any]:
    """What the plan says of the noise: adaptive clipping with the server's, or shares of clients that may be absent."""
    from federated.privacy.cohort_plan import Attendance
    from federated.privacy.distributed_noise import DistributedSettings
    from privacy_pipeline.dp.plan import AdaptiveClipping

    if name == "gaussian":
        return {"adaptive": AdaptiveClipping(count_noise=2.0)}
    settings = DistributedSettings(family="skellam", dimension=64, min_clients=9)
    return {"distributed": settings, "sampling": "shuffled", "attendance": Attendance(dropout=0.2)}


def attempt(folder: Path, mechanism: str, *, seconds: float | None, checkpoints: int = 0) -> bool:
    """Forks an attempt, and kills it after some time; whether it ended by itself. Nothing of it may be left.

    The time begins when the attempt has written that many checkpoints: a clock alone does not know how busy the machine
    is, and would kill now before the first round and now after the last one.
    """
    script = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(script)
        os.setpgid(0, 0)
        train(folder, mechanism)
        os._exit(0)
    seen = {stamp(folder / "state" / "checkpoint.npz")}
    deadline = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        seen.add(stamp(folder / "state" / "checkpoint.npz"))
        if seconds is not None and deadline is None and len(seen) > checkpoints:
            deadline = time.monotonic() + seconds
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    left = [path.name for path in Path("/proc").glob("[0-9]*") if group_of(path) == child]
    if left:
        raise SystemExit(f"processes {left} outlived the run")
    if os.WIFSIGNALED(status):
        return False
    if status != 0:
        raise SystemExit(f"the training ended with status {status}")
    return True


def stamp(file: Path) -> tuple[int, int] | None:
    """Another one whenever the file was written anew; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def group_of(process: Path) -> int | None:
    """Process group of a process; None where it is gone or a zombie."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[2])


def main(root: Path, kills: int, seed: int, mechanism: str) -> None:
    """Prints a JSON object: kills, attempts that went on and that began anew, runs, and whether all weights agree."""
    import tensorflow  # noqa: F401

    import privacy_pipeline.backends.simulation.federated_rounds  # noqa: F401

    draws = random.Random(seed)
    whole = root / "whole"
    whole.mkdir()
    began = time.monotonic()
    attempt(whole, mechanism, seconds=None)
    took = time.monotonic() - began
    told = {"kills": 0, "resumed": 0, "anew": 0, "runs": 0, "same": True}
    while told["kills"] < kills:
        told["runs"] += 1
        folder = root / f"run{told['runs']}"
        folder.mkdir()
        finished = False
        while not finished:
            enough = told["kills"] >= kills
            kept = (folder / "state" / "checkpoint.npz").exists()
            if enough:
                finished = attempt(folder, mechanism, seconds=None)
            elif told["kills"] % 2:  # at any moment, that of the first checkpoint too
                finished = attempt(folder, mechanism, seconds=draws.uniform(0.0, 1.05) * took)
            else:
                finished = attempt(folder, mechanism, seconds=draws.uniform(0.0, 0.1), checkpoints=2)
            told["kills"] += not finished
            told["resumed" if kept else "anew"] += 1
        with np.load(whole / "weights.npz") as one, np.load(folder / "weights.npz") as other:
            told["same"] &= all(np.array_equal(one[name], other[name]) for name in one.files if name != "resumed")
            told["last_resumed_at"] = max(int(other["resumed"]), told.get("last_resumed_at", 0))
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
