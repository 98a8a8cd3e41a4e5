"""The config's block on the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from privacy_pipeline.config.models.base import DottedName, Section


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
