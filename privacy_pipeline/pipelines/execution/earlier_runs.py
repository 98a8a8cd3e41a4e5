"""What a new run takes from earlier ones: their results where nothing changed, or the base of a partial run."""

from __future__ import annotations

from pathlib import Path

from privacy_pipeline import covered_digests
from privacy_pipeline.components.privacy_gate.decision import Decision, decide
from privacy_pipeline.components.privacy_gate.ledger_check import ledger_reasons, pin_reasons
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.source import folders_of
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.execution.execute import now
from privacy_pipeline.pipelines.graph.data_secret import data_secret
from privacy_pipeline.pipelines.nodes import GATE, nodes_of
from privacy_pipeline.pipelines.preflight import spending
from privacy_pipeline.pipelines.preflight.announce import announced_class
from privacy_pipeline.pipelines.workspace import metadata
from privacy_pipeline.pipelines.workspace.run_state import NodeState, RunSpec, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace, readable_runs
from privacy_pipeline.reports.record.properties import metric_properties
from privacy_pipeline.reports.record.summary import RunSummary


def base_run(workspace: Workspace, spec: RunSpec) -> str:
    """Return the run whose results a partial run builds on: the newest one that executed the whole pipeline.

    It must have read today's data: otherwise the ledger would record other data than the training reads.
    """
    for folder, state in reversed(readable_runs(workspace.root)):
        whole = state.status in ("done", "not_blessed") and not state.cached_from and not state.to_nodes
        if not whole or state.pipeline != spec.config.pipeline:
            continue
        if state.was_pruned:
            raise BadInputError(f"--from has nothing to build on: {state.was_pruned}", fix="run the whole pipeline")
        base = folder.read_spec()
        same = (base.span, base.features) == (spec.span, spec.features) and _same_data(base, spec)
        if not same or base.config.dataset != spec.config.dataset:
            raise BadInputError(
                f"run {state.run_id}, which --from would build on, read other data or another schema",
                fix="run the whole pipeline; nodes that did not change are served from cache",
            )
        return state.run_id
    raise BadInputError(
        f"--from needs an earlier whole run of pipeline {spec.config.pipeline!r}", fix="run the whole pipeline first"
    )


def unchanged_since(workspace: Workspace, state: RunState) -> RunFolder | None:
    """Return the newest executed run with the same fingerprint whose model is still there."""
    for folder, known in reversed(readable_runs(workspace.root)):
        if known.fingerprint != state.fingerprint or known.cached_from or known.partial or known.pruned:
            continue
        summary = folder.read_summary()
        finished = known.status in ("done", "not_blessed")
        if finished and summary is not None and Path(summary.model_uri, "saved_model.pb").exists():
            decided = _decide_again(summary, folder.read_spec().config)
            # The verdict would differ from the recorded one, and Resolver and Pusher need it: run the pipeline.
            same = (decided.blessed, bool(decided.budget)) == (summary.blessed, bool(summary.budget_reasons))
            return folder if same else None
    return None


def _decide_again(summary: RunSummary, config: PipelineConfig) -> Decision:
    return decide(
        evaluation_reasons=summary.evaluation_reasons,
        record=summary.record,
        expected_class=announced_class(config),
        policy=config.policy,
        ledger_reasons=[
            *ledger_reasons(summary.record, summary.dp_evaluation, url=config.ledger),
            *pin_reasons(url=config.ledger, data=folders_of(config.dataset), workspace=Workspace(config).root),
        ],
    )


def _same_data(old: RunSpec, new: RunSpec) -> bool:
    """Whether a run of today reads the same data as an earlier one, whose digest may still be unkeyed."""
    return covered_digests.are_same(old.data_digest, new.data_digest, data_secret(new.config))


def refuse_changed(old: RunSpec, new: RunSpec) -> None:
    """Refuse to resume a run whose data, schema, code or installed packages changed since it started.

    Raises:
        BadInputError: what changed.
    """
    changed = [
        what
        for what, same in (
            ("data, or the ledger that it belongs to,", _same_data(old, new)),
            ("schema", old.schema_digest == new.schema_digest),
            ("code", old.code == new.code),
            ("installed packages", old.lock == new.lock),
        )
        if not same
    ]
    if changed:
        raise BadInputError(
            f"run {old.run_id} cannot be resumed: {' and '.join(changed)} changed since it started",
            fix="start a new run; what did not change is served from cache",
        )


def serve_whole(config: PipelineConfig, folder: RunFolder, state: RunState, earlier: RunFolder) -> RunState:
    """Finish a run with the results of an earlier one whose fingerprint is the same; return its state.

    Raises:
        BadInputError: the earlier run has no summary any more.
    """
    summary = earlier.read_summary()
    if summary is None:
        raise BadInputError(f"run {earlier.run_id} lost its summary", fix="run again with --no-cache")
    before = earlier.read_state()
    copied = summary.model_copy(update={"run_id": folder.run_id})
    with folder.lock():
        for name in nodes_of(config):
            detail = before.nodes[name].detail if name in before.nodes else ""
            state.nodes[name] = NodeState(status="cached", seconds=0.0, detail=detail)
        state.nodes[GATE].status = "done"  # decided again, by the current policy
        state.cached_from = earlier.run_id
        state.report = before.report
        state.status = "done" if copied.blessed else "not_blessed"
        state.ended = now()
        properties = metric_properties(copied)
        metadata.copy_run_metrics(metadata.connection_config(config), run_id=folder.run_id, properties=properties)
        folder.write_summary(copied)
        folder.write_state(state)
    spending.record_zero(folder, state, config)
    return state
