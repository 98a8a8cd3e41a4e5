"""Reads the metrics, exact or noisy, and the privacy record, and publishes both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.components.artifacts import RECORD_FILE, SUMMARY_FILE, Artifacts
from privacy_pipeline.components.dp_evaluator.charged import read_evaluation
from privacy_pipeline.components.privacy_gate.executor import REASONS_FILE, read_encrypted
from privacy_pipeline.components.slices import read_slices
from privacy_pipeline.files.atomic import write_whole
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.literal_paths import as_named
from privacy_pipeline.releases.evaluation import DpEvaluation
from privacy_pipeline.reports.record.dp_evaluation import slices_of, with_evaluation
from privacy_pipeline.reports.record.properties import metric_properties, without_secret_counts
from privacy_pipeline.reports.record.summary import RunSummary, SliceMetrics


class Executor(base_executor.BaseExecutor):
    """Executor of RunMetrics."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Write the summary to the artifact and to the run's folder, and set the MLMD properties."""
        single = {key: artifact_utils.get_single_instance(found) for key, found in input_dict.items() if found}
        record = PrivacyRecord.model_validate_json(Path(single["privacy_record"].uri, RECORD_FILE).read_text())
        noisy = read_evaluation(Path(single["evaluation"].uri))
        if noisy is not None:
            record = with_evaluation(record, noisy)
        decision = json_value(Path(single["blessing"].uri, REASONS_FILE).read_text())
        summary = RunSummary(
            run_id=exec_properties["run_id"],
            pipeline=self._context.pipeline_info.id,
            backend=record.backend,
            training_run=record.run_id,
            evaluation_reasons=decision["evaluation"],
            blessed=single["blessing"].get_int_custom_property("blessed") == 1,
            reasons=decision["all"],
            budget_reasons=decision["budget"],
            slices=_slices(single["evaluation"].uri, record, noisy),
            model_uri=str(as_named(Path(path_utils.serving_model_dir(single["model"].uri)))),
            tensorboard=str(as_named(Path(single["model_run"].uri, "tensorboard"))),
            record=record,
            dp_evaluation=noisy,
            encrypted=read_encrypted(input_dict),
        )
        target = artifact_utils.get_single_instance(output_dict["run_metrics"])
        for name, value in metric_properties(summary).items():
            setattr(target, name, value)
        content = summary.model_dump_json(indent=2).encode()
        for folder in (target.uri, exec_properties["run_dir"]):
            write_whole(path=Path(folder, SUMMARY_FILE), content=content)


def _slices(evaluation_uri: str, record: PrivacyRecord, noisy: DpEvaluation | None) -> list[SliceMetrics]:
    if noisy is not None:
        return slices_of(noisy)
    return without_secret_counts(read_slices(evaluation_uri), record)
