"""Noise of DP-FTRL: binary tree aggregation (Dwork et al. 2010; Chan, Shi and Song 2011) with a new tree each epoch.

Kairouz et al. 2021, arXiv 2103.00039, appendix D.2. Prefix sums use the node that ends at each step alone, so there
is one node a step, and the node of step t covers the last 2^(zeros at the end of t in binary) steps. A unit is in one
leaf, below at most `tree_height` of those nodes, each of which it moves by the norm: sensitivity sqrt(tree_height).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.noise.correlation import Correlation, Draw, Flat, less

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.dp.mechanism.mechanism import Noise


def tree_height(leaves: int) -> int:
    """Return the most nodes above a leaf, itself included, of which a prefix sum makes use."""
    return leaves.bit_length()


def _matrix(noise: Noise, steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
    matrix = np.zeros((steps, steps))
    for step in range(steps):
        own = step % steps_per_epoch + 1
        matrix[step, step + 1 - (own & -own) : step + 1] = 1.0
    return matrix


def _rows(draw: Draw, noise: Noise, steps_per_epoch: int) -> Draw:
    """Return what draws rows, each of two draws on average."""

    def row(step: int) -> Flat:
        own = step % steps_per_epoch + 1
        found = draw(step)
        covered = 1
        while covered < own & -own:
            # Nodes that the prefix sum before this step used, and that this step's node covers.
            found = less(found, 1.0, draw(step - covered))
            covered *= 2
        return found

    return row


def _event(noise: Noise, steps_per_epoch: int, epochs: int) -> DpEvent:
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent

    one = GaussianDpEvent(noise.multiplier / math.sqrt(tree_height(steps_per_epoch)))
    return SelfComposedDpEvent(one, epochs)


TREE = Correlation(matrix=_matrix, rows=_rows, event=_event)
