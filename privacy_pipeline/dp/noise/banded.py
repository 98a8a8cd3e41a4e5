"""Noise of DP-MF with a banded matrix: the first coefficients of the square root of the prefix sums.

C is lower triangular and Toeplitz, with the coefficients binom(2j, j) / 4^j (Kalinin and Lampert 2024, arXiv
2405.13763, section 3). With at most as many bands as an epoch has steps, the columns of a unit's participations do
not overlap, so that they are orthogonal: sensitivity sqrt(epochs) times the norm of a column (Choquette-Choo et al.
2023, arXiv 2306.08153, theorem 2).
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


def banded_coefficients(bands: int) -> NDArray[np.float64]:
    """Return the first column of C, from the diagonal down, float64, [bands]; binom(2j, j) / 4^j."""
    ratios = np.arange(1, bands, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * ratios - 1) / (2 * ratios))])


def _matrix(noise: Noise, steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
    matrix = np.zeros((steps, steps))
    for place, value in enumerate(banded_coefficients(noise.bands or 1)[:steps]):
        matrix += value * np.eye(steps, k=-place)
    return matrix


class _Rows:
    """Solves C x = z from the top. A row needs those before it.

    Steps in order take one draw each, and the first after a resume draws all that came before again.
    """

    def __init__(self, draw: Draw, noise: Noise, steps_per_epoch: int) -> None:
        self._draw, self._coefficients = draw, banded_coefficients(noise.bands or 1)
        self._next = 0
        self._before: list[Flat] = []

    def __call__(self, step: int) -> Flat:
        """Return the row of a step."""
        if step != self._next:
            self._next, self._before = 0, []
        while self._next < step:
            self._solve()
        return self._solve()

    def _solve(self) -> Flat:
        found = self._draw(self._next)
        for coefficient, earlier in zip(self._coefficients[1:], self._before, strict=False):
            found = less(found, float(coefficient), earlier)
        self._before = [found, *self._before][: len(self._coefficients) - 1]
        self._next += 1
        return found


def _event(noise: Noise, steps_per_epoch: int, epochs: int) -> DpEvent:
    from dp_accounting import GaussianDpEvent

    column = float(np.linalg.norm(banded_coefficients(noise.bands or 1)))
    return GaussianDpEvent(noise.multiplier / (math.sqrt(epochs) * column))


BANDED = Correlation(matrix=_matrix, rows=_Rows, event=_event)
