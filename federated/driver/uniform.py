"""The cohorts of a run without a guarantee: a fixed number of clients, uniformly, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federated.contract import IntArray
from privacy_pipeline.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class UniformSampler:
    """Draws the same number of distinct clients in every round. Not for a guarantee: this is not Poisson sampling.

    Attributes:
        clients: clients to draw from.
        size: clients of a round.
        seed: cohorts are a function of it and of the round.

    Raises:
        BadInputError: there are fewer clients than a cohort needs.
    """

    clients: int
    size: int
    seed: int
    name: str = "uniform_fixed_size"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.clients:
            raise BadInputError(
                f"a cohort of {self.size:,} clients cannot be drawn from {self.clients:,} clients",
                fix=f"set algorithm.clients_per_round to at most {self.clients:,}",
            )

    def cohort(self, round_number: int) -> IntArray:
        """Return the clients of a round, sorted and distinct, int64 [size]."""
        generator = np.random.default_rng([self.seed, round_number])
        return np.sort(generator.choice(self.clients, self.size, replace=False, shuffle=False)).astype(np.int64)
