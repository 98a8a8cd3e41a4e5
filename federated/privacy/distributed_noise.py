"""The noise of a federated plan as shares of its clients, and the DpEvent that it implies. No TensorFlow.

Each client of a round clips, encodes (`encoding`) and adds a share of integer noise; the server sees the sum modulo
2^bits alone, if there is a secure aggregation: here it is simulated. A share is made for `min_clients` clients: the
noise of that many shares is what is accounted, and a round in which fewer report releases nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from federated.privacy.encoding import padded_size, squared_norm_bound
from privacy_pipeline.dp.mechanism.mechanism import require
from privacy_pipeline.dp.noise.integer_families import FAMILIES
from privacy_pipeline.dp.noise.integer_noise import DISTANCE
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

# Names of what the aggregator counts over the rounds.
RELEASED, WRAPPED = "rounds_released", "numbers_wrapped"
# Deviations of a number of the sum that fit into the modulus on either side; past 6, two in 10^9 numbers wrap around.
DEVIATIONS = 6.0
_BITS = (6, 32)
_LARGEST_DIMENSION = 1 << 24
_LARGEST_NORM = 2.0**26  # of an encoded update: sums of its squares are far from the end of int64
_LARGEST_SHARE = 2.0**15  # standard deviation of a share: its table has a million numbers then


@dataclass(frozen=True, kw_only=True)
class DistributedSettings:
    """The config's settings of distributed noise.

    Attributes:
        family: "skellam" or "discrete_gaussian".
        dimension: numbers of an encoded update, a power of two, and at least the model's trainable weights.
        min_clients: clients that have to report for a round to be released; None for all of them.
        bits: of each number that a client sends.
    """

    family: str
    dimension: int
    min_clients: int | None = None
    bits: int = 16

    def __post_init__(self) -> None:
        require(self.family in FAMILIES, f"unknown distributed noise {self.family!r}", " or ".join(FAMILIES))
        fits = 1 <= self.dimension <= _LARGEST_DIMENSION and padded_size(self.dimension) == self.dimension
        require(fits, f"dimension must be a power of two up to 2^24, found {self.dimension!r}")
        require(_BITS[0] <= self.bits <= _BITS[1], f"bits must lie between {_BITS[0]} and {_BITS[1]}: {self.bits!r}")


@dataclass(frozen=True, kw_only=True)
class DistributedNoise:
    """Distributed noise in the numbers of the grid. Made by `of`.

    Attributes:
        family: "skellam" or "discrete_gaussian".
        dimension: numbers of an encoded update, padding among them.
        bits: of each number that a client sends.
        clients: clients of a round, of which each reports or does not.
        min_clients: shares that are accounted, and clients that have to report.
        scale: steps of the grid in one unit of an update.
        share_variance: parameter of one share, in squared steps.
        squared_norm: bound of the squared L2 norm of an encoded update, in squared steps; enforced.
    """

    family: str
    dimension: int
    bits: int
    clients: int
    min_clients: int
    scale: float
    share_variance: float
    squared_norm: int

    @classmethod
    def of(
        cls, settings: DistributedSettings, *, clients: int, noise_multiplier: float, clipping_norm: float
    ) -> DistributedNoise:
        """Return the noise of `min_clients` shares with a given standard deviation, on the finest grid that fits.

        The sum of a round is, after rotation, sub-Gaussian in each number, with a variance of (clients * norm)^2 /
        dimension at most (Kairouz, Liu and Steinke 2021, lemma 29), beside the noise of all clients' shares and the
        rounding, a quarter of a squared step for each client. `DEVIATIONS` of that fit into the modulus.

        Args:
            settings: those of the config.
            clients: clients of a round.
            noise_multiplier: standard deviation of the noise of `min_clients` shares, over the clipping norm.
            clipping_norm: L2 bound of an update.

        Raises:
            BadInputError: `min_clients` is out of range, or the bits do not hold the sum of all clients.
        """
        least = clients if settings.min_clients is None else settings.min_clients
        if not 1 <= least <= clients:
            raise BadInputError(f"min_clients must lie between 1 and the {clients} clients of a round, found {least}")
        share = noise_multiplier * clipping_norm / math.sqrt(least)
        half = (2.0 ** (settings.bits - 1) / DEVIATIONS) ** 2 - clients / 4
        if half <= 0:
            raise BadInputError(
                f"{settings.bits} bits do not hold the sum of {clients} clients' whole numbers", fix="raise `bits`"
            )
        spread = (clients * clipping_norm) ** 2 / settings.dimension + clients * share**2
        scale = min(math.sqrt(half / spread), _LARGEST_NORM / clipping_norm, _LARGEST_SHARE / share)
        return cls(
            family=settings.family,
            dimension=settings.dimension,
            bits=settings.bits,
            clients=clients,
            min_clients=least,
            scale=scale,
            share_variance=(scale * share) ** 2,
            squared_norm=squared_norm_bound(scale * clipping_norm, settings.dimension),
        )

    @property
    def update_bytes(self) -> int:
        """Bytes that a client would send."""
        return -(-self.dimension * self.bits // 8)

    def require_room(self, weights: int) -> None:
        """Refuse a model that does not fit into the encoding.

        Raises:
            BadInputError: it has more trainable weights.
        """
        require_dimension(self.dimension, weights=weights)

    def distance(self, rounds: int) -> float:
        """Return a bound on the total variation distance of all noise that some rounds draw from what is accounted.

        It is so small that the delta it costs is below a float's rounding of delta (`FederatedPlan` checks that), and
        is reported, not charged: the ledger's fixed-point sums would round it up by thirty orders of magnitude.
        """
        return rounds * self.clients * self.dimension * DISTANCE

    def event(self, *, epochs: int, shares: int | None = None) -> DpEvent:
        """Return the event of the rounds of some epochs, in each of which a client takes part once at most.

        An epoch is one sum of integer noise, by parallel composition under zero-out (see `events.gaussian_passes`).

        Args:
            epochs: epochs begun.
            shares: shares that count; `min_clients` unless somebody knows some of them.
        """
        from dp_accounting import SelfComposedDpEvent

        one = FAMILIES[self.family].sum_event(
            share_variance=self.share_variance,
            shares=self.min_clients if shares is None else shares,
            dimension=self.dimension,
            squared_norm=self.squared_norm,
        )
        return SelfComposedDpEvent(one, epochs)

    def parameters(self) -> dict[str, Any]:
        """Return the JSON values."""
        return asdict(self)


def require_dimension(dimension: int, *, weights: int) -> None:
    """Refuse a model that does not fit into an encoding of a dimension.

    Args:
        dimension: numbers of an encoded update.
        weights: trainable weights of the model.

    Raises:
        BadInputError: it has more.
    """
    if weights > dimension:
        raise BadInputError(
            f"privacy.distributed.dimension: the model has {weights:,} trainable weights, more than the "
            f"{dimension:,} that are accounted",
            fix=f"set dimension: {padded_size(weights)}",
        )
