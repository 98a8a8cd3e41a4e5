"""Start, resume and skip runs. Imports no TFX: only the worker does."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from privacy_pipeline.components.dp_statistics.charged import request_of
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import private_copy
from privacy_pipeline.data.private_copy import PrivateCopy
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.data.source import ResolvedSource, locate
from privacy_pipeline.errors import BadInputError, ExitCode
from privacy_pipeline.files.literal_paths import require_utf8
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.pipelines.execution.earlier_runs import base_run, refuse_changed, serve_whole, unchanged_since
from privacy_pipeline.pipelines.execution.events import Event, NodeEnded
from privacy_pipeline.pipelines.execution.execute import OnEvent, execute, now
from privacy_pipeline.pipelines.graph import cache_keys
from privacy_pipeline.pipelines.graph.data_secret import data_secret
from privacy_pipeline.pipelines.nodes import CHARGING, DP_EVALUATOR, DP_STATISTICS, EXAMPLE_GEN, nodes_of, trains
from privacy_pipeline.pipelines.preflight import admission, memory, preflight, spending
from privacy_pipeline.pipelines.reporting import run_report
from privacy_pipeline.pipelines.workspace import metadata
from privacy_pipeline.pipelines.workspace.run_state import NodeState, RunSpec, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace

_DATA_NODES = ("ExampleGen", "StatisticsGen", "ExampleValidator", "Transform")

OnStart = Callable[[RunFolder], None]


@reading_once()
def start(
    *,
    config: PipelineConfig,
    config_path: Path,
    from_nodes: list[str],
    to_nodes: list[str],
    on_start: OnStart,
    on_event: OnEvent,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[RunFolder, RunState]:
    """Run a pipeline, or find that nothing changed since an earlier run of it.

    Args:
        config: what to run.
        config_path: file it came from, for messages.
        from_nodes, to_nodes: ends of a partial run; both empty for a whole one.
        on_start: called with the run's folder before TFX starts.
        on_event: called after each event of the worker.
        note: called before anything starts, with facts that a person should know although they are not errors.

    Raises:
        BadInputError: config, schema, files or rows are not usable.
        BudgetRefusedError: the ledger would refuse the run; nothing was started.
    """
    _check_names([*from_nodes, *to_nodes], nodes_of(config))
    require_utf8(config_path.absolute())
    workspace = Workspace(config)
    workspace.prepare()
    features = preflight.read_features(config)
    source = preflight.check_source(config, features)
    metadata.require_usable(config)
    spec = _spec(config, source, features).model_copy(update={"from_nodes": from_nodes, "to_nodes": to_nodes})
    if from_nodes:
        spec.base_run = base_run(workspace, spec)
    state = _state(spec, config_path)
    earlier = unchanged_since(workspace, state) if config.cache and not state.partial else None
    if earlier is not None:
        folder = _new_run(workspace, spec, state)[0]
        return folder, serve_whole(config, folder, state, earlier)
    with _same_copy(workspace, spec, source) as copy:
        with copy.original_names():
            memory.require_fits(config, copy.source)
            spending.refuse_over_budget(workspace, spec, state, files=copy.source)
            for said in preflight.look_through(config, copy.source, features):
                note(said)
        folder, spec = _new_run(workspace, spec, state, copied=copy.folder)
        admission.begin(config, span=spec.span, digest=spec.data_digest, run_id=spec.run_id, trains=_trains(spec))
        on_start(folder)
        state = _executed(folder, state, spec, copy, on_event)
    return folder, _with_bad_cells(folder, state, spec, source)


def _new_run(
    workspace: Workspace, spec: RunSpec, state: RunState, *, copied: Path | None = None
) -> tuple[RunFolder, RunSpec]:
    """Return a folder for a run, with its spec in it."""
    folder = workspace.new_run()
    spec = spec.model_copy(update={"run_id": folder.run_id, "run_dir": folder.path, "copied": copied})
    state.run_id = folder.run_id
    folder.write_spec(spec)
    return folder, spec


@contextlib.contextmanager
def _same_copy(workspace: Workspace, spec: RunSpec, source: ResolvedSource) -> Iterator[PrivateCopy]:
    """Make a private copy of the files whose digest the spec holds.

    Raises:
        BadInputError: the files changed since then, or cannot be copied.
    """
    with private_copy.taken(source, below=workspace.reading) as copy:
        if copy.source.digest(data_secret(spec.config)) != spec.data_digest:
            raise BadInputError(
                f"the files of dataset {spec.config.dataset.name!r} changed while the command read them; nothing was "
                "started and nothing is charged",
                fix="run the command again once nobody writes to them",
            )
        yield copy


@reading_once()
def resume(*, folder: RunFolder, on_start: OnStart, on_event: OnEvent) -> RunState:
    """Continue a run that failed or was killed; nodes that are done do not run again.

    A training that had started has charged its budget. It continues under that charge if it left its key and a
    checkpoint (see `dp.attempts`); otherwise it starts again and is charged again.

    Args:
        folder: the run.
        on_start: called before TFX starts.
        on_event: called after each event.

    Raises:
        BadInputError: the run is finished, or its data or code changed since it started.
    """
    state = folder.read_state()
    if state.status in ("done", "not_blessed"):
        raise BadInputError(
            f"run {state.run_id} is finished ({state.status})",
            fix=f"privacy-pipeline show {state.run_id}",
        )
    if state.was_pruned:
        raise BadInputError(state.was_pruned, fix="start a new run; it is charged")
    spec = folder.read_spec()
    features = preflight.read_features(spec.config)
    source = preflight.check_source(spec.config, features)
    today = _spec(spec.config, source, features)
    refuse_changed(spec, today)
    spec = spec.model_copy(update={"data_digest": today.data_digest})
    workspace = Workspace(spec.config)
    workspace.prepare()
    metadata.require_usable(spec.config)
    _refuse_lost_files(spec, state)
    with _same_copy(workspace, spec, source) as copy:
        spec = spec.model_copy(update={"copied": copy.folder})
        folder.write_spec(spec)
        with copy.original_names():
            memory.require_fits(spec.config, copy.source)
            if any(state.nodes[name].status not in spending.FINISHED for name in CHARGING if name in state.nodes):
                spending.refuse_over_budget(workspace, spec, state, files=copy.source)
        admission.begin(spec.config, span=spec.span, digest=spec.data_digest, run_id=spec.run_id, trains=_trains(spec))
        on_start(folder)
        state = _executed(folder, state, spec, copy, on_event)
    return _with_bad_cells(folder, state, spec, source)


def _refuse_lost_files(spec: RunSpec, state: RunState) -> None:
    """Require the outputs of done nodes: a done node does not run again in the same run, and others read its outputs.

    Raises:
        BadInputError: an output is missing or incomplete.
    """
    done = {name for name, node in state.nodes.items() if node.status in spending.FINISHED}
    lost = metadata.without_files(metadata.connection_config(spec.config), run_id=spec.run_id) if done else {}
    for name in sorted(done & set(lost)):
        raise BadInputError(
            f"run {spec.run_id} cannot be resumed: {lost[name]}, which {name} made, is missing or incomplete",
            fix="put it back; or start a new run, which takes what is whole from this one, and makes the rest again",
        )


def _trains(spec: RunSpec) -> bool:
    return trains(spec.config, from_nodes=spec.from_nodes, to_nodes=spec.to_nodes)


def _executed(folder: RunFolder, state: RunState, spec: RunSpec, copy: PrivateCopy, on_event: OnEvent) -> RunState:
    def follow(event: Event, state: RunState) -> None:
        if isinstance(event, NodeEnded) and event.node == EXAMPLE_GEN:
            copy.remove()  # nobody reads it any more
        on_event(event, state)

    if state.nodes.get(EXAMPLE_GEN, NodeState()).status in spending.FINISHED:
        copy.remove()
    state = execute(folder=folder, state=state, on_event=follow)
    if state.failure is not None:
        state.failure.message = copy.named(state.failure.message)
        folder.write_state(state)
    spending.record_zero(folder, state, spec.config)
    run_report.add_report(folder, state, spec.config)
    admission.end(spec.config)
    return state


def _with_bad_cells(folder: RunFolder, state: RunState, spec: RunSpec, source: ResolvedSource) -> RunState:
    """Add the place in the files to a failure over the data; TFX's own messages name no lines."""
    failure = state.failure
    if failure is None or failure.node not in _DATA_NODES or spec.features is None:
        return state
    try:
        cells = locate(source=source, dataset=spec.config.dataset, features=spec.features)
    except BadInputError:
        return state  # the files changed, and the failure is about their earlier content
    if cells:
        where = [f"  {c.file}:{c.line}: {f'column {c.column!r}: ' if c.column else ''}{c.why}" for c in cells]
        failure.message = "\n".join([failure.message, "for example:", *where])
        failure.fix = failure.fix or "correct these rows"
        failure.exit_code = int(ExitCode.BAD_INPUT)
        folder.write_state(state)
    return state


def _check_names(names: list[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            raise BadInputError(f"no node {name!r} in the pipeline", fix=hint)


def _spec(config: PipelineConfig, source: ResolvedSource, features: FeaturePlan | None) -> RunSpec:
    schema = config.dataset.schema_path
    return RunSpec(
        run_id="",
        run_dir=Path("."),
        config=config,
        features=features,
        code=cache_keys.code_hash(config),
        lock=cache_keys.packages_hash(config),
        data_digest=source.digest(data_secret(config)),
        schema_digest="" if schema == "infer" else preflight.schema_digest(schema),
        span=source.span,
        version=source.version,
    )


def _state(spec: RunSpec, config_path: Path) -> RunState:
    parts = {
        "data_digest": f"{spec.data_digest}, span {spec.span}, version {spec.version}",
        "schema_digest": spec.schema_digest,
        "code": spec.code,
        "lock": spec.lock,
    }
    return RunState(
        run_id="",
        pipeline=spec.config.pipeline,
        config_path=str(config_path),
        backend=spec.config.training.backend,
        fingerprint=cache_keys.fingerprint(config=spec.config, **parts),
        training_fingerprint=cache_keys.fingerprint(
            config=cache_keys.training_view(spec.config, span=spec.span), **parts
        ),
        node_fingerprints=_node_fingerprints(spec, parts),
        started=now(),
        partial=bool(spec.from_nodes or spec.to_nodes),
        from_nodes=spec.from_nodes,
        to_nodes=spec.to_nodes,
    )


def _node_fingerprints(spec: RunSpec, parts: dict[str, str]) -> dict[str, str]:
    found = {}
    request = request_of(spec.config, features=spec.features, span=spec.span)
    if request is not None:
        found[DP_STATISTICS] = cache_keys.statistics_fingerprint(
            spec.config, request=request.model_dump_json(), data_digest=parts["data_digest"], lock=parts["lock"]
        )
    if spec.config.evaluation.dp is not None:
        view = cache_keys.evaluation_view(spec.config, span=spec.span)
        found[DP_EVALUATOR] = cache_keys.fingerprint(config=view, **parts)
    return found
