"""The whole YAML file as frozen pydantic models; sections have modules beside this one.

Every key that a config may hold is declared here; anything else is refused. The models use no files, data or backends:
they check shapes and ranges, and the layers above check the rest.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from privacy_pipeline.config.extensions import backends, either
from privacy_pipeline.config.models.base import DottedName, Name, Section
from privacy_pipeline.config.models.dataset import DatasetConfig, KeyedUnit, PreprocessingSection
from privacy_pipeline.config.models.evaluation import EvaluationSection, PolicySection, PushSection
from privacy_pipeline.config.models.model import ModelSection
from privacy_pipeline.config.models.storage import BeamSection, ServerMetadata, SqliteMetadata
from privacy_pipeline.config.models.training import TrainingSection
from privacy_pipeline.tasks import registry as tasks


def _from_name(value: object) -> object:
    return {"use": value} if isinstance(value, str) else value


class PipelineConfig(Section):
    """One YAML file. Relative paths are relative to the folder the command runs in."""

    pipeline: Annotated[Name, Field(description="Name of the pipeline; its runs share baselines and cache.")]
    dataset: DatasetConfig
    preprocessing: PreprocessingSection = PreprocessingSection()
    model: Annotated[ModelSection, BeforeValidator(_from_name, json_schema_input_type=DottedName | ModelSection)] = (
        ModelSection()
    )
    training: TrainingSection
    evaluation: EvaluationSection
    policy: PolicySection = PolicySection()
    push: PushSection = PushSection()
    workspace: Annotated[Path, Field(description="Folder of runs, caches, models and metadata.")] = Path("workspace")
    metadata: Annotated[SqliteMetadata | ServerMetadata, Field(discriminator="kind")] = SqliteMetadata()
    ledger: Annotated[str, Field(description="SQLAlchemy URL of the budget ledger.")] = "sqlite:///ledger/ledger.db"
    beam: BeamSection = BeamSection()
    cache: Annotated[bool, Field(description="Reuse results of nodes whose inputs and code did not change.")] = True

    @model_validator(mode="after")
    def _parts_that_go_with_the_task(self) -> PipelineConfig:
        task = tasks.of(self.dataset)
        for key, instead in task.cannot.items():
            if attrgetter(key)(self) is not None:
                raise ValueError(f"{key} does not go with task {task.name}: {instead}")
        known = [metric.name for metric in task.metrics]
        for name in self.evaluation.thresholds:
            if name not in known:
                raise ValueError(
                    f"evaluation.thresholds.{name}: task {task.name} has no such metric; one of {', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _dp_needs_a_public_schema(self) -> PipelineConfig:
        if self.training.claims_guarantee and self.dataset.schema_path == "infer":
            raise ValueError("a DP run needs a curated public schema: `schema: infer` reads it off the private data")
        return self

    @model_validator(mode="after")
    def _dp_statistics_of_a_dp_run(self) -> PipelineConfig:
        known = backends()
        if self.preprocessing.dp is not None and not known[self.training.backend].dp_statistics:
            instead = either([name for name, listed in known.items() if listed.dp_statistics])
            raise ValueError(
                f"preprocessing.dp goes with backend {instead}, not with {self.training.backend}; drop `dp` and state "
                f"ranges and domains in the schema, or train with {instead}"
            )
        return self

    @model_validator(mode="after")
    def _several_spans_are_one_training(self) -> PipelineConfig:
        """Refuse what is charged or counted span by span so far, rather than charge it wrongly."""
        if not isinstance(self.dataset.span, tuple):
            return self
        if self.preprocessing.dp is not None:
            raise ValueError(
                "preprocessing.dp releases statistics of one span; state ranges and domains in the schema, or name one "
                "span in dataset.span"
            )
        if self.training.silo_column is not None:
            raise ValueError("training.federated.silo_privacy states the silos of one span; name one in dataset.span")
        return self

    @model_validator(mode="after")
    def _dp_evaluation_of_a_dp_run(self) -> PipelineConfig:
        # So its schema is public, which the slices' values need.
        if self.evaluation.dp is not None and not self.training.claims_guarantee:
            raise ValueError(
                "evaluation.dp: this training gives no guarantee, so a private evaluation of it would protect nothing; "
                "drop `dp`, or train with dp_sgd or with training.federated.privacy or silo_privacy"
            )
        return self

    @model_validator(mode="after")
    def _tuning_reads_the_eval_split(self) -> PipelineConfig:
        if self.training.tuning is not None and self.evaluation.dp is not None:
            raise ValueError(
                "training.tuning scores each trial exactly on the eval split, whose units `evaluation.dp` protects; "
                "drop one of the two"
            )
        return self

    @model_validator(mode="after")
    def _clients_are_units_or_made_up(self) -> PipelineConfig:
        section, unit = self.training.federated, self.dataset.privacy_unit
        if section is None:
            return self
        if section.silo_privacy is not None:
            column = section.silo_privacy.column
            if column == self.dataset.label or (isinstance(unit, KeyedUnit) and column == unit.key):
                raise ValueError(
                    f"training.federated.silo_privacy.column: '{column}' is the label or the privacy unit's key; name "
                    "the column of the silo"
                )
            return self
        if isinstance(unit, KeyedUnit) and section.clients is not None:
            raise ValueError(f"dataset.privacy_unit names the clients ('{unit.key}'); drop training.federated.clients")
        if not isinstance(unit, KeyedUnit) and section.clients is None:
            raise ValueError(
                "backend federated needs clients: `dataset.privacy_unit: {key: COLUMN}` names them, or "
                "`training.federated.clients` deals rows out to made-up ones"
            )
        return self

    @model_validator(mode="after")
    def _users_own_rows(self) -> PipelineConfig:
        section, unit = self.training.dp_sgd, self.dataset.privacy_unit
        if section is None or section.users is None:
            return self
        if not isinstance(unit, KeyedUnit):
            raise ValueError(
                "training.dp_sgd.users needs `dataset.privacy_unit: {key: COLUMN}`, which names the owner of a row"
            )
        if section.users.max_examples is not None and section.users.max_examples > unit.contribution_bound:
            raise ValueError(
                f"training.dp_sgd.users.max_examples is {section.users.max_examples}, above the "
                f"contribution_bound {unit.contribution_bound} of dataset.privacy_unit"
            )
        return self
