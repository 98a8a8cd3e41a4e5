"""Noise that is correlated over the steps, so that what is added in one step is partly taken back in later ones.

`correlation` has the theory, and a module beside it each mechanism; `dp.mechanism.listed` names them.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.buffers import aligned_empty
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.listed import CORRELATIONS, FOLDER
from privacy_pipeline.dp.mechanism.mechanism import Noise
from privacy_pipeline.dp.mechanism.sampling import FixedPartition, Sampling
from privacy_pipeline.dp.noise.correlation import Correlation, Draw, Flat
from privacy_pipeline.dp.noise.noise import GaussianNoise, scaled, split_flat

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def of(noise: Noise) -> Correlation:
    """Return the mechanism of a plan's noise, whose module is imported only now.

    Raises:
        KeyError: the noise is independent from step to step.
    """
    place = CORRELATIONS[noise.correlation].place
    if place is None:
        raise KeyError(noise.correlation)
    found: Correlation = pkgutil.resolve_name(f"{FOLDER}.{place}")
    return found


def strategy_matrix(noise: Noise, *, steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
    """Return C, float64, [steps, steps]; for small numbers of steps, to check what is computed without it."""
    return of(noise).matrix(noise, steps, steps_per_epoch)


def why_unbounded(noise: Noise, sampling: Sampling) -> str | None:
    """Return why no sensitivity is known for correlated noise under a way of sampling; None if it is known."""
    if CORRELATIONS[noise.correlation].place is None:
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
    from dp_accounting import UnsupportedDpEvent

    if why_unbounded(noise, sampling) is not None:
        return UnsupportedDpEvent()
    epochs = math.ceil(steps / sampling.steps_per_epoch)
    return of(noise).event(noise, sampling.steps_per_epoch, epochs)


@dataclass
class CorrelatedNoise:
    """Rows of C^-1 z, from the independent noise z of each step.

    Attributes:
        base: independent noise.
        noise: the plan's noise.
        steps_per_epoch: leaves of a tree.
    """

    base: GaussianNoise
    noise: Noise
    steps_per_epoch: int
    _row: Draw = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def draw(step: int) -> Flat:
            return self.base.flat(step, stddev=1.0)

        self._row = of(self.noise).rows(draw, self.noise, self.steps_per_epoch)

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        bands = f" of {self.noise.bands} bands" if self.noise.bands else ""
        return f"{self.base.generator}; correlated: {self.noise.correlation}{bands}"

    def draw(self, step: int, *, stddev: float) -> tuple[NDArray[np.float32], ...]:
        """Return the noise of a step for each variable, float32, in the variables' shapes; see `flat`."""
        flat = self.flat(step, stddev=stddev)
        return tuple(part.reshape(shape) for part, shape in split_flat(flat, self.base.shapes))

    def flat(self, step: int, *, stddev: float) -> Flat:
        """Return the noise of a step for all variables in one array; see `GaussianNoise.flat`.

        Args:
            step: number of the step.
            stddev: standard deviation of z.
        """
        # Rows are formed at unit scale and multiplied last; a mechanism may need a row again, so it stays as it is.
        row = self._row(step)
        return scaled(row, stddev, out=aligned_empty(row.shape, np.float32))


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
    return base if CORRELATIONS[noise.correlation].place is None else CorrelatedNoise(base, noise, steps_per_epoch)


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
    if CORRELATIONS[noise.correlation].place is None:
        return np.ones(steps)
    matrix = strategy_matrix(noise, steps=steps, steps_per_epoch=steps_per_epoch)
    return np.asarray(np.linalg.norm(np.linalg.inv(matrix), axis=1))
