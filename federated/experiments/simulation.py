"""What a run of an experiment trains with, and who makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from federated.clients.store import ClientStore
from federated.contract import Engine
from federated.experiments.config import ExperimentConfig
from federated.experiments.evaluation import Predict

if TYPE_CHECKING:
    from federated.model import FederatedModel


def _nothing() -> None:
    """End nothing: nothing was started."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What trains: an engine over a client store, and its model's predictions.

    Attributes:
        engine: makes rounds.
        predict: gives logits of a state's model.
        model: the model itself, for clients of the eval split to fine-tune; None where the engine has none.
        close: ends what the engine started.
    """

    engine: Engine
    predict: Predict
    model: FederatedModel | None = None
    close: Callable[[], None] = _nothing


class Build(Protocol):
    """Makes the engine of a run."""

    def __call__(
        self, config: ExperimentConfig, clients: ClientStore, aggregator: Any | None, *, width: int, seed: int
    ) -> Simulation:
        """Return a simulation.

        Args:
            config: the settings.
            clients: the train split.
            aggregator: makes an `Aggregator` from the shapes of the trainable weights; None for the mean of updates,
                weighted by examples.
            width: numbers of an example's features.
            seed: of the initial weights.
        """
        ...
