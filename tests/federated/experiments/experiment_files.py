"""A small table of persons, its schema, and the YAML of an experiment on it."""

from __future__ import annotations

import numpy as np

from federated.experiments.binding import bound
from federated.experiments.config import load_experiment

SCHEMA = """
feature { name: "who" type: INT presence { min_fraction: 1 } int_domain { min: 1 max: 9999 } }
feature { name: "x" type: FLOAT presence { min_fraction: 1 } float_domain { min: -1 max: 1 } }
feature { name: "z" type: FLOAT presence { min_fraction: 1 } float_domain { min: -4 max: 4 } }
feature { name: "town" type: INT presence { min_fraction: 1 } int_domain { min: 1 max: 3 is_categorical: true } }
feature { name: "y" type: BYTES presence { min_fraction: 1 } string_domain { value: "no" value: "yes" } }
"""
YAML = """
experiment: small
data:
  dataset:
    name: people
    path: {folder}/people
    schema: {folder}/people.pbtxt
    label: y
    positive_class: "yes"
    privacy_unit: {{key: who, contribution_bound: 4}}
rounds: 6
clients_per_round: 10
algorithm:
  client_optimizer: {{learning_rate: 5.0}}
evaluation: {{every: 2}}
seeds: [1, 2]
folder: {folder}/runs
ledger: sqlite:///{folder}/ledger.db
"""
PRIVACY = "privacy: {noise_multiplier: 1.0, delta: 1.0e-3, clipping_norm: 0.5}\n"
DISTRIBUTED = """
privacy:
  mechanism: skellam
  noise_multiplier: 1.0
  delta: 1.0e-3
  clipping_norm: 0.5
  distributed: {dimension: 256, min_clients: 7}
  dropout: 0.2
"""


def write_people(folder, *, train=60, evaluation=20):
    """Train and eval CSV with 1 to 4 rows a person; the label follows x."""
    rng = np.random.default_rng(3)
    (folder / "people.pbtxt").write_text(SCHEMA)
    first = 1
    for split, people in (("train", train), ("eval", evaluation)):
        lines = ["who,x,z,town,y"]
        for who in range(first, first + people):
            for _ in range(rng.integers(1, 5)):
                x, z = rng.normal(size=2)
                lines.append(
                    f"{who},{x:.4f},{z:.4f},{rng.integers(1, 4)},{'yes' if x + 0.3 * rng.normal() > 0 else 'no'}"
                )
        path = folder / f"people/span-1/{split}/people.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n")
        first += people


def write_experiment(folder, *more, name="small.yaml", **replaced):
    """The experiment's YAML with lines added and texts replaced."""
    text = YAML.format(folder=folder) + "".join(more)
    for old, new in replaced.items():
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text)
    return path


def load_bound(path, **options):
    """The points of an experiment, bound to the content of today."""
    return bound(load_experiment(path, **options)[1])
