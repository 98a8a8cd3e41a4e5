"""The YAML file of an experiment as frozen pydantic models, and its grid of settings."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from federated.clients.splits import IidSplit, LabelSkewSplit, QuantitySkewSplit, Split
from federated.experiments.inputs import Inputs
from privacy_pipeline.config.extensions import algorithms, either
from privacy_pipeline.config.messages import explain
from privacy_pipeline.config.models.base import Name, Section
from privacy_pipeline.config.models.dataset import DatasetConfig, KeyedUnit
from privacy_pipeline.config.models.dp import Delta, PositiveFloat
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.config.models.federated_privacy import (
    DistributedSection,
    SiloMechanism,
    check_distributed,
    not_of_silos,
)
from privacy_pipeline.config.models.ranges import ClippingNorm, LearningRate, NoiseMultiplier
from privacy_pipeline.config.source import Document, Origin, apply_overrides, read_document
from privacy_pipeline.config.yaml_text import DEEPEST
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value

MOST_RUNS = 1_000  # of a grid; each is a training

PositiveInt = Annotated[int, Field(ge=1)]


class ByColumn(Section):
    """Each value of a column is one client: a person, or, cross-silo, a site."""

    column: Annotated[str, Field(min_length=1, description="Default: the key of the dataset's privacy unit.")]


class ByRule(Section):
    """Synthetic clients: rows are dealt out by a stated rule. No user-level guarantee is given for them."""

    rule: Literal["iid", "label_skew", "quantity_skew"]
    clients: PositiveInt
    alpha: Annotated[PositiveFloat, Field(description="Dirichlet concentration: the smaller, the more skewed.")] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0

    def split(self, *, clients: int | None = None) -> Split:
        """Return the rule; with another number of clients where one is given."""
        number = clients or self.clients
        if self.rule == "iid":
            return IidSplit(clients=number, seed=self.seed)
        kind = LabelSkewSplit if self.rule == "label_skew" else QuantitySkewSplit
        return kind(clients=number, alpha=self.alpha, seed=self.seed)


class ModelSection(Section):
    """A multi-layer perceptron over the publicly scaled columns; no hidden layer is logistic regression."""

    hidden_units: list[PositiveInt] = Field(default=[32])


class AdaptiveSection(Section):
    """The clipping norm follows a quantile of the updates' norms (Andrew et al. 2021)."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    learning_rate: LearningRate = 0.2
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
    noise_multiplier: NoiseMultiplier | None = None
    delta: Delta
    clipping_norm: Annotated[ClippingNorm, Field(description="L2 bound of a client's update; the first, if adaptive.")]
    adaptive: AdaptiveSection | None = None
    mechanism: Annotated[
        Literal["gaussian", "skellam", "discrete_gaussian"],
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
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give exactly one of `target_epsilon` and `noise_multiplier`")
        if self.mechanism == "gaussian" and self.scheme != "poisson":
            raise ValueError("`mechanism: gaussian` draws clients by `sampling: poisson` in an experiment")
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
        return self.sampling or ("poisson" if self.mechanism == "gaussian" else "shuffled")


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


class ExperimentConfig(Section):
    """One experiment. Relative paths are relative to the folder the command runs in."""

    experiment: Name
    data: DataSection
    model: ModelSection = ModelSection()
    rounds: PositiveInt
    clients_per_round: Annotated[int, Field(ge=1, description="With a privacy block: the expected number.")]
    algorithm: FederatedAlgorithm = FederatedAlgorithm()
    privacy: PrivacySection | None = None
    silo_privacy: SiloPrivacySection | None = None
    evaluation: EvaluationSection = EvaluationSection()
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[1], min_length=1)
    sweep: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field(
        default={},
        description="Grid: dotted key of this file -> values, e.g. clients_per_round: [20, 50].",
    )
    folder: Annotated[Path, Field(description="Where runs go, each in a folder of its own.")] = Path(
        "workspace/federated"
    )
    ledger: Annotated[str, Field(description="SQLAlchemy URL of the budget ledger.")] = "sqlite:///ledger/ledger.db"

    @property
    def claims_guarantee(self) -> bool:
        """Whether a run adds noise and asks the ledger."""
        return self.privacy is not None or self.silo_privacy is not None

    @model_validator(mode="after")
    def _a_client_can_train_alone(self) -> ExperimentConfig:
        if self.evaluation.personalize and not self.algorithm.rules.trains_alone:
            able = either([name for name, rules in algorithms().items() if rules.trains_alone])
            raise ValueError(
                f"`evaluation.personalize` fine-tunes on one client alone, which `{self.algorithm.name}` has no steps "
                f"for; take {able}, or drop it"
            )
        return self

    @model_validator(mode="after")
    def _clients_are_the_unit(self) -> ExperimentConfig:
        unit = self.data.dataset.privacy_unit
        key = unit.key if isinstance(unit, KeyedUnit) else None
        if self.privacy is not None and (key is None or self.data.client_column != key):
            raise ValueError(
                "with a `privacy` block the clients must be the dataset's privacy unit (`data.dataset.privacy_unit: "
                "{key: COLUMN}`, no `data.clients`): a guarantee for synthetic clients or silos protects no person"
            )
        if self.privacy is not None and (not self.algorithm.rules.one_update or self.algorithm.engine != "fast"):
            several = either([f"`{name}`" for name, rules in algorithms().items() if not rules.one_update])
            raise ValueError(
                "`privacy` needs `engine: fast`, whose sampling and noise are those that are accounted, and an "
                f"algorithm that sends one clipped update (not {several})"
            )
        return self

    @model_validator(mode="after")
    def _silos_are_the_clients(self) -> ExperimentConfig:
        silos, unit = self.silo_privacy, self.data.dataset.privacy_unit
        if silos is None:
            return self
        if self.privacy is not None:
            raise ValueError("`privacy` protects clients and `silo_privacy` the records of each; give one of the two")
        if not isinstance(self.data.clients, ByColumn):
            raise ValueError("`silo_privacy` needs `data.clients: {column: COLUMN}`, which names a row's silo")
        if isinstance(unit, KeyedUnit) and self.data.clients.column == unit.key:
            raise ValueError(
                f"`silo_privacy` protects each '{unit.key}' inside its silo; name the silo's column in `data.clients`"
            )
        if self.clients_per_round != len(silos.silos):
            raise ValueError(
                f"every silo takes part in every round of `silo_privacy`: set `clients_per_round` to {len(silos.silos)}"
            )
        reason = not_of_silos(self.algorithm)
        if reason is not None:
            raise ValueError(reason)
        return self


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of an experiment: settings without a grid, and one seed.

    Attributes:
        config: the settings; `sweep` is empty, `seeds` holds the seed.
        settings: what the grid set, by dotted key.
        name: of the run; a function of settings and seed, and of `inputs`, so that the same run is found again.
        inputs: what a run comes from; None until `federated.experiments.binding` has read it.
    """

    config: ExperimentConfig
    settings: dict[str, JsonValue]
    name: str
    inputs: Inputs | None = None

    @property
    def seed(self) -> int:
        """Seed of initial weights and, without a privacy block, of the cohorts. Noise never comes from it."""
        return self.config.seeds[0]

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.config.folder / self.config.experiment / self.name


def load_experiment(path: Path, *, overrides: Sequence[str] = ()) -> tuple[ExperimentConfig, tuple[Point, ...]]:
    """Read an experiment and its grid; every point of the grid is validated before anything runs.

    Args:
        path: the YAML file.
        overrides: `a.b=value` each.

    Raises:
        BadInputError: one line for each thing that is wrong, naming the line of the file.
    """
    document = read_document(path=path)
    apply_overrides(document=document, overrides=overrides)
    config = _validated(document)
    _require_few(config, document)
    document.data.pop("sweep", None)  # each point has a copy of the rest
    points = []
    for values in itertools.product(*config.sweep.values()):
        settings = dict(zip(config.sweep, values, strict=True))
        for seed in config.seeds:
            points.append(_point(document, settings, seed))
    if len({point.name for point in points}) < len(points):
        raise BadInputError(f"{path}: the grid has the same settings and seed twice", fix="check `sweep` and `seeds`")
    return config, tuple(points)


def _require_few(config: ExperimentConfig, document: Document) -> None:
    runs = math.prod(map(len, config.sweep.values())) * len(config.seeds)
    if runs > MOST_RUNS:
        raise BadInputError(
            f"{document.where(('sweep',))}: the grid has more than {MOST_RUNS:,} runs", fix="give fewer values or seeds"
        )
    for dotted in config.sweep:
        if dotted.count(".") >= DEEPEST:
            raise BadInputError(f"{document.where(('sweep', dotted))}: sweep: a key is nested too deeply")


def point_from_json(text: str) -> Point:
    """Return the point that `Point.config` was written from as JSON, with its settings.

    Raises:
        BadInputError: it is not a point.
    """
    try:
        found = json_value(text)
        config = ExperimentConfig.model_validate_json(json.dumps(found["config"]))
        inputs = Inputs.from_json(found["inputs"]) if "inputs" in found else None  # older versions kept none
        return Point(config=config, settings=found["settings"], name=found["name"], inputs=inputs)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"this is not a run of an experiment: {error}") from None


def point_to_json(point: Point) -> str:
    """Return a point as JSON, to be read by `point_from_json`."""
    # What was not written stays unwritten: some sections refuse a field, default or not, that does nothing in them.
    config = point.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    inputs = {} if point.inputs is None else {"inputs": asdict(point.inputs)}
    return json.dumps({"name": point.name, "settings": point.settings, **inputs, "config": config}, indent=1)


def _point(document: Document, settings: dict[str, JsonValue], seed: int) -> Point:
    changed = dataclasses.replace(document, data=copy.deepcopy(document.data), origins=dict(document.origins))
    changed.data["seeds"] = [seed]
    for dotted, value in settings.items():
        _set(changed, dotted, value)
    config = _validated(changed)
    identity = config.model_dump(mode="json", exclude={"folder", "ledger"})
    if config.privacy is not None and config.privacy.distributed is None:
        # Not there when runs were named first: the same settings keep their names, and are not charged again.
        for name in ("mechanism", "distributed", "sampling"):
            del identity["privacy"][name]
    for name in ("privacy", "silo_privacy"):
        # What is audited changes no run: settings keep the names that they had before there was an audit.
        if identity[name] is not None:
            del identity[name]["audit"]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Point(config=config, settings=settings, name=f"{digest[:10]}-s{seed}")


def _set(document: Document, dotted: str, value: JsonValue) -> None:
    """Set a value of the grid; errors in it point to the grid's line."""
    keys = dotted.split(".")
    origin = document.origin(("sweep", dotted))
    current: Any = document.data
    for key in keys[:-1]:
        current = current.setdefault(key, {})
        if not isinstance(current, dict):
            raise BadInputError(
                f"{document.name}:{origin.line}: sweep: `{dotted}` leads through a value, not a mapping"
            )
    current[keys[-1]] = value
    document.origins[tuple(keys)] = Origin(line=origin.line, override=origin.override)


def _validated(document: Document) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise explain(error=error, document=document, root=ExperimentConfig) from None
