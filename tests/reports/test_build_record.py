"""The record of a run: what it claims, on what grounds, and what it says is not covered."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from dp_accounting import NeighboringRelation, ZCDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from pydantic import ValidationError

from privacy_pipeline.accounting import accountants, events, renyi
from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.accounting.release_plan import ReleasePlan
from privacy_pipeline.api.record_rows import privacy_rows
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED, SlowPart, Verdict
from privacy_pipeline.releases.statistics import DpStatistics
from privacy_pipeline.reports.record.build import build_record
from tests.reports.records import (
    COMPOSITION,
    FACTS,
    dp_record,
    make_config,
    make_executed,
    make_plan,
    plain_record,
    poisson_executed,
    poisson_plan,
)


def test_the_headline_claims_no_amplification_by_sampling() -> None:
    plan = make_plan()
    guarantee = dp_record().guarantee
    assert guarantee is not None
    unamplified = accountants.epsilon_of(plan.event, delta=plan.delta, relation=plan.relation)
    assert guarantee.epsilon == pytest.approx(unamplified)
    assert guarantee.epsilon_if_poisson_sampled is not None
    assert guarantee.epsilon_if_poisson_sampled < guarantee.epsilon / 2
    assert guarantee.accountant == "pld" and guarantee.epsilon == guarantee.epsilon_pld
    assert guarantee.epsilon_rdp is not None and guarantee.epsilon_rdp >= guarantee.epsilon


def sampled_record(**changes: Any) -> PrivacyRecord:
    plan = changes.pop("plan", poisson_plan(engine_parameters={"sampling": {"scheme": "poisson"}}))
    given = {"config": make_config(), "facts": FACTS, "composition": COMPOSITION}
    return build_record(plan=plan, executed=poisson_executed(**changes), **given)


def test_the_headline_of_poisson_samples_is_the_amplified_epsilon() -> None:
    record, plan = sampled_record(), poisson_plan()
    assert record.guarantee is not None and record.mechanism is not None
    assert record.guarantee.epsilon == accountants.epsilon_of(plan.event, delta=plan.delta, relation=plan.relation)
    assert record.guarantee.epsilon_if_poisson_sampled is None  # it is what ran, not a fiction beside it
    assert "batches are Poisson samples" in {a.name for a in record.assumptions}
    assert record.mechanism.plan == {"sampling": {"scheme": "poisson"}} and record.mechanism.engine == "native"


@pytest.mark.parametrize("record", [sampled_record, dp_record], ids=["poisson", "shuffled"])
def test_the_recorded_epsilon_is_found_again_by_hand_from_the_recorded_event(record: Any) -> None:
    document = json.loads(record().model_dump_json())
    event = events.from_json(document["mechanism"]["dp_event"])
    stated, neighbours = document["guarantee"], NeighboringRelation.REPLACE_SPECIAL
    assert stated["epsilon_pld"] == pytest.approx(PLDAccountant(neighbours, 1e-4).compose(event).get_epsilon(1e-5))
    by_rdp = RdpAccountant(renyi.ORDERS, neighbours).compose(event).get_epsilon(1e-5)
    assert stated["epsilon_rdp"] == pytest.approx(by_rdp, rel=1e-6)


def test_samples_that_another_sampler_drew_are_no_dp_record() -> None:
    with pytest.raises(ValidationError, match="assumption that did not hold"):
        sampled_record(sampler="fixed_partition")


def test_the_guarantee_and_the_event_are_of_what_ran() -> None:
    ran = poisson_gaussian(sampling_probability=0.1, noise_multiplier=2.0, steps=30)
    record = sampled_record(event=ran)
    assert record.guarantee is not None and record.mechanism is not None
    assert events.from_json(record.mechanism.dp_event) == ran
    assert record.guarantee.epsilon == accountants.epsilon_of(ran, delta=1e-5, relation=Relation.ZERO_OUT)


def test_what_was_withheld_is_listed() -> None:
    (withheld,) = [a for a in dp_record().data_accesses if a.what == "exact readings of the training"]
    assert "realised batch sizes" in withheld.detail and "training losses" in withheld.detail


def test_a_secret_number_of_units_is_nowhere_in_the_record() -> None:
    plan = poisson_plan(units=None, relation=Relation.ADD_OR_REMOVE_ONE)
    record = sampled_record(plan=plan, units=7919, examples=7919)
    assert record.mechanism is not None and record.mechanism.units is None
    assert record.relation == "add_or_remove_one" and "7919" not in record.model_dump_json()


def statistics() -> DpStatistics:
    noise = ReleasePlan(
        kind="dp_statistics",
        unit="row",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        units=1000,
        delta=1e-6,
        rho=0.02,
        threshold_delta=1e-14,
    )
    return DpStatistics(
        ranges={"size": (0.0, 8.0)},
        vocabularies={"colour": ("red", "blue")},
        unit="row",
        contribution_bound=1,
        relation="zero_out",
        units=1000,
        epsilon=noise.epsilon,
        delta=1e-6,
        event=events.to_json(noise.event),
        budget="things/train/row",
        ledger_entry=6,
    )


def test_the_guarantee_counts_the_statistics_that_the_model_was_set_up_with() -> None:
    facts = dataclasses.replace(FACTS, statistics=statistics())
    record = build_record(
        config=make_config(), facts=facts, executed=poisson_executed(), plan=poisson_plan(), composition=COMPOSITION
    )
    alone = sampled_record()
    assert record.guarantee is not None and alone.guarantee is not None and record.mechanism is not None
    assert record.guarantee.epsilon > alone.guarantee.epsilon_rdp > 0  # type: ignore[operator]
    # From the two events in the record alone: what zCDP adds to each order of the training's RDP.
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(events.from_json(record.mechanism.dp_event)).compose(ZCDpEvent(0.02))
    assert record.guarantee.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert record.guarantee.epsilon_pld is None and record.guarantee.accountant == "rdp"
    assert record.preprocessing is not None and record.preprocessing.ledger_entry == 6
    (access,) = [a for a in record.data_accesses if a.what == "DP statistics"]
    assert access.covered and "size, colour" in access.detail and "ledger entry 6" in access.detail
    assert "event SHA-256" in access.detail and "at delta 1e-06" in access.detail
    assert not [a for a in alone.data_accesses if a.what == "DP statistics"] and alone.preprocessing is None


PART = SlowPart(name="layer 'sorted'", op="'sorted/TopKV2' (TopKV2)", reason="no rule")


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (Verdict(kind="proven", ops=9), "proven for every op"),
        (Verdict(kind="proven", ops=9, vectorised=True), "whole model, vectorised"),
        (Verdict(kind="not_proven", slow=(PART,), times_slower=3.0), str(PART)),
        (NOT_EXAMINED, "not examined"),
    ],
    ids=lambda value: value.kind if isinstance(value, Verdict) else "",
)
def test_what_is_proven_of_the_rows_is_kept_and_told(verdict: Verdict, says: str) -> None:
    record = build_record(
        config=make_config(),
        facts=FACTS,
        executed=make_executed(rows=verdict),
        plan=make_plan(),
        composition=COMPOSITION,
    )
    assert record.rows is not None and record.rows.verdict == verdict.kind
    assert says in dict(privacy_rows(record))["examples stay apart"]
    assert PrivacyRecord.model_validate_json(record.model_dump_json()) == record


def test_a_record_of_version_6_says_nothing_of_rows() -> None:
    document = json.loads(dp_record().model_dump_json()) | {"record_version": 6}
    del document["rows"]
    read = PrivacyRecord.model_validate(document)
    assert read.rows is None and "examples stay apart" not in dict(privacy_rows(read))


def test_the_proven_error_of_private_logits_is_kept_and_told() -> None:
    record = build_record(
        config=make_config("encrypted", training={"encrypted": {"simulate": True}}),
        facts=FACTS,
        executed=make_executed(inference_error=3.25e-5),
        plan=None,
        composition=None,
    )
    assert record.inference_error == 3.25e-5
    assert dict(privacy_rows(record))["error of a private logit"] == "proven to be at most 3.25e-05"
    assert PrivacyRecord.model_validate_json(record.model_dump_json()) == record


def test_a_record_of_version_7_says_nothing_of_private_logits() -> None:
    document = json.loads(dp_record().model_dump_json()) | {"record_version": 7}
    del document["inference_error"]
    read = PrivacyRecord.model_validate(document)
    assert read.inference_error is None and "error of a private logit" not in dict(privacy_rows(read))


def test_a_record_of_version_1_is_still_read() -> None:
    document = json.loads(dp_record().model_dump_json()) | {"record_version": 1}
    for name in ("engine", "plan"):
        del document["mechanism"][name]
    for name in ("journal_seq", "journal_hash", "key_id"):
        del document["composition"][name]
    read = PrivacyRecord.model_validate(document)
    assert read.mechanism is not None and read.composition is not None and read.composition.journal_seq is None


def test_the_mechanism_is_the_executed_one() -> None:
    mechanism = dp_record().mechanism
    assert mechanism is not None
    assert (mechanism.steps, mechanism.epochs, mechanism.units) == (20, 2, 1000)
    assert (mechanism.noise_multiplier, mechanism.clipping_norm) == (8.0, 1.0)
    assert "8.0" in json.dumps(mechanism.dp_event)


def test_every_assumption_is_named_and_held() -> None:
    names = {a.name for a in dp_record().assumptions}
    assert names == {
        "the executed steps are the planned ones",
        "each unit is in at most one batch of an epoch",
        "the number of units is public",
    }
    assert all(a.held and a.detail for a in dp_record().assumptions)


@pytest.mark.parametrize(
    "broken", [{"steps": 19}, {"epochs": 3}, {"largest_participation": 2}, {"units": 999}, {"sampler": None}], ids=str
)
def test_no_record_claims_dp_on_an_assumption_that_did_not_hold(broken: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="assumption that did not hold"):
        build_record(
            config=make_config(),
            facts=FACTS,
            executed=make_executed(**broken),
            plan=make_plan(),
            composition=COMPOSITION,
        )


def test_a_fixed_seed_leaves_no_guarantee_but_the_mechanism_and_the_charge() -> None:
    record = build_record(
        config=make_config(training={"seed": 3}),
        facts=FACTS,
        executed=make_executed(seed_fixed=True),
        plan=make_plan(),
        composition=COMPOSITION,
    )
    assert record.training_guarantee == "none"
    assert record.guarantee is None and record.relation is None
    assert record.mechanism is not None and record.composition == COMPOSITION
    assert record.randomness.seed_fixed
    assert "3" not in record.randomness.generator  # never the seed itself


def covered(record: PrivacyRecord) -> dict[str, bool]:
    return {a.what: a.covered for a in record.data_accesses}


def test_a_dp_record_says_what_is_not_covered() -> None:
    assert covered(dp_record()) == {
        "training": True,
        "schema and vocabularies": True,
        "preprocessing": True,
        "statistics and anomalies": False,
        "evaluation metrics, blessing and slices": False,
        "choice of hyperparameters": False,
        "exact readings of the training": False,
        "times": False,
    }


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ({"privacy_unit": {"key": "person"}}, "not checked: who shares a `person`"),
        (
            {"privacy_unit": {"key": "person"}, "input": "all/*", "hash_split": {"train": 4, "eval": 1}},
            "split by the hash of `person`",
        ),
        ({}, ""),
    ],
    ids=["patterns", "hashed", "rows"],
)
def test_users_with_rows_in_both_splits_are_not_passed_over(dataset: dict[str, Any], says: str) -> None:
    record = build_record(
        config=make_config("plain", dataset=dataset), facts=FACTS, executed=make_executed(), plan=None, composition=None
    )
    (evaluation,) = [a for a in record.data_accesses if a.what.startswith("evaluation")]
    assert says in evaluation.detail and bool(says) == ("`person`" in evaluation.detail)


def test_a_users_preprocessing_is_not_called_covered() -> None:
    record = build_record(
        config=make_config(model={"use": "my.module", "trust": "reviewed"}),
        facts=FACTS,
        executed=make_executed(),
        plan=make_plan(),
        composition=COMPOSITION,
    )
    assert not covered(record)["preprocessing"]


def test_a_plain_record_covers_no_training_and_an_inferred_schema_nothing_at_all() -> None:
    assert not covered(plain_record())["training"]
    inferred = build_record(
        config=make_config("plain", dataset={"schema": "infer"}),
        facts=dataclasses.replace(FACTS, schema_is_public=False),
        executed=make_executed(),
        plan=None,
        composition=None,
    )
    assert not any(covered(inferred).values())


def test_a_schema_that_was_read_off_the_data_is_not_called_public() -> None:
    record = build_record(
        config=make_config("plain"),
        facts=dataclasses.replace(FACTS, schema_is_public=False),
        executed=make_executed(),
        plan=None,
        composition=None,
    )
    assert not covered(record)["schema and vocabularies"] and not covered(record)["preprocessing"]


def test_a_plain_record_holds_no_epsilon_anywhere() -> None:
    record = plain_record()
    assert record.training_guarantee == "none"
    stated = record.model_dump(mode="json", exclude_none=True)
    assert "guarantee" not in stated and "mechanism" not in stated and "relation" not in stated
    assert "epsilon" not in json.dumps(stated)


def test_the_unit_is_told_in_words() -> None:
    assert "person with several rows" in dp_record().unit_in_words
    keyed = build_record(
        config=make_config("plain", dataset={"privacy_unit": {"key": "person"}}),
        facts=FACTS,
        executed=make_executed(),
        plan=None,
        composition=None,
    )
    assert keyed.unit == "person" and "`person`" in keyed.unit_in_words


@pytest.mark.parametrize("record", [dp_record, plain_record])
def test_json_round_trip(record: Any) -> None:
    text = record().model_dump_json(indent=2)
    assert PrivacyRecord.model_validate_json(text) == record()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"guarantee": None}, "states guarantee"),
        ({"mechanism": None}, "states guarantee"),
        ({"relation": None}, "states guarantee"),
        ({"contribution_bound": None}, "states guarantee"),
        ({"training_guarantee": "none"}, "carries no epsilon"),
        ({"randomness": {"generator": "g", "cryptographic": True, "seed_fixed": True}}, "fixed seed"),
        ({"assumptions": [{"name": "a", "held": False, "detail": ""}]}, "did not hold"),
        ({"record_version": 9}, "record_version"),
        ({"surprise": 1}, "surprise"),
        ({"inference_protection": "epsilon 3"}, "inference_protection"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_schema_refuses_records_that_claim_too_much(change: dict[str, Any], says: str) -> None:
    document = json.loads(dp_record().model_dump_json())
    PrivacyRecord.model_validate(document)
    with pytest.raises(ValidationError, match=says):
        PrivacyRecord.model_validate(document | change)


@pytest.mark.parametrize("bad", [{"epsilon": -1.0}, {"delta": 0.0}, {"delta": 1.0}], ids=str)
def test_a_guarantee_out_of_range_is_refused(bad: dict[str, float]) -> None:
    document = json.loads(dp_record().model_dump_json())
    document["guarantee"] |= bad
    with pytest.raises(ValidationError, match=next(iter(bad))):
        PrivacyRecord.model_validate(document)


def accesses(model: Any) -> dict[str, Any]:
    record = build_record(
        config=make_config(model=model),
        facts=FACTS,
        plan=make_plan(),
        executed=make_executed(),
        composition=COMPOSITION,
    )
    return {access.what: access for access in record.data_accesses}


def test_the_record_says_where_code_of_a_users_ran() -> None:
    assert "model code" not in accesses({"use": "tabular"})
    apart = accesses({"use": "mine", "files": ["public/words.txt"]})
    assert apart["model code"].covered and apart["preprocessing"].covered
    assert "built without access to data" in apart["model code"].detail
    assert "public/words.txt" in apart["model code"].detail
    beside = accesses({"use": "mine", "trust": "reviewed"})
    assert not beside["model code"].covered and not beside["preprocessing"].covered
    assert "model code: not checked" in beside["model code"].detail
    assert "built without" not in str(beside)
