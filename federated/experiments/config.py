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
from typing import Annotated, Any

from pydantic import Field, JsonValue, ValidationError, model_validator

from federated.experiments.inputs import Inputs
from federated.experiments.sections import (
    ByColumn,
    DataSection,
    EvaluationSection,
    ModelSection,
    PositiveInt,
    PrivacySection,
    SiloPrivacySection,
)
from privacy_pipeline.config.extensions import algorithms, either
from privacy_pipeline.config.messages import explain
from privacy_pipeline.config.models.base import Name, Section
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.config.models.federated_privacy import not_of_silos
from privacy_pipeline.config.source import Document, Origin, apply_overrides, read_document
from privacy_pipeline.config.yaml_text import DEEPEST
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value

MOST_RUNS = 1_000  # of a grid; each is a training


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
    if config.privacy is not None and (config.privacy.mechanism, config.privacy.scheme) == ("gaussian", "poisson"):
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
