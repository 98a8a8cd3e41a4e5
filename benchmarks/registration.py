"""Measure registration, `budget status` and a reservation by the number of units, in this checkout and in another one.

    python -m benchmarks.registration                                   # 5 thousand, 500 thousand and 5 million units
    python -m benchmarks.registration --units 5000 500000 --repeats 5
    python -m benchmarks.registration --against ../another-checkout --json times.json

There are two tables of made-up people: one whose unit is a row, one whose unit is a key. Each row is a person; a tenth
of them is the eval split. Registration, status and verify are whole commands, imports counted; a reservation is by the
library, from opening the ledger to the entry. `again` registers as many other people under another name, who are
compared with all registered people. `processor` is the time of all processors, which other programs on the machine
change less. Checkouts take turns; times are medians.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
FORK = multiprocessing.get_context("fork")
CLI = "from privacy_pipeline.cli.main import main; main()"
_CONFIG = """\
pipeline: people
dataset:
  name: {name}
  path: {name}
  schema: schema.pbtxt
  label: income
  positive_class: "high"
  input: {{train: "train/*.csv", eval: "eval/*.csv"}}
  privacy_unit: {unit}
training: {{backend: dp_sgd, epochs: 1, batch_size: 100, dp_sgd: {{noise_multiplier: 50.0, delta: 1.0e-5}}}}
evaluation: {{thresholds: {{accuracy: {{min: 0.1}}}}}}
"""
_PRESENT = "presence {{ min_fraction: 1 min_count: 1 }} shape {{ dim {{ size: 1 }} }}"
_FEATURE = 'feature {{ name: "{0}" type: {1} ' + _PRESENT + " {2} }}\n"
_SCHEMA = (
    _FEATURE.format("person", "INT", 'annotation { tag: "ignore" }')
    + _FEATURE.format("age", "INT", "int_domain { min: 0 max: 120 }")
    + _FEATURE.format("hours", "FLOAT", "float_domain { min: 0 max: 100 }")
    + _FEATURE.format("town", "BYTES", 'string_domain { value: "Aa" value: "Bee" value: "Cee" }')
    + _FEATURE.format("income", "BYTES", 'string_domain { value: "low" value: "high" }')
)
_RESERVE = """
import sys, time
from privacy_pipeline.accounting.events import gaussian_passes
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import price
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
url, name = sys.argv[1:]
known = Ledger.open(url).registration(name, None)
units = known.splits["train"].units
plan = MechanismPlan(
    backend="dp_sgd", mechanism="DP-SGD (Gaussian)", unit=known.unit, contribution_bound=1, relation=Relation.ZERO_OUT,
    sampler=Sampler.SHUFFLED, units=units, epochs=1, batch_size=100, steps=units // 100, clipping_norm=1.0,
    noise_multiplier=50.0, delta=1e-5, event=gaussian_passes(noise_multiplier=50.0, epochs=1),
)
price(plan.event, plan.relation)
begin = time.perf_counter()
asked = dict(dataset=name, span=None, data_digest=known.digest, split="train", node="Trainer", plan=plan)
with Ledger.open(url).spend(**asked, run_id=str(begin)):
    print(time.perf_counter() - begin)
"""


def write_table(folder: Path, *, units: int, first: int, keyed: bool) -> None:
    """Return one row for each person; without a key, the person's number is not a column."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    for split, begin, end in (("train", 0, units * 9 // 10), ("eval", units * 9 // 10, units)):
        count, drawn = end - begin, np.random.default_rng(first + begin)
        columns = {
            "person": pa.array(np.arange(first + begin, first + end)),
            "age": pa.array(drawn.integers(0, 120, count)),
            "hours": pa.array(drawn.uniform(0, 100, count).round(6)),
            "town": pa.array(np.array(["Aa", "Bee", "Cee"])[drawn.integers(0, 3, count)]),
            "income": pa.array(np.array(["low", "high"])[drawn.integers(0, 2, count)]),
        }
        if not keyed:
            del columns["person"]
        (folder / split).mkdir(parents=True)
        with (folder / split / "people.csv").open("wb") as stream:
            stream.write((",".join(columns) + "\n").encode())
            options = csv.WriteOptions(include_header=False)
            csv.write_csv(pa.table(columns), stream, options)


def write_project(root: Path, *, units: int, keyed: bool) -> None:
    """Write two tables of different people, and a config for each."""
    kept = "".join(line for line in _SCHEMA.splitlines(True) if keyed or '"person"' not in line)
    root.mkdir()
    (root / "schema.pbtxt").write_text(kept)
    unit = "{key: person, contribution_bound: 1}" if keyed else "row"
    for name, first in (("people", 0), ("others", 100_000_000)):
        write_table(root / name, units=units, first=first, keyed=keyed)
        (root / f"{name}.yaml").write_text(_CONFIG.format(name=name, unit=unit))


def command(checkout: Path, root: Path, *words: str) -> tuple[dict[str, float], str]:
    """Run Python in a project's folder with a checkout's code; return seconds, processor seconds, memory, output."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", *words], cwd=root, env=environment, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        taken = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        told = output.read()
    if process.returncode:
        raise SystemExit(f"{words[1:]} in {checkout} ended with {process.returncode}: {told}")
    cost = {"": taken, ", processor": usage.ru_utime + usage.ru_stime, ", peak GiB": usage.ru_maxrss / 2**20}
    return cost, told


def measure(checkout: Path, root: Path, ledger: Path) -> dict[str, float]:
    """Return times of one project in one checkout, with a new ledger."""
    found: dict[str, float] = {}
    url = f"sqlite:///{ledger}/ledger.db"
    changed = ("--epsilon", "3", "--set", f"ledger={url}", "--set", f"workspace={ledger}")
    at = ("--ledger", url)
    for what, words in (
        ("register", ("register", "people.yaml", *changed)),
        ("register again", ("register", "others.yaml", *changed)),
        ("status", ("status", *at)),
        ("verify", ("verify", *at)),
    ):
        found |= {what + more: value for more, value in command(checkout, root, CLI, "budget", *words)[0].items()}
    found["reserve"] = float(command(checkout, root, _RESERVE, url, "people")[1])
    found["ledger, MiB"] = sum(file.stat().st_size for file in ledger.glob("ledger.db*")) / 2**20
    for pin in root.rglob("ledger_pin.json"):
        pin.unlink()  # the next ledger is another one
    return found


def main() -> None:
    """Print a table for each kind of unit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[5_000, 500_000, 5_000_000])
    parser.add_argument("--unit", choices=("row", "key"), nargs="+", default=["row", "key"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, which takes turns")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    checkouts = {"here": HERE} | ({"there": given.against.resolve()} if given.against else {})
    results: list[dict[str, Any]] = []
    for unit in given.unit:
        for units in given.units:
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder) / "project"
                # Use a separate process: a command's memory starts at that of the process that starts it.
                writer = FORK.Process(
                    target=write_project, args=(root,), kwargs={"units": units, "keyed": unit == "key"}
                )
                writer.start()
                writer.join()
                taken: dict[str, defaultdict[str, list[float]]] = {name: defaultdict(list) for name in checkouts}
                for turn in range(given.repeats):
                    for name, checkout in checkouts.items():
                        for what, value in measure(checkout, root, Path(folder) / f"{name}-{turn}").items():
                            taken[name][what].append(value)
            for name, found in taken.items():
                medians = {what: statistics.median(values) for what, values in found.items()}
                results.append({"unit": unit, "units": units, "checkout": name, "medians": medians, "all": found})
            _print(results[-len(checkouts) :])
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


def _print(found: list[dict[str, Any]]) -> None:
    print(
        f"\n| {found[0]['units']:,} units, unit: {found[0]['unit']} | "
        + " | ".join(r["checkout"] for r in found)
        + " |"
    )
    print("|---|" + "---:|" * len(found))
    for what in found[0]["medians"]:
        print(f"| {what} | " + " | ".join(f"{row['medians'][what]:.3f}" for row in found) + " |", flush=True)


if __name__ == "__main__":
    main()
