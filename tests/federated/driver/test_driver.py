"""The driver of rounds: what it counts, what it keeps, and that a broken-off run goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import NonPrivateDpEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from federated.contract import Array, RoundResult, RoundState
from federated.driver.accounted import Accounted
from federated.driver.binding import binding_of
from federated.driver.checkpoints import OpenCheckpoint, arrays_of, state_from
from federated.driver.protected import Secret, of_clients
from federated.driver.rounds import Made, Observer, Rounds
from federated.privacy.gaussian import GaussianAggregator
from federated.privacy.plan import FederatedPlan
from federated.privacy.sampler import ClientSampler, Participation
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.training import run_state
from privacy_pipeline.dp.training.run_state import RunState, StateMismatch
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.federated.fed_examples import made_clients

CLIENTS, ROUNDS = 12, 8
KEY = RunKey(bytes(range(32)), seed_fixed=False)


class Killed(BaseException):
    """Stands for a kill."""


def plan_of(sampling: str = "poisson") -> FederatedPlan:
    return FederatedPlan.calibrated(
        rounds=ROUNDS,
        clients=CLIENTS,
        clients_per_round=4,
        delta=1e-3,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        sampling=sampling,
    )


class Summing:
    """An engine whose weights are a function of all cohorts so far, through the plan's own aggregator."""

    def __init__(self, aggregator: Any) -> None:
        self.aggregator = aggregator([(3,)])
        self.cohorts: list[tuple[int, ...]] = []
        self.dies_at: int | None = None

    def initial_state(self) -> RoundState:
        first = {name: np.asarray(value) for name, value in self.aggregator.initial_state().items()}
        return RoundState(
            round_number=0, weights=(np.zeros(3, np.float32),), server={"m": np.ones(2)}, aggregator=first
        )

    def run_round(self, state: RoundState, cohort: Any, *, present: Any = None) -> RoundResult:
        if state.round_number == self.dies_at:
            raise Killed
        self.cohorts.append(tuple(cohort.tolist()))
        updates = [np.outer(cohort + 1.0, np.ones(3)).astype(np.float32)]
        ones = np.ones(len(cohort), np.float32)
        sums = self.aggregator.partial(dict(state.aggregator), updates, ones, ones) if len(cohort) else None
        update, after, _ = self.aggregator.finish(dict(state.aggregator), sums, state.round_number)
        after = {name: np.asarray(value) for name, value in after.items()}
        weights = (state.weights[0] * np.float32(0.9) + np.asarray(update[0]),)
        return RoundResult(
            state=RoundState(
                round_number=state.round_number + 1,
                weights=weights,
                server={"m": state.server["m"] + 1},
                aggregator=after,
            ),
            metrics={},
            clients=len(cohort),
            examples=len(cohort),
            bytes_down=0,
            bytes_up=0,
        )


class Noting(Observer):
    """Asks for a checkpoint after some rounds, and keeps a curve in it."""

    def __init__(self, saved_after: set[int]) -> None:
        self.saved_after, self.curve, self.told = saved_after, list[float](), list[int]()

    def restored(self, done: int, arrays: Mapping[str, Array]) -> None:
        self.curve = arrays["curve"].tolist()

    def made(self, made: Made) -> bool:
        assert made.last == (made.done == ROUNDS) and made.before.round_number == made.done - 1
        self.curve.append(float(made.result.state.weights[0][0]))
        return made.done in self.saved_after

    def kept(self) -> Mapping[str, Array]:
        return {"curve": np.array(self.curve)}

    def reported(self, done: int) -> None:
        self.told.append(done)


def rounds_in(
    folder: Path | None, *, saved_after: set[int] | None = None, sampling: str = "poisson", binding: str = "same"
) -> Rounds:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunKey, "from_system", lambda: KEY)
        secret = Secret.take(seed=None, state_dir=folder, binding=lambda: binding)
    rounds = of_clients(plan=plan_of(sampling), secret=secret, clients=CLIENTS, engine=Summing)
    rounds.observer = Noting(saved_after or set())
    return rounds


def killed_at(rounds: Rounds, number: int) -> list[tuple[int, ...]]:
    rounds.engine.dies_at = number  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        rounds.run()
    return rounds.engine.cohorts  # type: ignore[attr-defined, no-any-return]


@settings(max_examples=25, deadline=None)
@given(
    kills=st.lists(st.integers(0, ROUNDS - 1), max_size=4),
    saved_after=st.sets(st.integers(1, ROUNDS)),
    sampling=st.sampled_from(["poisson", "shuffled"]),
)
def test_however_often_it_is_killed_all_is_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], saved_after: set[int], sampling: str
) -> None:
    folder = tmp_path_factory.mktemp("state")
    whole = rounds_in(folder / "whole", saved_after=saved_after, sampling=sampling)
    end = whole.run()
    cohorts = whole.engine.cohorts  # type: ignore[attr-defined]
    for number in kills:
        rounds = rounds_in(folder / "broken", saved_after=saved_after, sampling=sampling)
        begun = rounds.kept.load()[0] if rounds.kept is not None and rounds.kept.resumed else 0
        if number < begun:
            continue
        assert killed_at(rounds, number) == cohorts[begun:number]
    rounds = rounds_in(folder / "broken", saved_after=saved_after, sampling=sampling)
    last = rounds.run()
    for one, other in zip(arrays_of(end).items(), arrays_of(last).items(), strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])
    assert rounds.observer.curve == whole.observer.curve  # type: ignore[attr-defined]
    assert rounds.spent().summed == whole.spent().summed == list(range(ROUNDS)) and rounds.spent().whole
    assert rounds.spent().executed() == plan_of(sampling).event
    assert rounds.watcher is not None and whole.watcher is not None
    assert rounds.watcher.largest == whole.watcher.largest


def test_a_checkpoint_precedes_the_first_round_and_is_written_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = rounds_in(tmp_path / "state")
    rounds.begin()
    assert run_state.has_state(tmp_path / "state") and rounds.resumed_at is None
    assert rounds_in(tmp_path / "state").begin().round_number == 0
    saved: list[int] = []
    real = RunState.save
    monkeypatch.setattr(RunState, "save", lambda self, step, arrays: (saved.append(step), real(self, step, arrays)))
    rounds_in(tmp_path / "state", saved_after={3}).run()
    assert saved == [3, ROUNDS]
    saved.clear()
    monkeypatch.setattr(run_state, "CHECKPOINT_SECONDS", 0.0)
    rounds_in(tmp_path / "other").run()
    assert saved == list(range(ROUNDS + 1))


def test_a_run_whose_key_is_in_memory_alone_keeps_nothing(tmp_path: Path) -> None:
    rounds = rounds_in(None)
    rounds.run()
    assert rounds.kept is None and rounds.resumed_at is None and rounds.spent().whole
    assert list(tmp_path.iterdir()) == []


def test_another_binding_destroys_the_key(tmp_path: Path) -> None:
    killed_at(rounds_in(tmp_path / "state", saved_after={2}), 3)
    with pytest.raises(StateMismatch, match="destroyed"):
        rounds_in(tmp_path / "state", binding="other")
    assert not (tmp_path / "state").exists()


def test_who_took_part_before_a_kill_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of the first epoch's rounds that were made before is not let into a later one of that epoch."""
    killed_at(rounds_in(tmp_path / "state", saved_after={2}, sampling="shuffled"), 2)
    rounds = rounds_in(tmp_path / "state", saved_after={2}, sampling="shuffled")
    first, real = rounds.sampler.cohort(0), ClientSampler.cohort
    monkeypatch.setattr(ClientSampler, "cohort", lambda self, number: first if number == 2 else real(self, number))
    with pytest.raises(PipelineError, match="took part twice in an epoch"):
        rounds.run()
    assert rounds.engine.cohorts == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("summed", "says"),
    [
        ([0, 1, 1, 2], "given out twice"),
        ([0, 2, 3], "left out"),
        ([1, 0], "left out or given out twice"),
        ([0, 1, 2], f"3 rounds were made, {ROUNDS} were planned"),
    ],
)
def test_what_ran_is_what_is_stated(summed: list[int], says: str) -> None:
    plan = plan_of()
    mechanism = GaussianAggregator(plan=plan, key=KEY, shapes=[(3,)])
    mechanism.summed.extend(summed[2:])
    accounted = Accounted(plan=plan, key=KEY, mechanism=mechanism, earlier=summed[:2])
    with pytest.raises(PipelineError, match=says):
        accounted.require_whole()
    assert not accounted.whole
    bound = isinstance(accounted.executed(), NonPrivateDpEvent)
    assert bound == (summed != list(range(len(summed))))
    assert bound or accounted.executed() == plan.event_of(len(summed))


def test_noise_without_a_plan_states_nothing() -> None:
    rounds = Rounds(rounds=1, sampler=ClientSampler(plan_of(), KEY, CLIENTS), engine=Summing(aggregator()))
    with pytest.raises(PipelineError, match="no guarantee to state"):
        rounds.spent()


def aggregator() -> Any:
    return lambda shapes: GaussianAggregator(plan=plan_of(), key=KEY, shapes=shapes)


@pytest.mark.parametrize("times", [0, 2])
def test_an_engine_takes_the_plans_aggregator_once(times: int) -> None:
    def engine(make: Any) -> Any:
        for _ in range(times):
            make([(3,)])
        return Summing(aggregator())

    with pytest.raises(PipelineError, match=f"made {times} aggregators"):
        of_clients(plan=plan_of(), secret=Secret(key=KEY), clients=CLIENTS, engine=engine)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    parts = tuple(np.full((place,), place, np.float32) for place in range(12))  # ten comes after nine
    state = RoundState(
        round_number=7,
        weights=parts,
        non_trainable=(np.arange(3),),
        server={"momentum.1": np.ones((2, 2)), "step": np.array(4)},
        aggregator={"clipping_norm": np.float32(0.5)},
    )
    kept = OpenCheckpoint(path=tmp_path / "checkpoint.npz")
    assert not kept.resumed
    kept.save(7, {**arrays_of(state), "curve": np.zeros(2)})
    step, arrays = kept.load()
    found = state_from(step, arrays)
    assert kept.resumed and found.round_number == 7
    for name, array in arrays_of(state).items():
        np.testing.assert_array_equal(arrays_of(found)[name], array)
    assert arrays_of(found).keys() == arrays_of(state).keys()
    np.savez(kept.path, weights=np.zeros(2))
    with pytest.raises(BadInputError, match=r"checkpoint\.npz: this is not a checkpoint"):
        kept.load()


def test_a_run_without_a_guarantee_goes_on_from_its_file(tmp_path: Path) -> None:
    ends = []
    for name, kill in (("whole", None), ("broken", 5)):
        kept = OpenCheckpoint(path=tmp_path / name)
        for number in (kill, None) if kill else (None,):
            engine = Summing(aggregator())
            engine.dies_at = number
            rounds = Rounds(
                rounds=ROUNDS,
                sampler=ClientSampler(plan_of(), KEY, CLIENTS),
                engine=engine,
                watcher=Participation(plan_of(), CLIENTS),
                kept=kept,
                observer=Noting({4}),
            )
            if number is None:
                ends.append(rounds.run())
            else:
                with pytest.raises(Killed):
                    rounds.run()
        assert rounds.resumed_at == (4 if kill else None)
    np.testing.assert_array_equal(ends[0].weights[0], ends[1].weights[0])


def test_a_key_is_bound_to_plan_algorithm_data_and_what_the_caller_adds() -> None:
    clients = made_clients([3, 2, 4])
    given: dict[str, Any] = {"plan": plan_of(), "algorithm": FederatedAlgorithm(), "clients": clients, "more": "a"}
    changed = [
        {"plan": plan_of("shuffled")},
        {"algorithm": FederatedAlgorithm(local_epochs=2)},
        {"more": "b"},
        {"owners": np.zeros(9, np.int64)},
        {"clients": made_clients([3, 2, 4], seed=2)},
    ]
    digests = [binding_of(**given), *(binding_of(**{**given, **change}) for change in changed)]
    assert binding_of(**given) == digests[0] and len(set(digests)) == len(digests)
