"""The PrivacyRecord: what one run did to the privacy of its data, as schema-validated, versioned JSON.

The points follow the reporting lists of "How to DP-fy ML" (Ponomareva et al. 2023, section 5.3.3), NIST SP 800-226 and
the OpenDP deployments registry. Epsilon never stands alone: it comes with delta, unit, relation and accountant.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from privacy_pipeline.spans import Span


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Assumption(_Part):
    """Something the guarantee rests on, and whether it held in this run."""

    name: str
    held: bool
    detail: str


class DataAccess(_Part):
    """One use of the dataset; `detail` names who can see what the guarantee does not cover."""

    what: str
    covered: bool
    detail: str


class Guarantee(_Part):
    """(epsilon, delta) of one event by two accountants.

    `epsilon` is the headline: PLD where it supports the event, else RDP. `assuming_amplification` is what the same
    parameters would give if the sampler were a Poisson sampler; it is information, never the headline, unless the
    sampler is one.
    """

    epsilon: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    accountant: Literal["pld", "rdp"]
    accountant_version: str
    epsilon_pld: float | None
    epsilon_rdp: float | None
    epsilon_missing: str | None = None
    curve: list[tuple[float, float]] = Field(default=[], description="(epsilon, delta) points of this event")
    epsilon_if_poisson_sampled: float | None = None


class Mechanism(_Part):
    """The mechanism and its parameters as executed.

    `batch_size` and `epochs` are expected numbers where batches are samples. `units` is None where it is secret.
    `dp_event` is the executed event; recomputing epsilon from it, composed after the event of `preprocessing` where
    there is one, gives the record's guarantee. `plan` is the engine's whole plan, from which the planned event follows.
    Version 1 had neither `engine` nor `plan`.
    """

    name: str
    sampler: str
    clipping_norm: float
    noise_multiplier: float
    batch_size: int
    epochs: int
    steps: int
    units: int | None
    dp_event: JsonValue
    engine: str | None = None
    plan: JsonValue = None


class Preprocessing(_Part):
    """A release of the train split that the model was set up with; the guarantee counts its event too.

    `epsilon` is that of the release alone, at its own delta, by RDP. Versions 1 to 3 had none.
    """

    what: str
    epsilon: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    dp_event: JsonValue
    budget: str
    ledger_entry: int
    journal_seq: int | None = None
    journal_hash: str | None = None
    key_id: str | None = None


class Trial(_Part):
    """A trial that the guarantee pays for: its hyperparameters, and its exact score; None where it diverged."""

    point: dict[str, JsonValue]
    score: float | None


class Tuning(_Part):
    """How the best of several trainings was chosen; the guarantee is that of all of it. Versions 1 to 4 had none.

    `trials` is the mean number where `distribution` states how the number was drawn: how many were drawn is a secret
    that the guarantee rests on, and is not stored anywhere. `epsilon_one_trial` is what the chosen training alone would
    have claimed, by `accountant_one_trial` at the record's delta: information, never the guarantee. `trained` is false
    where the number drawn was 0. `results` are all trials of the method `each`.
    """

    method: Literal["repeat_and_select", "each"]
    trials: int
    distribution: Literal["poisson", "geometric"] | None
    space: dict[str, list[JsonValue]]
    metric: str
    chosen: dict[str, JsonValue]
    trained: bool
    epsilon_one_trial: float | None = None
    accountant_one_trial: Literal["pld", "rdp"] | None = None
    results: list[Trial] = []


class Randomness(_Part):
    """Where the noise came from. The seed itself is never stored: it would remove the noise."""

    generator: str
    cryptographic: bool
    seed_fixed: bool


class Rows(_Part):
    """Whether the examples of a model were proven to stay apart in training. Versions 1 to 6 had none.

    What is not proven and listed in `one_by_one` ran on one example at a time, which keeps examples apart as well. An
    engine that examines no model gives `not_examined`.
    """

    verdict: Literal["proven", "not_proven", "not_examined"]
    one_by_one: list[str] = []
    vectorised_whole_model: bool = False

    @property
    def in_words(self) -> str:
        """One line."""
        if self.verdict == "not_examined":
            return "not examined: this engine proves nothing of a model's rows"
        if self.verdict == "not_proven":
            return f"one example at a time where it is not proven: {'; '.join(self.one_by_one)}"
        how = "; per-example gradients of the whole model, vectorised" if self.vectorised_whole_model else ""
        return f"proven for every op of the forward and the backward pass{how}"


class Versions(_Part):
    """Hashes that tie the record to code, dependencies and data."""

    code: str
    lock: str
    data: str
    packages: dict[str, str]


class Composition(_Part):
    """One run among all that the ledger holds for the same budget.

    `journal_seq` and `journal_hash` are the receipt of the entry's commit: `budget verify --receipt` finds by them that
    the ledger was cut or rolled back. Versions 1 and 2 had none.
    """

    ledger_entry: int
    budget: str
    entries_before: int
    epsilon_before: float
    epsilon_after: float
    epsilon_cap: float
    delta: float
    accountant: Literal["rdp"] = "rdp"
    journal_seq: int | None = None
    journal_hash: str | None = None
    key_id: str | None = None


class PrivacyRecord(_Part):
    """What a run guarantees, what it does not, and how far to trust either.

    A run over several spans has them all in `span`, and in `further_compositions` what `composition` holds, for
    each further budget that it was charged to. `inference_error` is the proven difference of a logit between private
    predictions and exact arithmetic, at most, on all rows within the ranges of the model's inputs; versions 1 to 7 had
    none.
    """

    record_version: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 8
    run_id: str
    pipeline: str
    created: str
    backend: str
    dataset: str
    span: Span
    training_guarantee: Literal["dp", "none"]
    inference_protection: Literal["none", "encrypted", "simulated"] = "none"
    inference_error: float | None = None
    unit: str
    unit_in_words: str
    contribution_bound: int | None = None
    relation: str | None = None
    mechanism: Mechanism | None = None
    rows: Rows | None = None
    preprocessing: Preprocessing | None = None
    tuning: Tuning | None = None
    guarantee: Guarantee | None = None
    assumptions: list[Assumption] = []
    data_accesses: list[DataAccess]
    composition: Composition | None = None
    further_compositions: list[Composition] = []
    randomness: Randomness
    versions: Versions
    audits: list[JsonValue] = []

    @model_validator(mode="after")
    def _dp_states_everything(self) -> PrivacyRecord:
        stated = (self.guarantee, self.mechanism, self.relation, self.contribution_bound)
        if self.training_guarantee == "dp" and any(part is None for part in stated):
            raise ValueError("a DP record states guarantee, mechanism, relation and contribution bound")
        if self.training_guarantee == "none" and self.guarantee is not None:
            raise ValueError("a record without a training guarantee carries no epsilon")
        if self.training_guarantee == "dp" and self.randomness.seed_fixed:
            raise ValueError("a run with a fixed seed has no guarantee: its noise can be computed again")
        if self.training_guarantee == "dp" and not all(a.held for a in self.assumptions):
            raise ValueError("a guarantee is not stated on an assumption that did not hold")
        if self.further_compositions and self.composition is None:
            raise ValueError("what was charged to one budget is `composition`; only further ones go beside it")
        return self

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """The run at each budget that it was charged to; none where nothing was charged."""
        return () if self.composition is None else (self.composition, *self.further_compositions)

    @property
    def privacy_class(self) -> str:
        """Runs are compared only within one class: training guarantee, unit and relation."""
        return privacy_class(guarantee=self.training_guarantee, unit=self.unit, relation=self.relation)


def privacy_class(*, guarantee: str, unit: str, relation: str | None) -> str:
    """Return the name of the class of runs that may serve as each other's baseline."""
    return f"{guarantee}/{unit}/{relation or '-'}"
