"""How fast is a round of federated averaging: the fast engine, stock TFF, pfl-research, Flower's simulation?

    python benchmarks/federated.py [--seconds 5] [--turns 2] [--engines fast tff pfl flower]

Same models, clients (5 batches of 20 examples each) and cohorts. Engines run one after the other, in turns, each in a
separate process; the best round counts, since other programs use the machine too. pfl-research and Flower run in
environments below `benchmarks/.envs`, which are made once. Prints tables and writes `results/federated.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peer_environments import interpreter

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "federated.json"
PEERS = {
    "pfl": ("pfl[pytorch]==0.6.0", "torch==2.14.1", "numpy==2.2.6"),
    "flower": ("flwr[simulation]==1.30.0", "torch==2.14.1", "numpy==2.2.6"),
}
NAMES = {"fast": "ours, fast", "tff": "TFF 0.87", "pfl": "pfl-research 0.6", "flower": "Flower 1.30 simulation"}
COMPARED = (("small", 200, 20), ("cnn", 40, 20))
SCALED = tuple(("small", 100_000, cohort) for cohort in (20, 200, 2000))
_LIMIT = 120.0  # seconds that a process may take
Row = dict[str, Any]


def python_of(engine: str) -> list[str]:
    """Return the command of an engine; a peer's environment is made if it is missing."""
    if engine not in PEERS:
        return [sys.executable, "-W", "ignore", "-m", "benchmarks.federated_engines"]
    return [str(interpreter(engine, PEERS[engine])), str(HERE / "peers" / f"{engine}_speed.py")]


def measured(engine: str, model: str, clients: int, cohort: int, seconds: float) -> Row:
    """Return an engine's best; PyTorch's threads slow each other down on a busy machine, so pfl-research also runs with
    one thread.
    """
    threads = os.cpu_count() or 1
    tried = [one_process(engine, model, clients, cohort, seconds, threads)]
    if engine == "pfl":
        tried.append(one_process(engine, model, clients, cohort, seconds, 1))
    return min(tried, key=lambda row: row.get("seconds", float("inf")))


def one_process(engine: str, model: str, clients: int, cohort: int, seconds: float, threads: int) -> Row:
    """Run one process; processes that it leaves behind (stock TFF's worker) end with its group."""
    given = {"engine": engine, "model": model, "clients": clients, "cohort": cohort, "seconds": seconds}
    command = [*python_of(engine), json.dumps({**given, "threads": threads, "rounds": 6})]
    row: Row = {"engine": engine, "model": model, "clients": clients, "cohort": cohort, "threads": threads}
    path = os.pathsep.join([str(HERE), str(HERE / "peers"), str(HERE.parent)])  # Ray's actors import from it
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=out, stderr=errors, cwd=HERE.parent, env=environment, start_new_session=True
        )
        try:
            status: int | None = process.wait(timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            status = None
        end_group(process.pid)
        process.wait()
        out.seek(0)
        errors.seek(0)
        if status is None:
            return {**row, "error": f"no result in {_LIMIT:.0f} s"}
        if status:
            print(errors.read()[-2000:], file=sys.stderr)
            return {**row, "error": f"ended with {status}"}
        return {**row, **json.loads([line for line in out if line.startswith("{")][-1])}


def end_group(group: int) -> None:
    """End a process group that may be gone."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def best(rows: list[Row]) -> list[Row]:
    """Return the fastest turn of each engine on each workload."""
    chosen: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = row["model"], row["clients"], row["cohort"], row["engine"]
        known = chosen.get(key)
        if known is None or row.get("seconds", float("inf")) < known.get("seconds", float("inf")):
            chosen[key] = row
    return list(chosen.values())


def table(rows: list[Row]) -> str:
    """Markdown."""
    ours = {(r["model"], r["clients"], r["cohort"]): r["seconds"] for r in rows if r["engine"] == "fast"}
    lines = [
        "| model | clients | cohort | engine | ms a round | ours is x times as fast | peak memory, MiB |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        workload = row["model"], row["clients"], row["cohort"]
        shown = f"| {workload[0]} | {workload[1]:,} | {workload[2]:,} | {NAMES[row['engine']]} |"
        if "error" in row:
            lines.append(f"{shown} {row['error']} | | |")
            continue
        faster = "" if row["engine"] == "fast" or workload not in ours else f"{row['seconds'] / ours[workload]:.1f}"
        memory = f"{row['peak_bytes'] / 2**20:,.0f}" if "peak_bytes" in row else ""
        lines.append(f"{shown} {1e3 * row['seconds']:,.1f} | {faster} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=list(NAMES), default=list(NAMES))
    given = parser.parse_args()
    rows: list[Row] = []
    for turn in range(given.turns):
        workloads = [(engine, *work) for work in COMPARED for engine in given.engines]
        if turn == 0:
            workloads += [("fast", *work) for work in SCALED]
        for workload in workloads:
            rows.append(measured(*workload, given.seconds))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    chosen = best(rows)
    load = os.getloadavg()[0]
    RESULTS.parent.mkdir(exist_ok=True)
    taken = {"when": time.strftime("%Y-%m-%d"), "processors": os.cpu_count(), "load": load, "rows": chosen}
    RESULTS.write_text(json.dumps(taken, indent=1) + "\n")
    print(table(chosen))
    print(f"\n{os.cpu_count()} processors, load {load:.1f} at the end.")


if __name__ == "__main__":
    main()
