"""Measure the ledger under load: many entries, and many processes at once.

    python -m benchmarks.ledger                     # 1 million entries (half an hour to make), 16 processes
    python -m benchmarks.ledger --entries 100000
    python -m benchmarks.ledger --against ../another-checkout --repeats 5      # reservations alone, in turns
    python -m benchmarks.ledger --mark --repeats 500    # what the mark beside the key costs a write, in turns

Entries are written as a reservation writes them, each signed and chained, many in one transaction. Times are medians of
five library calls in one process; those of commands are whole processes, imports counted. The 16 processes run on
SQLite and, where it is installed, on a PostgreSQL server that the script starts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.made_up_ledger import DIGEST, create, plan, reserve
from privacy_pipeline.ledger import write_transactions
from privacy_pipeline.ledger.audit.verify import verify
from privacy_pipeline.ledger.charging import charges, entries
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.budgets import find_budget
from privacy_pipeline.ledger.state.entries import plan_key, price
from privacy_pipeline.ledger.storage import high_water, keys
from tests.ledger.postgresql_server import program, server

RESULTS = Path(__file__).parent / "results" / "ledger.json"
BATCH = 5_000
FORK = multiprocessing.get_context("fork")


def fill(ledger: Ledger, count: int) -> float:
    """Write reservations; return seconds."""
    asked = plan()
    cost = price(asked.event, asked.relation)
    row, key = charges.row_of(charges.plan_text(asked), cost), plan_key(asked, cost.event)
    begin = time.perf_counter()
    for start in range(0, count, BATCH):
        with write_transactions.writing(ledger._engine) as writer:
            planned = charges.put(writer.connection, row)
            for number in range(start, min(start + BATCH, count)):
                budget = find_budget(writer.connection, "made-up", split="train", span=None)
                assert budget is not None
                fixed = {
                    "budget_id": budget["id"],
                    "span_key": "",
                    "data_digest": DIGEST,
                    "run_id": f"run-{number}",
                    "node": "Trainer",
                    "plan_key": key,
                    "attempt": 1,
                    "purpose": "train",
                    "principal": "benchmark",
                    "token": entries.token_hash(str(number)),
                    "planned": planned,
                }
                entries.add(writer, budget, fixed, cost=cost, order=budget["filter_order"] or 64.0)
    return time.perf_counter() - begin


def seconds(action: Callable[[], Any], repeats: int = 5) -> float:
    """Return the median time."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def load(count: int) -> dict[str, float]:
    """Return times of what people and runs ask, with this many entries."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        ledger = create(url, epsilon=1e9)
        found = {"write_all": fill(ledger, count)}
        found["size_gib"] = (Path(folder) / "ledger.db").stat().st_size / 2**30
        asked, numbers = plan(), iter(range(1000))

        def once() -> None:
            with reserve(Ledger.open(url), f"new-{next(numbers)}", asked):
                pass

        once()
        found["status"] = seconds(lambda: Ledger.open(url).status())
        found["history"] = seconds(lambda: Ledger.open(url).history(limit=50))
        found["reserve_and_release"] = seconds(once)
        found["forecast"] = seconds(
            lambda: Ledger.open(url).forecast(asked, dataset="made-up", span=None, split="train")
        )
        found |= commands(url)
        begin = time.perf_counter()
        problems = verify(ledger._engine).problems
        found["verify"] = time.perf_counter() - begin
        assert not problems, problems
    return found


def commands(url: str) -> dict[str, float]:
    """Return the seconds of whole commands on that ledger, with Adult registered beside the made-up dataset."""
    command = [str(Path(sys.executable).with_name("privacy-pipeline"))]
    ledger, config = ["--ledger", url], ["configs/adult_dp_sgd.yaml", "--set", f"ledger={url}"]

    def run(*words: str) -> None:
        subprocess.run([*command, *words], check=True, capture_output=True)

    run("data", "adult")
    run("budget", "register", *config, "--epsilon", "10", "--delta", "1e-5")
    return {
        "command: budget status": seconds(lambda: run("budget", "status", *ledger)),
        "command: budget history": seconds(lambda: run("budget", "history", *ledger)),
        "command: check": seconds(lambda: run("check", *config)),
        "command: budget forecast": seconds(lambda: run("budget", "forecast", *config)),
    }


def race(url: str, *, processes: int, each: int) -> dict[str, float]:
    """Let many processes reserve from one budget that is not enough for all of them."""
    asked = plan(noise=3.0)
    alone = create(url, epsilon=3.0).forecast(asked, dataset="made-up", span=None, split="train")
    fits, barrier, granted = alone.runs_that_fit, FORK.Barrier(processes + 1), FORK.Value("i", 0)

    def act(worker: int) -> None:
        from privacy_pipeline.errors import BudgetRefusedError
        from privacy_pipeline.ledger.charging.request import Request
        from privacy_pipeline.ledger.charging.reservation import reserve as reserve_now

        own = Ledger.open(url)
        price(asked.event, asked.relation)
        barrier.wait()
        for number in range(each):
            request = Request(
                dataset="made-up",
                span=None,
                data_digest=DIGEST,
                split="train",
                run_id=f"{worker}-{number}",
                node="Trainer",
                plan=asked,
            )
            try:
                reserve_now(own._engine, request)
            except BudgetRefusedError:
                return
            with granted.get_lock():
                granted.value += 1

    workers = [FORK.Process(target=act, args=(number,)) for number in range(processes)]
    for worker in workers:
        worker.start()
    barrier.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - begin
    status = Ledger.open(url).status()[0]
    assert status.spent_epsilon <= status.cap_epsilon and granted.value <= fits
    return {"granted": granted.value, "fit": fits, "a_second": granted.value / took}


def mark_cost(repeats: int) -> dict[str, float]:
    """Return the median seconds of a write (a reservation, or its return) with this host's mark and without it.

    Both take turns. Without it, the mark is neither read nor written, and writes are less safe; nothing else differs.
    """
    taken: dict[str, list[float]] = {"with": [], "without": []}
    asked = plan()
    with tempfile.TemporaryDirectory() as folder:
        ledger = create(f"sqlite:///{folder}/ledger.db", epsilon=1e9)
        for number in range(-5, repeats):  # the first ones are not counted
            for name, times in taken.items():
                patched = mock.patch.multiple(high_water, require=_no_mark, advance=_no_mark)
                with contextlib.nullcontext() if name == "with" else patched:
                    begin = time.perf_counter()
                    with reserve(ledger, f"{name}-{number}", asked):
                        pass
                    if number >= 0:
                        times.append((time.perf_counter() - begin) / 2)
    return {name: statistics.median(times) for name, times in taken.items()}


def _no_mark(*_: Any, **__: Any) -> None:
    return None


_RACE = """
import json, os, sys, tempfile
from benchmarks.ledger import race
from privacy_pipeline.ledger.storage import keys
from tests.ledger.postgresql_server import program, server
processes, each = map(int, sys.argv[1:])
with tempfile.TemporaryDirectory() as folder:
    found = {"SQLite": race(f"sqlite:///{folder}/l.db", processes=processes, each=each)}
    if program("initdb") is not None:
        os.environ[keys.ENVIRONMENT] = f"{folder}/key.pem"
        with server() as url:
            found["PostgreSQL"] = race(url, processes=processes, each=each)
print(json.dumps({name: row["a_second"] for name, row in found.items()}))
"""


def against(checkout: Path, *, repeats: int, processes: int, each: int) -> None:
    """Print reservations a second here and in another checkout, which take turns."""
    checkouts = {"here": Path(__file__).resolve().parent.parent, "there": checkout.resolve()}
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for name, path in checkouts.items():
            environment = {**os.environ, "PYTHONPATH": str(path)}
            words = [sys.executable, "-c", _RACE, str(processes), str(each)]
            done = subprocess.run(words, cwd=path, env=environment, check=True, capture_output=True, text=True)
            for database, rate in json.loads(done.stdout).items():
                taken.setdefault((database, name), []).append(rate)
    print(f"| {processes} processes, {repeats} turns | reservations a second: median (lowest to highest) |\n|---|---|")
    for (database, name), rates in sorted(taken.items()):
        print(f"| {database}, {name} | {statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--each", type=int, default=100, help="reservations that each process asks for")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout; measure only reservations")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each checkout with --against")
    parser.add_argument("--mark", action="store_true", help="measure only what the mark beside the key costs")
    given = parser.parse_args()
    if given.mark:
        found = mark_cost(given.repeats)
        print(f"| a write, SQLite, median of {given.repeats} in turns | ms |\n|---|---:|")
        print(f"| with the mark beside the key | {found['with'] * 1e3:.2f} |")
        print(f"| without it | {found['without'] * 1e3:.2f} |")
        print(f"| ratio | {found['with'] / found['without']:.2f} |")
        return
    if given.against is not None:
        against(given.against, repeats=given.repeats, processes=given.processes, each=given.each)
        return
    with tempfile.TemporaryDirectory() as folder:
        raced = {"SQLite": race(f"sqlite:///{folder}/l.db", processes=given.processes, each=given.each)}
        if program("initdb") is None:
            print("PostgreSQL is not installed, and not measured", file=sys.stderr)
        else:
            os.environ[keys.ENVIRONMENT] = f"{folder}/key.pem"
            with server() as url:
                raced["PostgreSQL"] = race(url, processes=given.processes, each=given.each)
            del os.environ[keys.ENVIRONMENT]
    print(f"| {given.processes} processes | granted | fit | reservations a second |\n|---|---:|---:|---:|")
    for name, row in raced.items():
        print(f"| {name} | {row['granted']:,} | {row['fit']:,} | {row['a_second']:,.0f} |")
    found = load(given.entries)
    print(f"\n| {given.entries:,} entries, SQLite | |\n|---|---:|")
    for name, value in found.items():
        unit = "GiB" if name == "size_gib" else "s"
        print(f"| {name.replace('_gib', '').replace('_', ' ')} | {value:.3f} {unit} |")
    RESULTS.write_text(json.dumps({"entries": given.entries, "load": found, "race": raced}, indent=2) + "\n")


if __name__ == "__main__":
    main()
