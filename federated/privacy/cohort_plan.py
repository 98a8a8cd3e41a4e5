"""Who takes part in the rounds of a federated run: how clients are drawn, and who does not report. No TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field

from privacy_pipeline.dp.mechanism.sampling import Asked, Sampling, scheme_of
from privacy_pipeline.errors import BadInputError

SAMPLINGS = ("poisson", "shuffled", "cyclic")


@dataclass(frozen=True, kw_only=True)
class Attendance:
    """How many of a round's clients do not report back; simulated, independently of each other and of their data.

    A client that drops out or comes late contributes nothing; what the sum is divided by stays as it is.

    Attributes:
        dropout: chance of a client to drop out of a round it was drawn for.
        straggler: chance of one that did not drop out to report after the round was closed.
    """

    dropout: float = 0.0
    straggler: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("dropout", self.dropout), ("straggler", self.straggler)):
            if not 0 <= value < 1:
                raise BadInputError(f"{name} is a chance from 0 to below 1, found {value!r}")

    @property
    def absent(self) -> float:
        """Chance of a drawn client to contribute nothing."""
        return 1 - (1 - self.dropout) * (1 - self.straggler)


@dataclass(frozen=True, kw_only=True)
class CohortPlan:
    """Who takes part in the rounds of a run without privacy. Made by `of`; `FederatedPlan` holds the same and more.

    Attributes:
        clients: number of clients.
        rounds: rounds at most.
        sampling: how the clients of a round are drawn.
        attendance: clients that do not report back.
    """

    clients: int
    rounds: int
    sampling: Sampling
    attendance: Attendance = field(default_factory=Attendance)

    @classmethod
    def of(
        cls,
        *,
        clients: int,
        clients_per_round: float,
        rounds: int | None = None,
        epochs: float | None = None,
        sampling: str = "shuffled",
        attendance: Attendance | None = None,
    ) -> CohortPlan:
        """Return a plan; the arguments are those of `FederatedPlan.calibrated`."""
        check_cohort(sampling, clients=clients, per_round=clients_per_round)
        chance = clients_per_round / clients
        scheme = scheme_of(sampling, Asked(batch=float(clients_per_round), probability=chance, units=clients, cap=None))
        rounds = scheme.steps(epochs=float(epochs or 0.0)) if rounds is None else rounds
        return cls(clients=clients, rounds=rounds, sampling=scheme, attendance=attendance or Attendance())


def check_cohort(sampling: str, *, clients: int | None, per_round: float) -> None:
    """Refuse a sampling that does not exist, and rounds that are larger than all clients.

    Args:
        sampling: its name.
        clients: number of clients; None where it is secret.
        per_round: clients of a round.

    Raises:
        BadInputError: so it is.
    """
    if sampling not in SAMPLINGS:
        raise BadInputError(f"unknown sampling of clients {sampling!r}", fix=", ".join(SAMPLINGS))
    if clients is not None and per_round > clients:
        raise BadInputError(
            f"a round of {per_round:g} clients does not fit into {clients} clients",
            fix=f"take at most {clients} clients a round",
        )
