"""Compile a run to TFX's intermediate representation, with partial runs marked and our cache rules set."""

from __future__ import annotations

from typing import Any

from tfx.dsl.compiler import compiler, constants
from tfx.orchestration.portable import partial_run_utils, runtime_parameter_utils

from privacy_pipeline.pipelines.graph.build import build
from privacy_pipeline.pipelines.workspace.run_state import RunSpec


def compile_run(spec: RunSpec) -> Any:
    """Return the pipeline of a run as IR, ready for the scheduler.

    Args:
        spec: what to run.
    """
    pipeline = compiler.Compiler().compile(build(spec))
    runtime_parameter_utils.substitute_runtime_parameter(
        pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: spec.run_id}
    )
    if spec.from_nodes or spec.to_nodes:
        settings = partial_run_utils.latest_pipeline_snapshot_settings()
        if spec.base_run is not None:
            partial_run_utils.set_base_pipeline_run_strategy(settings, spec.base_run)
        partial_run_utils.mark_pipeline(
            pipeline,
            from_nodes=spec.from_nodes or None,
            to_nodes=spec.to_nodes or None,
            snapshot_settings=settings,
        )
    _import_executors(pipeline)
    return pipeline


def _import_executors(pipeline: Any) -> None:
    # Import them once here, so that every forked node has them.
    from tfx.orchestration.local import runner_utils
    from tfx.utils import import_utils

    deployment = runner_utils.extract_local_deployment_config(pipeline)
    for node in pipeline.nodes:
        spec = runner_utils.extract_executor_spec(deployment, node.pipeline_node.node_info.id)
        if spec is not None:
            path = getattr(spec, "class_path", None) or spec.python_executor_spec.class_path
            import_utils.import_class_by_path(path)
