"""The config's blocks of the `encrypted` backend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from privacy_pipeline.config.models.base import Section


class EncryptedSection(Section):
    """How the model is trained before it is converted, and where its private evaluation runs."""

    train_with: Annotated[
        Literal["plain", "dp_sgd"], Field(description="Backend that trains; a DP model keeps its record.")
    ] = "plain"
    simulate: Annotated[
        bool,
        Field(
            description="Evaluate with all parties in one process. It protects nothing, and the record states "
            "`inference_protection: simulated`. It, or `parties`."
        ),
    ] = False
    parties: Annotated[
        Path | None,
        Field(
            description="Evaluate through real parties: a folder of `encrypted init-parties`, of which this machine "
            "has driver, weights-provider and prediction-client. Servers whose addresses are all of this machine are "
            "started (the record states `simulated`); others must already run. It, or `simulate`."
        ),
    ] = None

    input_range: Annotated[
        float,
        Field(
            gt=0,
            le=2.0**100,
            allow_inf_nan=False,
            description="Absolute value of an input of the model, at most, where your own preprocessing_fn, or an "
            "inferred schema, makes it: private predictions are proven for it, and clients refuse rows beyond it. What "
            "the framework makes of a schema has its own ranges.",
        ),
    ] = 128.0

    @model_validator(mode="after")
    def _one_way(self) -> EncryptedSection:
        if self.simulate and self.parties is not None:
            raise ValueError(
                "`simulate` and `parties` exclude each other: remove `parties` to evaluate with all parties in one "
                "process, or `simulate: true` to evaluate through those of the folder"
            )
        return self


class EncryptedPolicy(Section):
    """How close the private predictions must be to the plain ones."""

    min_agreement: Annotated[
        float, Field(ge=0, le=1, description="Least share of rows with the same class both ways.")
    ] = 0.999
    max_logit_error: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Largest difference of a logit between both ways.")
    ] = 0.01
    max_proven_error: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Largest difference of a logit that is not ruled out on rows that the inputs' ranges allow.",
        ),
    ] = 0.01
    max_spread_error: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Largest difference of a logit between both ways, over the distance of the largest plain logit "
            "from the smallest: where all logits are nearly one, a small difference is large.",
        ),
    ] = 0.01
