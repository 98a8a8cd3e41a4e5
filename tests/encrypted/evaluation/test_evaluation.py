"""What is measured of plain against private predictions, and that a private evaluation is never passed off as more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.config.models.encrypted import EncryptedSection
from privacy_pipeline.encrypted.evaluation import evaluation, measured, own_parties
from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.model.fixed_point import Proof
from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.threat_model import simulated
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.encrypted.transport.certificates import init_parties
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.reports.record.build import build_record
from tests.encrypted.deployment import make_parties
from tests.reports.records import COMPOSITION, FACTS, make_config, make_executed, make_plan

ROWS = 700
PROOF = Proof(logit_error=1e-3, largest={}, widest=("d", 2.0))


def dense_model(scale: float = 1.0) -> PrivateModel:
    kernel = np.array([[1.0], [-2.0]]) * scale
    layer = Layer(name="d", op="dense", inputs=("x",), weights={"kernel": (2, 1)})
    return PrivateModel(
        inputs=(Input(name="x", shape=(2,)),), layers=(layer,), output="d", weights={"d/kernel": kernel}
    )


def compared(plain: Any, private: Any, labels: Any) -> measured.EncryptedEvaluation:
    columns = (np.asarray(values, float).reshape(-1, 1) for values in (plain, private, labels))
    first, second, truth = columns
    return evaluation.compare(
        plain=first,
        private=second,
        labels=truth,
        model="m",
        proof=PROOF,
        batches=[],
        threat_model=simulated(),
    )


def test_both_ways_are_told_apart() -> None:
    found = compared([1.0, -1.0, 2.0, -3.0], [1.5, 1.0, 2.0, -3.0], [1, 0, 1, 0])
    assert (found.accuracy_plain, found.accuracy_encrypted, found.agreement) == (1.0, 0.75, 0.75)
    assert (found.auc_plain, found.auc_encrypted) == (1.0, 1.0)
    assert found.largest_logit_error == 2.0 and found.p99_logit_error < 2.0


@given(
    scores=arrays(np.int64, 12, elements=st.integers(-3, 3)),
    truth=arrays(bool, 12).filter(lambda a: a.any() and not a.all()),
)
def test_auc_is_the_share_of_pairs_in_order(scores: Any, truth: Any) -> None:
    pairs = scores[truth][:, None] - scores[~truth][None, :]
    expected = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    found = evaluation.auc(scores.astype(float), truth)
    assert found == pytest.approx(expected)


def test_auc_of_one_class_does_not_exist() -> None:
    assert compared([1.0, 2.0], [1.0, 2.0], [1, 1]).auc_plain is None


@pytest.mark.parametrize("private", [[1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_logits_that_are_none_are_no_result(private: list[float]) -> None:
    with pytest.raises(PipelineError):
        compared([1.0, 2.0], private, [1, 0])


def test_one_way_to_evaluate_is_stated(tmp_path: Path) -> None:
    evaluation.require_way(EncryptedSection(simulate=True))
    evaluation.require_way(EncryptedSection(parties=make_parties(tmp_path / "parties")))
    for refused in (evaluation.require_way, evaluation.protection_of):
        with pytest.raises(BadInputError, match="does not name the parties") as told:
            refused(EncryptedSection())
        assert "`parties: DIR`" in told.value.fix and "`simulate: true`" in told.value.fix
    with pytest.raises(ValidationError, match=r"remove `parties` .* or `simulate: true`"):
        EncryptedSection(simulate=True, parties=tmp_path / "parties")


@pytest.mark.parametrize(
    ("hosts", "protection"),
    [
        (("127.0.0.1", "127.0.0.1", "127.0.0.1"), "simulated"),
        (("a.example", "b.example", "c.example"), "encrypted"),
        (("a.example", "b.example", "b.example"), "simulated"),
    ],
)
def test_a_record_states_what_the_folder_s_hosts_protect(
    tmp_path: Path, hosts: tuple[str, ...], protection: str
) -> None:
    folder = tmp_path / "parties"
    init_parties(folder=folder, hosts=(*hosts, *("127.0.0.1",) * 3))
    config = make_config("encrypted", training={"encrypted": {"parties": str(folder)}})

    def record() -> PrivacyRecord:
        return build_record(config=config, facts=FACTS, executed=make_executed(), plan=None, composition=None)

    assert record().inference_protection == protection
    assert own_parties.read(folder).threat_model.protection == protection  # of the evaluation: PrivacyGate compares
    (folder / "parties.yaml").unlink()
    with pytest.raises(BadInputError, match=r"training.encrypted.parties: .*parties.yaml"):
        record()


@pytest.mark.slow
def test_the_whole_split_is_evaluated_privately(encrypted_python: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    model, x = dense_model(), random.uniform(-1, 1, (ROWS, 2))
    plain = x @ model.weights["d/kernel"]
    digest = model_format.save(model, tmp_path / "model")
    found = evaluation.simulate(
        tmp_path / "model",
        inputs={"x": x, "unused": x},
        labels=(plain > 0).astype(float),
        plain=plain,
        work=tmp_path / "work",
        batches=(1, 512),
    )
    assert (found.model, found.rows, found.range) == (digest, ROWS, "proven")
    assert 0 < found.largest_logit_error < 1e-3
    assert found.agreement > 0.998 and found.threat_model == simulated()
    assert [one.batch for one in found.batches] == [1, 512]
    small, large = found.batches
    assert small.seconds > 0 and small.rounds == large.rounds > 2
    # Keys and shares of a row; seeds are sent once a call.
    assert 0 < small.bytes_per_call < large.bytes_per_call < 512 * small.bytes_per_call


@pytest.mark.parametrize(
    ("scale", "value", "says"),
    [
        (2.0**29, 1.0, r"layer 'd' \(dense\) can reach 2.06e\+11"),
        (1.0, 128.5, "row 2 of the eval split: input 'x' .element 0. is 128.5, .* proven from -128 to 128"),
        (1.0, np.nan, "row 2 of the eval split: input 'x' .element 0. is nan"),
    ],
)
def test_what_overflows_is_refused_before_anything_is_shared(
    scale: float, value: float, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale of the network is the one of all layers alike, as it was before each had its own."""
    monkeypatch.setattr(environment, "run", lambda *given, **named: pytest.fail("the parties were asked"))
    model_format.save(dense_model(scale=scale), tmp_path / "model")
    x = np.ones((3, 2))
    x[2, 0] = value
    with pytest.raises(BadInputError, match=says):
        evaluation.simulate(tmp_path / "model", inputs={"x": x}, labels=x[:, :1], plain=x[:, :1], work=tmp_path / "w")


def test_a_missing_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "python"))
    with pytest.raises(BadInputError, match="no such file"):
        environment.interpreter()


def test_what_a_program_fails_of_is_told(encrypted_python: Path) -> None:
    with pytest.raises(PipelineError, match="odd thing"):
        environment.run(["-c", "raise ValueError('odd thing')"], timeout=60)
    with pytest.raises(PipelineError, match="did not end within 1 s"):
        environment.run(["-c", "import time; time.sleep(60)"], timeout=1)


@pytest.mark.parametrize("trainer", ["plain", "dp_sgd"])
def test_a_record_states_the_protection_and_keeps_the_guarantee(trainer: str) -> None:
    block = {"encrypted": {"train_with": trainer, "simulate": True}}
    if trainer == "dp_sgd":
        block["dp_sgd"] = {"noise_multiplier": 8.0, "delta": 1e-5}
    config = make_config("encrypted", training=block)
    plan = make_plan(backend="encrypted") if trainer == "dp_sgd" else None
    record = build_record(
        config=config,
        facts=FACTS,
        executed=make_executed(),
        plan=plan,
        composition=COMPOSITION if plan else None,
    )
    assert (record.backend, record.inference_protection) == ("encrypted", "simulated")
    assert record.training_guarantee == ("dp" if plan else "none") and (record.guarantee is None) == (plan is None)
    (access,) = [a for a in record.data_accesses if "private predictions" in a.what]
    assert not access.covered
    if plan is not None:  # encryption changes no epsilon
        same = build_record(
            config=make_config(), facts=FACTS, executed=make_executed(), plan=make_plan(), composition=COMPOSITION
        )
        assert record.guarantee == same.guarantee
