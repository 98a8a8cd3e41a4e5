"""The records of the silos, in memory: rows by silo, and whose each row is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federated.clients.origin import UNSTATED, ClientOrigin
from federated.clients.store import ClientStore
from federated.silos.plan import SiloPlan
from privacy_pipeline.errors import BadInputError, PipelineError

_OWNER = "owner of the row"


@dataclass(frozen=True, kw_only=True, eq=False)
class SiloRecords:
    """Silos as the clients of a store.

    Attributes:
        clients: rows by silo.
        owners: number of the user who owns each row, int64, [rows]; None where a row is its own unit.

    Raises:
        BadInputError: a user has rows in two silos: both would release something of them.
    """

    clients: ClientStore
    owners: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.owners is None:
            return
        if self.owners.shape != (self.clients.num_examples,):
            raise BadInputError("owners need to be one for each row of the silos")
        silos = np.repeat(np.arange(self.clients.num_clients), self.clients.counts)
        pairs = np.unique(np.stack([self.owners, silos], axis=1), axis=0)
        shared = pairs.shape[0] - np.unique(pairs[:, 0]).size
        if shared:
            raise BadInputError(
                f"a privacy unit has rows in two silos ({shared:,} such): each silo would release something of it, and "
                "one alone is accounted for",
                fix="keep all rows of a unit in one silo",
            )

    @classmethod
    def from_rows(
        cls,
        *,
        silo_of_rows: ArrayLike,
        features: Mapping[str, ArrayLike],
        labels: ArrayLike,
        owners: ArrayLike | None = None,
        origin: ClientOrigin = UNSTATED,
    ) -> SiloRecords:
        """Return records from rows in any order.

        Args:
            silo_of_rows: name of each row's silo, whole numbers or texts, [rows].
            features: name -> [rows, ...].
            labels: [rows, ...].
            owners: number of the user who owns each row, [rows].
            origin: what one silo is.

        Raises:
            BadInputError: no rows, a row without a silo, or a user with rows in two silos.
        """
        more = {} if owners is None else {_OWNER: np.asarray(owners, np.int64)}
        store = ClientStore.from_arrays(
            keys_of_rows=silo_of_rows, features={**features, **more}, labels=labels, origin=origin
        )
        clients = ClientStore(
            features={name: array for name, array in store.features.items() if name != _OWNER},
            labels=store.labels,
            offsets=store.offsets,
            keys=store.keys,
            origin=origin,
        )
        return cls(clients=clients, owners=None if owners is None else np.asarray(store.features[_OWNER], np.int64))

    def rows_of(self, place: int) -> slice:
        """Return the rows of a silo, by its place among the clients."""
        return slice(int(self.clients.offsets[place]), int(self.clients.offsets[place + 1]))

    def counts(self) -> dict[str, int]:
        """Return the number of units of each silo by its name."""
        found = {}
        for place, key in enumerate(self.clients.keys):
            rows = self.rows_of(place)
            units = rows.stop - rows.start if self.owners is None else np.unique(self.owners[rows]).size
            found[str(key)] = int(units)
        return found

    def place_of(self, name: str) -> int:
        """Return the place of a silo among the clients."""
        return [str(key) for key in self.clients.keys].index(name)

    def require(self, plan: SiloPlan, *, charged: bool = False) -> None:
        """Refuse records of other silos than the plan was made for.

        Args:
            plan: the plan.
            charged: the budget of the run is spent already.

        Raises:
            PipelineError: a silo is missing or not in the plan, or holds another number of units.
        """
        found, planned = self.counts(), dict(plan.silos)
        for name in sorted({*found, *planned}):
            if found.get(name, 0) != planned.get(name, 0):
                raise PipelineError(
                    f"silo '{name}' holds {found.get(name, 0):,} units, and the plan was made for "
                    f"{planned.get(name, 0):,}"
                    + ("; the budget that was reserved for this run stays spent" if charged else ""),
                    fix=f"state the public numbers in silo_privacy.silos: {stated(found)}",
                )


def stated(counts: Mapping[str, int]) -> str:
    """Return the numbers of units of silos as the config writes them."""
    return "{" + ", ".join(f'"{name}": {units}' for name, units in sorted(counts.items())) + "}"
