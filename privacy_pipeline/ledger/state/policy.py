"""The policy of a dataset's budget: caps, shares of each purpose, who may spend, when to warn. A YAML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privacy_pipeline.accounting.plan import Purpose
from privacy_pipeline.config.extensions import BackendName
from privacy_pipeline.files.file_rights import refuse_if_others_may_change

Backend = Annotated[str, BackendName]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Level = Annotated[float, Field(gt=0, le=1)]
_SUM_ROUNDING = 1e-9
_SINCE_5 = ("ceiling", "require_guarantee", "allowed_backends")  # fields that older ledgers' policies do not have

STARTER = """\
# Policy of the privacy budget of one dataset. Apply it with: privacy-pipeline budget apply FILE
dataset: {dataset}
# All that is ever spent on the train split, over all runs, stays within (epsilon, delta).
# The budget counts by RDP at this delta, which is somewhat above the PLD figure of a run: leave room for that.
epsilon: 4.0
delta: 1.0e-5
# What is protected: row, or the key column that names the privacy unit. It has to be the registered one.
unit: {unit}
# Largest part of the budget that each purpose may use; together at most 1. What is left out may use nothing.
# Parts are of the Renyi divergence that the cap allows, not of epsilon: a part of 0.3 holds runs of more than 0.3 times
# the cap's epsilon. `budget status` shows what each part comes to.
shares:
  train: 1.0
#  preprocess: 0.1
#  tune: 0.2
#  evaluate: 0.0
# Cap of the eval split's own units, for private evaluation. Without it nothing may be charged to that split.
# eval_epsilon: 1.0
# The largest epsilon that the cap may ever be raised to, if that is above it. Runs that cut batches or release values
# above a threshold pay for it by delta, at this epsilon: it is fixed with the first of them.
# ceiling: 8.0
# Users that may run on the data, with a guarantee or without (PRIVACY_PIPELINE_USER, or the user of the operating
# system). Without it everybody may.
# may_spend: [alice, bob]
# Whether every run has to claim a guarantee; runs that claim none are allowed otherwise, and journalled.
# require_guarantee: true
# Backends that may train; without it all may.
# allowed_backends: [dp_sgd]
# Parts of the room at which `budget status` warns.
alerts: [0.5, 0.8]
"""


class Policy(BaseModel):
    """What may be spent on a dataset.

    Attributes:
        dataset: registered name.
        epsilon: cap over all runs.
        delta: delta of the caps.
        unit: privacy unit, as registered.
        shares: part of the budget that each purpose may use; a purpose that is left out may use nothing.
        eval_epsilon: cap of the eval split's own units; None gives that split no budget.
        ceiling: largest epsilon that the train split's cap may ever be raised to, once a run that may fail
            (`renyi_filter`) was charged; by default what leaves room for a hundred such runs, and at least the cap.
        may_spend: users that may run on the data; None for everybody.
        require_guarantee: whether runs that claim no guarantee are refused.
        allowed_backends: values of `training.backend` that may train; None for all.
        alerts: parts of the cap at which `budget status` warns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: str
    shares: dict[Purpose, _Fraction] = {"train": 1.0}
    eval_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    ceiling: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    may_spend: tuple[str, ...] | None = None
    require_guarantee: bool = False
    allowed_backends: tuple[Backend, ...] | None = None
    alerts: tuple[_Level, ...] = (0.5, 0.8)

    @model_validator(mode="after")
    def _shares_fit(self) -> Policy:
        if sum(self.shares.values()) > 1 + _SUM_ROUNDING:
            raise ValueError(f"the shares sum to {sum(self.shares.values()):g}, which is more than 1")
        if self.ceiling is not None and self.ceiling < self.epsilon:
            raise ValueError(f"the ceiling of {self.ceiling:g} is below the cap of {self.epsilon:g}")
        return self

    @property
    def is_closed(self) -> bool:
        """Whether no purpose may use anything."""
        return not any(self.shares.values())

    def to_json(self) -> str:
        """Return the policy as text for the budget's row, without newer fields that are not set."""
        fields = type(self).model_fields
        document = {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in _SINCE_5 or value != fields[name].default
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"))


def stored_policy(text: str | None) -> Policy | None:
    """Return the policy in a budget's row."""
    return None if text is None else Policy.model_validate_json(text)


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        BadInputError: others may change the file, it cannot be read, is not YAML, or a field is unknown, missing or out
            of range; the message names the line.
    """
    from privacy_pipeline.config.messages import explain
    from privacy_pipeline.config.source import read_document

    refuse_if_others_may_change(path)
    document = read_document(path=path)
    try:
        return Policy.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise explain(error=error, document=document, root=Policy) from None


def share_of(policy: Policy | None, purpose: str) -> float:
    """Return the part of a budget that a purpose may use; all of it where the budget has no policy."""
    if policy is None:
        return 1.0
    return next((share for name, share in policy.shares.items() if name == purpose), 0.0)
