"""What does it cost in accuracy to leave data with its persons, and to give each person a guarantee?

    python benchmarks/federated_accuracy.py            # 5 seeds, nlswork and RandHIE, about ten minutes on 2 cores
    python benchmarks/federated_accuracy.py --quick    # 1 seed, fewer rounds

The same network on the same columns and the same persons: central (stochastic gradient descent over the pooled rows, no
guarantee), federated averaging (one person is one client), and the same with user-level DP at epsilon 2, 4 and 8. Each
private run is charged to its own ledger. Prints mean and standard deviation over seeds on persons that were not trained
on, and writes `benchmarks/results/federated_accuracy.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from federated.clients.store import ClientStore
from federated.contract import RoundState
from federated.experiments.charging import privacy
from federated.experiments.charging.register import register_clients
from federated.experiments.config import ExperimentConfig, Point, load_experiment
from federated.experiments.data import feature_plan, load_clients, source_of
from federated.experiments.engines import build
from federated.experiments.evaluation import evaluate
from federated.experiments.run import run_point
from privacy_pipeline.data.datasets.panels import NLSWORK, RANDHIE, write_panel

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "federated_accuracy.json"
EPSILONS = (2.0, 4.0, 8.0)
DELTA = 1e-5
CLIPPING_NORM = 1.0
CENTRAL_EPOCHS = 15
Row = dict[str, float | int | str | None]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    seeds = list(range(1, (1 if arguments.quick else arguments.seeds) + 1))
    rounds = 10 if arguments.quick else 100
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for panel in (NLSWORK, RANDHIE):
            folder = Path(name)
            write_panel(panel, folder=folder / panel.name)
            rows += of_dataset(panel.name, folder, seeds, rounds)
    show(rows)
    if not arguments.quick:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def of_dataset(name: str, folder: Path, seeds: list[int], rounds: int) -> list[Row]:
    """Return all rows of one dataset."""
    common = [
        f"data.dataset.path={folder / name}",
        f"data.dataset.schema={ROOT}/configs/schemas/{name}.pbtxt",
        f"folder={folder}/runs",
        f"ledger=sqlite:///{folder}/ledger.db",
        f"rounds={rounds}",
        f"evaluation.every={rounds}",
        f"seeds={seeds}",
        "sweep={}",
    ]
    file = ROOT / "configs" / "federated" / f"{name}.yaml"
    config, points = load_experiment(file, overrides=common)
    clients = register_clients(config, epsilon=10_000, delta=DELTA).splits["train"].units
    rows = [central(config, seed) for seed in seeds]
    rows += [row_of("federated", name, point) for point in points]
    for epsilon in EPSILONS:
        settings = f"privacy={{delta: {DELTA}, clipping_norm: {CLIPPING_NORM}, "
        target, _ = load_experiment(file, overrides=[*common, f"{settings} target_epsilon: {epsilon}}}"])
        noise = privacy.charged(target, units=clients).plan.base.sum_multiplier  # calibrated once for all seeds
        _, points = load_experiment(file, overrides=[*common, f"{settings} noise_multiplier: {noise!r}}}"])
        rows += [row_of(f"federated, user-level DP, epsilon {epsilon:g}", name, point) for point in points]
    return rows


def row_of(method: str, dataset: str, point: Point) -> Row:
    """Return the row of one federated run."""
    summary = run_point(point, build=build)
    names = ("accuracy", "auc", "epsilon", "delta", "unit", "clients_train", "rounds", "seconds")
    return {"dataset": dataset, "method": method, "seed": point.seed, **{n: summary.get(n) for n in names}}


def central(config: ExperimentConfig, seed: int) -> Row:
    """Return the same network on the pooled, shuffled rows, as one client with all of them: plain gradient descent."""
    source, plan = source_of(config.data), feature_plan(config.data)
    persons = load_clients(config.data, split="train", source=source, plan=plan)
    order = np.random.default_rng(seed).permutation(persons.num_examples)
    pooled = ClientStore.from_arrays(
        keys_of_rows=np.zeros(persons.num_examples, np.int64),
        features={name: array[order] for name, array in persons.features.items()},
        labels=persons.labels[order],
    )
    algorithm = {"batch_size": 64, "local_epochs": 1, "client_optimizer": {"learning_rate": 0.3}}
    changed = config.model_copy(update={"algorithm": type(config.algorithm).model_validate(algorithm)})
    width = persons.features["features"].shape[1]
    simulation = build(changed, pooled, None, width=width, seed=seed)
    state: RoundState = simulation.engine.initial_state()
    for _ in range(CENTRAL_EPOCHS):
        state = simulation.engine.run_round(state, np.array([0])).state
    found = evaluate(state, load_clients(config.data, split="eval", source=source, plan=plan), simulation.predict)
    numbers = dataclasses.asdict(found)
    dataset = config.data.dataset.name
    common: Row = {"dataset": dataset, "method": "central", "seed": seed, "epsilon": None}
    return {**common, "accuracy": numbers["accuracy"], "auc": numbers["auc"]}


def show(rows: list[Row]) -> None:
    """Print the table, also as Markdown."""
    table = Table("dataset", "training", "seeds", "accuracy", "AUC", "epsilon of a run, delta, unit")
    for dataset, method in dict.fromkeys((row["dataset"], row["method"]) for row in rows):
        group = [row for row in rows if (row["dataset"], row["method"]) == (dataset, method)]
        epsilon = group[0]["epsilon"]
        stated = "none" if epsilon is None else f"{epsilon:.3f}, {group[0]['delta']:g}, {group[0]['unit']}"
        cells = [spread([float(row[metric] or 0) for row in group]) for metric in ("accuracy", "auc")]
        table.add_row(str(dataset), str(method), str(len(group)), *cells, stated)
    Console(width=120).print(table)


def spread(values: list[float]) -> str:
    """Return mean and standard deviation over seeds."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    main()
