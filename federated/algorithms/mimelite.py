"""MimeLite (Karimireddy et al. 2020, arXiv 2008.03606): local steps with the optimizer state of the server.

The server moves that state by the mean of the clients' full gradients, which they send beside their updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from federated.algorithms.algorithm import Algorithm, LocalSteps, SecondSum, Sent, TffParts, TffRules

if TYPE_CHECKING:
    from federated.contract import Array
    from federated.optimizers import Optimizer
    from privacy_pipeline.config.models.federated import FederatedAlgorithm


def _update(section: FederatedAlgorithm, local: LocalSteps) -> Sent:
    gradients, _ = local.full_gradient()
    after, losses = local.train(fixed=local.shared)
    updates = [new - old for new, old in zip(after, local.start, strict=True)]
    return Sent(updates=updates, losses=losses, second=gradients)


def _after(optimizer: Optimizer, state: Mapping[str, Array], gradients: list[Array]) -> dict[str, Any]:
    after, _ = optimizer.step(dict(state), gradients, gradients, 0.0)  # the weights that it gives are not used
    return after


def _process(section: FederatedAlgorithm, parts: TffParts) -> Any:
    import tensorflow_federated as tff

    return tff.learning.algorithms.build_weighted_mime_lite(
        parts.model_fn,
        base_optimizer=parts.client,
        server_optimizer=parts.server,
        client_weighting=parts.weighting,
    )


MIMELITE = Algorithm(
    name="mimelite",
    client_update=_update,
    tff=TffRules(process=_process, aggregates=False, client_rate=lambda client_work: client_work[0]),
    second_sum=SecondSum(
        what="full gradients", first=lambda optimizer, shapes: optimizer.initial_state(shapes), after=_after
    ),
    trains_alone=False,
)
