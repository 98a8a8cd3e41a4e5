"""Reads the eval split, predicts it both ways, and publishes the comparison."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from privacy_pipeline.backends import keras_io
from privacy_pipeline.backends.encrypted import PRIVATE_MODEL, PUBLISHED, load_trained
from privacy_pipeline.components.artifacts import Artifacts
from privacy_pipeline.config.models.encrypted import EncryptedSection
from privacy_pipeline.encrypted.evaluation import evaluation, measured, through_parties
from privacy_pipeline.encrypted.model import published
from privacy_pipeline.files.atomic import write_whole

_BATCH = 8192


class Executor(base_executor.BaseExecutor):
    """Executor of EncryptedEvaluator."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Evaluate one model.

        Raises:
            BadInputError: the config does not name the parties of the evaluation or they are not usable, the
                environment is not set up, or an activation leaves the range of fixed-point numbers.
            PipelineError: the private evaluation failed.
        """
        section = EncryptedSection.model_validate_json(exec_properties["encrypted"])
        evaluation.require_way(section)
        uris = artifact_utils.get_split_uris(input_dict["examples"], "eval")
        graph = Path(artifact_utils.get_single_uri(input_dict["transform_graph"]))
        rows = keras_io.read_rows([io_utils.all_files_pattern(uri) for uri in uris], transform_graph=graph, classes=2)
        folder = Path(path_utils.serving_model_dir(artifact_utils.get_single_uri(input_dict["model"])))
        model = load_trained(folder)
        inputs = {name: rows.inputs[name] for name in model.input_names}
        plain = model.predict(inputs, batch_size=_BATCH, verbose=0)
        split = {"inputs": inputs, "labels": rows.labels, "plain": plain}
        if section.parties is not None:
            public = published.load(folder / PUBLISHED)
            found = through_parties.evaluate(folder / PRIVATE_MODEL, parties=section.parties, published=public, **split)
        else:
            with tempfile.TemporaryDirectory(dir=self._get_tmp_dir()) as work:
                found = evaluation.simulate(folder / PRIVATE_MODEL, work=Path(work), **split)
        _publish(artifact_utils.get_single_instance(output_dict["encrypted_evaluation"]), found)


def _publish(artifact: types.Artifact, found: measured.EncryptedEvaluation) -> None:
    write_whole(path=Path(artifact.uri, measured.EVALUATION_FILE), content=found.model_dump_json(indent=2).encode())
    largest = found.batches[-1]
    for name in ("rows", "accuracy_plain", "accuracy_encrypted", "agreement", "largest_logit_error", "p99_logit_error"):
        setattr(artifact, name, getattr(found, name))
    for name, value in (("auc_plain", found.auc_plain), ("auc_encrypted", found.auc_encrypted)):
        if value is not None:
            setattr(artifact, name, value)
    artifact.inference_protection = found.threat_model.protection
    artifact.rows_per_second = largest.rows_per_second
    artifact.rounds = largest.rounds
