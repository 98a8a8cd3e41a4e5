"""Training and its charge: reserved, started before the first read, committed after, and never given back."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.plan import MechanismPlan, Relation
from privacy_pipeline.backends.base import Audits, Executed, Specs, TrainingInputs, Tuned
from privacy_pipeline.components.privacy_gate.ledger_check import ledger_reasons
from privacy_pipeline.components.trainer import executor
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED, Verdict
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, PipelineError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.audit.receipts import read_receipts
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import Entry, State
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.reports.record.run_facts import RunFacts
from privacy_pipeline.spans import Span, union_digest
from tests.reports.records import UNITS, make_config, make_executed, make_plan
from tests.reports.tuned import EACH, SELECT, tuned_executed, tuned_plan

DIGEST = "d" * 64
KEYED = {"privacy_unit": {"key": "person"}}
FEATURES = FeaturePlan(
    columns=(), label="y", label_domain=("a", "b"), label_dtype="bytes", positive_class="a", unit_key=None
)


class FakeBackend:
    """Plans like DP-SGD and does what the test says instead of training."""

    def __init__(self, name: str = "dp_sgd", *, plan: MechanismPlan | None = None) -> None:
        self.name = name
        self.trained: list[TrainingInputs] = []
        self.units: list[int | None] = []
        self.on_examine: Callable[[], Verdict] = lambda: NOT_EXAMINED
        self.on_verify: Callable[[TrainingInputs], Audits] = lambda inputs: ()
        self.on_train: Callable[[TrainingInputs], Executed] = lambda inputs: make_executed()
        self._plan = plan or make_plan()

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan:
        self.units.append(units)
        return self._plan

    def examine(self, *, config: PipelineConfig, features: FeaturePlan, plan: MechanismPlan, specs: Specs) -> Verdict:
        return self.on_examine()

    def verify(self, inputs: TrainingInputs) -> Audits:
        return self.on_verify(inputs)

    def train(self, inputs: TrainingInputs) -> Executed:
        self.trained.append(inputs)
        return self.on_train(inputs)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger/ledger.db"


@pytest.fixture
def ledger(url: str) -> Ledger:
    made = Ledger.open(url, create=True)
    made.register(
        Registration(
            dataset="things",
            span=1,
            unit="row",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            splits={"train": SplitCount(rows=UNITS, units=UNITS), "eval": SplitCount(rows=10, units=10)},
            columns=(),
            digest=DIGEST,
            registered="2026-01-01T00:00:00+00:00",
        ),
        epsilon=3.0,
        delta=1e-5,
    )
    return made


def train(
    backend: FakeBackend,
    url: str,
    *,
    run_id: str = "run-1",
    digest: str = DIGEST,
    state_dir: Path | None = None,
    span: Span = 1,
    **sections: Any,
) -> Any:
    config = make_config("plain" if backend.name == "plain" else "dp_sgd", ledger=url, **sections)
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"span": span})})
    inputs = TrainingInputs(
        train_files=(),
        eval_files=(),
        transform_graph=Path("graph"),
        features=FEATURES,
        config=config,
        plan=None,
        work_dir=Path("work"),
        model_dir=Path("model"),
        log_dir=Path("logs"),
        report_progress=lambda done, total, unit: None,
        state_dir=state_dir,
    )
    facts = RunFacts(run_id=run_id, pipeline="things", code="c", lock="l", data=digest, schema_is_public=True)
    return executor.train_charged(backend=backend, inputs=inputs, facts=facts, node="Trainer")


@pytest.fixture
def several(url: str) -> Ledger:
    """Spans 1 to 3 of different persons, each with a budget."""
    made = Ledger.open(url, create=True)
    for span in (1, 2, 3):
        registration = Registration(
            dataset="things",
            span=span,
            unit="person",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            splits={"train": SplitCount(rows=UNITS, units=UNITS), "eval": SplitCount(rows=10, units=10)},
            columns=(),
            digest=str(span) * 64,
            registered="2026-01-01T00:00:00+00:00",
        )
        made.register(registration, epsilon=3.0, delta=1e-5, units=[f"person {span}"], disjoint=True)
    return made


def test_a_model_whose_rows_mix_is_refused_with_nothing_reserved(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()

    def on_examine() -> Verdict:
        raise BadInputError("rows mix")

    backend.on_examine = on_examine
    with pytest.raises(BadInputError, match="rows mix"):
        train(backend, url)
    assert ledger.entries("things") == [] and backend.trained == []


def test_the_record_says_what_was_proven_of_the_rows(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()
    backend.on_train = lambda inputs: make_executed(rows=Verdict(kind="proven", ops=3))
    record = train(backend, url)
    assert record.rows is not None and record.rows.verdict == "proven"


def train_over(backend: FakeBackend, url: str, spans: tuple[int, ...], **given: Any) -> Any:
    digest = union_digest({span: str(span) * 64 for span in spans})
    return train(backend, url, span=spans, digest=digest, dataset=KEYED, **given)


def backend_over(spans: tuple[int, ...]) -> FakeBackend:
    units = UNITS * len(spans)
    backend = FakeBackend(plan=dataclasses.replace(make_plan(), unit="person", units=units))
    backend.on_train = lambda inputs: make_executed(units=units, examples=units)
    return backend


def test_a_training_over_several_spans_is_charged_to_each_budget(url: str, several: Ledger, tmp_path: Path) -> None:
    backend = backend_over((1, 2, 3))
    seen: list[State] = []
    whole = backend.on_train

    def on_train(inputs: TrainingInputs) -> Executed:
        seen.extend(entry.state for entry in Ledger.open(url).entries("things"))
        return whole(inputs)

    backend.on_train = on_train
    record = train_over(backend, url, (1, 2, 3))
    assert backend.units == [3 * UNITS] and seen == [State.STARTED] * 3
    entries = several.entries("things")
    assert [entry.state for entry in entries] == [State.COMMITTED] * 3
    assert record.span == (1, 2, 3) and record.record_version == 8
    assert [made.ledger_entry for made in record.compositions] == [entry.id for entry in entries]
    assert [made.budget for made in record.compositions] == [entry.budget for entry in entries]
    assert len(record.further_compositions) == 2
    path = tmp_path / "privacy_record.json"
    path.write_text(record.model_dump_json())
    receipts = read_receipts([path])
    assert len({receipt.seq for receipt in receipts}) == 3 and several.verify(receipts=receipts).ok
    assert type(record).model_validate_json(record.model_dump_json()) == record
    assert ledger_reasons(record, None, url=url) == []
    other = record.further_compositions[1].model_copy(update={"journal_hash": "0" * 64})
    forged = record.model_copy(update={"further_compositions": [record.further_compositions[0], other]})
    (reason,) = ledger_reasons(forged, None, url=url)
    assert reason.startswith(f"ledger entry {entries[2].id} ") and "another receipt" in reason


def test_what_is_verified_comes_before_the_budget_and_is_told(url: str, ledger: Ledger) -> None:
    backend, seen = FakeBackend(), []

    def on_verify(inputs: TrainingInputs) -> Audits:
        seen.extend(entry.state for entry in Ledger.open(url).entries("things"))
        return ({"kind": "mechanism"},)

    backend.on_verify = on_verify
    train(backend, url)
    assert seen == [State.RESERVED]
    assert backend.trained[0].audits == ({"kind": "mechanism"},)


def test_a_run_whose_noise_is_not_the_one_accounted_gives_back_what_it_reserved(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()

    def on_verify(inputs: TrainingInputs) -> Audits:
        raise PipelineError("the noise is not the one that is accounted")

    backend.on_verify = on_verify
    with pytest.raises(PipelineError, match="the noise is not"):
        train(backend, url)
    assert not backend.trained
    assert ledger.status()[0].spent_epsilon == 0
    assert [entry.state for entry in ledger.entries("things")] == [State.EXPIRED]


def test_a_training_is_refused_where_one_of_its_spans_lacks_budget(url: str, several: Ledger) -> None:
    runs = 0
    while several.forecast(backend_over((2,))._plan, dataset="things", span=2, split="train").fits:
        runs += 1
        train(backend_over((2,)), url, run_id=f"run-{runs}", span=2, digest="2" * 64, dataset=KEYED)
    backend, before = backend_over((1, 2)), several.entries("things")
    with pytest.raises(BudgetRefusedError, match=r"budget things/train/person/span-2: .* none of them was charged"):
        train_over(backend, url, (1, 2))
    assert not backend.trained and several.entries("things") == before
    train_over(backend_over((1, 3)), url, (1, 3))


def test_a_training_over_several_spans_that_breaks_off_stays_charged_to_all(url: str, several: Ledger) -> None:
    backend = backend_over((2, 3))
    backend.on_train = lambda inputs: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        train_over(backend, url, (2, 3))
    train_over(backend_over((2, 3)), url, (2, 3))
    found = [(entry.budget.rpartition("/")[2], entry.attempt, entry.state) for entry in several.entries("things")]
    assert found == [
        ("span-2", 1, State.STARTED),
        ("span-3", 1, State.STARTED),
        ("span-2", 2, State.COMMITTED),
        ("span-3", 2, State.COMMITTED),
    ]


def only_entry(ledger: Ledger) -> Entry:
    (entry,) = ledger.entries("things")
    return entry


def test_a_plain_run_never_opens_the_ledger(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the ledger was opened")

    monkeypatch.setattr(executor.Ledger, "open", opened)
    backend = FakeBackend("plain")
    record = train(backend, url)
    assert record.training_guarantee == "none" and record.guarantee is None and record.composition is None
    assert len(backend.trained) == 1 and backend.trained[0].plan is None
    assert not (tmp_path / "ledger").exists()


def test_the_entry_is_started_on_disk_before_the_backend_may_read_and_committed_after(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()
    seen: list[State] = []

    def on_train(inputs: TrainingInputs) -> Executed:
        seen.append(only_entry(Ledger.open(url)).state)  # what a process that looks from outside would see
        return make_executed()

    backend.on_train = on_train
    record = train(backend, url)
    assert seen == [State.STARTED]
    entry = only_entry(ledger)
    assert entry.state is State.COMMITTED and entry.event == entry.executed_event and not entry.overrun
    assert record.training_guarantee == "dp"
    assert record.composition is not None and record.composition.ledger_entry == entry.id
    assert record.composition.epsilon_after == pytest.approx(ledger.status()[0].spent_epsilon)


def test_the_backend_trains_by_the_plan_that_was_charged_on_the_registered_units(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()
    train(backend, url)
    assert backend.units == [UNITS]
    assert backend.trained[0].plan is not None
    assert backend.trained[0].plan.parameters() == only_entry(ledger).plan


@pytest.mark.parametrize("error", [RuntimeError("diverged"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_a_training_that_breaks_off_stays_charged_in_full(url: str, ledger: Ledger, error: BaseException) -> None:
    def on_train(inputs: TrainingInputs) -> Executed:
        raise error

    backend = FakeBackend()
    backend.on_train = on_train
    with pytest.raises(type(error)):
        train(backend, url)
    entry = only_entry(ledger)
    assert entry.state is State.STARTED
    assert ledger.status()[0].spent_epsilon == pytest.approx(entry.epsilon) and entry.epsilon > 0


def test_a_copy_of_the_ledger_does_not_undo_a_training_that_broke_off(url: str, ledger: Ledger, tmp_path: Path) -> None:
    places = {"dataset": {"path": str(tmp_path / "data")}, "workspace": str(tmp_path)}
    (tmp_path / "data").mkdir()
    pins.note(ledger, [tmp_path, tmp_path / "data"])
    shutil.copytree(tmp_path / "ledger", tmp_path / "copy")

    def on_train(inputs: TrainingInputs) -> Executed:
        raise KeyboardInterrupt

    backend = FakeBackend()
    backend.on_train = on_train
    with pytest.raises(KeyboardInterrupt):
        train(backend, url, **places)
    with pytest.raises(BudgetRefusedError, match="was rolled back"):
        train(backend, url.replace("/ledger/", "/copy/"), run_id="run-2", **places)
    assert len(backend.trained) == 1


def test_training_again_after_a_failure_is_charged_again(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()
    backend.on_train = lambda inputs: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        train(backend, url)
    train(FakeBackend(), url)
    assert [(e.attempt, e.state) for e in ledger.entries("things")] == [(1, State.STARTED), (2, State.COMMITTED)]


def test_a_fixed_seed_voids_the_guarantee_but_is_charged(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()
    backend.on_train = lambda inputs: make_executed(seed_fixed=True)
    record = train(backend, url, training={"seed": 5})
    assert record.training_guarantee == "none" and record.guarantee is None
    assert only_entry(ledger).state is State.COMMITTED and ledger.status()[0].spent_epsilon > 0


@pytest.mark.parametrize("what", [{"steps": 21}, {"epochs": 3}, {"units": 999}, {"largest_participation": 2}], ids=str)
def test_no_record_is_made_of_a_backend_that_did_something_else(url: str, ledger: Ledger, what: dict[str, int]) -> None:
    backend = FakeBackend()
    backend.on_train = lambda inputs: make_executed(**what)
    with pytest.raises(PipelineError, match=r"did not run as planned.*budget is spent"):
        train(backend, url)
    assert ledger.status()[0].spent_epsilon > 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"digest": "e" * 64}, "not what was registered"),
        ({"dataset": {"name": "others"}}, "not registered"),
    ],
)
def test_nothing_is_read_where_the_ledger_refuses(url: str, ledger: Ledger, given: dict[str, Any], says: str) -> None:
    backend = FakeBackend()
    with pytest.raises(BudgetRefusedError, match=says):
        train(backend, url, **given)
    assert not backend.trained and not ledger.entries("things")


def test_nothing_is_read_once_the_budget_is_spent(url: str, ledger: Ledger) -> None:
    ledger.set_cap("things", epsilon=0.8, delta=1e-5)
    train(FakeBackend(), url, run_id="run-1")
    second = FakeBackend()
    with pytest.raises(BudgetRefusedError):
        train(second, url, run_id="run-2")
    assert not second.trained and len(ledger.entries("things")) == 1


def test_a_plan_over_other_units_than_the_registered_ones_is_refused(url: str, ledger: Ledger) -> None:
    backend = FakeBackend(plan=dataclasses.replace(make_plan(), units=UNITS - 1))
    with pytest.raises(BudgetRefusedError, match="number of units"):
        train(backend, url)
    assert not backend.trained


def test_a_backend_that_claims_a_guarantee_without_a_plan_is_a_bug(url: str, ledger: Ledger) -> None:
    backend = FakeBackend()
    backend.plan = lambda *, config, units: None  # type: ignore[assignment,return-value,method-assign]
    with pytest.raises(ValueError, match="plans no mechanism"):
        train(backend, url)
    assert not backend.trained


TUNED = {"training": {"tuning": SELECT}}


def tuned_backend(how: dict[str, Any] = SELECT) -> FakeBackend:
    backend = FakeBackend(plan=tuned_plan(how))
    backend.on_train = lambda inputs: tuned_executed(how)
    return backend


def test_a_tuning_is_one_charge_of_its_whole_event_paid_by_tune(url: str, ledger: Ledger) -> None:
    record = train(tuned_backend(), url, **TUNED)
    entry = only_entry(ledger)
    assert entry.purpose == "tune" and entry.state is State.COMMITTED and not entry.overrun
    assert entry.event == entry.executed_event == events.to_json(tuned_plan().event)
    assert record.mechanism is not None and record.mechanism.dp_event == entry.event
    assert ledger.status()[0].spent_epsilon == pytest.approx(record.guarantee.epsilon_rdp, rel=1e-6)


def test_each_trial_is_charged_where_all_are_shown(url: str, ledger: Ledger) -> None:
    train(tuned_backend(EACH), url, training={"tuning": EACH})
    event = only_entry(ledger).event
    assert isinstance(event, dict) and (event["type"], event["count"]) == ("SelfComposedDpEvent", 3)


def test_a_policy_without_a_share_for_tuning_refuses_it(url: str, ledger: Ledger) -> None:
    ledger.apply_policy(Policy(dataset="things", epsilon=3.0, delta=1e-5, unit="row"))
    backend = tuned_backend()
    with pytest.raises(BudgetRefusedError, match="may use 0% of the budget"):
        train(backend, url, **TUNED)
    assert not backend.trained


def test_a_tuning_that_was_killed_pays_in_full_and_again(url: str, ledger: Ledger, tmp_path: Path) -> None:
    def killed(inputs: TrainingInputs) -> Executed:
        raise KeyboardInterrupt

    backend = tuned_backend()
    backend.on_train = killed
    with pytest.raises(KeyboardInterrupt):
        train(backend, url, state_dir=tmp_path / "attempts", **TUNED)
    assert backend.trained[0].state_dir is None  # no key, and so nothing that tells of the trials
    assert not (tmp_path / "attempts").exists()
    once = ledger.status()[0].spent_epsilon
    train(tuned_backend(), url, state_dir=tmp_path / "attempts", **TUNED)
    assert [(e.attempt, e.state) for e in ledger.entries("things")] == [(1, State.STARTED), (2, State.COMMITTED)]
    assert ledger.status()[0].spent_epsilon > once > 0


def test_a_plain_tuning_never_opens_the_ledger(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.Ledger, "open", lambda *args, **kwargs: pytest.fail("the ledger was opened"))
    backend = FakeBackend("plain")
    point = {"learning_rate": 0.1}
    backend.on_train = lambda inputs: make_executed(tuning=Tuned(point=point, plan=None))
    record = train(backend, url, training={"tuning": {**EACH, "space": {"learning_rate": [0.1, 0.2]}}})
    assert record.composition is None and record.tuning is not None and record.tuning.chosen == point
