"""Compare DP-SGD engines with their own non-private baselines, by examples a second, in one run on made-up data.

    python -m benchmarks.dp_sgd                       # everything; makes the peers' environments at first use
    python -m benchmarks.dp_sgd --models mlp --batch 256 1024 --peers --engines "plain Keras" ours
    python -m benchmarks.dp_sgd --memory              # peak memory alone

Engines on TensorFlow are timed after their graphs were built and warmed up; they take turns, and the best of the
repeats counts, since other work on a machine can only slow a run down. Opacus (PyTorch) and JAX-Privacy run in their
own environments below `benchmarks/.envs`, one after the other, in each mode; the best one is shown. Sampled examples
are counted, not padding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.dp_sgd_shapes import TASKS
from benchmarks.peer_environments import OPACUS, interpreter

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "dp_sgd.json"
PLAIN, OURS = "plain Keras", "ours"
ENGINES = (PLAIN, OURS, "ours, truncated", "TF Privacy DPSequential", "TF Privacy vectorized")
# TensorFlow Privacy's engines take seconds a step above this, and have no transformer.
_TFP_MODELS, _TFP_BATCH = ("mnist-cnn", "mlp", "adult"), 256
# The Python version that a peer needs, and its packages.
PEERS = {
    "opacus": ("==3.10.*", OPACUS),
    "jax_privacy": (">=3.11", ("jax-privacy==2.0.0", "jax==0.10.2", "jaxlib==0.10.2", "optax==0.2.8", "numpy==2.4.6")),
}
_BASELINE = {
    "Opacus": "plain PyTorch",
    "JAX-Privacy": "plain JAX",
}
Row = dict[str, Any]


def measure(name: str, batch: int, *, engines: list[str], repeats: int, seconds: float) -> list[Row]:
    """Return examples a second of the TensorFlow engines on one model."""
    from benchmarks.dp_sgd_models import ENGINES as MAKERS

    x, y = TASKS[name].data()
    slow = name not in _TFP_MODELS or batch > _TFP_BATCH
    timed = {e: MAKERS[e](name, x, y, batch) for e in engines if not (slow and e.startswith("TF Privacy"))}
    best = {engine: run(2) for engine, run in timed.items()}
    steps = {engine: int(min(400, max(2, seconds * speed / batch))) for engine, speed in best.items()}
    for turn in range(repeats):
        for engine, run in timed.items():
            # If a step takes a second, chance matters less, and two turns are enough.
            if turn < 2 or best[engine] * seconds > 2 * batch:
                best[engine] = max(best[engine], run(steps[engine]))
    return [{"model": name, "batch": batch, "engine": e, "examples_per_second": speed} for e, speed in best.items()]


def measure_peer(peer: str, given: dict[str, Any]) -> list[Row]:
    """Return the rows of a peer, in all its modes."""
    version, packages = PEERS[peer]
    python = interpreter(peer, packages, python=version)
    command = [str(python), str(HERE / "peers" / f"{peer}_speed.py"), json.dumps(given)]
    threads = {name: str(given["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}) as ran:
        for line in ran.stdout or ():
            print(line, end="", file=sys.stderr, flush=True)
            rows.append(json.loads(line))
    if ran.returncode:
        raise SystemExit(f"{peer} ended with {ran.returncode}")
    return rows


def peak_memory(name: str, batch: int, engines: list[str]) -> list[Row]:
    """Return the peak resident memory of a fresh process for each engine, 20 steps."""
    rows = []
    for engine in engines:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.dp_sgd_memory", engine, name, str(batch)]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
        rows.append({"model": name, "batch": batch, "engine": engine, "peak_bytes": int(ran.stdout.split()[-1])})
    return rows


def best_modes(rows: list[Row]) -> list[Row]:
    """Return the fastest mode of each engine."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = row["model"], row["batch"], row["engine"]
        if "examples_per_second" in row:
            known = best.get(key)
            if known is None or row["examples_per_second"] > known["examples_per_second"]:
                best[key] = row
    return list(best.values())


def table(rows: list[Row]) -> str:
    """Return Markdown: speeds, times over each engine's own baseline, and how many times as fast ours is."""
    lines = [
        "| model | batch | engine | examples/s | step time, of its own baseline | ours is x times as fast |",
        "|---|---:|---|---:|---:|---:|",
    ]
    best = best_modes(rows)
    speeds = {(r["model"], r["batch"], r["engine"]): r["examples_per_second"] for r in best}
    order = list(TASKS)
    for row in sorted(best, key=lambda r: (order.index(r["model"]), r["batch"])):
        model, batch, engine = row["model"], row["batch"], row["engine"]
        speed, base = row["examples_per_second"], speeds.get((model, batch, _BASELINE.get(engine, PLAIN)))
        own = "" if engine.startswith("plain") or base is None else f"{base / speed:.2f}"
        ours = speeds.get((model, batch, OURS))
        faster = "" if ours is None or engine.startswith(OURS) else f"{ours / speed:.2f}"
        shown = f"{engine} ({row['mode']})" if row.get("mode") else engine
        lines.append(f"| {model} | {batch} | {shown} | {speed:,.0f} | {own} | {faster} |")
    return "\n".join(lines)


def memory_table(rows: list[Row]) -> str:
    """Return Markdown: peak memory of whole processes."""
    lines = ["| model | batch | engine | peak memory, MiB | of plain Keras |", "|---|---:|---|---:|---:|"]
    plain = {row["model"]: row["peak_bytes"] for row in rows if row["engine"] == PLAIN}
    for row in rows:
        share = f"{row['peak_bytes'] / plain[row['model']]:.2f}" if row["engine"] != PLAIN else ""
        lines.append(
            f"| {row['model']} | {row['batch']} | {row['engine']} | {row['peak_bytes'] / 2**20:,.0f} | {share} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 256, 1024, 4096])
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=[e for e in ENGINES if "truncated" not in e])
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="rough length of one timing")
    parser.add_argument("--memory", action="store_true", help="peak memory alone")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    if not given.memory:
        for name in given.models:
            for batch in given.batch if given.engines else []:
                rows += measure(name, batch, engines=given.engines, repeats=given.repeats, seconds=given.seconds)
                print(f"{name}, batch {batch}: done", file=sys.stderr, flush=True)
        options = {"models": given.models, "batch": given.batch, "threads": os.cpu_count()}
        for peer in given.peers:
            rows += measure_peer(peer, {**options, "seconds": given.seconds / 2, "repeats": 2})
        print(table(rows))
    memory = [row for name in given.models for row in peak_memory(name, 1024, [PLAIN, OURS])]
    print("\n" + memory_table(memory))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps({"cores": os.cpu_count(), "speed": rows, "memory": memory}, indent=2) + "\n")


if __name__ == "__main__":
    main()
