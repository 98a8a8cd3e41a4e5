"""What a run did. No TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.renyi import AccountingError, rdp_vector
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED, Verdict
from privacy_pipeline.pictures.axes import Scale, plot
from privacy_pipeline.pictures.bar import BLUE
from privacy_pipeline.pictures.drawing import Dot, Drawing, Path
from privacy_pipeline.pictures.fragment import fragment, new_name, paragraph, picture, table

if TYPE_CHECKING:
    from dp_accounting import DpEvent

# Known inside the trainer and never reported: all of these depend on single examples.
WITHHELD = ("training losses and metrics", "realised batch sizes", "number of examples with non-finite gradients")


def event_made(plan: PrivacyPlan, steps: int, *, seed_fixed: bool) -> DpEvent:
    """Return the DpEvent of the first steps of a plan; a non-private one if the seed was fixed."""
    from dp_accounting import NonPrivateDpEvent

    return NonPrivateDpEvent() if seed_fixed else plan.event_of(steps)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What a run did, to be compared with its plan.

    Attributes:
        plan: the plan.
        steps: optimizer updates made, or at least begun, those before a kill among them; they are accounted for.
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
        not_covered: what the caller let be handed out that no noise of this training protects.
        privacy_history: all that made the weights, this run included; None where the engine keeps none.
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
    not_covered: tuple[str, ...] = ()
    privacy_history: PrivacyHistory | None = None

    @property
    def event(self) -> DpEvent:
        """The DpEvent of the steps that were made; a non-private one if the seed was fixed."""
        return event_made(self.plan, self.steps, seed_fixed=self.seed_fixed)

    def epsilon(self, delta: float | None = None) -> float:
        """Return the epsilon of all that was done to the weights; infinite where no guarantee holds.

        Args:
            delta: that of the guarantee; without it the plan's.

        Raises:
            BadInputError: earlier phases protect another unit, or under another neighbouring relation.
            AccountingError: no accountant gives one.
        """
        wanted = self.plan.delta if delta is None else delta
        if self.privacy_history is not None:
            return self.privacy_history.epsilon(wanted)
        return math.inf if self.seed_fixed else epsilon_of(self.event, delta=wanted, relation=self.plan.relation)

    def __str__(self) -> str:
        """Return what is guaranteed, first of all."""
        made = f"{self.steps} of {self.plan.steps} steps"
        if self.seed_fixed:
            return f"no guarantee: the seed was fixed; {made}"
        if self.privacy_history is not None and self.privacy_history.origin == "none":
            return f"no guarantee: nothing protects what the weights were made from before; {made}"
        phases = 1 if self.privacy_history is None else len(self.privacy_history.phases)
        before = "" if phases < 2 else f" over {phases} trainings"
        if self.privacy_history is not None and self.privacy_history.mixes:
            return f"no single epsilon: {phases} trainings protect different units, each by its own phase; {made}"
        return f"epsilon {self.epsilon():.3f} at delta {self.plan.delta:g}, unit {self.plan.unit}{before}; {made}"

    def _repr_html_(self) -> str:
        """Return what was done for a notebook: a table, and epsilon by step where a guarantee holds."""
        plan = self.plan
        clipping = f"L2 norm {plan.clipping.norm:g}" + (", adaptive" if plan.clipping.adaptive is not None else "")
        rows = [
            ("steps", f"{self.steps:,} of {plan.steps:,}" + (", stopped early" if self.stopped_early else "")),
            ("privacy unit", f"{plan.unit}, relation {plan.relation.value}"),
            ("noise", f"multiplier {plan.noise.multiplier:.4g}, from {self.generator}"),
            ("clipping", clipping),
            ("rows", str(self.verdict)),
            ("withheld, since no noise protects it", ", ".join(self.withheld)),
            *([("not covered", ", ".join(self.not_covered))] if self.not_covered else []),
        ]
        try:
            told = str(self)
            shown = "" if self.seed_fixed or self.steps < 1 else picture(by_step(plan, self.steps))
        except AccountingError as error:
            told, shown = f"no epsilon: {error.message}", ""
        return fragment(paragraph(told, bold=True), table(rows, caption="DP-SGD training"), shown)


_POINTS = 24  # of the curve


def by_step(plan: PrivacyPlan, steps: int) -> Drawing:
    """Return a chart of what the first steps of a plan cost.

    Args:
        plan: the plan.
        steps: those that were made, 1 or more.

    Raises:
        AccountingError: RDP gives no epsilon for them.
    """
    at = sorted({max(1, round(steps * point / _POINTS)) for point in range(1, _POINTS + 1)})
    costs = [(step, _epsilon_rdp(plan, step)) for step in at]
    highest = costs[-1][1]
    if not math.isfinite(highest):
        raise AccountingError(f"RDP bounds no epsilon for {steps:,} steps")
    chart = plot(
        name=new_name("steps"),
        title="Epsilon of this training, by step",
        description=f"The line rises to epsilon {highest:.3f} by RDP at delta {plan.delta:g} after {steps:,} steps.",
        x=Scale(low=0, high=steps),
        y=Scale(low=0, high=max(highest * 1.15, 1e-6)),
        x_label="steps",
        y_label=f"epsilon by RDP at delta {plan.delta:g}: an upper bound; PLD, where it is claimed, is tighter",
    )
    chart.add(Path(points=[chart.at(0, 0), *(chart.at(*cost) for cost in costs)], colour=BLUE, width=2))
    x, y = chart.at(*costs[-1])
    chart.add(Dot(x=x, y=y, colour=BLUE, says=f"after {steps:,} steps: epsilon {highest:.3f} at delta {plan.delta:g}"))
    return chart.drawing


def _epsilon_rdp(plan: PrivacyPlan, steps: int) -> float:
    event, distance = truncation.untruncated(plan.event_of(steps))
    return truncation.epsilon_of(rdp_vector(event, plan.relation)[1], distance, delta=plan.delta)
