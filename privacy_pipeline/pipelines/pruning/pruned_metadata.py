"""What ML Metadata holds of pruned runs: which files belong to which run, and texts that may quote rows.

Nothing is deleted from it, so that lineage and the one query over all runs (`RunMetrics`) stay. Properties of
executions go, since failures quote rows and configs name values; so do those of artifacts of all but a few types. A
SQLite file is rewritten afterwards: the overwritten texts would otherwise stay in its free pages.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.literal_paths import literal
from privacy_pipeline.pipelines.workspace.metadata import RESOLVER, connection_config
from privacy_pipeline.pipelines.workspace.stored_text import store_of
from privacy_pipeline.pipelines.workspace.workspace import Workspace

_KEPT = (
    "RunMetrics",
    "PrivacyRecord",
    "DatasetReport",
)  # their properties are metrics over a whole split, and settings
_PLACES = ("ModelBlessing", "PushedModel")  # their properties are a verdict, and paths
_TRIES_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Used:
    """What one run used of a pipeline's folder.

    Attributes:
        pipeline: its name; "" where ML Metadata has no execution of the run.
        executions: numbers of its executions, by which folders are named.
        files: folders of the artifacts that it made or was served from cache.
        pushed: names of the versions that it pushed.
        is_here: whether it belongs to this workspace, and not to another one that shares ML Metadata.
    """

    pipeline: str
    executions: frozenset[int]
    files: frozenset[Path]
    pushed: frozenset[str]
    is_here: bool

    def __or__(self, other: Used) -> Used:
        return Used(
            pipeline=self.pipeline,
            executions=self.executions | other.executions,
            files=self.files | other.files,
            pushed=self.pushed | other.pushed,
            is_here=self.is_here,
        )


class MetadataOfRuns:
    """The store of a config, as far as pruning needs it. It is never created.

    Args:
        config: a run's config, whose workspace is pruned.

    Raises:
        BadInputError: the store cannot be opened.
    """

    def __init__(self, config: PipelineConfig) -> None:
        workspace = Workspace(config)
        self.root = workspace.root
        self.file = workspace.metadata_path
        self._is_own = self.file is not None and self.file.is_relative_to(self.root)
        self._store: Any = None
        if self.file is not None and not self.file.is_file():
            return
        try:
            self._store = store_of(connection_config(config))
        except RuntimeError as error:
            raise BadInputError(
                f"metadata: the store of the runs cannot be opened: {' '.join(str(error).split())[:300]}",
                fix="make it reachable: it records which files belong to which run, and may quote rows itself",
            ) from error

    @property
    def is_there(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    def runs(self) -> dict[str, Used]:
        """Return what each run used that ML Metadata has, by its id."""
        if self._store is None or not _has_type(self._store, "pipeline_run"):
            return {}
        found = self._store.get_contexts_by_type("pipeline_run")
        return {str(context.name): self._used(context) for context in found}

    def _used(self, context: Any) -> Used:
        executions = self._store.get_executions_by_context(context.id)
        own = [execution for execution in executions if not str(execution.type).endswith(RESOLVER)]
        artifacts = self._outputs(own)
        paths = [self._path(artifact.uri) for artifact in artifacts]
        return Used(
            pipeline=self._pipeline(executions),
            executions=frozenset(int(execution.id) for execution in executions),
            files=frozenset(path for path in paths if path is not None),
            pushed=frozenset(
                Path(artifact.custom_properties["pushed_destination"].string_value).name
                for artifact in artifacts
                if artifact.type == "PushedModel" and "pushed_destination" in artifact.custom_properties
            )
            - {""},
            is_here=self._is_own or (bool(paths) and None not in paths),
        )

    def _pipeline(self, executions: Iterable[Any]) -> str:
        for execution in executions:
            for context in self._store.get_contexts_by_execution(execution.id):
                if context.type == "pipeline":
                    return str(context.name)
        return ""

    def _outputs(self, executions: Collection[Any]) -> list[Any]:
        from ml_metadata.proto import metadata_store_pb2 as mlmd

        inputs = (mlmd.Event.INPUT, mlmd.Event.DECLARED_INPUT, mlmd.Event.INTERNAL_INPUT)
        if not executions:
            return []
        events = self._store.get_events_by_execution_ids([execution.id for execution in executions])
        numbers = {event.artifact_id for event in events if event.type not in inputs}
        found: list[Any] = self._store.get_artifacts_by_id(sorted(numbers))
        return found

    def _path(self, uri: str) -> Path | None:
        """Return the path of an artifact in the workspace; None for one that is elsewhere."""
        for root in (self.root, literal(self.root)):
            if uri.startswith(f"{root}/"):
                return self.root / uri[len(str(root)) + 1 :]
        return None

    def forget(self, runs: Collection[str], *, living: Mapping[str, Used]) -> None:
        """Remove the texts of runs that may quote rows, except those of artifacts that other runs use too.

        Args:
            runs: ids of the runs.
            living: what the remaining runs use.

        Raises:
            PipelineError: the store cannot be written.
        """
        if self._store is None or not _has_type(self._store, "pipeline_run"):
            return
        kept = frozenset(path for used in living.values() for path in used.files)
        try:
            for context in self._store.get_contexts_by_type("pipeline_run"):
                if context.name in runs:
                    self._forget_one(context, kept)
        except RuntimeError as error:
            raise PipelineError(
                f"metadata: what it quotes of the runs cannot be removed: {' '.join(str(error).split())[:300]}",
                fix="type the same again",
            ) from error

    def _forget_one(self, context: Any, kept: frozenset[Path]) -> None:
        executions = self._store.get_executions_by_context(context.id)
        own = [execution for execution in executions if not str(execution.type).endswith(RESOLVER)]
        artifacts = [
            artifact
            for artifact in self._outputs(own)
            if artifact.type not in _PLACES and self._path(artifact.uri) not in kept
        ]
        for message in (*executions, *artifacts):
            message.custom_properties.clear()
            if message.type not in _KEPT:
                message.properties.clear()
        self._store.put_executions(executions)
        self._store.put_artifacts(artifacts)

    def compact(self) -> None:
        """Rewrite a SQLite file without the overwritten texts. A server does that by itself, later.

        Raises:
            PipelineError: it cannot be written.
        """
        self._store = None  # its connection is closed
        if self.file is None or not self.file.is_file():
            return
        try:
            with contextlib.closing(sqlite3.connect(self.file, timeout=_TRIES_SECONDS)) as connection:
                connection.execute("PRAGMA secure_delete=ON")
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise PipelineError(
                f"{self.file}: cannot be rewritten ({error}), so its free pages may still hold what was removed",
                fix="free space, end the programs that read it, and type the same again",
            ) from error


def _has_type(store: Any, name: str) -> bool:
    return any(found.name == name for found in store.get_context_types())
