"""How long does a whole run take, compared with stock TFX with the same DAG on the same data, in the same session?

    make bench        (or: python benchmarks/pipeline_overhead.py --repeats 3)

Stock TFX: LocalDagRunner, user code as `module_file`, one process; imports are counted for both. Each command is a
fresh process. Prints a table of seconds and ratios, and writes them to `benchmarks/results/pipeline_overhead.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CLI = Path(sysconfig.get_paths()["scripts"]) / "privacy-pipeline"
RESULTS = ROOT / "benchmarks" / "results" / "pipeline_overhead.json"
CONFIG = ROOT / "configs" / "adult_plain.yaml"
DP_CONFIG = ROOT / "configs" / "adult_dp_sgd.yaml"


@dataclass(frozen=True)
class Measured:
    """The wall seconds and peak memory (proportional set size of the process tree, bytes) of one command."""

    seconds: float
    peak: int


def measure(command: list[str], cwd: Path, allowed: tuple[int, ...] = (0,)) -> Measured:
    """Run a command to its end; a failure ends the benchmark with the command's output."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
        watcher.start()
        code = process.wait()
        seconds = time.monotonic() - began
        watcher.join()
        if code not in allowed:
            output.seek(0)
            sys.exit(f"{' '.join(command)} ended with {code}:\n{output.read().decode()[-4000:]}")
    return Measured(seconds, peak[0])


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(_pss(pid) for pid in _tree(process.pid)))
        time.sleep(0.2)


def _tree(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # ended meanwhile
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += parents.get(pid, [])
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0  # ended meanwhile
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def stock_python(folder: Path) -> Path:
    """Return an interpreter with pip, which stock TFX calls for each component; packages are the project's own."""
    environment = folder / "stock-env"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    site = next((environment / "lib").glob("python*")) / "site-packages"
    (site / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n" + str(ROOT) + "\n")
    return environment / "bin" / "python"


def prepare(folder: Path) -> Path:
    """Return a project folder with the demo's data, configs and a registered dataset."""
    project = folder / "project"
    shutil.copytree(ROOT / "configs", project / "configs")
    subprocess.run([CLI, "data", "adult"], cwd=project, check=True, stdout=subprocess.DEVNULL)
    register = [CLI, "budget", "register", str(DP_CONFIG), "--epsilon", "1000", "--delta", "1e-5"]
    subprocess.run(register, cwd=project, check=True, stdout=subprocess.DEVNULL)
    return project


def one_round(project: Path, python: Path, number: int) -> dict[str, Measured]:
    """Run stock and ours in turn, each in its own workspace."""
    mine = ["--set", f"workspace=ours-{number}"]
    stock = [str(python), str(ROOT / "benchmarks" / "stock_tfx.py"), str(project), f"stock-{number}"]
    plain = [str(CLI), "run", str(CONFIG), *mine]
    dp = [str(CLI), "run", str(DP_CONFIG), *mine]
    inspect = ["--workspace", f"ours-{number}"]
    return {
        "stock TFX, first run": measure(stock, project),
        "ours, plain, first run": measure(plain, project),
        "stock TFX, nothing changed": measure(stock, project),
        "ours, plain, nothing changed": measure(plain, project),
        "ours, dp_sgd, first run": measure(dp, project),
        "privacy-pipeline --help": measure([str(CLI), "--help"], project),
        "privacy-pipeline runs": measure([str(CLI), "runs", *inspect], project),
        "privacy-pipeline show": measure([str(CLI), "show", "adult-plain", *inspect], project),
    }


def report(rounds: list[dict[str, Measured]]) -> dict[str, object]:
    """Print medians, and ratios paired round by round."""
    medians = {name: statistics.median(r[name].seconds for r in rounds) for name in rounds[0]}
    peaks = {name: max(r[name].peak for r in rounds) for name in rounds[0]}
    base = "stock TFX, first run"

    def ratio(name: str) -> float:
        return statistics.median(r[name].seconds / r[base].seconds for r in rounds)

    table = Table(title=f"Adult, 32,561 + 16,281 rows, median of {len(rounds)}, {os.cpu_count()} cores")
    for column in ("command", "seconds", "of stock's first run", "peak memory"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds:.2f}", f"{ratio(name):.3f}", f"{peaks[name] / 2**30:.2f} GiB")
    Console(width=110).print(table)
    return {
        "rounds": len(rounds),
        "cores": os.cpu_count(),
        "seconds": medians,
        "ratio_to_stock_first_run": {name: ratio(name) for name in medians},
        "peak_bytes": peaks,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, project = stock_python(folder), prepare(folder)
        measure([str(CLI), "runs"], project)  # warms the disk cache
        results = report([one_round(project, python, number) for number in range(repeats)])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
