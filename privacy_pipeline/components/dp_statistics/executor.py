"""Reserves budget, counts with noise, commits, and writes what was released."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from privacy_pipeline.components.artifacts import PLACES, Artifacts, require_data
from privacy_pipeline.components.dp_statistics.charged import (
    STATISTICS_FILE,
    Places,
    StatisticsRequest,
    released_charged,
)
from privacy_pipeline.components.dp_statistics.rows import RawRows
from privacy_pipeline.components.noisy_answers import from_text, write_noisy
from privacy_pipeline.files.atomic import write_whole
from privacy_pipeline.ledger.state.registration import TRAIN
from privacy_pipeline.releases.release import Noisy, Release


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of DpStatistics."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Release ranges and vocabularies of one train split.

        Raises:
            BudgetRefusedError: the ledger does not grant what they cost; no data was read.
            PipelineError: the examples are of other data.
        """
        require_data(input_dict["examples"], exec_properties["data_digest"])
        request = StatisticsRequest.model_validate_json(exec_properties["request"])
        rows = RawRows(columns=[column.name for column in request.columns], unit_key=request.unit_key)
        uris = artifact_utils.get_split_uris(input_dict["examples"], TRAIN)
        files = [str(path) for uri in uris for path in sorted(Path(uri).iterdir()) if path.is_file()]

        def count(release: Release) -> Mapping[str, Noisy]:
            with tempfile.TemporaryDirectory(dir=self._get_tmp_dir()) as work:
                target = str(Path(work, "noisy_answers.json"))
                with self._make_beam_pipeline() as pipeline:
                    write_noisy(pipeline, files=files, rows=rows, release=release, to=target)
                return from_text(release, Path(target).read_text())

        found = released_charged(
            request,
            data_digest=exec_properties["data_digest"],
            run_id=self._context.pipeline_run_id,
            node=self._context.pipeline_node.node_info.id,
            places=Places.model_validate_json(exec_properties[PLACES]),
            count=count,
        )
        folder = artifact_utils.get_single_uri(output_dict["statistics"])
        write_whole(path=Path(folder, STATISTICS_FILE), content=found.model_dump_json(indent=2).encode())
