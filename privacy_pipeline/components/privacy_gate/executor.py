"""Takes the gate's decision and writes it where Pusher and the Resolver look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.components.artifacts import RECORD_FILE
from privacy_pipeline.components.privacy_gate.decision import decide
from privacy_pipeline.components.resolver.strategy import PRIVACY_CLASS
from privacy_pipeline.config.models import PolicySection

REASONS_FILE = "reasons.json"


class Executor(base_executor.BaseExecutor):
    """Executor of PrivacyGate."""

    def Do(  # noqa: N802 (TFX names it)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Decides, sets `blessed` and `current_model_id`, and writes BLESSED or NOT_BLESSED as Evaluator does."""
        model = artifact_utils.get_single_instance(input_dict["model"])
        evaluation = artifact_utils.get_single_instance(input_dict["evaluation_blessing"])
        folder = Path(artifact_utils.get_single_uri(input_dict["privacy_record"]))
        record = PrivacyRecord.model_validate_json((folder / RECORD_FILE).read_text())
        decision = decide(
            evaluation_blessed=evaluation.get_int_custom_property("blessed") == 1
            and evaluation.get_int_custom_property("current_model_id") == model.id,
            record=record,
            expected_class=exec_properties["privacy_class"],
            policy=PolicySection.model_validate_json(exec_properties["policy"]),
        )
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        blessing.set_string_custom_property("current_model", model.uri)
        blessing.set_int_custom_property("current_model_id", model.id)
        blessing.set_int_custom_property("blessed", int(decision.blessed))
        blessing.set_string_custom_property(PRIVACY_CLASS, record.privacy_class)
        target = Path(blessing.uri)
        (target / ("BLESSED" if decision.blessed else "NOT_BLESSED")).touch()
        (target / REASONS_FILE).write_text(json.dumps(list(decision.reasons)))
