"""Takes the gate's decision and writes it where Pusher and the Resolver look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.components.artifacts import RECORD_FILE, Artifacts
from privacy_pipeline.components.dp_evaluator.charged import read_evaluation
from privacy_pipeline.components.dp_evaluator.executor import MODEL_ID
from privacy_pipeline.components.privacy_gate.decision import decide
from privacy_pipeline.components.privacy_gate.ledger_check import ledger_reasons, pin_reasons
from privacy_pipeline.components.resolver.strategy import ANSWERS, PRIVACY_CLASS
from privacy_pipeline.components.slices import read_baseline, read_slices
from privacy_pipeline.config.models.evaluation import PolicySection, Threshold
from privacy_pipeline.encrypted.evaluation.measured import EVALUATION_FILE, EncryptedEvaluation
from privacy_pipeline.encrypted.evaluation.measured import missed_thresholds as missed_private
from privacy_pipeline.files.atomic import write_whole
from privacy_pipeline.releases.evaluation import missed_thresholds
from privacy_pipeline.reports.record.summary import METRIC_NAMES

REASONS_FILE = "reasons.json"


class Executor(base_executor.BaseExecutor):
    """Executor of PrivacyGate."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Decide, set `blessed` and `current_model_id`, and write BLESSED or NOT_BLESSED as Evaluator does."""
        model = artifact_utils.get_single_instance(input_dict["model"])
        folder = Path(artifact_utils.get_single_uri(input_dict["privacy_record"]))
        record = PrivacyRecord.model_validate_json((folder / RECORD_FILE).read_text())
        evaluation = artifact_utils.get_single_instance(input_dict["evaluation"])
        encrypted = read_encrypted(input_dict)
        reasons = [
            *_reasons(input_dict, exec_properties),
            *_private_reasons(encrypted, exec_properties["private_thresholds"], evaluation.uri),
        ]
        noisy = read_evaluation(Path(evaluation.uri))
        decision = decide(
            evaluation_reasons=reasons,
            record=record,
            expected_class=exec_properties["privacy_class"],
            policy=PolicySection.model_validate_json(exec_properties["policy"]),
            ledger_reasons=[
                *ledger_reasons(record, noisy, url=exec_properties["ledger"]),
                *pin_reasons(
                    url=exec_properties["ledger"],
                    data=[Path(folder) for folder in json.loads(exec_properties["data"])],
                    workspace=Path(exec_properties["workspace"]),
                ),
            ],
            encrypted=encrypted,
        )
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        blessing.set_string_custom_property("current_model", model.uri)
        blessing.set_int_custom_property("current_model_id", model.id)
        blessing.set_int_custom_property("blessed", int(decision.blessed))
        blessing.set_string_custom_property(PRIVACY_CLASS, record.privacy_class)
        if exec_properties["answers"]:
            blessing.set_string_custom_property(ANSWERS, exec_properties["answers"])
        target = Path(blessing.uri)
        found = {"evaluation": reasons, "budget": list(decision.budget), "all": list(decision.reasons)}
        write_whole(path=target / REASONS_FILE, content=json.dumps(found).encode())
        (target / ("BLESSED" if decision.blessed else "NOT_BLESSED")).touch()


def read_encrypted(input_dict: dict[str, list[types.Artifact]]) -> EncryptedEvaluation | None:
    """Return the evaluation of private predictions among a node's inputs; None without the encrypted backend."""
    given = input_dict.get("encrypted_evaluation")
    if not given:
        return None
    text = Path(artifact_utils.get_single_uri(given), EVALUATION_FILE).read_text()
    return EncryptedEvaluation.model_validate_json(text)


def _reasons(input_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any]) -> list[str]:
    """Return what the evaluation, exact or noisy, has against the model."""
    model = artifact_utils.get_single_instance(input_dict["model"])
    evaluation = artifact_utils.get_single_instance(input_dict["evaluation"])
    noisy = read_evaluation(Path(evaluation.uri))
    if noisy is not None:
        if evaluation.get_int_custom_property(MODEL_ID) != model.id:
            return ["the DP evaluation is one of another model"]
        return missed_thresholds(noisy, json.loads(exec_properties["thresholds"]))
    verdict = artifact_utils.get_single_instance(input_dict["evaluation_blessing"])
    blessed = verdict.get_int_custom_property("blessed") == 1
    return evaluation_reasons(
        blessed=blessed and verdict.get_int_custom_property("current_model_id") == model.id,
        evaluation_uri=evaluation.uri,
        held=json.loads(exec_properties["held"]),
    )


def _private_reasons(found: EncryptedEvaluation | None, thresholds: str, evaluation_uri: str) -> list[str]:
    """Return the thresholds that the private predictions miss."""
    bounds = {name: Threshold.model_validate(bound) for name, bound in json.loads(thresholds).items()}
    compared = any(bound.compares for bound in bounds.values())
    baseline = read_baseline(evaluation_uri) if found is not None and compared else {}
    return missed_private(found, thresholds=bounds, baseline=baseline)


def evaluation_reasons(*, blessed: bool, evaluation_uri: str, held: Sequence[str]) -> list[str]:
    """Return the missed thresholds, with the values, and those on metrics that the eval split does not define.

    Args:
        blessed: Evaluator's verdict on this model. It takes a metric that is not defined for 0.
        evaluation_uri: folder of the TFMA result.
        held: names of the metrics with a threshold.
    """
    lacking = read_slices(evaluation_uri)[0].undefined  # thresholds are on the overall slice
    undefined = [_undefined(name, lacking) for name in held if name in lacking]
    if blessed:
        return undefined
    validation = tfma.load_validation_result(evaluation_uri)
    failures = [failure for part in validation.metric_validations_per_slice for failure in part.failures]
    missed = [*undefined, *(_missed(failure) for failure in failures if _name(failure) not in lacking)]
    return missed or ["Evaluator did not bless the model and named no threshold"]


def _undefined(name: str, lacking: Mapping[str, str]) -> str:
    return f"{name} has a threshold, and is not defined on the eval split: {lacking[name]}"


def _name(failure: Any) -> str:
    return str(METRIC_NAMES.get(failure.metric_key.name, failure.metric_key.name))


def _missed(failure: Any) -> str:
    name = _name(failure)
    number = failure.metric_value.double_value.value
    if failure.metric_key.is_diff:
        change = failure.metric_threshold.change_threshold
        allowed = change.absolute.value
        if change.direction == tfma.MetricDirection.LOWER_IS_BETTER:
            return f"{name} is {number:.4f} above the last blessed model; at most {allowed:.4f} is allowed"
        return f"{name} is {-number:.4f} below the last blessed model; at most {-allowed:.4f} is allowed"
    bounds = failure.metric_threshold.value_threshold
    if bounds.HasField("upper_bound"):
        return f"{name} {number:.4f} is above the threshold {bounds.upper_bound.value:.4f}"
    return f"{name} {number:.4f} is below the threshold {bounds.lower_bound.value:.4f}"
