"""The gate's decision: every reason, alone and together."""

from __future__ import annotations

import re
from typing import Any

import pytest

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.components.privacy_gate.decision import decide
from privacy_pipeline.config.models.evaluation import PolicySection
from privacy_pipeline.encrypted.evaluation.measured import EncryptedEvaluation
from privacy_pipeline.encrypted.model.threat_model import simulated
from privacy_pipeline.pipelines.preflight.announce import announced_class
from tests.reports.records import dp_record, make_config, plain_record

EPSILON = 0.6339  # a little less than the record's


def verdict(record: PrivacyRecord, *, announced: str = "", missed: tuple[str, ...] = (), **policy: float) -> Any:
    return decide(
        evaluation_reasons=missed,
        record=record,
        expected_class=announced or record.privacy_class,
        policy=PolicySection(**policy),
        ledger_reasons=(),
    )


@pytest.mark.parametrize(
    ("record", "given", "reasons"),
    [
        (dp_record, {}, []),
        (plain_record, {}, []),
        (dp_record, {"max_epsilon": 3.0, "max_delta": 1e-5}, []),
        (dp_record, {"missed": ("accuracy 0.4 is below 0.5", "auc too")}, ["accuracy 0.4 is below 0.5", "auc too"]),
        (dp_record, {"max_epsilon": EPSILON}, [f"epsilon 0.634 is above the policy's {EPSILON}"]),
        (dp_record, {"max_delta": 9.9e-6}, ["delta 1e-05 is above the policy's 9.9e-06"]),
        (plain_record, {"max_epsilon": 100.0}, ["no DP guarantee"]),
        (plain_record, {"max_delta": 0.5}, ["no DP guarantee"]),
        (dp_record, {"announced": "dp/person/zero_out"}, ["dp/person/zero_out, the record states dp/row/zero_out"]),
        (plain_record, {"announced": "dp/row/zero_out"}, ["dp/row/zero_out, the record states none/row/-"]),
        (dp_record, {"announced": "none/row/-"}, ["none/row/-, the record states dp/row/zero_out"]),
        (
            plain_record,
            {"missed": ("auc",), "announced": "dp/row/zero_out", "max_epsilon": 1.0},
            ["auc", "the record states none/row/-", "no DP guarantee"],
        ),
        (dp_record, {"max_epsilon": 0.1, "max_delta": 1e-9}, ["epsilon", "delta"]),
    ],
)
def test_decisions(record: Any, given: dict[str, Any], reasons: list[str]) -> None:
    decision = verdict(record(), **given)
    assert decision.blessed is (not reasons)
    assert len(decision.reasons) == len(reasons)
    for found, expected in zip(decision.reasons, reasons, strict=True):
        assert expected in found


def encrypted_evaluation(**changed: Any) -> EncryptedEvaluation:
    given = {
        "model": "digest",
        "rows": 1000,
        "accuracy_plain": 0.8,
        "accuracy_encrypted": 0.8,
        "auc_plain": 0.9,
        "auc_encrypted": 0.9,
        "agreement": 0.999,
        "largest_logit_error": 0.01,
        "p99_logit_error": 0.001,
        "logit_spread": 10.0,
        "proven_error": 0.01,
        "widest_layer": "hidden",
        "widest_growth": 9.5,
        "range": "proven",
        "batches": [],
        "threat_model": simulated(),
    }
    return EncryptedEvaluation(**{**given, **changed})


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        (encrypted_evaluation(), None),
        (encrypted_evaluation(agreement=0.9989), r"agree on 99.8900% of the rows"),
        (encrypted_evaluation(agreement=float("nan")), "agree on nan"),
        (encrypted_evaluation(largest_logit_error=0.0101), "differs by 0.0101"),
        (encrypted_evaluation(largest_logit_error=float("nan")), "differs by nan"),
        (encrypted_evaluation(proven_error=0.0101), "may differ by 0.0101 .*layer 'hidden' multiplies .* by 9.5"),
        (encrypted_evaluation(proven_error=None), "no proven error of the logits: an earlier version"),
        (encrypted_evaluation(logit_spread=None), "how far the plain logits lie apart: an earlier version"),
        (
            encrypted_evaluation(threat_model=simulated().model_copy(update={"protection": "encrypted"})),
            "the evaluation was encrypted",
        ),
        (None, "there is no evaluation of it"),
    ],
)
def test_private_predictions_must_be_the_plain_ones(evaluation: Any, reason: str | None) -> None:
    record = plain_record().model_copy(update={"inference_protection": "simulated"})
    decision = decide(
        evaluation_reasons=(),
        record=record,
        expected_class=record.privacy_class,
        policy=PolicySection(),
        ledger_reasons=(),
        encrypted=evaluation,
    )
    assert decision.blessed is (reason is None)
    assert all(reason is not None and re.search(reason, found) for found in decision.reasons)


@pytest.mark.parametrize("name", ["UnsupportedDpEvent", "NonPrivateDpEvent"])
def test_a_record_whose_event_bounds_nothing_is_refused(name: str) -> None:
    document = dp_record().model_dump(mode="json")
    document["mechanism"]["dp_event"] = {"type": "SelfComposedDpEvent", "event": {"type": name}, "count": 3}
    decision = verdict(PrivacyRecord.model_validate(document))
    assert not decision.blessed and "epsilon is unknown" in decision.reasons[0]


def test_the_bound_itself_is_allowed() -> None:
    guarantee = dp_record().guarantee
    assert guarantee is not None
    assert verdict(dp_record(), max_epsilon=guarantee.epsilon, max_delta=guarantee.delta).blessed


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (make_config(), "dp/row/zero_out"),
        (make_config("plain"), "none/row/-"),
        (make_config("plain", dataset={"privacy_unit": {"key": "person"}}), "none/person/-"),
        (make_config(training={"seed": 1}), "none/row/-"),
    ],
    ids=["dp", "plain", "keyed", "seeded"],
)
def test_what_a_config_announces_is_what_its_record_states(config: Any, expected: str) -> None:
    assert announced_class(config) == expected


def test_announced_classes_agree_with_the_records() -> None:
    assert announced_class(make_config()) == dp_record().privacy_class
    assert announced_class(make_config("plain")) == plain_record().privacy_class
