"""Runs one fuzzer in a process of its own, which is the one that limits and signals hold for."""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.fuzz.fuzzers import FUZZERS
from tests.fuzz.watching import Case, Fault, Watch

_SHOWN = 300  # bytes of an input


def main() -> int:
    """Exit code 1 where an input made a reader do what it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("name", choices=sorted(FUZZERS))
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--only", type=int, help="number of one input")
    parser.add_argument("--keep", type=Path, help="folder for inputs with a fault")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    count = asked.inputs or FUZZERS[asked.name].inputs
    numbers = range(asked.start, asked.start + count) if asked.only is None else range(asked.only, asked.only + 1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PRIVACY_PIPELINE_HISTORIES"] = str(Path(scratch, "histories"))
        return _run(asked.name, asked.seed, numbers, Path(scratch), asked.keep)


def _run(name: str, seed: int, numbers: Iterable[int], scratch: Path, keep: Path | None) -> int:
    fuzzer = FUZZERS[name]
    watch = Watch(codes=fuzzer.codes)
    folder = scratch / "files"
    folder.mkdir()
    draw = fuzzer.load()(folder, watch)
    gc.collect()
    gc.freeze()
    counts: Counter[str] = Counter()
    faults: dict[tuple[str, str], list[tuple[int, Fault, Case]]] = {}
    start, slowest = time.process_time(), (0.0, 0)
    for number in numbers:
        # Where the process is, for who has to look after it was killed.
        if number % 100 == 0:
            sys.stderr.write(f"\r{name} {number}")
        case = draw(Random(f"{name} {seed} {number}"))
        before = time.process_time()
        code, fault = watch.judge(case)
        slowest = max(slowest, (time.process_time() - before, number))
        counts[f"exit {code}" if fault is None else "faults"] += 1
        if fault is not None:
            faults.setdefault((fault.kind, fault.where), []).append((number, fault, case))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"\n{name}, seed {seed}: {json.dumps(counts)}, {time.process_time() - start:.0f} s, peak {peak} MiB")
    print(f"slowest: input {slowest[1]} with {slowest[0]:.2f} s of processor time, DP checks included")
    for (kind, where), found in faults.items():
        number, fault, case = found[0]
        print(f"{kind} ({len(found)}): {where}\n  {fault.detail}\n  input {case.content[:_SHOWN]!r} {case.told}")
        print(f"  python -m tests.fuzz {name} --seed {seed} --only {number}")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{seed}-{number}").write_bytes(case.content)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
