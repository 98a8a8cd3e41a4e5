"""Measure the demo's commands in this checkout and in another one, in turns.

    python -m benchmarks.demo_times --against ../another-checkout --repeats 3

Each checkout has its own environment below `.venv`. A turn registers Adult's census data and trains on it, plain and
with DP-SGD, in a fresh folder; every command is a separate process, imports counted. `wall` is the elapsed time,
`processor` the time of all processors that a command and its children take, which other programs on the machine change
less. The table has medians of the turns, and the median of the ratios of neighbouring turns.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent.parent
COMMANDS = {
    "register": ("budget", "register", "configs/adult_dp_sgd.yaml", "--epsilon", "10", "--delta", "1e-5"),
    "run plain": ("run", "configs/adult_plain.yaml"),
    "run DP-SGD": ("run", "configs/adult_dp_sgd.yaml"),
    "run again": ("run", "configs/adult_dp_sgd.yaml"),
}


@dataclass(frozen=True, kw_only=True)
class Took:
    """The seconds of one command."""

    wall: float
    processor: float


def turn(checkout: Path) -> dict[str, Took]:
    """Time every command once, in a fresh folder.

    Raises:
        RuntimeError: a command fails.
    """
    program = str(checkout / ".venv" / "bin" / "privacy-pipeline")
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(checkout / "configs", Path(name, "configs"))
        run([program, "data", "adult"], name)
        return {step: run([program, *words], name) for step, words in COMMANDS.items()}


def run(command: list[str], folder: str) -> Took:
    """Run one command to its end.

    Raises:
        RuntimeError: it fails; the message holds its output.
    """
    before, began = _processor(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return Took(wall=time.perf_counter() - began, processor=_processor() - before)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--against", type=Path, required=True, help="the other checkout")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    turns = []
    for number in range(given.repeats):
        turns.append((turn(given.against.resolve()), turn(HERE)))
        print(f"turn {number + 1} of {given.repeats}", flush=True)
    print("| command | wall before | wall now | ratio | processor before | processor now | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for step in (*COMMANDS, "all"):
        cells = [cell for kind in ("wall", "processor") for cell in _cells(turns, step, kind)]
        print(f"| {step} | {' | '.join(cells)} |")


def _cells(turns: list[tuple[dict[str, Took], dict[str, Took]]], step: str, kind: str) -> list[str]:
    before, now = ([_of(both[side], step, kind) for both in turns] for side in (0, 1))
    ratio = median(late / early for early, late in zip(before, now, strict=True))
    return [f"{median(before):.1f} s", f"{median(now):.1f} s", f"{ratio:.2f}"]


def _of(times: dict[str, Took], step: str, kind: str) -> float:
    chosen = COMMANDS if step == "all" else (step,)
    return sum(float(getattr(times[one], kind)) for one in chosen)


if __name__ == "__main__":
    main()
