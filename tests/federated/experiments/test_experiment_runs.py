"""Runs of an experiment: recorded round by round, resumed to the same weights, charged when private."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from federated.experiments.charging import privacy
from federated.experiments.charging.register import register_clients
from federated.experiments.data import load_clients
from federated.experiments.evaluation import area_under_curve
from federated.experiments.run import run_point
from federated.experiments.run_folder import RunFolder
from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.covered_digests import secret_in
from privacy_pipeline.dp.noise.noise import GaussianNoise
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, PipelineError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State, price
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import (
    DISTRIBUTED,
    PRIVACY,
    load_bound,
    write_experiment,
    write_people,
)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill_at(number):
    def report(name, done, total):
        if done == number:
            raise Killed

    return report


@pytest.fixture
def people(tmp_path):
    write_people(tmp_path)
    return tmp_path


def points(folder, *more, **replaced):
    return load_bound(write_experiment(folder, *more, **replaced))


def test_a_run_learns_and_is_written_down(people):
    point = points(people, **{"rounds: 6": "rounds: 40"})[0]
    summary = run_point(point, build=logistic.build)
    assert summary["accuracy"] > 0.85
    assert summary["auc"] > 0.93
    assert summary["clients_train"] == 60
    assert not summary["clients"]["synthetic"]
    rounds = RunFolder(point.folder).rounds()
    assert [line["round"] for line in rounds] == list(range(1, 41))
    assert [line["round"] for line in rounds if "eval" in line] == list(range(2, 41, 2))
    assert rounds[-1]["bytes_up"] == 40 * 10 * 4 * 6  # rounds x clients x bytes of a float x (5 inputs and a bias)
    assert len(rounds[-1]["eval"]["client_accuracy"]) == 5
    assert "epsilon" not in summary
    before = (point.folder / "summary.json").stat().st_mtime_ns
    assert run_point(point, build=logistic.build)["accuracy"] == summary["accuracy"]
    assert (point.folder / "summary.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [1, 3, 4, 6])
def test_a_killed_run_goes_on_to_the_same_weights(people, number):
    point = points(people)[0]
    whole = points(people, **{f"folder: {people}/runs": f"folder: {people}/whole"})[0]
    run_point(whole, build=logistic.build)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(number))
    assert RunFolder(point.folder).summary() is None
    with (point.folder / "rounds.jsonl").open("a") as stream:
        stream.write('{"round": 9')  # a line that was cut off
    run_point(point, build=logistic.build)
    resumed, straight = RunFolder(point.folder), RunFolder(whole.folder)
    for left, right in zip(resumed.restore().weights, straight.restore().weights, strict=True):
        np.testing.assert_array_equal(left, right)
    assert resumed.rounds() == straight.rounds()


def test_cohorts_and_first_weights_follow_the_seed(people):
    one, two = points(people)
    assert run_point(one, build=logistic.build)["loss"] != run_point(two, build=logistic.build)["loss"]


def register(folder, point, cap=99.0):
    from privacy_pipeline.data.source import count_units, resolve
    from privacy_pipeline.ledger.state.registration import Registration, SplitCount

    dataset = point.config.data.dataset
    source = resolve(dataset=dataset)
    counts = count_units(source=source, dataset=dataset)
    ledger = Ledger.open(point.config.ledger, create=True)
    ledger.digest_secret(first=secret_in(point.config.folder))  # under which the point is bound
    registration = Registration(
        dataset="people",
        span=source.span,
        unit="who",
        contribution_bound=4,
        relation=Relation.ZERO_OUT,
        splits={name: SplitCount(rows=c.rows, units=c.units) for name, c in counts.items()},
        columns=("x", "z", "town"),
        digest=source.plain_digest(),
        registered="2026-01-01T00:00:00+00:00",
    )
    ledger.register(registration, epsilon=cap, delta=1e-3)
    return ledger


@pytest.mark.slow
def test_a_private_run_pays_once_over_a_kill_and_its_epsilon_follows_from_the_stored_event(people):
    point = points(people, PRIVACY)[0]
    ledger = register(people, point)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(2))
    assert [entry.state for entry in ledger.entries("people")] == [State.STARTED]
    summary = run_point(point, build=logistic.build)
    assert [entry.state for entry in ledger.entries("people")] == [State.COMMITTED]
    record = PrivacyRecord.model_validate_json((point.folder / "privacy_record.json").read_text())
    event = events.from_json(record.mechanism.dp_event)
    again = epsilon_of(event, delta=1e-3, relation=Relation.ZERO_OUT)
    assert summary["epsilon"] == pytest.approx(again) == record.guarantee.epsilon
    assert 1 < summary["epsilon"] < 9
    assert (record.unit, record.mechanism.units, record.mechanism.steps) == ("who", 60, 6)
    assert record.composition.ledger_entry == ledger.entries("people")[0].id
    rounds = RunFolder(point.folder).rounds()
    epsilons = [line["epsilon"] for line in rounds if "epsilon" in line]
    assert epsilons == sorted(epsilons)
    assert len(epsilons) == 3
    assert epsilons[-1] == pytest.approx(summary["epsilon"])
    # Realised cohorts, losses and counts are secret: sizes that are told are expected ones.
    assert all(set(line) <= {"round", "bytes_up", "bytes_down", "eval", "epsilon"} for line in rounds)
    assert [line["bytes_up"] for line in rounds] == [10 * 24 * (n + 1) for n in range(6)]
    assert not (point.folder / "checkpoint.npz").exists()


def test_a_copy_of_the_ledger_does_not_undo_a_run_that_was_killed(people):
    point = points(people, PRIVACY, **{"ledger.db": "ledger/ledger.db"})[0]
    pins.leave(register(people, point), data=people / "people", workspace=people / "runs", tell=print)
    shutil.copytree(people / "ledger", people / "copy")
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(1))
    shutil.rmtree(people / "ledger")
    (people / "copy").rename(people / "ledger")
    with pytest.raises(BudgetRefusedError, match="was rolled back"):
        run_point(point, build=logistic.build)


@pytest.mark.slow
def test_noise_that_is_not_the_accounted_one_gives_the_budget_back(people, monkeypatch):
    point = points(people, PRIVACY)[0]
    ledger = register(people, point)
    real = GaussianNoise.flat
    with monkeypatch.context() as patched:
        patched.setattr(
            GaussianNoise, "flat", lambda self, step, *, stddev: np.float32(0.9) * real(self, step, stddev=stddev)
        )
        with pytest.raises(PipelineError, match="the noise is not the one that is accounted"):
            run_point(point, build=logistic.build)
    assert ledger.status()[0].spent_epsilon == 0
    assert [entry.state for entry in ledger.entries("people")] == [State.EXPIRED]
    summary = run_point(point, build=logistic.build)
    record = PrivacyRecord.model_validate_json((point.folder / "privacy_record.json").read_text())
    (audit,) = record.audits
    told = {name: value for name, value in audit.items() if name != "seconds"}
    assert summary["audits"] == [told] and audit["kind"] == "mechanism" and audit["seconds"] > 0
    assert audit["lower_bound"] <= audit["upper_bound"]


class Changed:
    """An engine that does something with the aggregator's rounds that was not planned."""

    def __init__(self, engine, aggregator, change):
        self.inner, self.aggregator, self.change = engine, aggregator, change

    def initial_state(self):
        return self.inner.initial_state()

    def run_round(self, state, cohort):
        result = self.inner.run_round(state, cohort)
        self.change(self.aggregator, state)
        return result


def changed_build(change):
    def build(config, clients, aggregator, *, width, seed):
        made = []

        def kept(shapes):
            made.append(aggregator(shapes))
            return made[-1]

        simulation = logistic.build(config, clients, kept, width=width, seed=seed)
        return dataclasses.replace(simulation, engine=Changed(simulation.engine, made[0], change))

    return build


@pytest.mark.slow
def test_what_the_mechanism_gave_out_is_committed_not_what_was_planned(people):
    """The last round's noise is never drawn: five rounds ran, and five are committed; there is no record of six."""
    point = points(people, PRIVACY)[0]
    ledger = register(people, point)

    def drop_last(aggregator, state):
        if aggregator.summed[-1] == aggregator.plan.rounds - 1:
            aggregator.summed.pop()

    with pytest.raises(PipelineError, match="5 rounds were made, 6 were planned"):
        run_point(point, build=changed_build(drop_last))
    (entry,) = ledger.entries("people")
    plan = privacy.charged(point.config, units=60).plan
    assert entry.state is State.COMMITTED and entry.executed_event == events.to_json(plan.event_of(5))
    assert entry.event == events.to_json(plan.event) and not (point.folder / "privacy_record.json").exists()


@pytest.mark.slow
def test_a_round_that_was_given_out_twice_has_no_bound(people):
    point = points(people, PRIVACY)[0]
    ledger = register(people, point)

    def repeat(aggregator, state):
        if aggregator.summed[-1] == 2:
            aggregator.finish(aggregator.initial_state(), None, 2)

    with pytest.raises(PipelineError, match="given out twice"):
        run_point(point, build=changed_build(repeat))
    (entry,) = ledger.entries("people")
    assert entry.overrun and math.isinf(ledger.status("people")[0].spent_epsilon)


@pytest.mark.parametrize("family", ["skellam", "discrete_gaussian"])
def test_distributed_noise_is_charged_told_and_recomputed(people, family):
    point = points(people, DISTRIBUTED.replace("skellam", family), **{"rounds: 6": "rounds: 14"})[0]
    ledger = register(people, point)
    summary = run_point(point, build=logistic.build)
    (entry,) = ledger.entries("people")
    assert entry.state is State.COMMITTED
    record = PrivacyRecord.model_validate_json((point.folder / "privacy_record.json").read_text())
    event = events.from_json(record.mechanism.dp_event)
    assert epsilon_of(event, delta=1e-3, relation=Relation.ZERO_OUT) == summary["epsilon"] == record.guarantee.epsilon
    assert record.guarantee.epsilon_pld is None and "PLD" in record.guarantee.epsilon_missing
    assert event.count == 3  # epochs begun: six rounds each
    assert event.event.shares == 7
    assert record.mechanism.sampler == "fixed_partition" and "secure aggregation: simulated" in record.mechanism.name
    accesses = {access.what: access for access in record.data_accesses}
    assert not accesses["secure aggregation"].covered
    assert accesses["secure aggregation"].detail.startswith("simulated: the process that runs this sees every update")
    inside = float(accesses["what a reporting client sees"].detail.split("epsilon is ")[1].split(" at")[0])
    assert inside > summary["epsilon"]
    told = " ".join(assumption.detail for assumption in record.assumptions)
    assert f"{summary['rounds_released']} of 14 rounds were released" in told
    assert "SecAgg" not in record.model_dump_json()
    assert "2^-200" in record.randomness.generator
    rounds = RunFolder(point.folder).rounds()
    assert set(rounds[0]) == {"round", "bytes_up", "bytes_down", "rounds_released", "numbers_wrapped"}
    assert rounds[0]["bytes_up"] == 10 * 256 * 16 // 8 and rounds[0]["bytes_down"] == 10 * 24
    # Of ten clients that a round asks some drop out, in some rounds more than three.
    assert 0 < summary["rounds_released"] == rounds[-1]["rounds_released"] <= 14


def test_a_model_that_does_not_fit_is_refused_before_anything_is_spent(people):
    point = points(people, DISTRIBUTED.replace("256", "64"))[0]
    ledger = register(people, point)
    with pytest.raises(BadInputError, match="225 trainable weights, more than the 64 that are accounted") as caught:
        run_point(point, build=logistic.build)
    assert caught.value.fix == "set dimension: 256"
    assert ledger.entries("people") == []


def test_rounds_with_too_few_clients_release_nothing_and_stay_charged(people):
    lonely = DISTRIBUTED.replace("dropout: 0.2", "dropout: 0.9").replace("min_clients: 7", "min_clients: 9")
    point = points(people, lonely)[0]
    ledger = register(people, point)
    summary = run_point(point, build=logistic.build)
    assert summary["rounds_released"] == 0 and summary["epsilon"] > 0
    assert [entry.state for entry in ledger.entries("people")] == [State.COMMITTED]


def test_nothing_is_read_when_the_ledger_refuses(people, monkeypatch):
    from federated.experiments import run

    def touched(*args, **kwargs):
        raise AssertionError("data was read")

    first, second = points(people, PRIVACY)
    monkeypatch.setattr(run, "load_clients", touched)
    with pytest.raises(BadInputError, match="ledger"):
        run_point(first, build=logistic.build)
    charge = privacy.charged(first.config, units=60)
    ledger = register(people, first, cap=1.2 * price(charge.event, charge.relation).epsilon(1e-3))
    with pytest.raises(AssertionError, match="data was read"):  # the reservation was granted, and is given back
        run_point(first, build=logistic.build)
    assert [entry.state for entry in ledger.entries("people")] == [State.EXPIRED]
    with monkeypatch.context() as patched:
        patched.setattr(run, "load_clients", load_clients)
        run_point(first, build=logistic.build)
    with pytest.raises(BudgetRefusedError, match="above the cap"):
        run_point(second, build=logistic.build)
    assert [entry.state for entry in ledger.entries("people")] == [State.EXPIRED, State.COMMITTED]


@pytest.mark.parametrize(("split", "cell"), [("train", "maybe"), ("eval", "maybe"), ("eval", ""), ("train", " no")])
def test_a_bad_cell_of_any_split_is_found_before_a_charge(people, split, cell):
    file = people / f"people/span-1/{split}/people.csv"
    lines = file.read_text().splitlines()
    lines[4] = lines[4].rsplit(",", 1)[0] + f",{cell}"
    whole = file.read_text()
    register(people, points(people, PRIVACY)[0])
    file.write_text("\n".join(lines) + "\n")
    point = points(people, PRIVACY)[0]
    with pytest.raises(BadInputError, match=rf"{split}/people.csv:5: column 'y': "):
        run_point(point, build=logistic.build)
    assert not Ledger.open(point.config.ledger).entries("people")
    file.write_text(whole)
    run_point(points(people, PRIVACY)[0], build=logistic.build)


def test_other_rows_than_registered_are_found_before_a_charge(people):
    register(people, points(people, PRIVACY)[0])
    file = people / "people/span-1/train/people.csv"
    file.write_text(file.read_text() + "9001,0.5,0.5,1,yes\n")
    point = points(people, PRIVACY)[0]
    with pytest.raises(BudgetRefusedError, match="another number of rows or units than was registered"):
        run_point(point, build=logistic.build)
    assert not Ledger.open(point.config.ledger).entries("people")


@pytest.mark.parametrize(
    ("spell", "clients", "says"),
    [
        (lambda who, row: f"{who:03d}" if row % 2 else str(who), 60, "read as one unit"),
        (lambda who, row: f"p{who}" + " " * (row % 2), None, "read as two units"),
        (lambda who, row: " " * (row % 2) + f"p{who}", None, "read as two units"),
        (lambda who, row: f"P{who}" if row % 2 else f"p{who}", None, "read as two units"),
        (lambda who, row: f"{who:03d}" if row % 2 else f"x{who}", None, ""),
    ],
)
def test_keys_are_counted_as_registered_and_their_spelling_is_told(people, spell, clients, says):
    for split in ("train", "eval"):
        file = people / f"people/span-1/{split}/people.csv"
        head, *rows = file.read_text().splitlines()
        cells = [row.split(",", 1) for row in rows]
        file.write_text(
            "\n".join([head, *(f"{spell(int(who), at)},{rest}" for at, (who, rest) in enumerate(cells))]) + "\n"
        )
    if clients is None:
        schema = people / "people.pbtxt"
        schema.write_text(
            schema.read_text()
            .replace('"who" type: INT', '"who" type: BYTES')
            .replace("int_domain { min: 1 max: 9999 }", "", 1)
        )
    told = []
    config = points(people, PRIVACY)[0].config
    registered = register_clients(config, epsilon=50, delta=1e-3, tell=told.append)
    summary = run_point(points(people, PRIVACY)[0], build=logistic.build)
    assert summary["clients_train"] == registered.splits["train"].units
    assert clients is None or summary["clients_train"] == clients
    assert bool([note for note in told if says and says in note]) == bool(says)


def test_bad_populations_are_one_clear_error(people):
    with pytest.raises(BadInputError, match="cohort of 61 clients cannot be drawn from 60"):
        run_point(points(people, **{"clients_per_round: 10": "clients_per_round: 61"})[0], build=logistic.build)
    giant = points(people, **{"contribution_bound: 4": "contribution_bound: 3"})[0]
    with pytest.raises(BadInputError, match=r"people.csv: client \d+ has 4 rows, more than the contribution_bound 3"):
        run_point(giant, build=logistic.build)
    private = points(people, PRIVACY, **{"clients_per_round: 10": "clients_per_round: 61"})[0]
    register(people, private)
    with pytest.raises(BadInputError, match="61 clients does not fit into 60"):
        run_point(private, build=logistic.build)


def test_noise_on_the_count_of_unclipped_clients_follows_the_cohort(people):
    from federated.experiments.charging import privacy

    block = "privacy: {noise_multiplier: 0.6, delta: 1.0e-3, clipping_norm: 0.5, adaptive: {}}\n"
    adaptive = privacy.charged(points(people, block)[0].config, units=60).plan.base.clipping.adaptive
    assert (adaptive.count_noise, adaptive.quantile) == (0.5, 0.5)  # a twentieth of 10 clients
    stated = points(people, block.replace("{}", "{count_noise: 2.0}"))[0].config
    assert privacy.charged(stated, units=60).plan.base.clipping.adaptive.count_noise == 2.0


def test_silos_and_synthetic_clients(people):
    silos = points(people, **{"rounds: 6": "  clients: {column: town}\nrounds: 6", "per_round: 10": "per_round: 2"})[0]
    summary = run_point(silos, build=logistic.build)
    assert summary["clients_train"] == 3
    dealt = points(people, **{"rounds: 6": "  clients: {rule: label_skew, clients: 12, alpha: 0.1}\nrounds: 6"})[0]
    summary = run_point(dealt, build=logistic.build)
    assert summary["clients_train"] == 12
    assert summary["clients"]["rule"]["alpha"] == 0.1
    assert json.loads((dealt.folder / "summary.json").read_text())["clients"]["synthetic"]


def test_area_under_curve_counts_pairs():
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert area_under_curve(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(area_under_curve(scores, np.ones(60, bool)))


@pytest.mark.slow
def test_the_datasets_report_holds_private_plain_and_unfinished_experiments(people):
    """All that `federated run` did on a registered dataset is in its report, charged or not."""
    from privacy_pipeline.pipelines.reporting.reporting import evidence
    from privacy_pipeline.reports.dataset.compose import dataset_report
    from privacy_pipeline.reports.figures import plain

    private, killed = points(people, PRIVACY)
    open_, _ = points(people)
    register(people, private)
    summary = run_point(private, build=logistic.build)
    run_point(open_, build=logistic.build)
    with pytest.raises(Killed):
        run_point(killed, build=logistic.build, report=kill_at(2))
    workspace = private.config.folder
    found = evidence("people", ledger=private.config.ledger, workspaces=[workspace])
    assert [run.run_id for run in found.runs] == [f"{private.config.experiment}-{private.name}"]
    assert {run.status for run in found.unrecorded} == {"unfinished", "done, without any guarantee"}
    report = dataset_report(found)
    (run,) = report.runs
    assert run.receipt == "agrees" and run.guarantee.epsilon.value == summary["epsilon"]
    assert run.metrics["accuracy"].value == summary["accuracy"] and not run.blessed
    said = " ".join(plain(s.words) for passage in report.first_page for s in passage.statements)
    assert "2 run(s) read this data and did not finish with a record" in said
    assert evidence("people", ledger=private.config.ledger, workspaces=[workspace.parent / "none"]).runs == []


@pytest.mark.slow
def test_an_experiment_that_cannot_be_read_is_named(people):
    from privacy_pipeline.pipelines.reporting.reporting import evidence

    point = points(people, PRIVACY)[0]
    register(people, point)
    run_point(point, build=logistic.build)
    (point.folder / "privacy_record.json").write_text("{}")
    told = []
    found = evidence("people", ledger=point.config.ledger, workspaces=[point.config.folder], left_out=told.append)
    assert found.runs == [] and len(found.unreadable) == 1 and "this is not a privacy record" in told[0]
