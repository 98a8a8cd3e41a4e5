"""The epsilons that one run has: docs/concepts/five_epsilons.md. Accounting alone, nothing is trained.

    python -m benchmarks.five_epsilons

The run is that of `privacy-pipeline demo`: UCI Adult's 32,561 rows, batches of an eighth of them, 30 expected passes,
noise calibrated to epsilon 3 at delta 1e-5 for one row (zero-out), on a budget with a cap of epsilon 10 at delta 1e-5.
"""

from __future__ import annotations

import math

from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.config.models.dp import DP_DEFAULTS
from privacy_pipeline.dp import PrivacyPlan
from privacy_pipeline.ledger.state.entries import price
from privacy_pipeline.ledger.state.held import enforced_epsilon, filter_delta, used_part
from privacy_pipeline.ledger.state.renyi_filter import choose_order

UNITS, TARGET, DELTA, CAP = 32_561, 3.0, 1e-5, 10.0


def measure() -> dict[str, float]:
    """Return the readings of one run."""
    plan = PrivacyPlan.calibrated(
        units=UNITS,
        expected_batch_size=DP_DEFAULTS.batch_size(UNITS),
        epochs=DP_DEFAULTS.epochs,
        epsilon=TARGET,
        delta=DELTA,
        clipping_norm=DP_DEFAULTS.clipping_norm,
    )
    cost = price(plan.event, Relation.ZERO_OUT)
    at = filter_delta({"delta": DELTA})
    order = choose_order(ORDERS, (0.0,) * len(ORDERS), cost.values, epsilon=CAP, delta=at)
    return {
        "target": TARGET,
        "pld": epsilon_of(plan.event, delta=DELTA, relation=Relation.ZERO_OUT),
        "rdp": cost.epsilon(DELTA),
        "order": order,
        "enforced": enforced_epsilon(cost, order=order, epsilon=CAP, delta=DELTA),
        "used": used_part(cost, order=order, epsilon=CAP, delta=DELTA),
        "cap": CAP,
    }


def table(found: dict[str, float]) -> str:
    """Return the readings as the page shows them; bounds are rounded up."""

    def up(value: float) -> str:
        return f"{math.ceil(value * 1000 - 1e-9) / 1000:.3f}"

    rows = (
        ("asked for", "`training.dp_sgd.target_epsilon`", f"{found['target']:.3f}"),
        ("proven for the run, by its privacy loss distribution", "the record of the run", up(found["pld"])),
        ("the same run, by Renyi DP at its best order", "`budget status`, best order", up(found["rdp"])),
        (
            f"enforced, at the one order of the budget ({found['order']:g})",
            "`budget status`, compared with the cap",
            up(found["enforced"]),
        ),
        ("the cap", "`budget register --epsilon`", f"{found['cap']:.3f}"),
        ("part of the room that is used", "`budget status`, used", f"{math.ceil(found['used'] * 100)} %"),
    )
    lines = ["| number | where it stands | value |", "|---|---|---:|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
