"""The whole YAML file as frozen pydantic models.

Every key that a config may hold is declared here; anything else is refused. The models use no files, data or backends:
they check shapes and ranges, and the layers above check the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from privacy_pipeline.config.dp_models import DP_DEFAULTS, Delta, DpSgdSection, PositiveFloat
from privacy_pipeline.config.encrypted_models import EncryptedPolicy, EncryptedSection
from privacy_pipeline.config.extensions import (
    BackendName,
    MetricName,
    require_settings,
    settings_of_backend,
    without_empty_settings,
)
from privacy_pipeline.config.federated_privacy import FederatedSection
from privacy_pipeline.config.ranges import LearningRate
from privacy_pipeline.config.tuning_models import TuningSection
from privacy_pipeline.spans import Span

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
DottedName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class KeyedUnit(Section):
    """A privacy unit that owns several rows, named by a key column."""

    key: Annotated[str, Field(min_length=1, description="Column that names the unit; it never enters the model.")]
    contribution_bound: Annotated[
        int, Field(ge=1, description="At most this many rows of one unit are trained on.")
    ] = 1


PrivacyUnit = Literal["row"] | KeyedUnit
_Number = Annotated[int, Field(ge=0)]


class DatasetConfig(Section):
    """Where the data is, how it is split, and whose privacy is at stake."""

    name: Annotated[Name, Field(description="Name of the dataset in the ledger.")]
    path: Annotated[Path, Field(description="Folder that holds the spans.")]
    format: Annotated[Literal["csv", "tfrecord"], Field(description="Of the files.")] = "csv"
    input: Annotated[
        str | dict[Literal["train", "eval"], str],
        Field(
            description="Glob below `path`, with {SPAN} and {VERSION} where wanted: one pattern for each split, or a "
            "single pattern that `hash_split` divides."
        ),
    ] = {"train": "span-{SPAN}/train/*", "eval": "span-{SPAN}/eval/*"}
    hash_split: Annotated[
        dict[Literal["train", "eval"], Annotated[int, Field(ge=1)]] | None,
        Field(description="Buckets for each split of a single source, by hash of the privacy unit's key."),
    ] = None
    span: Annotated[
        Literal["latest"] | _Number | Annotated[tuple[_Number, ...], Field(min_length=1)],
        Field(description="Span to train on; or a list of several that are read together, as one data set."),
    ] = "latest"
    version: Annotated[
        Literal["latest"] | Annotated[int, Field(ge=0)], Field(description="Version of the span to train on.")
    ] = "latest"
    schema_path: Annotated[
        Path | Literal["infer"],
        Field(
            alias="schema",
            description="Curated public schema (TFDV text format), or `infer` for runs that claim no privacy.",
        ),
    ]
    label: Annotated[str, Field(min_length=1, description="Column to predict.")]
    positive_class: Annotated[str | int, Field(description="Value of the label that counts as positive.")]
    privacy_unit: PrivacyUnit = "row"

    @field_validator("span")
    @classmethod
    def _one_form_of_several_spans(cls, span: str | int | tuple[int, ...]) -> str | int | tuple[int, ...]:
        if not isinstance(span, tuple):
            return span
        twice = sorted(number for number, times in Counter(span).items() if times > 1)
        if twice:
            raise ValueError(f"span {twice[0]} is named twice: its rows would be read twice")
        return tuple(sorted(span)) if len(span) > 1 else span[0]

    @property
    def task(self) -> str:
        """Name of the task, which is that of every dataset: one of the label's values is the positive class."""
        return "binary"

    @property
    def named_span(self) -> Span:
        """The span, or the several, that the config names; None for `latest`, and so where there are no spans."""
        return None if isinstance(self.span, str) else self.span

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DatasetConfig:
        if isinstance(self.input, str) and self.hash_split is None:
            raise ValueError("a single `input` pattern needs `hash_split`, for example {train: 4, eval: 1}")
        if not isinstance(self.input, str) and self.hash_split is not None:
            raise ValueError("`hash_split` divides a single `input` pattern; give one pattern, or drop `hash_split`")
        if not isinstance(self.input, str) and set(self.input) != {"train", "eval"}:
            raise ValueError("`input` needs a pattern for `train` and one for `eval`")
        if self.hash_split is not None and set(self.hash_split) != {"train", "eval"}:
            raise ValueError("`hash_split` needs buckets for `train` and for `eval`")
        return self


class DpStatisticsSection(Section):
    """Noisy ranges and domains of the columns for which the schema has none, charged to the train split's units."""

    epsilon: Annotated[PositiveFloat, Field(description="Epsilon of one release: all such columns share it evenly.")]
    delta: Delta


class PreprocessingSection(Section):
    """What preprocessing may learn from the data. Without a block: nothing, the schema states it all."""

    dp: Annotated[
        DpStatisticsSection | None,
        Field(description="Release the ranges and domains that the schema leaves out, with differential privacy."),
    ] = None


def _from_name(value: object) -> object:
    return {"use": value} if isinstance(value, str) else value


class ModelSection(Section):
    """The model: the framework's tabular network, or importable functions of the user's.

    A user's module may define `preprocessing_fn(inputs, custom_config)` and `build_model(context)`; whichever it does
    not define is the framework's. They run where there is neither data nor network; `trust: reviewed` lets them run
    beside the data.
    """

    use: Annotated[DottedName, Field(description="`tabular`, or an importable module of yours.")] = "tabular"
    hidden_units: Annotated[list[Annotated[int, Field(ge=1)]], Field(description="Widths of the hidden layers.")] = [
        64,
        32,
    ]
    dropout: Annotated[float, Field(ge=0, lt=1, description="After each hidden layer, in training.")] = 0.0
    params: Annotated[dict[str, JsonValue], Field(description="Handed to your functions as they are.")] = {}
    files: Annotated[
        list[Path], Field(description="Public files that your functions read: all they see beside your module.")
    ] = []
    trust: Annotated[
        Literal["reviewed"] | None,
        Field(description="`reviewed`: your functions run beside the data, and the record lists them as not checked."),
    ] = None

    @property
    def runs_beside_data(self) -> bool:
        """Whether code of a user's runs in a process that can reach the data."""
        return self.use != "tabular" and self.trust == "reviewed"

    @property
    def is_built_apart(self) -> bool:
        """Whether code of a user's runs, away from the data."""
        return self.use != "tabular" and self.trust is None


class TrainingSection(Section):
    """Which backend trains, and for how long."""

    backend: Annotated[str, BackendName]
    epochs: Annotated[
        int,
        Field(
            ge=1,
            description=f"Passes over the data; with dp_sgd {DP_DEFAULTS.epochs}. With federated, expected rounds of "
            "each client.",
        ),
    ] = 10
    batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            description="Rows (or units) of a step; the expected number where batches are samples. With federated, "
            f"clients of a round. Default: 256, with dp_sgd one in {DP_DEFAULTS.batches} of the units.",
        ),
    ] = None
    learning_rate: Annotated[
        LearningRate,
        Field(description=f"With dp_sgd the default is {DP_DEFAULTS.learning_rate:g}; federated has its own."),
    ] = 1e-3
    optimizer: Annotated[Literal["adam", "sgd"], Field(description="Federated has two of its own.")] = "adam"
    seed: Annotated[
        int | None,
        Field(ge=0, description="Fixes initial weights and shuffling. In a DP run it voids the guarantee."),
    ] = None
    dp_sgd: DpSgdSection | None = None
    federated: FederatedSection | None = None
    encrypted: EncryptedSection | None = None
    tuning: TuningSection | None = None
    settings: Annotated[
        dict[str, JsonValue], Field(description="Of a backend that has settings of its own, as extensions may add.")
    ] = {}

    @property
    def claims_guarantee(self) -> bool:
        """Whether the training adds noise and asks the ledger; a fixed seed voids the guarantee, not the charge."""
        federated = self.federated
        user_level = federated is not None and federated.privacy is not None
        return self.dp_sgd is not None or user_level or self.silo_column is not None

    @property
    def silo_column(self) -> str | None:
        """Column that names a row's silo, where each silo protects its own records; else None."""
        silos = None if self.federated is None else self.federated.silo_privacy
        return None if silos is None else silos.column

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_dp_sgd(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        block = value.get("encrypted")
        with_dp = isinstance(block, dict) and block.get("train_with") == "dp_sgd"
        if value.get("backend") != "dp_sgd" and not (value.get("backend") == "encrypted" and with_dp):
            return value
        return {"epochs": DP_DEFAULTS.epochs, "learning_rate": DP_DEFAULTS.learning_rate, **value}

    @property
    def trainer(self) -> str:
        """What trains the model: the backend itself, or the one that `encrypted` names."""
        if self.backend == "encrypted":
            return self.encrypted.train_with if self.encrypted else "plain"
        return self.backend

    def batch(self, *, units: int) -> int:
        """Return the units of a step, or their expected number.

        Args:
            units: units of the training split; public, or the config gives `batch_size`.
        """
        if self.batch_size is not None:
            return self.batch_size
        return DP_DEFAULTS.batch_size(units) if self.trainer == "dp_sgd" else 256

    @model_validator(mode="after")
    def _block_of_the_backend(self) -> TrainingSection:
        if (self.backend == "encrypted") != (self.encrypted is not None):
            raise ValueError("backend encrypted needs an `encrypted` block, and no other backend takes one")
        if self.trainer == "dp_sgd" and self.dp_sgd is None:
            raise ValueError("backend dp_sgd needs a `dp_sgd` block with `delta` and `target_epsilon`")
        if self.trainer != "dp_sgd" and self.dp_sgd is not None:
            raise ValueError(f"backend {self.backend} takes no `dp_sgd` block; remove it, or set backend: dp_sgd")
        if (self.backend == "federated") != (self.federated is not None):
            raise ValueError("backend federated and the `federated` block go together; give both or neither")
        if self.federated is not None:
            self._not_of_federated()
        if self.dp_sgd is not None and self.dp_sgd.relation == "add_or_remove_one" and self.batch_size is None:
            raise ValueError("give `batch_size` under `relation: add_or_remove_one`: the data's size is secret")
        require_settings(settings_of_backend(self.backend), self.settings, of=f"backend: {self.backend}")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_settings(self, write: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        return without_empty_settings(write(self))

    @model_validator(mode="after")
    def _tuning_that_is_accounted(self) -> TrainingSection:
        if self.tuning is None:
            return self
        if self.backend not in ("plain", "dp_sgd"):
            raise ValueError(f"`tuning` goes with backend plain or dp_sgd, not with {self.backend}; drop it")
        if self.dp_sgd is None and self.tuning.space.clipping_norm is not None:
            raise ValueError(f"backend {self.backend} has no `clipping_norm`; drop it from tuning.space")
        if self.dp_sgd is not None and self.seed is not None:
            raise ValueError("`seed` gives each trial of a `tuning` the same noise; drop one of the two")
        if self.dp_sgd is not None and self.dp_sgd.sampling == "truncated_poisson":
            raise ValueError("`tuning` is not accounted for `sampling: truncated_poisson`; use poisson")
        return self

    def _not_of_federated(self) -> None:
        fields = type(self).model_fields
        for name in ("learning_rate", "optimizer"):
            if getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"`{name}` does nothing in backend federated; set `client_optimizer` and `server_optimizer` in "
                    "federated.algorithm"
                )
        if self.batch_size is None:
            raise ValueError(
                "backend federated needs `batch_size`, the (expected) number of clients of a round; with "
                "`silo_privacy`, that of units of a step over all silos"
            )
        made_up = self.federated.clients if self.federated is not None else None
        if made_up is not None and made_up.clients < self.batch_size:
            raise ValueError(f"`batch_size` asks for {self.batch_size} clients a round, of {made_up.clients} in all")


class Threshold(Section):
    """Bounds of one metric: an absolute one, and one against the last blessed model of the same privacy class."""

    min: Annotated[float | None, Field(ge=0, le=1, description="Least value that is accepted.")] = None
    max_decrease: Annotated[
        float | None, Field(ge=0, le=1, description="Largest drop below the last blessed model that is accepted.")
    ] = None

    @model_validator(mode="after")
    def _some_bound(self) -> Threshold:
        if self.min is None and self.max_decrease is None:
            raise ValueError("give `min`, `max_decrease` or both")
        return self


Metric = Annotated[str, MetricName]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class DpEvaluationSection(Section):
    """Evaluation with noisy confusion counts, charged to the eval split's own units (policy: `eval_epsilon`)."""

    epsilon: Annotated[PositiveFloat, Field(description="Epsilon of one evaluation: all counts of all slices.")]
    delta: Delta
    decision_threshold: Annotated[
        float, Field(ge=0, lt=1, description="Probability above which a row counts as predicted positive.")
    ] = 0.5


class EvaluationSection(Section):
    """Metrics, slices and the thresholds that a model has to meet."""

    slices: Annotated[
        list[Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]],
        Field(description="Columns to slice by; a list of columns is a crossed slice."),
    ] = []
    thresholds: Annotated[dict[Metric, Threshold], Field(min_length=1)]
    dp: Annotated[
        DpEvaluationSection | None, Field(description="Evaluate with differential privacy; without it, exactly.")
    ] = None

    @model_validator(mode="after")
    def _thresholds_that_noisy_counts_can_show(self) -> EvaluationSection:
        if self.dp is None:
            return self
        if "auc" in self.thresholds:
            raise ValueError(
                "`dp` has no auc: it does not follow from confusion counts at one decision threshold; set thresholds "
                "on accuracy, precision or recall"
            )
        for name, bound in self.thresholds.items():
            if bound.max_decrease is not None:
                raise ValueError(
                    f"`dp` has no baseline to compare with: replace `max_decrease` of thresholds.{name} by `min`"
                )
        return self


class PolicySection(Section):
    """What PrivacyGate demands beside the quality thresholds."""

    max_epsilon: Annotated[
        PositiveFloat | None, Field(description="Largest epsilon of a run that PrivacyGate accepts.")
    ] = None
    max_delta: Annotated[Delta | None, Field(description="Largest delta of a run that PrivacyGate accepts.")] = None
    encrypted: EncryptedPolicy = EncryptedPolicy()


class PushSection(Section):
    """Where blessed models go, each in a numbered folder of its own."""

    directory: Annotated[
        Path | None, Field(description="Default: `pushed/`, then the name of the pipeline, in the workspace.")
    ] = None


class SqliteMetadata(Section):
    """ML Metadata in a SQLite file (default: `metadata.db` in the workspace)."""

    kind: Literal["sqlite"] = "sqlite"
    path: Annotated[Path | None, Field(description="The file.")] = None


def _without_password(value: str) -> str:
    """Do not show the value, which may hold `user:password@host`."""
    if "@" in value or re.fullmatch(r"[^:\[]+:[^:]*", value):
        raise ValueError("holds more than one name; host, port and user have fields of their own, a password has none")
    return value


def _variable(value: str) -> str:
    """Do not show the value, which may be the password itself."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("names no environment variable: letters, digits and _; the password itself has no place here")
    return value


class ServerMetadata(Section):
    """ML Metadata in a MySQL or PostgreSQL server; the password comes from the environment."""

    kind: Literal["mysql", "postgresql"]
    host: Annotated[str, AfterValidator(_without_password)]
    port: Annotated[int, Field(ge=1, le=65535)]
    database: str
    user: Annotated[str, AfterValidator(_without_password)]
    password_env: Annotated[
        str, AfterValidator(_variable), Field(description="Environment variable that holds the password.")
    ]


class BeamSection(Section):
    """How Beam runs the data work. Without arguments: one in-memory worker in the node's own process."""

    args: Annotated[list[str], Field(description="Beam pipeline options, for example --runner=DataflowRunner.")] = []


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
    def _dp_needs_a_public_schema(self) -> PipelineConfig:
        if self.training.claims_guarantee and self.dataset.schema_path == "infer":
            raise ValueError("a DP run needs a curated public schema: `schema: infer` reads it off the private data")
        return self

    @model_validator(mode="after")
    def _dp_statistics_of_a_dp_run(self) -> PipelineConfig:
        # plain protects nothing, and in federated learning nobody holds all rows to release statistics of them.
        if self.preprocessing.dp is not None and self.training.backend != "dp_sgd":
            raise ValueError(
                f"preprocessing.dp goes with backend dp_sgd, not with {self.training.backend}; drop `dp` and state "
                "ranges and domains in the schema, or train with dp_sgd"
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
