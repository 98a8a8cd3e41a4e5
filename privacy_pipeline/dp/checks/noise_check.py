"""Measure the realised deviation of a run's own noise, on draws by the code that will draw it, before its first step.

The draws have a key of their own, fresh from the operating system, and read no data: the check costs no budget,
reveals nothing of the run's noise, and comes before the budget is marked started. The sum of n squared normal numbers
over their stated variance is chi-square with n degrees of freedom: a sound run is refused once in 10^9. With `DRAWS`
numbers a deviation passes as rarely if it is off by 2.4 % (12 standard deviations of its estimate, 1 / sqrt(2 n), half
of them for each of the two chances); where steps of correlated noise or many plans share the draws, by 7 % or 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.noise.correlated import row_lengths
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.sampling.feeding import StepNoise
from privacy_pipeline.errors import PipelineError

LEVEL = 1e-9  # chance of a sound run to be refused, over all that is measured for it
DRAWS = 1 << 17
_CORRELATED_STEPS, _COUNTS = 8, 64


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A measured standard deviation over the stated one.

    Attributes:
        what: noise of what.
        stated: the stated standard deviation.
        ratio: measured over stated.
        low: lower end of the interval of the ratio that holds it with 1 - `level`.
        high: upper end.
        p_value: chance of a sound source to look so odd, two-sided.
        draws: how many numbers were drawn.
    """

    what: str
    stated: float
    ratio: float
    low: float
    high: float
    p_value: float
    draws: int


def measured(what: str, draws: NDArray[Any], stated: float, *, level: float = LEVEL, excess: float = 0.0) -> Deviation:
    """Return the deviation of independent draws that should be N(0, stated^2).

    Args:
        what: noise of what.
        draws: numbers, [n].
        stated: the stated standard deviation.
        level: chance of a sound source's interval to miss 1.
        excess: kurtosis of the draws above that of a Gaussian, for sums of whole numbers: their squares vary by
            (2 + excess) in place of 2, as those of fewer Gaussian ones would.
    """
    from scipy.stats import chi2  # type: ignore[import-untyped]

    # Over the stated deviation before they are squared: squares of small numbers would leave the floats.
    mean_square = float(np.square(draws.astype(np.float64) / stated).mean())
    count = draws.size / (1 + excess / 2)
    total = mean_square * count
    tail = min(1.0, 2 * float(min(chi2.cdf(total, count), chi2.sf(total, count)))) if math.isfinite(total) else 0.0
    # total / s^2 is chi-square for the true ratio s.
    low, high = (math.sqrt(total / float(chi2.isf(side, count))) for side in (level / 2, 1 - level / 2))
    return Deviation(
        what=what, stated=stated, ratio=math.sqrt(mean_square), low=low, high=high, p_value=tail, draws=draws.size
    )


def require(found: Iterable[Deviation]) -> tuple[Deviation, ...]:
    """Return what was measured, where all of it is the noise that is accounted.

    Raises:
        PipelineError: it is not.
    """
    kept = tuple(found)
    for one in kept:
        if not one.p_value >= LEVEL / len(kept):
            raise PipelineError(
                f"the noise is not the one that is accounted: {one.what} has {one.ratio:.6g} times its stated standard "
                f"deviation of {one.stated:.6g}, measured on {one.draws:,} draws before the first step; no data was "
                "used",
                fix="do not train with this installation, and report the fault",
            )
    return kept


def plan_deviations(plan: PrivacyPlan, *, draws: int = DRAWS, what: str = "the mean gradient") -> list[Deviation]:
    """Return the noise of a plan's steps, as `Program.run` adds it, measured at the deviation that the run will use.

    Where noise is correlated, that of each of the first steps; where clipping adapts, that of the count too.

    Args:
        plan: the plan.
        draws: how many numbers, over all steps.
        what: noise of what.
    """
    correlated = plan.noise.correlation != "none"
    steps = min(_CORRELATED_STEPS, plan.steps) if correlated else 1
    noise = StepNoise.of(plan, RunKey.from_system(), [(draws // steps,)])
    lengths = row_lengths(plan.noise, steps=steps, steps_per_epoch=plan.steps_per_epoch)
    size = draws // steps
    found = []
    for step, length in enumerate(lengths):
        row = noise.of_step(step)[:size]
        found.append(measured(f"noise of {what}", row, noise.stddev * float(length)))
    adaptive = plan.clipping.adaptive
    if adaptive is not None:
        # A draw for one number comes with those that fill its stretch of memory.
        count = [noise.count.flat(step, stddev=adaptive.count_noise) for step in range(_COUNTS)]
        found.append(measured("noise of the count", np.concatenate(count), adaptive.count_noise))
    return found


def require_noise(plans: PrivacyPlan | Sequence[PrivacyPlan]) -> tuple[Deviation, ...]:
    """Refuse a plan, or several of one run, whose noise is not the one that is accounted.

    Args:
        plans: the plans.

    Returns:
        What was measured.

    Raises:
        PipelineError: the realised deviation is another one than the stated.
    """
    several = [plans] if isinstance(plans, PrivacyPlan) else list(plans)
    # Plans that state the same noise are measured once; many plans share the draws.
    unlike = list({(plan.noise_stddev, plan.noise, plan.clipping): plan for plan in several}.values())
    each = max(DRAWS // 16, DRAWS // max(1, len(unlike)))
    return require(one for plan in unlike for one in plan_deviations(plan, draws=each))
