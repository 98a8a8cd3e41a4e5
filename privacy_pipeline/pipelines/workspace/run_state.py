"""What a run's folder holds about it: its state, rewritten as it proceeds, and the spec that its worker reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.pipelines.nodes import TRAINER
from privacy_pipeline.spans import Span

PRUNING = "begun"
NodeStatus = Literal["waiting", "running", "done", "cached", "failed", "skipped"]
RunStatus = Literal["running", "done", "not_blessed", "failed", "interrupted"]


class NodeState(BaseModel):
    """One node of a run."""

    model_config = ConfigDict(extra="forbid")

    status: NodeStatus = "waiting"
    seconds: float | None = None
    detail: str = ""


class Failure(BaseModel):
    """The reason why a run failed, and what to do about it."""

    model_config = ConfigDict(extra="forbid")

    node: str | None
    message: str
    fix: str
    exit_code: int


class RunState(BaseModel):
    """State of a run, rewritten whenever a node starts or ends."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    pipeline: str
    config_path: str
    backend: str
    fingerprint: str
    training_fingerprint: str
    node_fingerprints: dict[str, str] = {}  # of the charging nodes other than the trainer
    started: str
    ended: str | None = None
    status: RunStatus = "running"
    nodes: dict[str, NodeState] = {}
    failure: Failure | None = None
    cached_from: str | None = None
    partial: bool = False
    from_nodes: list[str] = []
    to_nodes: list[str] = []
    report: str = ""  # file of the dataset's report as it was at the end of the run
    report_problem: str = ""  # why there is no report
    pruned: str = ""  # the day on which everything that holds rows was removed; PRUNING if that was interrupted

    @property
    def was_pruned(self) -> str:
        """Message about a run whose outputs were removed; "" for any other run."""
        if not self.pruned:
            return ""
        when = "and that was interrupted: prune it again" if self.pruned == PRUNING else f"on {self.pruned}"
        return f"run {self.run_id} was pruned {when}; its record and its charges stay"

    def fingerprint_of(self, node: str) -> str | None:
        """Return the fingerprint of all inputs of a charging node's result; None for a node that charges nothing."""
        return self.training_fingerprint if node == TRAINER else self.node_fingerprints.get(node)


class RunSpec(BaseModel):
    """All that the worker process needs to execute a run."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    run_dir: Path
    config: PipelineConfig
    features: FeaturePlan | None
    code: str
    lock: str
    data_digest: str
    schema_digest: str = ""
    span: Span
    version: int | None
    from_nodes: list[str] = []
    to_nodes: list[str] = []
    base_run: str | None = None
    copied: Path | None = None  # the private copy that ExampleGen reads; None for runs of older versions
