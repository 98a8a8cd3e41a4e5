"""FedAvg (McMahan et al. 2017, arXiv 1602.05629): each client trains from the round's weights and sends the change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federated.algorithms.algorithm import Algorithm, LocalSteps, Sent, TffParts, TffRules, changes

if TYPE_CHECKING:
    from privacy_pipeline.config.models.federated import FederatedAlgorithm


def averaging_process(parts: TffParts) -> Any:
    """Return TFF's learning process of federated averaging.

    Args:
        parts: what it is built from.
    """
    import tensorflow_federated as tff

    build, common = tff.learning.algorithms, {"client_optimizer_fn": parts.client, "server_optimizer_fn": parts.server}
    if parts.aggregator is not None:
        return build.build_unweighted_fed_avg(parts.model_fn, model_aggregator=parts.aggregator, **common)
    return build.build_weighted_fed_avg(parts.model_fn, client_weighting=parts.weighting, **common)


def _update(section: FederatedAlgorithm, local: LocalSteps) -> Sent:
    return changes(local)


FEDAVG = Algorithm(
    name="fedavg",
    client_update=_update,
    tff=TffRules(process=lambda section, parts: averaging_process(parts)),
    in_silos=True,
)
