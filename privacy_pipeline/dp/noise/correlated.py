"""Noise that is correlated over the steps, so that what is added in one step is partly taken back in later ones.

Both forms are matrix mechanisms: with independent noise z, step t gets row t of C^-1 z, and all that is released is a
function of C g + z, where g are the clipped sums of the steps. That is one Gaussian mechanism whose sensitivity follows
from the columns of C, also where each g depends on what was released before (Denisov et al. 2022, arXiv 2202.08312,
theorem 2.1). No sampling is assumed, and none helps: what counts is how often, and how far apart, a unit takes part.
Batches are cyclic: each unit is in one batch of an epoch, the same one in each.

Tree: binary tree aggregation (Dwork et al. 2010; Chan, Shi and Song 2011) as in DP-FTRL with a new tree each epoch
(Kairouz et al. 2021, arXiv 2103.00039, appendix D.2). Prefix sums use the node that ends at each step alone, so there
is one node a step, and the node of step t covers the last 2^(zeros at the end of t in binary) steps. A unit is in one
leaf, below at most `tree_height` of those nodes, each of which it moves by the norm: sensitivity sqrt(tree_height).

Banded: C is lower triangular and Toeplitz, with the first coefficients of the square root of the prefix sums,
binom(2j, j) / 4^j (Kalinin and Lampert 2024, arXiv 2405.13763, section 3). With at most as many bands as an epoch has
steps, the columns of a unit's participations do not overlap, so that they are orthogonal: sensitivity sqrt(epochs)
times the norm of a column (Choquette-Choo et al. 2023, arXiv 2306.08153, theorem 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.buffers import aligned_empty
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.mechanism import Noise
from privacy_pipeline.dp.mechanism.sampling import FixedPartition, Sampling
from privacy_pipeline.dp.noise.noise import GaussianNoise, scaled, split_flat

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_Flat = NDArray[np.float32]


def tree_height(leaves: int) -> int:
    """Return the most nodes above a leaf, itself included, of which a prefix sum makes use."""
    return leaves.bit_length()


def banded_coefficients(bands: int) -> NDArray[np.float64]:
    """Return the first column of C, from the diagonal down, float64, [bands]; binom(2j, j) / 4^j."""
    ratios = np.arange(1, bands, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * ratios - 1) / (2 * ratios))])


def strategy_matrix(noise: Noise, *, steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
    """Return C, float64, [steps, steps]; for small numbers of steps, to check what is computed without it."""
    matrix = np.zeros((steps, steps))
    if noise.correlation == "banded":
        for place, value in enumerate(banded_coefficients(noise.bands or 1)[:steps]):
            matrix += value * np.eye(steps, k=-place)
        return matrix
    for step in range(steps):
        own = step % steps_per_epoch + 1
        matrix[step, step + 1 - (own & -own) : step + 1] = 1.0
    return matrix


def why_unbounded(noise: Noise, sampling: Sampling) -> str | None:
    """Return why no sensitivity is known for correlated noise under a way of sampling; None if it is known."""
    if noise.correlation == "none":
        return None
    if not isinstance(sampling, FixedPartition) or not sampling.cyclic:
        return f"{noise.correlation} noise has a bound for cyclic sampling only"
    if (noise.bands or 1) > sampling.steps_per_epoch:
        return f"{noise.bands} bands overlap where an epoch has {sampling.steps_per_epoch} steps"
    return None


def correlated_event(noise: Noise, sampling: Sampling, *, steps: int) -> DpEvent:
    """Return the first `steps` steps as Gaussian mechanisms; an epoch that was begun counts in full.

    An event that no accountant supports where there is no bound.
    """
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent, UnsupportedDpEvent

    if why_unbounded(noise, sampling) is not None:
        return UnsupportedDpEvent()
    epochs = math.ceil(steps / sampling.steps_per_epoch)
    if noise.correlation == "tree":
        one = GaussianDpEvent(noise.multiplier / math.sqrt(tree_height(sampling.steps_per_epoch)))
        return SelfComposedDpEvent(one, epochs)
    column = float(np.linalg.norm(banded_coefficients(noise.bands or 1)))
    return GaussianDpEvent(noise.multiplier / (math.sqrt(epochs) * column))


@dataclass
class CorrelatedNoise:
    """Rows of C^-1 z, from the independent noise z of each step.

    A row of the tree takes two draws on average. A banded row needs those before it: steps in order take one draw each,
    and the first after a resume draws all that came before again.

    Attributes:
        base: independent noise.
        noise: the plan's noise.
        steps_per_epoch: leaves of a tree.
    """

    base: GaussianNoise
    noise: Noise
    steps_per_epoch: int
    _next: int = 0
    _before: list[_Flat] = field(default_factory=list, repr=False)

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        bands = f" of {self.noise.bands} bands" if self.noise.bands else ""
        return f"{self.base.generator}; correlated: {self.noise.correlation}{bands}"

    def draw(self, step: int, *, stddev: float) -> tuple[NDArray[np.float32], ...]:
        """Return the noise of a step for each variable, float32, in the variables' shapes; see `flat`."""
        flat = self.flat(step, stddev=stddev)
        return tuple(part.reshape(shape) for part, shape in split_flat(flat, self.base.shapes))

    def flat(self, step: int, *, stddev: float) -> _Flat:
        """Return the noise of a step for all variables in one array; see `GaussianNoise.flat`.

        Args:
            step: number of the step.
            stddev: standard deviation of z.
        """
        # Rows are formed at unit scale and multiplied last; a banded row is needed again, and stays as it is.
        if self.noise.correlation == "tree":
            row = self._tree(step)
            return scaled(row, stddev, out=row)
        if step != self._next:
            self._next, self._before = 0, []
        while self._next < step:
            self._banded()
        row = self._banded()
        return scaled(row, stddev, out=aligned_empty(row.shape, np.float32))

    def _tree(self, step: int) -> _Flat:
        own = step % self.steps_per_epoch + 1
        found = self.base.flat(step, stddev=1.0)
        covered = 1
        while covered < own & -own:
            # Nodes that the prefix sum before this step used, and that this step's node covers.
            found = _less(found, 1.0, self.base.flat(step - covered, stddev=1.0))
            covered *= 2
        return found

    def _banded(self) -> _Flat:
        """Return the row of the next step: C x = z, solved from the top."""
        coefficients = banded_coefficients(self.noise.bands or 1)
        found = self.base.flat(self._next, stddev=1.0)
        for coefficient, earlier in zip(coefficients[1:], self._before, strict=False):
            found = _less(found, float(coefficient), earlier)
        self._before = [found, *self._before][: len(coefficients) - 1]
        self._next += 1
        return found


Source = GaussianNoise | CorrelatedNoise


def noise_source(noise: Noise, key: RunKey, shapes: Sequence[tuple[int, ...]], *, steps_per_epoch: int) -> Source:
    """Return what draws the noise that a plan states: the one place that decides it, for engines and for their checks.

    Args:
        noise: the plan's noise.
        key: the key that the noise is a function of.
        shapes: shapes of the variables that noise is for.
        steps_per_epoch: leaves of a tree.
    """
    base = GaussianNoise(key, shapes, hardened=noise.hardened)
    return base if noise.correlation == "none" else CorrelatedNoise(base, noise, steps_per_epoch)


def row_lengths(noise: Noise, *, steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
    """Return each step's standard deviation over that of the independent noise: L2 norms of the rows of C^-1.

    By inverting `strategy_matrix`, and so apart from the code that draws.

    Args:
        noise: the plan's noise.
        steps: the number of steps from the first on, few.
        steps_per_epoch: leaves of a tree.

    Returns:
        float64, [steps]; all 1 for independent noise.
    """
    if noise.correlation == "none":
        return np.ones(steps)
    matrix = strategy_matrix(noise, steps=steps, steps_per_epoch=steps_per_epoch)
    return np.asarray(np.linalg.norm(np.linalg.inv(matrix), axis=1))


def _less(left: _Flat, factor: float, right: _Flat) -> _Flat:
    result: _Flat = np.multiply(right, np.float32(-factor), out=aligned_empty(right.shape, np.float32))
    result += left
    return result
