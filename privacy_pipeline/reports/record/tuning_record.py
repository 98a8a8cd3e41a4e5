"""The part of a record on tuning: what was tried, what it cost, and what the guarantee does not cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from privacy_pipeline.accounting import accountants
from privacy_pipeline.accounting.record import Assumption, DataAccess, Trial, Tuning
from privacy_pipeline.accounting.tuning import trial_event
from privacy_pipeline.reports.record.properties import shown

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import MechanismPlan
    from privacy_pipeline.accounting.record import Guarantee
    from privacy_pipeline.backends.base import Executed, Tuned
    from privacy_pipeline.config.models.tuning import TuningSection

CHOICE = "choice of hyperparameters"
_EARLIER = "not known: earlier trials are in the ledger only if they were runs of this pipeline"


def tuning_part(
    section: TuningSection | None, executed: Executed, plan: MechanismPlan | None, *, private: bool
) -> Tuning | None:
    """Return the record's part on tuning; None where one training ran."""
    if section is None:
        return None
    tuned = _tuned(executed)
    alone = one_trial(plan) if plan is not None and private else None
    return Tuning(
        method=section.method,
        trials=section.trials,
        distribution=section.distribution,
        space=section.space.values,
        metric=section.metric,
        chosen=dict(tuned.point),
        trained=tuned.trained,
        epsilon_one_trial=alone[0] if alone else None,
        accountant_one_trial=alone[1] if alone else None,
        results=[Trial(point=dict(result.point), score=result.score) for result in tuned.results],
    )


def one_trial(plan: MechanismPlan) -> tuple[float, Literal["pld", "rdp"]]:
    """Return what a single trial of a tuning would have claimed: epsilon at the plan's delta, and its accountant."""
    event = trial_event(plan.event)
    bound = accountants.bound_of(event, delta=plan.delta, relation=plan.relation)
    return bound.epsilon, bound.accountant


def procedure(tuning: Tuning) -> str:
    """Return the procedure in words."""
    space = ", ".join(f"{name} of {values}" for name, values in tuning.space.items())
    if tuning.distribution is None:
        how = f"{tuning.trials} trials, all of them paid for"
    else:
        how = (
            f"the best of a random number of trials ({tuning.distribution}, {tuning.trials} on average; the number "
            "drawn is secret)"
        )
    chosen = ", ".join(f"{name} {value}" for name, value in tuning.chosen.items())
    what = f"chosen by {tuning.metric} on the eval split: {chosen}" if tuning.trained else _UNTRAINED
    return f"{how} over {space}; {what}"


_UNTRAINED = (
    "the number drawn was 0, so nothing was trained: the model is an untrained one, which is part of the method"
)


def tuning_accesses(tuning: Tuning | None, guarantee: Guarantee | None, *, shared_users: str) -> list[DataAccess]:
    """Return uses of the data by a tuning, or by choices before an untuned training.

    Args:
        tuning: the record's part.
        guarantee: the record's guarantee, which counts all trials.
        shared_users: what is known about users with rows in both splits.
    """
    if tuning is None:
        return [DataAccess(what=CHOICE, covered=False, detail=_EARLIER)]
    cost = ""
    if guarantee is not None and tuning.epsilon_one_trial is not None:
        cost = (
            f"; counted in the guarantee: epsilon {shown(guarantee.epsilon)} at delta {guarantee.delta:.0e} "
            f"({guarantee.accountant.upper()}) for all of it, where one trial alone would have claimed "
            f"{shown(tuning.epsilon_one_trial)} ({(tuning.accountant_one_trial or '').upper()})"
        )
    found = [
        DataAccess(what=CHOICE, covered=guarantee is not None, detail=procedure(tuning) + cost),
        DataAccess(
            what="scores of the trials",
            covered=False,
            detail="exact, on the eval split, whose units no noise protects; the best was chosen by them, so metrics "
            f"on that split flatter the model{shared_users}",
        ),
        DataAccess(what="earlier choices of hyperparameters, and of the space", covered=False, detail=_EARLIER),
    ]
    if tuning.distribution is not None and guarantee is not None:
        found.append(
            DataAccess(
                what="load of the machine while it tunes",
                covered=False,
                detail="it reveals something about the number of trials to anyone who watches the machine; with the "
                "number k known, the guarantee is only that of k trials together",
            )
        )
    return found


def tuning_assumptions(plan: MechanismPlan, executed: Executed) -> list[Assumption]:
    """Return the assumptions of the accounting of a tuning."""
    tuned, section = _tuned(executed), plan.tuning or {}
    found = [
        Assumption(
            name="all trials have one DpEvent",
            held=executed.event is not None and executed.event == plan.event,
            detail="each trial's plan and each trial's execution were compared with the reserved event",
        )
    ]
    if section.get("distribution") is not None:
        found.append(
            Assumption(
                name="the number of trials is random and does not depend on the data",
                held=True,
                detail="drawn by the operating system's generator before any data was read; it is stored nowhere",
            )
        )
        found.append(
            Assumption(
                name="how long the tuning took reveals nothing about the number of trials",
                held=True,
                detail=f"it took {section['minutes']:g} minutes, as the config states, whatever the number; trials "
                "that take longer are ended, and hand out nothing",
            )
        )
    if not tuned.trained:
        found.append(Assumption(name="nothing was trained", held=executed.steps == 0, detail=_UNTRAINED))
    return found


def _tuned(executed: Executed) -> Tuned:
    if executed.tuning is None:
        raise ValueError("the config tunes, but the execution reports no choice")
    return executed.tuning
