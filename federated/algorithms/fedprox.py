"""FedProx (Li et al. 2018, arXiv 1812.06127): FedAvg whose local steps are pulled back to the round's weights."""

from __future__ import annotations

import collections
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from federated.algorithms.algorithm import Algorithm, LocalSteps, Sent, TffParts, TffRules, changes
from federated.algorithms.fedavg import averaging_process

if TYPE_CHECKING:
    from federated.contract import Tensors
    from privacy_pipeline.config.models.federated import FederatedAlgorithm


def _strength(section: FederatedAlgorithm) -> float:
    return section.proximal_strength or 0.0


def _update(section: FederatedAlgorithm, local: LocalSteps) -> Sent:
    strength = _strength(section)

    def pull(gradients: Tensors, weights: Tensors, start: Tensors) -> Tensors:
        return [g + strength * (w - w0) for g, w, w0 in zip(gradients, weights, start, strict=True)]

    return changes(local, pull=pull)


def _process(section: FederatedAlgorithm, parts: TffParts) -> Any:
    return averaging_process(replace(parts, client=proximal(parts.client, strength=_strength(section))))


def proximal(inner: Any, *, strength: float) -> Any:
    """Return a client optimizer of TFF that pulls the weights back to those it started from; FedAvg with it is FedProx.

    `build_weighted_fed_prox` of TFF 0.87 adds strength * (start - weights) to the gradient, which pushes them away:
    the term in Li et al., "Federated Optimization in Heterogeneous Networks" (equation 2), has the other sign.

    Args:
        inner: a `tff.learning.optimizers.Optimizer`.
        strength: the paper's mu.
    """
    import tensorflow as tf
    import tensorflow_federated as tff

    class Proximal(tff.learning.optimizers.Optimizer):
        """Keeps the weights of its first step."""

        def initialize(self, specs: Any) -> Any:
            anchor = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
            return collections.OrderedDict(inner=inner.initialize(specs), anchor=anchor, started=tf.constant(False))

        def next(self, state: Any, weights: Any, gradients: Any) -> Any:
            kept = tf.nest.map_structure(lambda a, w: tf.where(state["started"], a, w), state["anchor"], weights)
            pulled = tf.nest.map_structure(lambda g, w, a: g + strength * (w - a), gradients, weights, kept)
            after, updated = inner.next(state["inner"], weights, pulled)
            return collections.OrderedDict(inner=after, anchor=kept, started=tf.constant(True)), updated

        def get_hparams(self, state: Any) -> Any:
            return inner.get_hparams(state["inner"])

        def set_hparams(self, state: Any, hparams: Any) -> Any:
            changed = inner.set_hparams(state["inner"], hparams)
            return collections.OrderedDict(inner=changed, anchor=state["anchor"], started=state["started"])

    return Proximal()


FEDPROX = Algorithm(
    name="fedprox",
    client_update=_update,
    tff=TffRules(process=_process),
    takes=frozenset({"proximal_strength"}),
)
