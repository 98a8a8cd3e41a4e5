"""The algorithm part of the config's `federated` block: what clients and server compute in a round."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from privacy_pipeline.config.extensions import (
    AlgorithmName,
    AlgorithmRules,
    algorithms,
    either,
    require_settings,
)
from privacy_pipeline.config.models.base import Section, without_empty
from privacy_pipeline.config.models.ranges import LearningRate

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class ScheduleSection(Section):
    """Learning rate over the rounds: `learning_rate` times a factor. Round r counts from 0."""

    kind: Annotated[
        Literal["exponential", "inverse_time", "cosine", "step"],
        Field(
            description="Factor after warm-up: decay^(r/rounds), 1/(1 + decay*r/rounds), half a cosine from 1 down to "
            "`decay` at `rounds`, or decay^floor(r/rounds)."
        ),
    ]
    rounds: Annotated[int, Field(ge=1, description="`rounds` of the factor.")]
    decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="`decay` of the factor.")]
    warmup_rounds: Annotated[int, Field(ge=0, description="Rounds of linear rise to the full rate.")] = 0


class OptimizerSection(Section):
    """An optimizer with the formulas and defaults of `tff.learning.optimizers`."""

    name: Annotated[Literal["sgd", "adam", "yogi", "adagrad"], Field(description="Of the optimizer.")] = "sgd"
    learning_rate: Annotated[LearningRate, Field(description="Before the `schedule`.")]
    momentum: Annotated[float, Field(ge=0, lt=1, description="Of `sgd`.")] = 0.0
    beta_1: Annotated[Beta, Field(description="Decay of the mean of gradients, of `adam` and `yogi`.")] = 0.9
    beta_2: Annotated[Beta, Field(description="Decay of the mean of squares, of `adam` and `yogi`.")] = 0.999
    epsilon: Annotated[
        PositiveFloat | None, Field(description="Default: 1e-7 for `adam` and `adagrad`, 1e-3 for `yogi`.")
    ] = None
    initial_accumulator: Annotated[
        PositiveFloat | None, Field(description="Default: 1e-6 for `yogi`, 0.1 for `adagrad`.")
    ] = None
    schedule: ScheduleSection | None = None

    @model_validator(mode="after")
    def _fields_of_the_name(self) -> OptimizerSection:
        used = {
            "sgd": {"momentum"},
            "adam": {"beta_1", "beta_2", "epsilon"},
            "yogi": {"beta_1", "beta_2", "epsilon", "initial_accumulator"},
            "adagrad": {"epsilon", "initial_accumulator"},
        }
        common = {"name", "learning_rate", "schedule"}
        fields = type(self).model_fields
        for field in sorted(set(fields) - common - used[self.name]):
            # Not what was set: a config that was dumped and is read again has set everything.
            if getattr(self, field) == fields[field].default:
                continue
            raise ValueError(f"`{field}` does nothing in `name: {self.name}`; drop it")
        return self


class FederatedAlgorithm(Section):
    """What a round computes."""

    name: Annotated[str, AlgorithmName, Field(description="Of the algorithm.")] = "fedavg"
    engine: Annotated[
        Literal["fast", "tff"],
        Field(description="`fast`: many clients in one TensorFlow graph; `tff`: TensorFlow Federated's own runtime."),
    ] = "fast"
    weighting: Annotated[
        Literal["examples", "uniform"], Field(description="Weight of a client's update in a mean without privacy.")
    ] = "examples"
    batch_size: Annotated[int, Field(ge=1, description="Rows of a local batch; the last one may be smaller.")] = 32
    local_epochs: Annotated[int, Field(ge=1, description="Passes of a client over its rows in a round.")] = 1
    client_optimizer: Annotated[
        OptimizerSection, Field(description="Local steps; `mimelite` takes it as its base optimizer.")
    ] = OptimizerSection(learning_rate=0.1)
    server_optimizer: Annotated[OptimizerSection, Field(description="Applies the combined update as a gradient.")] = (
        OptimizerSection(learning_rate=1.0)
    )
    proximal_strength: Annotated[PositiveFloat | None, Field(description="Of `fedprox`.")] = None
    settings: Annotated[
        dict[str, JsonValue],
        Field(description="Of an algorithm that an extension adds, if it has settings of its own."),
    ] = {}

    @property
    def rules(self) -> AlgorithmRules:
        """The algorithm that the section names."""
        return algorithms()[self.name]

    @model_validator(mode="after")
    def _fits(self) -> FederatedAlgorithm:
        rules = self.rules
        if (self.proximal_strength is not None) != ("proximal_strength" in rules.takes):
            owners = [name for name, other in algorithms().items() if "proximal_strength" in other.takes]
            raise ValueError(f"`proximal_strength` goes with `name: {either(owners)}`, and only with it")
        if self.engine not in rules.engines:
            raise ValueError(f"`name: {self.name}` runs on `engine: {either(list(rules.engines))}`")
        require_settings(rules.settings, self.settings, of=f"name: {self.name}")
        problem = rules.problem(self)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_serializer(mode="wrap")
    def _without_empty_settings(self, write: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        return without_empty(write(self), "settings")
