"""What a federated algorithm is: one object that the config, the engines and the server ask. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pydantic import BaseModel

    from federated.contract import Array, Tensor, Tensors
    from federated.optimizers import Optimizer
    from privacy_pipeline.config.models.federated import FederatedAlgorithm

Pull = Callable[["Tensors", "Tensors", "Tensors"], "Tensors"]


class LocalSteps(Protocol):
    """What the clients of a chunk, c of them, can compute: the fast engine offers it to an algorithm."""

    @property
    def start(self) -> Tensors:
        """The round's weights, each [c, ...]."""
        ...

    @property
    def shared(self) -> Mapping[str, Tensor]:
        """Arrays that the server sends beside the weights, without a client axis; see `SecondSum`."""
        ...

    def full_gradient(self) -> tuple[Tensors, Tensor]:
        """Return each client's mean gradient at `start`, each [c, ...], and its summed losses [c]."""
        ...

    def train(self, *, pull: Pull | None = None, fixed: Mapping[str, Tensor] | None = None) -> tuple[Tensors, Tensor]:
        """Make the local steps of `local_epochs` with the client optimizer.

        Args:
            pull: changes each step's gradients, given gradients, weights and `start`; all are lists of [c, ...].
            fixed: optimizer state that every step takes and none moves; default: each client has a state of its own.

        Returns:
            The weights after the last step, each [c, ...], and the losses summed over the rows trained on, [c].
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What c clients send after a round's work.

    Attributes:
        updates: change of each weight, [c, ...]; the server's gradient is minus their mean.
        losses: float32 [c], summed over the rows trained on.
        second: of an algorithm with a `SecondSum`: arrays like the weights, [c, ...].
    """

    updates: Tensors
    losses: Tensor
    second: Tensors = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SecondSum:
    """A second list of arrays like the weights that each client sends, and the state that the server makes of it.

    The server sends the state to the clients of the next round. An aggregator that clips and noises the updates does
    not cover the second sum, so the algorithm goes with no guarantee for clients.

    Attributes:
        what: names it in messages, e.g. `full gradients`.
        first: state before the first round, from the client optimizer's formulas and the weights' shapes.
        after: state after a round, from the formulas, the state before it and the mean of what the clients sent.
    """

    what: str
    first: Callable[[Optimizer, Sequence[tuple[int, ...]]], dict[str, Any]]
    after: Callable[[Optimizer, Mapping[str, Array], list[Array]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TffParts:
    """What TensorFlow Federated builds a learning process from.

    Attributes:
        model_fn: makes the model.
        client: a `tff.learning.optimizers.Optimizer` of the local steps.
        server: the server's.
        weighting: a `tff.learning.ClientWeighting`.
        aggregator: a factory for unweighted updates, or None for the mean by `weighting`.
    """

    model_fn: Callable[[], Any]
    client: Any
    server: Any
    weighting: Any
    aggregator: Any


@dataclass(frozen=True, kw_only=True)
class TffRules:
    """How TensorFlow Federated runs an algorithm.

    Attributes:
        process: builds the learning process from the config's section and the parts.
        aggregates: whether the process can take an aggregator in place of its mean.
        client_rate: where the state of the client work holds the client optimizer's learning rate.
    """

    process: Callable[[FederatedAlgorithm, TffParts], Any]
    aggregates: bool = True
    client_rate: Callable[[Any], Any] = lambda client_work: client_work


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One federated algorithm.

    Attributes:
        name: as the config gives it.
        client_update: what the clients of a chunk compute from the section of the config, in the fast engine.
        tff: how TensorFlow Federated runs it; None where it does not.
        second_sum: what clients send beside their updates.
        trains_alone: whether one client alone has local steps, which personalization needs.
        in_silos: whether its local steps may be those of the DP-SGD engine, as `silo_privacy` needs.
        takes: keys of the section that belong to this algorithm and are required of it.
        settings: model of the section's `settings`; None where it has none.
        problem: why a section that is otherwise valid does not fit the algorithm; None where it fits.
    """

    name: str
    client_update: Callable[[FederatedAlgorithm, LocalSteps], Sent]
    tff: TffRules | None = None
    second_sum: SecondSum | None = None
    trains_alone: bool = True
    in_silos: bool = False
    takes: frozenset[str] = frozenset()
    settings: type[BaseModel] | None = None
    problem: Callable[[FederatedAlgorithm], str | None] = lambda section: None

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run it."""
        return ("fast",) if self.tff is None else ("fast", "tff")

    @property
    def one_update(self) -> bool:
        """Whether a client sends its update and nothing else, so that clipping and noise cover what it sends."""
        return self.second_sum is None

    @property
    def sends_beside(self) -> str:
        """What a client sends beside its update, in words; empty where it is nothing."""
        return "" if self.second_sum is None else self.second_sum.what

    def bytes_sent(self, parameters: int) -> int:
        """Return the bytes that travel between server and one client, each way, in single precision.

        Args:
            parameters: trainable numbers of the model.
        """
        return 4 * parameters * (1 if self.one_update else 2)


def changes(local: LocalSteps, *, pull: Pull | None = None) -> Sent:
    """Return what clients send that train from the round's weights: the change of each weight.

    Args:
        local: the clients.
        pull: as `LocalSteps.train` takes it.
    """
    after, losses = local.train(pull=pull)
    return Sent(updates=[new - old for new, old in zip(after, local.start, strict=True)], losses=losses)
