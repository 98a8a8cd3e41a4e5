"""How a unit's influence on a step is bounded, and what noise hides it: the parts of a privacy plan. No TensorFlow."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.config.extensions import either
from privacy_pipeline.config.models.ranges import (
    CLIPPING_NORM,
    LEARNING_RATE,
    NOISE_MULTIPLIER,
    NOISE_STDDEV,
    is_number,
)
from privacy_pipeline.dp.mechanism.listed import CORRELATIONS
from privacy_pipeline.errors import BadInputError


def require(holds: bool, message: str, fix: str = "") -> None:
    """Raise BadInputError unless something holds."""
    if not holds:
        raise BadInputError(message, fix=fix)


def require_numbers(**given: Any) -> None:
    """Raise BadInputError unless each argument is a finite number, or None."""
    for name, value in given.items():
        require(value is None or is_number(value), f"{name} must be a finite number, found {value!r}")


def require_whole(**given: Any) -> None:
    """Raise BadInputError unless each argument is a whole number, or None."""
    for name, value in given.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        require(value is None or whole, f"{name} must be a whole number, found {value!r}")
        require(value is None or is_number(value), f"{name} is too large")


def require_flags(**given: Any) -> None:
    """Raise BadInputError unless each argument is true or false."""
    for name, value in given.items():
        require(isinstance(value, bool), f"{name} must be True or False, found {value!r}")


def is_one_of(value: Any, words: Sequence[str]) -> bool:
    """Return whether a value of any type is one of the given words."""
    return isinstance(value, str) and value in words


def require_positive(name: str, value: float) -> None:
    """Raise BadInputError unless a number is above 0 and finite."""
    require(value > 0 and math.isfinite(value), f"{name} must be a positive number, found {value!r}")


def require_relation(relation: Any) -> None:
    """Raise BadInputError unless something is a neighbouring relation."""
    names = ", ".join(f"Relation.{one.name}" for one in Relation)
    require(isinstance(relation, Relation), f"relation is {relation!r}, and not one of {names}", "import Relation")


def require_parts(*, clipping: Any, noise: Any, users: Any) -> None:
    """Raise BadInputError unless the parts of a plan are of their classes; `users` may be None."""
    require(isinstance(clipping, Clipping), f"clipping is {clipping!r}, and not a Clipping")
    require(isinstance(noise, Noise), f"noise is {noise!r}, and not a Noise")
    require(users is None or isinstance(users, UserBound), f"users is {users!r}, and not a UserBound")


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """The clipping norm follows a quantile of the units' norms (Andrew et al. 2021, arXiv 1905.03871, algorithm 1).

    After each step norm <- norm * exp(-learning_rate * (share - quantile)), where `share` is a noisy estimate of the
    share of units whose gradient was within the norm; those within 5 % of it count in part, so that rounding moves
    nothing (`clipping.edge`). The guarantee covers the norms that were used.

    Attributes:
        quantile: share of units that are to be left unclipped, in [0, 1].
        learning_rate: of the logarithm of the norm.
        count_noise: standard deviation of the noise on the number of units that were not clipped, in units. More than
            half the noise multiplier; the paper takes a twentieth of the expected batch.
    """

    quantile: float = 0.5
    learning_rate: float = 0.2
    count_noise: float

    def __post_init__(self) -> None:
        require_numbers(quantile=self.quantile)
        require(
            self.quantile is not None and 0 <= self.quantile <= 1,
            f"the quantile must lie between 0 and 1, found {self.quantile!r}",
        )
        LEARNING_RATE.require("learning rate of the clipping norm", self.learning_rate)
        NOISE_STDDEV.require("count_noise", self.count_noise)

    def sum_multiplier(self, multiplier: float) -> float:
        """Return the noise multiplier of the sum, for sum and count to cost together what `multiplier` costs.

        A unit moves the sum by the norm at most, and the centred count by 1/2: its indicator counts as 1/2 or -1/2,
        and as 0 where the unit is absent (theorem 1 of the paper).

        Raises:
            BadInputError: the count alone costs more.
        """
        rest = multiplier**-2 - (2 * self.count_noise) ** -2
        require(
            rest > 0,
            f"count_noise {self.count_noise:g} leaves nothing of noise multiplier {multiplier:g} for the sum",
            f"set count_noise above {multiplier / 2:g}",
        )
        return float(rest**-0.5)


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """How one unit's influence on a step is bounded.

    Attributes:
        norm: L2 bound of one unit's contribution to the sum of a step, over all variables; the first one if adaptive.
            In `ranges.CLIPPING_NORM`.
        per_layer: bound each layer's gradient to norm / sqrt(layers) instead of the whole gradient to norm; the
            bound on the whole is the same.
        adaptive: lets the norm follow the gradients; for one norm over all variables.
    """

    norm: float
    per_layer: bool = False
    adaptive: AdaptiveClipping | None = None

    def __post_init__(self) -> None:
        CLIPPING_NORM.require("clipping_norm", self.norm)
        require_flags(per_layer=self.per_layer)
        require(not (self.per_layer and self.adaptive), "adaptive clipping is for one norm", "leave per_layer out")

    def parameters(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "norm": self.norm,
            "per_layer": self.per_layer,
            "adaptive": None if self.adaptive is None else asdict(self.adaptive),
        }


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise on the sum of a step.

    Attributes:
        multiplier: standard deviation over the clipping norm. With adaptive clipping, that of sum and count together.
            In `ranges.NOISE_MULTIPLIER`.
        hardened: draw it from ChaCha20, as a sum of four Gaussians, in float64 (see `noise.GaussianNoise`).
        correlation: a name of `listed.CORRELATIONS`.
        bands: of a mechanism that takes them.
    """

    multiplier: float
    hardened: bool = False
    correlation: str = "none"
    bands: int | None = None

    def __post_init__(self) -> None:
        NOISE_MULTIPLIER.require("noise_multiplier", self.multiplier)
        require_flags(hardened=self.hardened)
        require_whole(bands=self.bands)
        names = tuple(CORRELATIONS)
        require(is_one_of(self.correlation, names), f"unknown noise correlation {self.correlation!r}", ", ".join(names))
        banded = [name for name, listed in CORRELATIONS.items() if listed.bands]
        require(
            (self.bands is not None) == (self.correlation in banded),
            f"bands go with correlation={either([repr(name) for name in banded])}",
        )
        require(self.bands is None or self.bands >= 1, f"bands must be 1 or more, found {self.bands}")

    def parameters(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class UserBound:
    """What a user, the privacy unit, may contribute to a step. Users are sampled, and all of a user comes along.

    Attributes:
        max_examples: examples of a user at most, k; of one who has more, a random subset, drawn again in each step.
        clip: "sum" clips the sum of the user's gradients to the norm; "each" clips each to norm / k.
    """

    max_examples: int
    clip: str = "sum"

    def __post_init__(self) -> None:
        require_whole(max_examples=self.max_examples)
        held = self.max_examples is not None and self.max_examples >= 1
        require(held, f"max_examples must be 1 or more, found {self.max_examples}")
        require(is_one_of(self.clip, ("sum", "each")), f"unknown clip {self.clip!r} of users", "sum or each")

    @property
    def rows(self) -> int:
        """Examples that are clipped as one."""
        return self.max_examples if self.clip == "sum" else 1

    def norm(self, norm: float) -> float:
        """Return the norm to clip to, for a user's whole contribution to be at most `norm`."""
        return norm if self.clip == "sum" else norm / self.max_examples

    def parameters(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)
