"""Compare measured and stated standard deviation of every mechanism's noise over 12 decades of the clipping norm.

    python -m benchmarks.noise_scales                # the table, as Markdown
    python -m benchmarks.noise_scales --draws 1000000

Each row is one scale, from a clipping norm of 1e-10 to 1e2; each cell the ratio with its 95 % interval (chi-square), on
draws by the code that draws a run's noise (`dp.checks.noise_check`, `federated.privacy.noise_check`). No data is read.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from federated.privacy.distributed_noise import DistributedSettings
from federated.privacy.noise_check import distributed_deviations, gaussian_deviations
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.dp.checks.noise_check import Deviation, plan_deviations
from privacy_pipeline.dp.mechanism.mechanism import AdaptiveClipping
from privacy_pipeline.dp.plan import PrivacyPlan

LEVEL = 0.05
NORMS = [10.0**power for power in range(-10, 3)]
_BATCH = 100
_DENSE: dict[str, dict[str, Any]] = {
    "dense": {},
    "per layer": {"per_layer": True},
    "hardened": {"hardened": True},
    "hardened, per layer": {"hardened": True, "per_layer": True},
    "adaptive": {"adaptive": AdaptiveClipping(count_noise=5.0)},
    "tree": {"sampling": "cyclic", "correlation": "tree"},
    "banded": {"sampling": "cyclic", "correlation": "banded", "bands": 4},
}
_SHARES: dict[str, Any] = {"sampling": "shuffled"}
_FEDERATED: dict[str, dict[str, Any]] = {
    "federated": {},
    "federated, hardened": {"hardened": True},
    "federated, tree": {"sampling": "cyclic", "correlation": "tree"},
    "Skellam": {**_SHARES, "distributed": DistributedSettings(family="skellam", dimension=1 << 12)},
    "discrete Gaussian": {**_SHARES, "distributed": DistributedSettings(family="discrete_gaussian", dimension=1 << 12)},
}


def dense(norm: float, draws: int, options: dict[str, Any]) -> list[Deviation]:
    """Return deviations of the DP-SGD engine's noise."""
    plan = PrivacyPlan.calibrated(
        units=10 * _BATCH,
        expected_batch_size=_BATCH,
        steps=20,
        noise_multiplier=1.0,
        delta=1e-5,
        clipping_norm=norm,
        **options,
    )
    return plan_deviations(plan, draws=draws)


def federated(norm: float, draws: int, options: dict[str, Any]) -> list[Deviation]:
    """Return deviations of the noise of federated rounds."""
    plan = FederatedPlan.calibrated(
        clients=10 * _BATCH,
        clients_per_round=_BATCH,
        rounds=20,
        noise_multiplier=1.0,
        delta=1e-5,
        clipping_norm=norm,
        **options,
    )
    if plan.distributed is not None:
        return distributed_deviations(plan, plan.distributed)
    return gaussian_deviations(plan, draws=draws)


def cell(found: list[Deviation]) -> str:
    """Return the ratio of the sum's noise with its interval; for correlated noise, that of the last measured step."""
    from scipy.stats import chi2

    one = [one for one in found if "count" not in one.what][-1]
    low, high = (one.ratio * (one.draws / chi2.isf(side, one.draws)) ** 0.5 for side in (LEVEL / 2, 1 - LEVEL / 2))
    return f"{one.ratio:.4f} [{low:.4f}, {high:.4f}]"


def table(kinds: dict[str, dict[str, Any]], measure: Callable[..., list[Deviation]], draws: int) -> list[str]:
    """Return lines of a Markdown table, one row per scale."""
    lines = ["| clipping norm | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for norm in NORMS:
        # Correlated noise is measured in each of the first eight steps.
        each = [draws * 8 if "correlation" in options else draws for options in kinds.values()]
        cells = [cell(measure(norm, size, one)) for size, one in zip(each, kinds.values(), strict=True)]
        lines.append(f"| {norm:.0e} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1 << 17)
    draws = parser.parse_args().draws
    began = time.perf_counter()
    for kinds, measure in ((_DENSE, dense), (_FEDERATED, federated)):
        print("\n".join(table(kinds, measure, draws)), end="\n\n", flush=True)
    print(f"{draws:,} draws a cell; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
