"""Real processes: races for the last of a budget, and deaths at every state, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from tests.clean_fork import CLEAN, clean_process
from tests.ledger.conftest import DIGEST, make_plan, make_registration

NOISE = 5.0


def create(url: str) -> int:
    """Creates and registers, as `budget register` does."""
    Ledger.open(url, create=True).register(make_registration(), epsilon=3.0, delta=1e-5)
    return 0


def dawdle(*_details: object) -> None:
    """Leaves time between reading and writing, in which another process could read the same."""
    time.sleep(0.005)


def train(url: str, run_ids: list[str], noise: float, die_at: State | None) -> int:
    """Trains under each run id until one is refused; returns how many trained."""
    ledger = Ledger.open(url)
    sa.event.listen(ledger._engine, "after_cursor_execute", dawdle)
    plan = make_plan(noise)

    def reached(state: State) -> None:
        if die_at is state:
            os.kill(os.getpid(), signal.SIGKILL)

    for trained, run_id in enumerate(run_ids):
        try:
            with ledger.spend(
                dataset="adult",
                span=None,
                data_digest=DIGEST,
                split="train",
                run_id=run_id,
                node="trainer",
                plan=plan,
            ) as grant:
                reached(State.RESERVED)
                grant.start()
                reached(State.STARTED)
                grant.commit(plan.event)
                reached(State.COMMITTED)
        except BudgetRefusedError:
            return trained
    return len(run_ids)


def act(barrier: Any, returned: Any, number: int, task: Callable[[], int]) -> None:
    """In a process of its own: waits for the others, and keeps what the task returns."""
    barrier.wait(timeout=60)
    returned[number] = task()


def together(tasks: list[Callable[[], int]]) -> list[tuple[int | None, int | None]]:
    """Runs each task in a process of its own, all from the same instant; exit code and what the task returned."""
    barrier = CLEAN.Barrier(len(tasks))
    returned = CLEAN.Array("i", [-1] * len(tasks))
    processes = [clean_process(act, barrier, returned, number, task) for number, task in enumerate(tasks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    return [(process.exitcode, returned[number]) for number, process in enumerate(processes)]


@pytest.fixture
def ready(fresh: str) -> str:
    """URL of a ledger with one dataset and a cap of epsilon 3."""
    Ledger.open(fresh, create=True).register(make_registration(), epsilon=3.0, delta=1e-5)
    return fresh


def test_processes_that_create_at_once_make_one_ledger(fresh: str) -> None:
    results = together([partial(create, fresh)] * 4)
    assert results == [(0, 0)] * 4
    (status,) = Ledger.open(fresh).status()
    assert status.cap_epsilon == 3.0


@pytest.mark.slow
def test_a_race_for_the_last_of_the_budget_never_overspends(ready: str) -> None:
    ledger = Ledger.open(ready)
    alone = ledger.forecast(make_plan(NOISE), dataset="adult", span=None, split="train").runs_that_fit
    assert alone >= 5
    racers = [[f"racer-{racer}-{number}" for number in range(100)] for racer in range(4)]
    results = together([partial(train, ready, run_ids, NOISE, None) for run_ids in racers])
    assert [code for code, _ in results] == [0] * 4
    (status,) = ledger.status()
    assert sum(trained or 0 for _, trained in results) == status.entries[State.COMMITTED] == alone
    assert status.spent_epsilon <= 3.0
    assert not ledger.forecast(make_plan(NOISE), dataset="adult", span=None, split="train").fits


def test_room_for_one_is_given_to_one(ready: str) -> None:
    results = together([partial(train, ready, [f"racer-{racer}"], 1.8, None) for racer in range(4)])
    assert sorted(results) == [(0, 0)] * 3 + [(0, 1)]
    assert Ledger.open(ready).status()[0].spent_epsilon <= 3.0


@pytest.mark.slow
def test_two_live_processes_of_one_run_never_share_a_charge(ready: str) -> None:
    results = together([partial(train, ready, ["the-same-run"] * 5, 10.0, None)] * 4)
    assert [code for code, _ in results] == [0] * 4
    entries = Ledger.open(ready).entries("adult")
    committed = sum(entry.state is State.COMMITTED for entry in entries)
    # A process whose reservation is taken over stops before it reads; every one that trained has its own entry.
    assert sum(trained or 0 for _, trained in results) == committed >= 1


@pytest.mark.slow_but("sqlite-reserved", "postgresql-committed")
@pytest.mark.parametrize("state", [State.RESERVED, State.STARTED, State.COMMITTED])
def test_a_process_that_is_killed(ready: str, state: State) -> None:
    ((code, _),) = together([partial(train, ready, ["victim"], NOISE, state)])
    assert code == -signal.SIGKILL
    ledger = Ledger.open(ready)
    (entry,) = ledger.entries("adult")
    assert entry.state is state
    assert ledger.status()[0].spent_epsilon == entry.epsilon > 0
    assert ledger.expire_reserved("victim") == (1 if state is State.RESERVED else 0)
    assert (ledger.status()[0].spent_epsilon > 0) == (state is not State.RESERVED)
    assert together([partial(train, ready, ["victim"], NOISE, None)]) == [(0, 1)]
    assert ledger.entries("adult")[-1].attempt == 2


def test_a_retry_after_death_goes_on_with_the_reservation(ready: str) -> None:
    together([partial(train, ready, ["victim"], NOISE, State.RESERVED)])
    assert together([partial(train, ready, ["victim"], NOISE, None)]) == [(0, 1)]
    (entry,) = Ledger.open(ready).entries("adult")
    assert (entry.state, entry.attempt) == (State.COMMITTED, 1)
