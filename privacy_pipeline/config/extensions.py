"""What the config asks of the parts that an extension adds, which are registered in layers above it.

A registry is found by the name of its module when a model of the config is made, so that a name which a registry holds
is a name that a config may give, and no import points up. The modules of a registry import no TensorFlow.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class AlgorithmRules(Protocol):
    """What the config asks of a federated algorithm; `federated.algorithms.algorithm.Algorithm` is one."""

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run it."""
        ...

    @property
    def one_update(self) -> bool:
        """Whether clipping and noise of the updates cover all that a client sends."""
        ...

    @property
    def trains_alone(self) -> bool:
        """Whether one client alone has local steps."""
        ...

    @property
    def in_silos(self) -> bool:
        """Whether its local steps may be those of the DP-SGD engine."""
        ...

    @property
    def takes(self) -> frozenset[str]:
        """Keys of the section that belong to it."""
        ...

    @property
    def settings(self) -> type[BaseModel] | None:
        """Model of its own settings."""
        ...

    @property
    def problem(self) -> Any:
        """Why a section does not fit, or None: a function of the section."""
        ...


def algorithms() -> Mapping[str, AlgorithmRules]:
    """Return the federated algorithms, by name, in the order of their registry."""
    found: Mapping[str, AlgorithmRules] = importlib.import_module("federated.algorithms.registry").REGISTRY
    return found


def either(names: list[str]) -> str:
    """Return names as a phrase that offers a choice, e.g. `a, b or c`.

    Args:
        names: at least one.
    """
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class AlgorithmName:
    """Annotation of a text that names a federated algorithm: one of a fixed list, as `Literal` checks it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the registry's names."""
        return core_schema.literal_schema(list(algorithms()))
