"""What a step is fed with: its batch and its noise, made ahead of time; and a count of who took part."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.randomness import KEY_BYTES, RunKey
from privacy_pipeline.dp.mechanism.sampling import FixedPartition, TruncatedPoissonSampling
from privacy_pipeline.dp.noise.correlated import Source, noise_source
from privacy_pipeline.dp.noise.masks import mask_seed
from privacy_pipeline.dp.noise.noise import GaussianNoise, total_size
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.sampling.sampler import Sampler
from privacy_pipeline.dp.sampling.store import ExampleStore, leaves
from privacy_pipeline.dp.sampling.users import UserIndex, in_slots
from privacy_pipeline.errors import BadInputError, PipelineError

# Batches that are made ahead of the step. A row that has to come from the disk takes as long as several steps.
_FEWEST_AHEAD, _MOST_AHEAD, _AHEAD_BYTES = 2, 8, 64 * 2**20


@dataclass(frozen=True)
class Batch:
    """What one step needs.

    Attributes:
        index: units drawn, int64, [units].
        x: nest of arrays, [rows, ...].
        y: nest of arrays.
        present: bool [rows], False for padding.
        noise: what `Program.run` adds.
        seed: seed of the masks of random layers, int64, [2].
    """

    index: NDArray[np.int64]
    x: Any
    y: Any
    present: NDArray[np.bool_]
    noise: NDArray[np.float32]
    seed: NDArray[np.int64]


@dataclass(frozen=True)
class StepNoise:
    """The noise of a plan's steps, as `Program.run` adds it: on the mean, and on the count where clipping adapts.

    Attributes:
        plan: the plan.
        source: noise of the sum.
        count: noise of the count of units that were not clipped; used where clipping adapts.
    """

    plan: PrivacyPlan
    source: Source
    count: GaussianNoise

    @classmethod
    def of(cls, plan: PrivacyPlan, key: RunKey, shapes: Sequence[tuple[int, ...]]) -> StepNoise:
        """Return the noise of a plan under a key, for variables of some shapes."""
        own = RunKey(key.derive("noise of the count", KEY_BYTES), seed_fixed=key.seed_fixed)
        return cls(
            plan,
            noise_source(plan.noise, key, shapes, steps_per_epoch=plan.steps_per_epoch),
            GaussianNoise(own, [()], hardened=plan.noise.hardened),
        )

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        return self.source.generator

    @property
    def stddev(self) -> float:
        """Standard deviation of what `of_step` gives for the mean; with adaptive clipping for a norm of 1."""
        if self.plan.clipping.adaptive is None:
            return self.plan.noise_stddev
        # The norm of the step is known when the step before is done; the sum's noise is scaled by it then.
        return self.plan.sum_multiplier / self.plan.expected_batch_size

    def flat(self, step: int, *, stddev: float) -> NDArray[np.float32]:
        """Return noise of the sum's form at any scale; see `GaussianNoise.flat`."""
        return self.source.flat(step, stddev=stddev)

    def of_step(self, step: int) -> NDArray[np.float32]:
        """Return a step's noise on the mean, laid out as `GaussianNoise.flat` does, and then that on the count
        if any.
        """
        noise = self.source.flat(step, stddev=self.stddev)
        adaptive = self.plan.clipping.adaptive
        if adaptive is None:
            return noise
        return np.concatenate([noise, self.count.flat(step, stddev=adaptive.count_noise)])


@dataclass(frozen=True)
class Reader:
    """Makes all that a step needs, ahead of time, while TensorFlow works on the step before.

    Attributes:
        plan: the plan.
        store: examples; with their users if the plan is for users.
        sampler: draws the units of each step.
        noise: noise of the sum.
        ahead: batches that are made ahead of time.
    """

    plan: PrivacyPlan
    store: ExampleStore
    sampler: Sampler
    noise: StepNoise
    ahead: int

    @classmethod
    def of(cls, plan: PrivacyPlan, store: ExampleStore, key: RunKey, shapes: Sequence[tuple[int, ...]]) -> Reader:
        """Return a reader of a plan under a key.

        Args:
            plan: the plan.
            store: the data.
            key: the run's key.
            shapes: shapes of the variables.
        """
        units = len(store) if plan.users is None else len(_users(store))
        noise = StepNoise.of(plan, key, shapes)
        row = sum(array[:1].nbytes for _, array in leaves((store.x, store.y)))
        rows = plan.expected_batch_size * (1 if plan.users is None else plan.users.max_examples)
        ahead = _AHEAD_BYTES // int(row * rows + 4 * total_size(shapes) + 1)
        return cls(plan, store, Sampler(plan, key, units), noise, min(max(ahead, _FEWEST_AHEAD), _MOST_AHEAD))

    def _rows(self, step: int, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the examples of a step's units, and which of them count; -1 is not an example at all."""
        users = self.plan.users
        rows, present, slots = index, np.ones(index.size, bool), 1
        if users is not None:
            slots = users.max_examples
            generator = self.sampler.generator("examples of users", step)
            rows, counts = _users(self.store).pick(index, most=slots, generator=generator)
            present = np.ones(rows.size, bool)
            if users.clip == "sum":
                rows, present = in_slots(rows, counts, slots=slots)
        if isinstance(self.plan.sampling, TruncatedPoissonSampling):
            missing = self.plan.sampling.cap * slots - rows.size
            rows, present = np.pad(rows, (0, missing), constant_values=-1), np.pad(present, (0, missing))
        return rows, present

    def read(self, step: int) -> Batch:
        """Return a step's batch and noise; a truncated batch is padded to its cap with rows that count as absent."""
        index = self.sampler.batch(step)
        rows, present = self._rows(step, index)
        x, y = self.store.rows(rows)
        return Batch(index, x, y, present, self.noise.of_step(step), mask_seed(self.sampler.key, step))

    def from_step(self, first: int, *, until: int | None = None) -> Iterator[tuple[int, Batch]]:
        """Yield steps in order, up to `until` (excluded) or the plan's last."""
        end = self.plan.steps if until is None else until
        if first >= end:
            return
        with ThreadPoolExecutor(1, thread_name_prefix="dp-batches") as pool:
            steps = iter(range(first, end))
            coming = deque(pool.submit(self.read, step) for step in islice(steps, self.ahead))
            for step in range(first, end):
                batch = coming.popleft().result()
                coming.extend(pool.submit(self.read, later) for later in islice(steps, 1))
                yield step, batch


def _users(store: ExampleStore) -> UserIndex:
    if store.users is None:
        raise BadInputError(
            "the plan protects users, and the data does not state whose each example is", fix="give users"
        )
    return store.users


class Participation:
    """Counts uses of units, and the steps between them, where the guarantee rests on that.

    Args:
        plan: the plan.
        units: units in the store.
    """

    def __init__(self, plan: PrivacyPlan, units: int) -> None:
        self._scheme = plan.sampling
        counted = units if isinstance(self._scheme, FixedPartition) else 0
        self._uses = np.zeros(counted, np.int64)
        self._epochs = np.full(counted, -1, np.int64)
        self._places = np.full(counted, -1, np.int64)

    def observe(self, step: int, index: NDArray[np.int64]) -> None:
        """Count a batch.

        Raises:
            PipelineError: a unit is used a second time in an epoch, or in a cycle at another place.
        """
        if not isinstance(self._scheme, FixedPartition):
            return
        np.add.at(self._uses, index, 1)
        epoch, place = divmod(step, self._scheme.steps_per_epoch)
        # Not the uses so far: a unit that an earlier epoch left out has one to spare.
        if np.any(self._epochs[index] == epoch) or np.unique(index).size < index.size:
            raise PipelineError("a unit was used twice in an epoch: what ran is not what is accounted for")
        self._epochs[index] = epoch
        if self._scheme.cyclic:
            if np.any((self._places[index] != place) & (self._places[index] >= 0)):
                raise PipelineError("a unit's uses are not an epoch apart: what ran is not what is accounted for")
            self._places[index] = place

    def catch_up(self, steps: int, sampler: Sampler) -> None:
        """Count the steps that were made before."""
        if isinstance(self._scheme, FixedPartition):
            for step in range(steps):
                self.observe(step, sampler.batch(step))

    @property
    def largest(self) -> int | None:
        """Uses of the most used unit."""
        return int(self._uses.max()) if self._uses.size else None
