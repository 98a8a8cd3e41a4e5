"""What the parts of a federated simulation agree on. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Tensor = Any
Tensors = list[Any]
AggregatorState = dict[str, Any]
Metrics = dict[str, float]


class Clients(Protocol):
    """Examples of all clients: rows sorted by client, in memory or memory-mapped.

    Attributes:
        features: name to array [rows, ...]; fixed shapes apart from the rows.
        labels: [rows].
        offsets: int64 [clients + 1]; client c has the rows offsets[c] to offsets[c + 1] (excluded).
    """

    @property
    def features(self) -> Mapping[str, Array]:
        """Arrays by name."""
        ...

    @property
    def labels(self) -> Array:
        """Labels of all rows."""
        ...

    @property
    def offsets(self) -> IntArray:
        """Where each client's rows begin and end."""
        ...

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        ...

    def examples_of(self, client: int) -> tuple[Mapping[str, Array], Array]:
        """Return the features and labels of one client, in the order in which they are trained on."""
        ...


class Sampler(Protocol):
    """Chooses the clients of a round. The same key and round give the same cohort."""

    @property
    def name(self) -> str:
        """What the record calls the sampling, e.g. `poisson` or `uniform_fixed_size`."""
        ...

    def cohort(self, round_number: int) -> IntArray:
        """Return the client indices int64 [n], sorted and unique; n may be 0 where the sampling is Poisson."""
        ...


class Aggregator(Protocol):
    """Combines the clients' updates into one. Streaming: a cohort comes in chunks, whose partials are added up.

    An update is `new weights - old weights` of a client, so the server's gradient is minus the result. `partial` runs
    inside a tf.function (once per chunk), `finish` eagerly, once a round, also where the cohort is empty.
    """

    @property
    def every_report(self) -> bool:
        """Whether a client whose update is not finite is present, with an update of 0; else it is absent."""
        ...

    @property
    def update_bytes(self) -> int | None:
        """Bytes that a client sends; None for those of its weights as they are."""
        ...

    def initial_state(self) -> AggregatorState:
        """Return the state before the first round: name to tensor or array of fixed shape; `numpy()`-able, to save."""
        ...

    def partial(self, state: AggregatorState, updates: Tensors, num_examples: Tensor, present: Tensor) -> Tensors:
        """Return sums over the clients of one chunk, additive over chunks.

        Args:
            state: the round's state; the same for all chunks.
            updates: one tensor [c, ...] per trainable weight.
            num_examples: float32 [c], examples that each client trained on.
            present: float32 [c], 1 for a client that counts, 0 for padding or a dropout: it must add exactly nothing.

        Returns:
            Tensors whose shapes do not depend on c.
        """
        ...

    def finish(
        self, state: AggregatorState, sums: Tensors | None, round_number: int
    ) -> tuple[Tensors | None, AggregatorState, Metrics]:
        """Return the round's update, from the added partials.

        Args:
            state: the round's state.
            sums: the partials' sum; None if the cohort was empty (an aggregator with noise still adds it).
            round_number: counts from 0.

        Returns:
            One tensor per trainable weight, or None for a round that releases nothing and leaves model and server
            optimizer as they are; the next round's state, and numbers to log.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RoundState:
    """All that the next round depends on, beside data and plan. Arrays only, so that it can be saved as it is.

    Attributes:
        round_number: rounds done so far, so the next round's number.
        weights: trainable weights of the model, in Keras' order.
        non_trainable: the others, which federated training leaves as they are.
        server: server optimizer's state by name.
        aggregator: aggregator's state by name.
    """

    round_number: int
    weights: tuple[Array, ...]
    non_trainable: tuple[Array, ...] = ()
    server: Mapping[str, Array] = field(default_factory=dict)
    aggregator: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a round gave.

    Attributes:
        state: state for the next round.
        metrics: numbers to log (`loss` over the cohort's training batches, aggregator's own ones, ...); computed from
            data exactly, so outside of any guarantee unless the aggregator states otherwise.
        clients: clients that took part.
        examples: examples that they trained on, epochs not counted.
        bytes_down: bytes that the server would have sent.
        bytes_up: bytes that the clients would have sent.
    """

    state: RoundState
    metrics: Metrics
    clients: int
    examples: int
    bytes_down: int
    bytes_up: int


class Engine(Protocol):
    """Runs rounds: `federated.fast.engine.FastEngine` or `federated.tff_engine.engine.TffEngine`."""

    def initial_state(self) -> RoundState:
        """Return the state before the first round, with the model's weights as they are."""
        ...

    def run_round(
        self, state: RoundState, cohort: IntArray, *, present: npt.NDArray[np.bool_] | None = None
    ) -> RoundResult:
        """Run one round with these clients; deterministic in its arguments where the aggregator is.

        Args:
            state: what the last round left.
            cohort: client indices int64 [n]; may be empty.
            present: bool [n], False for a client that drops out before it sends its update; default: all send.
        """
        ...
