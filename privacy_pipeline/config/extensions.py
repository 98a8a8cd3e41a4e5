"""What the config asks of the parts that an extension adds, which are registered in layers above it.

A registry is found by the name of its module when a model of the config is made, so that a name which a registry holds
is a name that a config may give, and no import points up. The modules of a registry import no TensorFlow.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, GetCoreSchemaHandler, JsonValue, ValidationError
from pydantic_core import CoreSchema, core_schema

from privacy_pipeline.tasks.registry import REGISTRY as TASKS
from privacy_pipeline.tasks.registry import metric_names


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


class ListedBackend(Protocol):
    """What the config asks of a backend's line; `privacy_pipeline.backends.listed.Listed` is one."""

    @property
    def settings(self) -> str | None:
        """Module and model of its own settings, below `privacy_pipeline.backends`."""
        ...

    @property
    def relation(self) -> object | None:
        """Neighbouring relation of the guarantee that each of its runs claims; None where blocks decide, or none is."""
        ...

    @property
    def block(self) -> str | None:
        """Key of `training` whose block goes with it."""
        ...

    @property
    def tunable(self) -> bool:
        """Whether `training.tuning` may train several of it."""
        ...

    @property
    def dp_statistics(self) -> bool:
        """Whether `preprocessing.dp` may release statistics for it."""
        ...


def algorithms() -> Mapping[str, AlgorithmRules]:
    """Return the federated algorithms, by name, in the order of their registry."""
    found: Mapping[str, AlgorithmRules] = importlib.import_module("federated.algorithms.registry").REGISTRY
    return found


def backends() -> Mapping[str, ListedBackend]:
    """Return the lines of the backends, by name, in the order of their registry."""
    found: Mapping[str, ListedBackend] = importlib.import_module("privacy_pipeline.backends.listed").BACKENDS
    return found


class ListedCorrelation(Protocol):
    """What the config asks of the line of a mechanism whose noise is correlated over the steps."""

    @property
    def bands(self) -> bool:
        """Whether it takes `bands`."""
        ...


def correlations() -> Mapping[str, ListedCorrelation]:
    """Return the lines of the mechanisms of DP-SGD's noise, by name, in the order of their registry."""
    module = importlib.import_module("privacy_pipeline.dp.mechanism.listed")
    found: Mapping[str, ListedCorrelation] = module.CORRELATIONS
    return found


class ListedProtection(Protocol):
    """What the config asks of the line of a mechanism that protects clients; see `federated.privacy.listed.Listed`."""

    @property
    def sampling(self) -> tuple[str, ...]:
        """How clients may be drawn, the default first."""
        ...

    @property
    def integers(self) -> bool:
        """Whether the clients add whole numbers, which need `distributed`."""
        ...

    @property
    def adaptive(self) -> bool:
        """Whether the clipping norm may adapt."""
        ...

    @property
    def experiments(self) -> tuple[str, ...]:
        """How experiments may draw clients, the default first; empty where they cannot."""
        ...


def protections() -> Mapping[str, ListedProtection]:
    """Return the lines of the mechanisms that protect clients, by name, in the order of their registry."""
    found: Mapping[str, ListedProtection] = importlib.import_module("federated.privacy.listed").MECHANISMS
    return found


def settings_of_backend(name: str) -> type[BaseModel] | None:
    """Return the model of a backend's own settings, None where it has none.

    Args:
        name: of a backend in the registry; its module is imported only if it has settings.
    """
    place = backends()[name].settings
    if place is None:
        return None
    model: type[BaseModel] = pkgutil.resolve_name(f"privacy_pipeline.backends.{place}")
    return model


def require_settings(model: type[BaseModel] | None, given: Mapping[str, JsonValue], *, of: str) -> None:
    """Refuse settings that the model of an extension does not accept.

    Args:
        model: of the settings; None where there are none.
        given: what the config holds.
        of: names the extension as the config does, e.g. `name: fedavg`.

    Raises:
        ValueError: there are settings and no model, or a value is missing, unknown or wrong; one line.
    """
    if model is None:
        if given:
            raise ValueError(f"`{of}` has no `settings`; drop them")
        return
    try:
        model.model_validate(given, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, ("settings", *first["loc"])))
        raise ValueError(f"`{key}` of `{of}`: {first['msg']}") from None


def either(names: list[str]) -> str:
    """Return names as a phrase that offers a choice, e.g. `a, b or c`.

    Args:
        names: at least one.
    """
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class ListedName(ABC):
    """Base of annotations of a text that names one of a fixed list, which pydantic checks as it checks `Literal`."""

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """Return the names of the registry, in its order."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the registry's names."""
        return core_schema.literal_schema(cls.names())


class AlgorithmName(ListedName):
    """Annotation of a text that names a federated algorithm."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the federated algorithms."""
        return list(algorithms())


class BackendName(ListedName):
    """Annotation of a text that names a backend."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the backends."""
        return list(backends())


class CorrelationName(ListedName):
    """Annotation of a text that names a mechanism of DP-SGD's noise."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the mechanisms."""
        return list(correlations())


class ProtectionName(ListedName):
    """Annotation of a text that names a mechanism that protects clients."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the mechanisms."""
        return list(protections())


class ExperimentProtectionName(ListedName):
    """Annotation of a text that names a mechanism that protects clients in experiments."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the mechanisms that experiments account for."""
        return [name for name, listed in protections().items() if listed.experiments]


class MetricName(ListedName):
    """Annotation of a text that names a metric of a task."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all tasks' metrics."""
        return list(dict.fromkeys(metric_names().values()))


class TaskName(ListedName):
    """Annotation of a text that names a task."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the tasks."""
        return list(TASKS)


class ScoreName(ListedName):
    """Annotation of a text that names a score of a task's trials."""

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all tasks' scores."""
        return list(dict.fromkeys(name for task in TASKS.values() for name in task.scores))
