"""What a run did. No TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED, Verdict

if TYPE_CHECKING:
    from dp_accounting import DpEvent

# Known to the trainer, told to nobody: all of these depend on single examples.
WITHHELD = ("training losses and metrics", "realised batch sizes", "number of examples with non-finite gradients")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What a run did, to be held against its plan.

    Attributes:
        plan: the plan.
        steps: optimizer updates made, or at least begun; those are accounted for.
        largest_participation: epochs' uses of the most used unit, for a fixed partition; None for Poisson samples,
            where it is secret and bounded by the event itself.
        seed_fixed: somebody chose the seed: no guarantee holds.
        generator: what the noise and the samples came from.
        cryptographic: whether the noise comes from a cryptographic generator under a secret key. The sampler's
            generator is a statistical one in either case.
        stopped_early: a callback ended the training before the plan did.
        history: after each epoch the L2 norm of the weights, and the clipping norm if it adapts; the noise protects
            both.
        withheld: what is not reported because no noise protects it.
        resumed_at: steps that an earlier process had made when this one went on; None if the run began here. Steps
            that are made again by going on from a checkpoint release nothing new.
        verdict: what is proven of the model's rows; not examined where the engine proves nothing.
    """

    plan: PrivacyPlan
    steps: int
    largest_participation: int | None
    seed_fixed: bool
    generator: str
    cryptographic: bool
    stopped_early: bool
    history: dict[str, list[float]] = field(default_factory=dict)
    withheld: tuple[str, ...] = WITHHELD
    resumed_at: int | None = None
    verdict: Verdict = NOT_EXAMINED

    @property
    def event(self) -> DpEvent:
        """The DpEvent of the steps that were made; a non-private one if the seed was fixed."""
        from dp_accounting import NonPrivateDpEvent

        return NonPrivateDpEvent() if self.seed_fixed else self.plan.event_of(self.steps)
