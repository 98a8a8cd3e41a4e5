"""The sections of an experiment's YAML file as frozen pydantic models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from federated.clients.splits import IidSplit, LabelSkewSplit, QuantitySkewSplit, Split
from privacy_pipeline.config.extensions import ExperimentProtectionName, either, protections
from privacy_pipeline.config.models.base import Section
from privacy_pipeline.config.models.dataset import DatasetConfig, KeyedUnit
from privacy_pipeline.config.models.dp import Delta, PositiveFloat, require_one_target
from privacy_pipeline.config.models.federated_privacy import DistributedSection, SiloMechanism, check_distributed
from privacy_pipeline.config.models.ranges import ClippingNorm, LearningRate, NoiseMultiplier

PositiveInt = Annotated[int, Field(ge=1)]


class ByColumn(Section):
    """Each value of a column is one client: a person, or, cross-silo, a site."""

    column: Annotated[str, Field(min_length=1, description="Default: the key of the dataset's privacy unit.")]


class ByRule(Section):
    """Synthetic clients: rows are dealt out by a stated rule. No user-level guarantee is given for them."""

    rule: Annotated[Literal["iid", "label_skew", "quantity_skew"], Field(description="How rows are dealt out.")]
    clients: Annotated[PositiveInt, Field(description="How many.")]
    alpha: Annotated[PositiveFloat, Field(description="Dirichlet concentration: the smaller, the more skewed.")] = 1.0
    seed: Annotated[int, Field(ge=0, description="Of the dealing.")] = 0

    def split(self, *, clients: int | None = None) -> Split:
        """Return the rule; with another number of clients where one is given."""
        number = clients or self.clients
        if self.rule == "iid":
            return IidSplit(clients=number, seed=self.seed)
        kind = LabelSkewSplit if self.rule == "label_skew" else QuantitySkewSplit
        return kind(clients=number, alpha=self.alpha, seed=self.seed)


class ModelSection(Section):
    """A multi-layer perceptron over the publicly scaled columns; no hidden layer is logistic regression."""

    hidden_units: list[PositiveInt] = Field(default=[32], description="Widths of the hidden layers.")


class AdaptiveSection(Section):
    """The clipping norm follows a quantile of the updates' norms (Andrew et al. 2021)."""

    quantile: Annotated[float, Field(gt=0, lt=1, description="Share of clients to be left unclipped.")] = 0.5
    learning_rate: Annotated[LearningRate, Field(description="Of the logarithm of the norm.")] = 0.2
    count_noise: Annotated[
        PositiveFloat | None,
        Field(description="Noise on the number of unclipped clients; default: a twentieth of `clients_per_round`."),
    ] = None


class PrivacySection(Section):
    """User-level differential privacy: a client is what is protected.

    Clients are sampled by Poisson, and the server adds Gaussian noise; or the clients add shares of it, and each is in
    one round of an epoch.
    """

    target_epsilon: Annotated[PositiveFloat | None, Field(description="Give this or `noise_multiplier`.")] = None
    noise_multiplier: Annotated[
        NoiseMultiplier | None, Field(description="Standard deviation of the noise of the sum over the clipping norm.")
    ] = None
    delta: Delta
    clipping_norm: Annotated[ClippingNorm, Field(description="L2 bound of a client's update; the first, if adaptive.")]
    adaptive: AdaptiveSection | None = None
    mechanism: Annotated[
        str,
        ExperimentProtectionName,
        Field(description="Whose noise: the server's, or shares of the clients, which need `distributed`."),
    ] = "gaussian"
    distributed: DistributedSection | None = None
    sampling: Annotated[
        Literal["poisson", "shuffled", "cyclic"] | None,
        Field(description="Default: `poisson` for `gaussian`, its only one; `shuffled` for the others, or `cyclic`."),
    ] = None
    dropout: Annotated[float, Field(ge=0, lt=1, description="Share of the drawn clients that do not report.")] = 0.0
    straggler: Annotated[float, Field(ge=0, lt=1, description="Share of the others that report too late.")] = 0.0
    audit: Annotated[
        Literal["none", "mechanism"],
        Field(description="`mechanism`: test the aggregation with made-up canaries before any data is read."),
    ] = "mechanism"

    @model_validator(mode="after")
    def _one_target(self) -> PrivacySection:
        require_one_target(self.target_epsilon, self.noise_multiplier)
        allowed = protections()[self.mechanism]
        if self.scheme not in allowed.experiments and not allowed.integers:
            only = either([f"`sampling: {name}`" for name in allowed.experiments])
            raise ValueError(f"`mechanism: {self.mechanism}` draws clients by {only} in an experiment")
        check_distributed(
            mechanism=self.mechanism,
            distributed=self.distributed,
            sampling=self.scheme,
            adaptive=self.adaptive is not None,
            absent=self.dropout > 0 or self.straggler > 0,
        )
        return self

    @property
    def scheme(self) -> str:
        """How clients are drawn, default filled in."""
        return self.sampling or protections()[self.mechanism].experiments[0]


class SiloPrivacySection(SiloMechanism):
    """DP-SGD inside each silo, which `data.clients: {column: COLUMN}` names."""

    sampling_probability: Annotated[
        float, Field(gt=0, le=1, description="Chance of each unit to be in each step of its silo; one for all silos.")
    ]


class EvaluationSection(Section):
    """When the model is evaluated on the clients of the eval split."""

    every: Annotated[int, Field(ge=1, description="Rounds between evaluations; the last round is always one.")] = 10
    personalize: Annotated[
        int,
        Field(
            ge=0,
            description="Number of clients of the eval split, the first ones, on each of which alone the final model "
            "is fine-tuned with half of the client's rows, and evaluated on the others.",
        ),
    ] = 0


class DataSection(Section):
    """Whose data."""

    dataset: DatasetConfig
    clients: ByColumn | ByRule | None = None

    @model_validator(mode="after")
    def _someone_owns_rows(self) -> DataSection:
        if self.clients is None and not isinstance(self.dataset.privacy_unit, KeyedUnit):
            raise ValueError(
                "say who the clients are: `dataset.privacy_unit: {key: COLUMN}`, `clients: {column: COLUMN}`, or a "
                "rule such as `clients: {rule: iid, clients: 100}`"
            )
        if self.dataset.positive_class is None:
            raise ValueError("an experiment has two classes: name `positive_class`, a value of the label")
        if self.dataset.schema_path == "infer":
            raise ValueError("clients need a curated public schema: ranges read off the data would leak between them")
        if self.dataset.format != "csv" or self.dataset.hash_split is not None:
            raise ValueError("an experiment reads CSV files with one `input` pattern for each split")
        if isinstance(self.dataset.span, tuple):
            raise ValueError("an experiment reads one span; `privacy-pipeline run` reads several together")
        return self

    @property
    def client_column(self) -> str | None:
        """Column whose values are the clients; None for synthetic ones."""
        if isinstance(self.clients, ByColumn):
            return self.clients.column
        unit = self.dataset.privacy_unit
        return unit.key if self.clients is None and isinstance(unit, KeyedUnit) else None
