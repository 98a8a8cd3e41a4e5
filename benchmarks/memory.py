"""How much memory does a whole run take at its peak, compared with the forecast of `run` before it starts?

    python benchmarks/memory.py --rows 20000 200000 --columns 6 24

Rows are made up: half of the columns are numbers, half are categories of eight values. Each run is a fresh project, and
its peak is the proportional set size of all of its processes together. Prints a table and writes
`benchmarks/results/memory.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from pipeline_overhead import CLI, ROOT, measure
from rich.console import Console
from rich.table import Table

from privacy_pipeline.config.loader import load_config
from privacy_pipeline.data import source
from privacy_pipeline.pipelines.preflight.memory import forecast, size_of

RESULTS = ROOT / "benchmarks" / "results" / "memory.json"


def write_project(folder: Path, *, rows: int, columns: int, backend: str) -> Path:
    """Write a CSV file, its reviewed schema and a config; return the config's path."""
    draw = random.Random(rows * columns)
    names = [f"c{number:02d}" for number in range(columns)]
    with open(folder / "made_up.csv", "w") as file:
        print(*names, "label", sep=",", file=file)
        for _ in range(rows):
            numbers = [f"{draw.random() * 100:.3f}" for _ in names[::2]]
            categories = [f"value-{draw.randrange(8)}" for _ in names[1::2]]
            cells = [cell for pair in zip(numbers, categories, strict=True) for cell in pair]
            print(*cells, "yes" if float(numbers[0]) > draw.random() * 100 else "no", sep=",", file=file)
    measure([str(CLI), "init", "made_up.csv", "--label", "label"], folder)
    schema = folder / "configs/schemas/made_up.pbtxt"
    schema.write_text(schema.read_text().replace('tag: "unreviewed"', ""))
    config = folder / "configs/made_up.yaml"
    text = config.read_text().replace("backend: plain", f"backend: {backend}\n  epochs: 1\n  batch_size: 256")
    if backend == "dp_sgd":
        text = text.replace("  batch_size: 256", "  batch_size: 256\n  dp_sgd: {noise_multiplier: 1.0, delta: 1.0e-7}")
    config.write_text(text.replace("auc: {min: 0.6}", "auc: {min: 0.01}"))
    if backend == "dp_sgd":
        command = [str(CLI), "budget", "register", str(config), "--epsilon", "100", "--delta", "1e-6"]
        measure(command, folder)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--columns", type=int, nargs="+", default=[6, 24], help="even numbers")
    parser.add_argument("--backends", nargs="+", default=["plain"], choices=["plain", "dp_sgd"])
    arguments = parser.parse_args()
    found = []
    for backend in arguments.backends:
        for columns in arguments.columns:
            for rows in arguments.rows:
                with tempfile.TemporaryDirectory() as name:
                    config = write_project(Path(name), rows=rows, columns=columns, backend=backend)
                    loaded = load_config(config, overrides=[f"dataset.path={name}"])
                    forecasted = forecast(size_of(source.resolve(dataset=loaded.dataset), loaded.dataset))
                    measured = measure([str(CLI), "run", str(config)], Path(name), allowed=(0, 3))
                found.append(
                    {
                        "backend": backend,
                        "rows": rows,
                        "columns": columns + 1,
                        "peak": measured.peak,
                        "forecast": forecasted,
                        "seconds": measured.seconds,
                    }
                )
                Console().print(found[-1])
    table = Table("backend", "rows", "columns", "peak MiB", "forecast MiB", title="memory of a whole run")
    for row in found:
        sizes = [f"{int(row[key]) >> 20:,}" for key in ("peak", "forecast")]
        table.add_row(str(row["backend"]), f"{row['rows']:,}", str(row["columns"]), *sizes)
    Console().print(table)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
