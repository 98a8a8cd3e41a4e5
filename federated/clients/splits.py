"""Synthetic clients: rows without a key, dealt out by a stated and seeded rule that goes into the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federated.clients.origin import ClientOrigin
from federated.clients.store import ClientStore
from privacy_pipeline.errors import BadInputError

Owners = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class IidSplit:
    """Rows dealt out at random, the same number to each client (to within one).

    Attributes:
        clients: how many, at least 1.
        seed: of the dealing.

    Raises:
        BadInputError: a number is impossible.
    """

    rule: ClassVar[str] = "iid"
    clients: int
    seed: int

    def __post_init__(self) -> None:
        _check(self.clients, self.seed)

    def deal(self, labels: NDArray[Any]) -> Owners:
        """Return the owner of each row, int64, [rows].

        Args:
            labels: [rows]; only their number matters here.
        """
        return _by_sizes(_equal_sizes(labels.shape[0], self.clients), np.random.default_rng(self.seed))


@dataclass(frozen=True, kw_only=True)
class QuantitySkewSplit:
    """Rows dealt out at random in very different numbers: shares ~ Dirichlet(alpha), at least one row each.

    Li et al., Federated Learning on Non-IID Data Silos, 2021 (arXiv:2102.02079), section 4.3.

    Attributes:
        clients: how many, at least 1.
        alpha: concentration, above 0; the smaller, the more unequal.
        seed: of shares and dealing.

    Raises:
        BadInputError: a number is impossible.
    """

    rule: ClassVar[str] = "quantity_skew"
    clients: int
    alpha: float
    seed: int

    def __post_init__(self) -> None:
        _check(self.clients, self.seed, self.alpha)

    def deal(self, labels: NDArray[Any]) -> Owners:
        """Return the owner of each row, int64, [rows].

        Args:
            labels: [rows]; only their number matters here.
        """
        rng = np.random.default_rng(self.seed)
        _equal_sizes(labels.shape[0], self.clients)
        shares = _dirichlet(rng, np.full(self.clients, self.alpha))
        return _by_sizes(1 + rng.multinomial(labels.shape[0] - self.clients, shares), rng)


@dataclass(frozen=True, kw_only=True)
class LabelSkewSplit:
    """Equal numbers of rows, of very different labels: each client's mix of labels ~ Dirichlet(alpha * overall mix).

    Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution, 2019 (arXiv:1909.06335), section 3.
    Rows are dealt without replacement, client by client in random order, so the last ones take what is left.

    Attributes:
        clients: how many, at least 1.
        alpha: concentration, above 0; small: one label a client, large: the overall mix.
        seed: of mixes and dealing.

    Raises:
        BadInputError: a number is impossible.
    """

    rule: ClassVar[str] = "label_skew"
    clients: int
    alpha: float
    seed: int

    def __post_init__(self) -> None:
        _check(self.clients, self.seed, self.alpha)

    def deal(self, labels: NDArray[Any]) -> Owners:
        """Return the owner of each row, int64, [rows].

        Args:
            labels: the classes, [rows].
        """
        rng = np.random.default_rng(self.seed)
        sizes = _equal_sizes(labels.shape[0], self.clients)
        _, classes = np.unique(labels, return_inverse=True)
        pools = [rng.permutation(np.flatnonzero(classes == number)) for number in range(int(classes.max()) + 1)]
        left = np.array([pool.size for pool in pools])
        prior = left / left.sum()
        owners: Owners = np.empty(labels.shape[0], np.int64)
        for client in rng.permutation(self.clients):
            for number, count in enumerate(_draw(rng, _dirichlet(rng, self.alpha * prior), left, int(sizes[client]))):
                owners[pools[number][left[number] - count : left[number]]] = client
                left[number] -= count
        return owners


Split = IidSplit | QuantitySkewSplit | LabelSkewSplit


def split_rows(rule: Split, *, features: Mapping[str, ArrayLike], labels: ArrayLike) -> ClientStore:
    """Deal rows out to synthetic clients; the store's origin states the rule.

    Args:
        rule: how.
        features: name -> numbers, [rows, ...].
        labels: [rows] or [rows, 1].

    Raises:
        BadInputError: more clients than rows, or arrays that do not make a client store.
    """
    targets = np.asarray(labels)
    return ClientStore.from_arrays(
        keys_of_rows=rule.deal(targets.reshape(targets.shape[0], -1)[:, 0]),
        features=features,
        labels=targets,
        origin=ClientOrigin(
            client_is=f"a synthetic client: rows dealt out by the rule '{rule.rule}', so no real person or site",
            synthetic=True,
            rule={"rule": rule.rule, **asdict(rule)},
        ),
    )


def _check(clients: int, seed: int, alpha: float = 1.0) -> None:
    if clients < 1:
        raise BadInputError(f"clients is {clients}; there must be at least 1")
    if seed < 0:
        raise BadInputError(f"seed is {seed}; it must not be negative")
    if not 0 < alpha < float("inf"):
        raise BadInputError(f"alpha is {alpha}; it must be a finite number above 0")


def _equal_sizes(rows: int, clients: int) -> Owners:
    if rows < clients:
        raise BadInputError(f"{rows:,} rows cannot be dealt out to {clients:,} clients", fix="ask for fewer clients")
    return np.full(clients, rows // clients, np.int64) + (np.arange(clients) < rows % clients)


def _by_sizes(sizes: NDArray[Any], rng: np.random.Generator) -> Owners:
    return rng.permutation(np.repeat(np.arange(sizes.size, dtype=np.int64), sizes))


def _dirichlet(rng: np.random.Generator, alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a draw that survives tiny alphas: all gammas may underflow, then one class, drawn by alpha, gets
    everything.
    """
    gammas = rng.gamma(alpha)
    if gammas.sum() > 0:
        return np.asarray(gammas / gammas.sum())
    return np.asarray(np.eye(alpha.size)[rng.choice(alpha.size, p=alpha / alpha.sum())])


def _draw(rng: np.random.Generator, mix: NDArray[np.float64], left: Owners, size: int) -> Owners:
    """Return how many rows of each class a client takes: multinomial of its mix, and never more than are left."""
    taken = np.zeros_like(left)
    while (missing := size - int(taken.sum())) > 0:
        weights = np.where(left > taken, mix, 0.0)
        if weights.sum() <= 0:  # nothing is left of the client's own classes
            weights = (left - taken).astype(np.float64)
        taken = np.minimum(taken + rng.multinomial(missing, weights / weights.sum()), left)
    return taken
