"""What a step is fed with: its batch and its noise, made one step ahead; and a count of who took part."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.masks import mask_seed
from privacy_pipeline.dp.noise import GaussianNoise
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.sampler import Sampler
from privacy_pipeline.dp.sampling import FixedPartition, TruncatedPoissonSampling
from privacy_pipeline.dp.store import ExampleStore, map_nest
from privacy_pipeline.errors import PipelineError


@dataclass(frozen=True)
class Batch:
    """What one step needs.

    Attributes:
        index: units drawn, int64, [units].
        x: nest of arrays, [rows, ...].
        y: nest of arrays.
        present: bool [rows], False for padding.
        noise: noise on the mean gradient, one array for each variable.
        seed: seed of the masks of random layers, int64, [2].
    """

    index: NDArray[np.int64]
    x: Any
    y: Any
    present: NDArray[np.bool_]
    noise: tuple[NDArray[np.float32], ...]
    seed: NDArray[np.int64]


@dataclass(frozen=True)
class Reader:
    """Makes all that a step needs, one step ahead, while TensorFlow works on the step before."""

    plan: PrivacyPlan
    store: ExampleStore
    sampler: Sampler
    noise: GaussianNoise

    def read(self, step: int) -> Batch:
        """A step's batch and noise; a truncated batch is padded to its cap with rows that count as absent."""
        index = self.sampler.batch(step)
        x, y = self.store.rows(index)
        present = np.ones(index.size, bool)
        if isinstance(self.plan.sampling, TruncatedPoissonSampling):
            missing = self.plan.sampling.cap - index.size
            x, y, present = map_nest(lambda a: np.pad(a, [(0, missing), *[(0, 0)] * (a.ndim - 1)]), (x, y, present))
        noise = self.noise.draw(step, stddev=self.plan.noise_stddev)
        return Batch(index, x, y, present, noise, mask_seed(self.sampler.key, step))

    def from_step(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Steps in order, up to the plan's last."""
        if first >= self.plan.steps:
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="dp-batches") as pool:
            coming = pool.submit(self.read, first)
            for step in range(first, self.plan.steps):
                batch = coming.result()
                if step + 1 < self.plan.steps:
                    coming = pool.submit(self.read, step + 1)
                yield step, batch


class Participation:
    """Counts uses of units where the guarantee rests on that count.

    Args:
        plan: the plan.
        units: units in the store.
    """

    def __init__(self, plan: PrivacyPlan, units: int) -> None:
        self._scheme = plan.sampling
        self._uses = np.zeros(units if isinstance(self._scheme, FixedPartition) else 0, np.int64)

    def saw(self, step: int, index: NDArray[np.int64]) -> None:
        """Counts a batch.

        Raises:
            PipelineError: a unit is used a second time in an epoch.
        """
        if not isinstance(self._scheme, FixedPartition):
            return
        np.add.at(self._uses, index, 1)
        if self._uses[index].max() > step // self._scheme.steps_per_epoch + 1:
            raise PipelineError("a unit was used twice in an epoch: what ran is not what is accounted for")

    def catch_up(self, steps: int, sampler: Sampler) -> None:
        """Counts the steps that were made before."""
        if isinstance(self._scheme, FixedPartition):
            for step in range(steps):
                self.saw(step, sampler.batch(step))

    @property
    def largest(self) -> int | None:
        """Uses of the most used unit."""
        return int(self._uses.max()) if self._uses.size else None
