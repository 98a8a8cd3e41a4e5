"""How accurate are the demo's two models, and how much does DP-SGD vary from run to run?

    python benchmarks/adult_accuracy.py --repeats 3

Runs `configs/adult_plain.yaml` once (its seed is fixed) and `configs/adult_dp_sgd.yaml` with fresh randomness each
time, with its own workspace and ledger. Prints accuracy and AUC on the 1994 test file with their spread, and
writes `benchmarks/results/adult_accuracy.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CLI = Path(sysconfig.get_paths()["scripts"]) / "privacy-pipeline"
RESULTS = ROOT / "benchmarks" / "results" / "adult_accuracy.json"
METRICS = ("accuracy", "auc")


def run(config: str, folder: Path) -> dict[str, float]:
    """Run once from scratch; return the overall metrics and, for a DP run, epsilon."""
    command = [CLI, "run", f"configs/{config}", "--json", "--no-cache", *overrides(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    summary = json.loads(done.stdout)["summary"]
    overall = next(part for part in summary["slices"] if part["name"] == "overall")["metrics"]
    guarantee = summary["record"]["guarantee"]
    return overall | ({"epsilon": guarantee["epsilon"]} if guarantee else {})


def overrides(folder: Path) -> list[str]:
    """Keep the benchmark out of the user's workspace and ledger."""
    return ["--set", f"workspace={folder}/workspace", "--set", f"ledger=sqlite:///{folder}/ledger.db"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([CLI, "data", "adult"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        register = [CLI, "budget", "register", "configs/adult_dp_sgd.yaml", "--epsilon", "1000", *overrides(folder)[2:]]
        subprocess.run(register, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        results = {
            "plain, fixed seed": [run("adult_plain.yaml", folder)],
            "dp_sgd": [run("adult_dp_sgd.yaml", folder) for _ in range(repeats)],
        }
    table = Table("", "runs", "accuracy", "AUC", "epsilon", title="Adult, 1994 test file (mean, and lowest to highest)")
    for label, rows in results.items():
        cells = [_spread([row[metric] for row in rows]) for metric in METRICS]
        epsilon = f"{rows[0]['epsilon']:.3f} at delta 1e-05" if "epsilon" in rows[0] else "none"
        table.add_row(label, str(len(rows)), *cells, epsilon)
    Console(width=110).print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
