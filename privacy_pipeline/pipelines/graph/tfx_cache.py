"""The keys by which TFX's cache identifies a node: content, code and versions, wherever the workspace lies.

By default TFX identifies input files by their sizes and times, artifacts by absolute paths, and its own components by
their names: edited files of the same size, or another version of a component, would get the old result, and a moved
workspace would lose its cache.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx.components.example_gen.utils import FINGERPRINT_PROPERTY_NAME
from tfx.orchestration.portable import cache_utils

from privacy_pipeline.components.artifacts import PLACES, is_whole
from privacy_pipeline.files.literal_paths import literal
from privacy_pipeline.pipelines.workspace.run_state import RunSpec
from privacy_pipeline.pipelines.workspace.workspace import Workspace
from privacy_pipeline.processes.installed import hash_of_framework

_INPUT_BASE = "input_base"  # where ExampleGen's files lie
_WORKSPACE, _PROJECT = "\0workspace\0", "\0project\0"


@dataclass(frozen=True, kw_only=True)
class CacheKeys:
    """Parts of TFX's cache keys that depend on content, and not on places.

    Attributes:
        workspace: root of the workspace.
        project: folder that the command runs in.
        data: covered digest of the run's data.
        code: hash of the framework's sources.
        lock: hash of the installed packages.
    """

    workspace: Path
    project: Path
    data: str
    code: str
    lock: str

    @classmethod
    def of(cls, spec: RunSpec) -> CacheKeys:
        """Return the keys of a run."""
        root = Workspace(spec.config).root
        return cls(workspace=root, project=Path.cwd(), data=spec.data_digest, code=hash_of_framework(), lock=spec.lock)

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the execution properties of a node for its cache key: without places, with digests of what TFX
        ignores.

        Args:
            given: the properties, with those that a driver added.
        """
        found = {name: self.without_places(value) for name, value in given.items() if name != PLACES}
        if FINGERPRINT_PROPERTY_NAME in found:  # of an ExampleGen: sizes and times of its files
            found |= {FINGERPRINT_PROPERTY_NAME: self.data, _INPUT_BASE: ""}
        return found | {"framework": self.code, "packages": self.lock}

    def artifacts(self, given: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Return the artifacts for a cache key: without places, without times of files."""
        return {name: [self._artifact(artifact) for artifact in found] for name, found in given.items()}

    def without_places(self, value: Any) -> Any:
        """Return a value in which placeholders stand for the folders of workspace and project."""
        if not isinstance(value, str):
            return value
        for place, name in ((self.workspace, _WORKSPACE), (self.project, _PROJECT)):
            for spelled in dict.fromkeys((str(literal(place)), str(place))):
                value = value.replace(f"{spelled}/", name)
        return value

    def _artifact(self, artifact: Any) -> Any:
        placeless = copy.deepcopy(artifact)
        placeless.uri = self.without_places(placeless.uri)
        proto = placeless.mlmd_artifact
        if FINGERPRINT_PROPERTY_NAME in proto.custom_properties:
            del proto.custom_properties[FINGERPRINT_PROPERTY_NAME]
        return placeless


def install(keys: CacheKeys) -> None:
    """Make this process, and those that it forks, use the cache by these keys alone."""
    cache_utils.get_cache_context = functools.partial(_context, keys, cache_utils.get_cache_context)
    cache_utils.get_cached_outputs = functools.partial(_outputs, cache_utils.get_cached_outputs)


def _context(keys: CacheKeys, stock: Any, **given: Any) -> Any:
    parts = {name: keys.artifacts(given[name] or {}) for name in ("input_artifacts", "output_artifacts")}
    return stock(**{**given, **parts, "parameters": keys.parameters(given["parameters"] or {})})


def _outputs(stock: Any, **given: Any) -> Any:
    """Return the outputs of an earlier execution; None where some are gone, so that the node runs again."""
    found = stock(**given)
    if found is None or all(is_whole(artifact) for outputs in found.values() for artifact in outputs):
        return found
    return None
