"""Reserves budget, counts with noise, commits, and writes what was released."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from privacy_pipeline.components.artifacts import Artifacts, require_data, require_model
from privacy_pipeline.components.dp_evaluator.charged import EVALUATION_FILE, evaluate_charged
from privacy_pipeline.components.dp_evaluator.predictions import PredictedRows
from privacy_pipeline.components.noisy_answers import from_text, write_noisy
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.evaluation import DpEvaluationSection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.files.atomic import write_whole
from privacy_pipeline.releases.evaluation import SPLIT
from privacy_pipeline.releases.release import Noisy, Release

MODEL_ID = "current_model_id"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of DpEvaluator."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Evaluate one model.

        Raises:
            BadInputError: the model keeps, draws or prints something where it predicts; no budget was reserved.
            BudgetRefusedError: the ledger does not grant what the counts cost; no data was read.
            PipelineError: the examples are of other data, or the model's files changed.
        """
        require_data(input_dict["examples"], exec_properties["data_digest"])
        require_model(artifact_utils.get_single_instance(input_dict["model"]))
        config = PipelineConfig.model_validate_json(exec_properties["config"])
        section = config.evaluation.dp
        if section is None:
            raise ValueError("DpEvaluator needs a config with evaluation.dp")
        model = artifact_utils.get_single_instance(input_dict["model"])
        rows = predicted_rows(config, section, model_dir=path_utils.serving_model_dir(model.uri))
        rows.check()
        uris = artifact_utils.get_split_uris(input_dict["examples"], SPLIT)
        files = [str(path) for uri in uris for path in sorted(Path(uri).iterdir()) if path.is_file()]

        def count(release: Release) -> Mapping[str, Noisy]:
            with tempfile.TemporaryDirectory(dir=self._get_tmp_dir()) as work:
                target = str(Path(work, "noisy_counts.json"))
                with self._make_beam_pipeline() as pipeline:
                    write_noisy(pipeline, files=files, rows=rows, release=release, to=target)
                return from_text(release, Path(target).read_text())

        found = evaluate_charged(
            config,
            domains={name: tuple(values) for name, values in json.loads(exec_properties["domains"]).items()},
            data_digest=exec_properties["data_digest"],
            run_id=self._context.pipeline_run_id,
            node=self._context.pipeline_node.node_info.id,
            count=count,
        )
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        evaluation.set_int_custom_property(MODEL_ID, model.id)
        write_whole(path=Path(evaluation.uri, EVALUATION_FILE), content=found.model_dump_json(indent=2).encode())


def predicted_rows(config: PipelineConfig, section: DpEvaluationSection, *, model_dir: str) -> PredictedRows:
    """Return what is read off the eval split under a config.

    Args:
        config: the config.
        section: its block `evaluation.dp`.
        model_dir: folder of the SavedModel.
    """
    unit = config.dataset.privacy_unit
    return PredictedRows(
        model_dir=model_dir,
        columns=sorted({column for group in config.evaluation.slices for column in group}),
        unit_key=unit.key if isinstance(unit, KeyedUnit) else None,
        decision_threshold=section.decision_threshold,
    )
