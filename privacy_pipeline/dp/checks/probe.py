"""Check a model on made-up inputs: examples do not mix, nothing is assigned, and the rules' gradients are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.checks.agreement import Agreement
from privacy_pipeline.dp.checks.findings import Finding
from privacy_pipeline.dp.checks.mixing import find_mixing
from privacy_pipeline.dp.clipping.gradients import BookKeeping, Losses, Vectorised
from privacy_pipeline.dp.graphs.graph_state import require_stateless
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.noise.masks import keyed_masks
from privacy_pipeline.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A model's losses, to be checked.

    Attributes:
        model: the model.
        losses: gives the loss of each example.
        x: nest of `tf.TensorSpec` or `tf.RaggedTensorSpec` of the inputs, [None, ...].
        y: nest of those of the labels.
    """

    model: Any
    losses: Losses
    x: Any
    y: Any

    def require_independent(self) -> None:
        """Refuse a model in which one example reaches another, or that writes or adds losses.

        Raises:
            BadInputError: it does; naming the model, and the layer or the loss where it can be determined.
        """
        self.require_no_state()
        found = self.finding()
        if found is not None:
            raise BadInputError(found.reason, fix=found.fix)

    def mixing(self) -> str | None:
        """Return why one example reaches another, naming the layer where possible; None if nothing shows that.

        Raises:
            BadInputError: the model takes no made-up inputs, or its losses are not one number for each example.
        """
        found = self.finding()
        return None if found is None else found.reason

    def finding(self) -> Finding | None:
        """Return what shows that one example reaches another, or None; see `mixing`."""
        return find_mixing(model=self.model, losses=self.losses, x=self.x, y=self.y)

    def require_no_state(self) -> None:
        """Refuse what keeps state or adds losses, in training and out of it, forward and backward.

        Raises:
            BadInputError: naming layer and op.
        """
        added: list[Any] = []

        def run(a: Any, b: Any) -> Any:
            with keyed_masks(self.model, tf.zeros([2], tf.int64)), tf.GradientTape() as tape:
                total = tf.reduce_sum(self.losses(a, b, True))
            added.extend(self.model.losses)
            with keyed_masks(self.model, tf.zeros([2], tf.int64)):
                served = self.losses(a, b, False)
            return tape.gradient(total, self.model.trainable_variables), served

        graph = Traced(run, self.x, self.y).concrete.graph
        if added:
            raise BadInputError(
                f"model '{self.model.name}' calls add_loss, whose gradient would not be clipped by example",
                fix="put it into the loss function, as a value for each example",
            )
        require_stateless(graph, model=self.model)

    def vectorises(self, clipper: Vectorised, variables: Sequence[Any]) -> bool:
        """Return whether vectorised gradients run and are right for the model; TensorFlow fails for some loops."""
        try:
            return self.disagreement(clipper, variables) is None
        except tf.errors.InvalidArgumentError:
            return False

    def disagreement(
        self, keeping: BookKeeping | Vectorised, variables: Sequence[Any], *, trained: Callable[..., Any] | None = None
    ) -> str | None:
        """Return the name of a variable whose norms or clipped sums are wrong for some unit; None if all are right."""
        return Agreement(
            keeping=keeping,
            variables=variables,
            model=self.model,
            losses=self.losses,
            x=self.x,
            y=self.y,
            trained=trained,
        ).wrong()
