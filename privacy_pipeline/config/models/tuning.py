"""The config's block that tries several hyperparameters and keeps the best model."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from privacy_pipeline.config.extensions import ScoreName
from privacy_pipeline.config.models.base import Section
from privacy_pipeline.config.models.dp import PositiveFloat
from privacy_pipeline.config.models.ranges import ClippingNorm, LearningRate

Point = dict[str, Any]  # hyperparameters of one trial, by name

MOST_POINTS = 1000
# What would give trials unlike events: the accounting of a selection needs them all alike.
_CHANGE_THE_COST = (
    "adaptive",
    "batch_size",
    "delta",
    "engine",
    "epochs",
    "noise",
    "noise_multiplier",
    "relation",
    "sampling",
    "sampling_probability",
    "target_epsilon",
    "truncate_at",
    "users",
)


class SpaceSection(Section):
    """Values to choose from, by hyperparameter. Only such as leave the privacy cost of a trial as it is."""

    learning_rate: Annotated[
        list[LearningRate] | None, Field(min_length=1, description="Values of `training.learning_rate`.")
    ] = None
    optimizer: Annotated[
        list[Literal["adam", "sgd"]] | None, Field(min_length=1, description="Values of `training.optimizer`.")
    ] = None
    clipping_norm: Annotated[
        list[ClippingNorm] | None, Field(min_length=1, description="Noise follows the norm, so the cost stays.")
    ] = None
    hidden_units: Annotated[
        list[list[Annotated[int, Field(ge=1)]]] | None,
        Field(min_length=1, description="Values of `model.hidden_units`: a list of lists."),
    ] = None
    dropout: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]] | None, Field(min_length=1, description="Values of `model.dropout`.")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _trials_cost_alike(cls, value: object) -> object:
        found = [name for name in _CHANGE_THE_COST if isinstance(value, dict) and name in value]
        if found:
            raise ValueError(
                f"`{found[0]}` changes what a trial costs, and only trials that cost alike are accounted for; set it "
                f"for all trials, outside of `space`, which takes {', '.join(cls.model_fields)}"
            )
        return value

    @model_validator(mode="after")
    def _some_points(self) -> SpaceSection:
        if not self.values:
            raise ValueError("`space` names no hyperparameter; give values, for example {learning_rate: [0.01, 0.1]}")
        points = math.prod(len(values) for values in self.values.values())
        if points > MOST_POINTS:
            raise ValueError(f"`space` has {points} combinations; give at most {MOST_POINTS}")
        return self

    @property
    def values(self) -> dict[str, list[Any]]:
        """Values by hyperparameter, without those that are not varied."""
        return self.model_dump(exclude_none=True)

    def points(self) -> list[Point]:
        """Return all combinations, in a fixed order."""
        values = self.values
        return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


class TuningSection(Section):
    """Several trainings with other hyperparameters, of which the best model is kept; all of it is one charge.

    `repeat_and_select` draws the number of trials, keeps it secret and lets out the best model alone, which costs far
    less than all trials (Papernot and Steinke 2022, "Hyperparameter Tuning with Renyi Differential Privacy"). `each`
    makes a fixed number, costs all of them, and may show the score of each.
    """

    method: Annotated[
        Literal["repeat_and_select", "each"],
        Field(description="A secret number of trials that shows the best one, or a fixed number that may show all."),
    ]
    trials: Annotated[int, Field(ge=2, description="Mean number with `repeat_and_select`, exact number with `each`.")]
    distribution: Annotated[
        Literal["poisson", "geometric"] | None, Field(description="Of the number of trials of `repeat_and_select`.")
    ] = None
    metric: Annotated[str, ScoreName, Field(description="Score of a trial, exact and on the eval split.")] = "accuracy"
    minutes: Annotated[
        PositiveFloat | None,
        Field(
            description="Of `repeat_and_select`: how long the tuning takes, whatever the number of trials, which its "
            "time would reveal; trials that take longer are ended, and nothing is handed out."
        ),
    ] = None
    space: SpaceSection

    @model_validator(mode="after")
    def _distribution_of_a_random_number(self) -> TuningSection:
        if (self.distribution is not None) != (self.method == "repeat_and_select"):
            raise ValueError(
                "`method: repeat_and_select` needs `distribution`, poisson or geometric; `method: each` takes none"
            )
        if self.minutes is None and self.method == "repeat_and_select":
            raise ValueError(
                "`method: repeat_and_select` needs `minutes`, well above what the mean number of trials takes: the "
                "guarantee rests on a secret number of trials, which their time would reveal"
            )
        if self.minutes is not None and self.method == "each":
            raise ValueError("`minutes` hides the number of trials, which `method: each` states; drop it")
        return self
