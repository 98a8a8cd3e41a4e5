"""Plans and executions of a tuning, as `records` makes those of one training."""

from __future__ import annotations

import dataclasses
from typing import Any

from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.accounting.tuning import whole_event
from privacy_pipeline.backends.base import Executed, TrialScore, Tuned
from privacy_pipeline.config.models.tuning import TuningSection
from tests.reports.records import poisson_executed, poisson_plan

SPACE = {"learning_rate": [0.01, 0.05], "clipping_norm": [0.5, 1.0]}
POINT = {"learning_rate": 0.05, "clipping_norm": 0.5}
SELECT: dict[str, Any] = {
    "method": "repeat_and_select",
    "trials": 7,
    "distribution": "geometric",
    "minutes": 5.0,
    "space": SPACE,
}
EACH: dict[str, Any] = {"method": "each", "trials": 3, "space": SPACE}


def one_trial_plan() -> MechanismPlan:
    """Twenty Poisson samples of 1,000 rows."""
    event = poisson_gaussian(sampling_probability=0.1, noise_multiplier=4.0, steps=20)
    return poisson_plan(noise_multiplier=4.0, event=event)


def tuned_plan(how: dict[str, Any] = SELECT) -> MechanismPlan:
    """All trials of `one_trial_plan` together."""
    trial, section = one_trial_plan(), TuningSection.model_validate(how)
    stated = section.model_dump(mode="json", exclude_none=True)
    return dataclasses.replace(trial, event=whole_event(section, trial.event), tuning=stated)


def tuned_executed(how: dict[str, Any] = SELECT, **changes: Any) -> Executed:
    """What `tuned_plan` planned."""
    chosen = dataclasses.replace(one_trial_plan(), clipping_norm=POINT["clipping_norm"])
    shown = tuple(TrialScore(point=POINT, score=score) for score in (0.7, 0.8, None)) if how["method"] == "each" else ()
    tuned = Tuned(point=POINT, plan=chosen, results=shown)
    return poisson_executed(**{"event": tuned_plan(how).event, "tuning": tuned, **changes})
