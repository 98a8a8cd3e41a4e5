"""What a training is made of, and how far its plan has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.history.past import Past
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.verdict import Verdict
from privacy_pipeline.dp.training.checkpoints import Checkpoints
from privacy_pipeline.dp.training.program import Program
from privacy_pipeline.dp.training.steps import PrivateSteps


@dataclass
class Progress:
    """How far a plan has come under a key, over all trainings of it.

    Attributes:
        begun: steps that were made, or at least begun; a checkpoint goes back to where it was saved.
        used: whether a step was made under the key, whatever a checkpoint goes back to.
    """

    begun: int = 0
    used: bool = False


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a training is made of.

    Attributes:
        model: the Keras model.
        plan: the plan.
        key: the run's key.
        optimizer: makes the updates.
        program: the compiled steps.
        steps: the steps of the data.
        checkpoints: where the run keeps its progress; None without a `state_dir`.
        verdict: what is proven of the model's rows.
        past: finds and keeps the history of weights.
        before: that of the weights the training began with.
        replaced: that of the weights in the place of which a checkpoint was loaded.
        data_name: what the history calls the data.
        watched: whether code of the caller's runs between steps, which may set weights.
    """

    model: Any
    plan: PrivacyPlan
    key: RunKey
    optimizer: Any
    program: Program
    steps: PrivateSteps
    checkpoints: Checkpoints | None
    verdict: Verdict
    past: Past
    before: PrivacyHistory
    replaced: PrivacyHistory
    data_name: str
    watched: bool
