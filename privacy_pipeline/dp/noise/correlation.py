"""What a mechanism is whose noise is correlated over the steps.

A mechanism is a lower triangular matrix C: with independent noise z, step t gets row t of C^-1 z, and all that is
released is a function of C g + z, where g are the clipped sums of the steps. That is one Gaussian mechanism whose
sensitivity follows from the columns of C, also where each g depends on what was released before (Denisov et al. 2022,
arXiv 2202.08312, theorem 2.1). No sampling is assumed, and none helps: what counts is how often, and how far apart, a
unit takes part. Batches are cyclic: each unit is in one batch of an epoch, the same one in each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.buffers import aligned_empty

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.dp.mechanism.mechanism import Noise

Flat = NDArray[np.float32]
Draw = Callable[[int], Flat]  # a step's row for all variables, at unit scale; the caller must not write to it


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """One mechanism.

    Attributes:
        matrix: C, float64, [steps, steps], from the plan's noise, steps and steps of an epoch; small ones, to check
            `rows` by inversion.
        rows: makes what draws rows of C^-1 z, without C, from what draws z, the plan's noise and steps of an epoch.
        event: a whole number of epochs as dp_accounting has it, from the plan's noise, steps of an epoch and epochs.
    """

    matrix: Callable[[Noise, int, int], NDArray[np.float64]]
    rows: Callable[[Draw, Noise, int], Draw]
    event: Callable[[Noise, int, int], DpEvent]


def less(left: Flat, factor: float, right: Flat) -> Flat:
    """Return `left - factor * right`, in memory of its own."""
    result: Flat = np.multiply(right, np.float32(-factor), out=aligned_empty(right.shape, np.float32))
    result += left
    return result
