"""Compute what several runs cost together: composed events, added epsilons, and the choice of the best of several runs.

    python -m benchmarks.composition

60,000 units, batches of 256 expected, delta 1e-5, zero-out: the three rows of TensorFlow Privacy's tutorial table.
"Added" is the sum of the epsilons of ten runs; their deltas add up too, to 1e-4, so it is a weaker claim at a higher
price. "Best of 10" is one of a random number of runs, ten expected (geometric or Poisson: Papernot and Steinke 2022,
"Hyperparameter Tuning with Renyi Differential Privacy"), at the price of all runs. "Each epoch once" is what is proven
where batches are dealt from a permutation; "microbatches" clip means of several examples, which doubles the
sensitivity.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from dp_accounting import DpEvent, SelfComposedDpEvent

from privacy_pipeline.accounting.accountants import epsilon_of, guarantee
from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS, epsilon_from_rdp, rdp_vector
from privacy_pipeline.accounting.tuning import repeat_and_select

RESULTS = Path(__file__).parent / "results" / "composition.json"
UNITS, BATCH, DELTA, RUNS = 60_000, 256, 1e-5, 10
ROWS = ((1.3, 15), (1.1, 60), (0.7, 45))


def rdp_epsilon(event: DpEvent) -> float:
    """Return epsilon by RDP at `DELTA`."""
    return epsilon_from_rdp(ORDERS, rdp_vector(event, Relation.ZERO_OUT)[1], DELTA)


def measure(noise_multiplier: float, epochs: int) -> dict[str, float]:
    """Return all readings of one training."""
    steps = epochs * UNITS // BATCH
    one = poisson_gaussian(sampling_probability=BATCH / UNITS, noise_multiplier=noise_multiplier, steps=steps)
    ten = SelfComposedDpEvent(one, RUNS)
    begin = time.perf_counter()
    composed_pld = epsilon_of(ten, delta=DELTA, relation=Relation.ZERO_OUT)
    seconds = time.perf_counter() - begin
    single = guarantee(one, delta=DELTA, relation=Relation.ZERO_OUT)
    doubled = poisson_gaussian(sampling_probability=BATCH / UNITS, noise_multiplier=noise_multiplier / 2, steps=steps)
    return {
        "noise_multiplier": noise_multiplier,
        "epochs": epochs,
        "rdp": rdp_epsilon(one),
        "pld": single.epsilon,
        "each_epoch_once_rdp": rdp_epsilon(gaussian_passes(noise_multiplier=noise_multiplier, epochs=epochs)),
        "microbatches_rdp": rdp_epsilon(doubled),
        "ten_rdp": rdp_epsilon(ten),
        "ten_pld": composed_pld,
        "ten_added": RUNS * single.epsilon,
        "best_of_ten_geometric": rdp_epsilon(repeat_and_select(one, mean=RUNS, distribution="geometric")),
        "best_of_ten_poisson": rdp_epsilon(repeat_and_select(one, mean=RUNS, distribution="poisson")),
        "ten_pld_seconds": seconds,
    }


def main() -> None:
    rows = [measure(*row) for row in ROWS]
    print("| noise, epochs | 1 run, RDP | 1 run, PLD | 10 added (PLD) | 10, RDP | 10, PLD | added is x as much |")
    print("|---|" + "---:|" * 6)
    for r in rows:
        shown = (r["rdp"], r["pld"], r["ten_added"], r["ten_rdp"], r["ten_pld"], r["ten_added"] / r["ten_pld"])
        print(f"| {r['noise_multiplier']}, {r['epochs']} | " + " | ".join(f"{value:.3f}" for value in shown) + " |")
    print("\n| noise, epochs | best of 10, geometric | best of 10, Poisson | each epoch once | microbatches |")
    print("|---|" + "---:|" * 4)
    for r in rows:
        names = ("best_of_ten_geometric", "best_of_ten_poisson", "each_epoch_once_rdp", "microbatches_rdp")
        print(f"| {r['noise_multiplier']}, {r['epochs']} | " + " | ".join(f"{r[name]:.3f}" for name in names) + " |")
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
