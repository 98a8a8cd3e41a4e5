"""FedSGD (McMahan et al. 2017, arXiv 1602.05629): each client sends the gradient at the round's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federated.algorithms.algorithm import Algorithm, LocalSteps, Sent, TffParts, TffRules

if TYPE_CHECKING:
    from privacy_pipeline.config.models.federated import FederatedAlgorithm


def _update(section: FederatedAlgorithm, local: LocalSteps) -> Sent:
    gradients, losses = local.full_gradient()
    return Sent(updates=[-gradient for gradient in gradients], losses=losses)


def _process(section: FederatedAlgorithm, parts: TffParts) -> Any:
    import tensorflow_federated as tff

    return tff.learning.algorithms.build_fed_sgd(parts.model_fn, server_optimizer_fn=parts.server)


def _problem(section: FederatedAlgorithm) -> str | None:
    if section.local_epochs != 1:
        return "`name: fedsgd` takes one gradient a round; drop `local_epochs`"
    if section.client_optimizer != type(section).model_fields["client_optimizer"].default:
        return "`name: fedsgd` has no local steps; drop `client_optimizer`"
    if section.weighting == "uniform" and section.engine == "tff":
        return "TensorFlow Federated weighs `fedsgd` by examples; use `engine: fast` for `uniform`"
    return None


FEDSGD = Algorithm(
    name="fedsgd",
    client_update=_update,
    tff=TffRules(process=_process, aggregates=False),
    trains_alone=False,
    problem=_problem,
)
