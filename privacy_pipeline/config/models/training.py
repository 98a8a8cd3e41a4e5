"""The config's block on the training: its backend, and the block of that backend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer, model_validator

from privacy_pipeline.config.extensions import (
    BackendName,
    backends,
    either,
    require_settings,
    settings_of_backend,
)
from privacy_pipeline.config.models.base import Section, without_empty
from privacy_pipeline.config.models.dp import DP_DEFAULTS, DpSgdSection
from privacy_pipeline.config.models.encrypted import EncryptedSection
from privacy_pipeline.config.models.federated_privacy import FederatedSection
from privacy_pipeline.config.models.ranges import LearningRate
from privacy_pipeline.config.models.tuning import TuningSection


class TrainingSection(Section):
    """Which backend trains, and for how long."""

    backend: Annotated[str, BackendName, Field(description="What trains; see the table of backends in the README.")]
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
        by_block = self.dp_sgd is not None or user_level or self.silo_column is not None
        return by_block or backends()[self.backend].relation is not None

    @property
    def silo_column(self) -> str | None:
        """Column that names a row's silo, where each silo protects its own records; else None."""
        silos = None if self.federated is None else self.federated.silo_privacy
        return None if silos is None else silos.column

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_dp_sgd(cls, value: object) -> object:
        if not isinstance(value, dict) or value.get("dp_sgd") is None:
            return value
        return {"epochs": DP_DEFAULTS.epochs, "learning_rate": DP_DEFAULTS.learning_rate, **value}

    @property
    def trainer(self) -> str:
        """What trains the model: the backend itself, or the one that its block names."""
        block = backends()[self.backend].block
        section = None if block is None else getattr(self, block)
        named: str = getattr(section, "train_with", self.backend)
        return named

    def batch(self, *, units: int) -> int:
        """Return the units of a step, or their expected number.

        Args:
            units: units of the training split; public, or the config gives `batch_size`.
        """
        if self.batch_size is not None:
            return self.batch_size
        return DP_DEFAULTS.batch_size(units) if self.dp_sgd is not None else 256

    @model_validator(mode="after")
    def _block_of_the_backend(self) -> TrainingSection:
        for name, listed in backends().items():
            if listed.block is None:
                continue
            given, taken = getattr(self, listed.block) is not None, name in (self.backend, self.trainer)
            if taken and not given:
                raise ValueError(f"backend {name} needs its own block, `{listed.block}`")
            if given and not taken:
                raise ValueError(
                    f"backend {self.backend} takes no `{listed.block}` block; remove it, or set backend: {name}"
                )
        if self.federated is not None:
            self._not_of_federated()
        if self.dp_sgd is not None and self.dp_sgd.relation == "add_or_remove_one" and self.batch_size is None:
            raise ValueError("give `batch_size` under `relation: add_or_remove_one`: the data's size is secret")
        require_settings(settings_of_backend(self.backend), self.settings, of=f"backend: {self.backend}")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_settings(self, write: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        return without_empty(write(self), "settings")

    @model_validator(mode="after")
    def _tuning_that_is_accounted(self) -> TrainingSection:
        if self.tuning is None:
            return self
        known = backends()
        if not known[self.backend].tunable:
            instead = either([name for name, listed in known.items() if listed.tunable])
            raise ValueError(f"`tuning` goes with backend {instead}, not with {self.backend}; drop it")
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
