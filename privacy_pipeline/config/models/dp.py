"""The config's block of the `dp_sgd` backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from privacy_pipeline.config.extensions import CorrelationName, correlations, either
from privacy_pipeline.config.models.base import Section
from privacy_pipeline.config.models.ranges import ClippingNorm, LearningRate, NoiseMultiplier

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Delta = Annotated[float, Field(gt=0, lt=1, description="Delta of the guarantee, below 1 / number of units.")]


def require_one_target(target_epsilon: float | None, noise_multiplier: float | None) -> None:
    """Refuse a block that gives both an epsilon to meet and the noise, or neither.

    Raises:
        ValueError: it does.
    """
    if (target_epsilon is None) == (noise_multiplier is None):
        raise ValueError("give exactly one of `target_epsilon` and `noise_multiplier`")


@dataclass(frozen=True, kw_only=True)
class DpDefaults:
    """The defaults of a private run; benchmarks/README.md gives the reasons.

    Attributes:
        epochs: expected passes over the data.
        batches: a batch holds one in this many of the units.
        learning_rate: of Adam.
        clipping_norm: L2 bound of a unit's gradient.
    """

    epochs: int = 30
    batches: int = 8
    learning_rate: float = 1e-2
    clipping_norm: float = 0.3

    def batch_size(self, units: int) -> int:
        """Return the expected units of a batch, of this number of units in all."""
        return max(1, units // self.batches)


DP_DEFAULTS = DpDefaults()


class AdaptiveSection(Section):
    """Adaptive clipping: the norm follows a quantile of the gradients' norms, itself learnt with noise."""

    quantile: Annotated[float, Field(gt=0, lt=1, description="Share of units that are to be left unclipped.")] = 0.5
    learning_rate: Annotated[LearningRate, Field(description="Of the logarithm of the norm.")] = 0.2
    count_noise: Annotated[
        PositiveFloat, Field(description="Standard deviation of the noise on the number of unclipped units of a batch.")
    ]


class NoiseSection(Section):
    """Noise that is correlated over the steps; it needs no sampling assumption."""

    correlation: Annotated[
        str, CorrelationName, Field(description="`tree` is DP-FTRL; both need `sampling: cyclic`.")
    ] = "none"
    bands: Annotated[int | None, Field(ge=1, description="Bands of `banded`.")] = None

    @model_validator(mode="after")
    def _bands_of_banded(self) -> NoiseSection:
        banded = [name for name, listed in correlations().items() if listed.bands]
        if (self.bands is not None) != (self.correlation in banded):
            raise ValueError(f"`bands` goes with `correlation: {either(banded)}`, and only with it")
        return self


class UsersSection(Section):
    """How a user with several examples is bounded."""

    max_examples: Annotated[
        int | None,
        Field(ge=1, description="Examples of a user in a step; default: dataset.privacy_unit.contribution_bound."),
    ] = None
    clip: Annotated[
        Literal["sum", "each"], Field(description="Clip a user's summed gradient, or each example to its share.")
    ] = "sum"


class DpSgdSection(Section):
    """DP-SGD. Give either `target_epsilon` or `noise_multiplier`."""

    target_epsilon: Annotated[
        PositiveFloat | None, Field(description="Epsilon of the whole training, to which the noise is calibrated.")
    ] = None
    noise_multiplier: Annotated[
        NoiseMultiplier | None, Field(description="Standard deviation of the noise of the sum over the clipping norm.")
    ] = None
    delta: Delta
    clipping_norm: Annotated[
        ClippingNorm, Field(description="L2 bound of a unit's gradient; with `adaptive` the first one.")
    ] = DP_DEFAULTS.clipping_norm
    engine: Annotated[
        Literal["native", "tensorflow_privacy"], Field(description="`tensorflow_privacy` is for comparison.")
    ] = "native"
    sampling: Annotated[
        Literal["poisson", "truncated_poisson", "shuffled", "cyclic"],
        Field(
            description="How batches are drawn; `shuffled` claims no amplification, `cyclic` is for correlated noise."
        ),
    ] = "poisson"
    truncate_at: Annotated[int | None, Field(ge=1, description="Largest batch of `truncated_poisson`.")] = None
    relation: Annotated[
        Literal["zero_out", "add_or_remove_one"],
        Field(description="Neighbouring relation; under `add_or_remove_one` the number of units is secret."),
    ] = "zero_out"
    sampling_probability: Annotated[
        float | None, Field(gt=0, le=1, description="Chance of a unit to be in a batch, under `add_or_remove_one`.")
    ] = None
    per_layer: Annotated[bool, Field(description="Clip each layer's gradient to its share of the norm.")] = False
    hardened: Annotated[bool, Field(description="Noise that resists floating-point attacks.")] = False
    adaptive: AdaptiveSection | None = None
    noise: NoiseSection = NoiseSection()
    users: UsersSection | None = None
    audit: Annotated[
        Literal["none", "mechanism"],
        Field(
            description="`mechanism`: test clipping and noise with made-up canaries before any data is read. "
            "Default; `engine: tensorflow_privacy` has `none`."
        ),
    ] = "mechanism"

    @model_validator(mode="before")
    @classmethod
    def _audit_of_the_engine(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("engine") == "tensorflow_privacy":
            return {"audit": "none", **value}
        return value

    @model_validator(mode="after")
    def _one_source_of_noise(self) -> DpSgdSection:
        require_one_target(self.target_epsilon, self.noise_multiplier)
        return self

    @model_validator(mode="after")
    def _sampling_fits(self) -> DpSgdSection:
        if self.truncate_at is not None and self.sampling != "truncated_poisson":
            raise ValueError("`truncate_at` goes with `sampling: truncated_poisson`")
        if self.relation == "add_or_remove_one":
            if self.sampling_probability is None:
                raise ValueError(
                    "`relation: add_or_remove_one` needs a `sampling_probability`: the data's size is secret"
                )
            if self.sampling != "poisson":
                raise ValueError(f"`sampling: {self.sampling}` has no guarantee under `relation: add_or_remove_one`")
        elif self.sampling_probability is not None:
            raise ValueError("under `relation: zero_out` the probability follows from `training.batch_size`; drop it")
        return self

    @model_validator(mode="after")
    def _engine_can(self) -> DpSgdSection:
        if self.engine == "native":
            return self
        cannot = {
            "sampling": self.sampling not in ("poisson", "shuffled"),
            "per_layer": self.per_layer,
            "hardened": self.hardened,
            "adaptive": self.adaptive is not None,
            "noise": self.noise.correlation != "none",
            "users": self.users is not None,
            "audit": self.audit != "none",
        }
        for name, asked in cannot.items():
            if asked:
                raise ValueError(f"`engine: tensorflow_privacy` cannot do this `{name}`; use `engine: native`")
        return self
