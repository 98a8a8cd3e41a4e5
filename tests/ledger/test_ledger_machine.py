"""Retries, resumes, crashes, expiry, overruns, cache hits, new caps and clocks, in any order, against a small model."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS, epsilon_from_rdp, rdp_vector
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.audit.verify import verify
from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state import renyi_filter
from privacy_pipeline.ledger.state.entries import State
from tests.ledger.conftest import DIGEST, make_plan, make_registration

CAP, DELTA = 2.0, 1e-5
NOISES = (8.0, 20.0)
VECTORS = {noise: rdp_vector(make_plan(noise).event, Relation.ZERO_OUT)[1] for noise in NOISES}
VECTORS |= {-noise: rdp_vector(make_plan(noise, epochs=2).event, Relation.ZERO_OUT)[1] for noise in NOISES}  # overruns
RUNS = ("a", "b")
CAPS = (1.0, CAP, 3.0)
OTHER = "c" * 64
CLOCKS = ("2001-01-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00", "2090-01-01T00:00:00+00:00")


class LedgerMachine(RuleBasedStateMachine):
    """The model: entries by number, each with its noise and state; all but the expired ones count.

    The noise of an entry that executed twice what it planned is negative. A second dataset has a budget of its own.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = Ledger.open(f"sqlite:///{self.folder}/ledger.db", create=True)
        self.ledger.register(make_registration(), epsilon=CAP, delta=DELTA)
        self.ledger.register(make_registration("other", digest=OTHER), epsilon=CAP, delta=DELTA)
        self.patch = pytest.MonkeyPatch()
        self.cap, self.changes, self.above, self.other, self.zeros = CAP, 0, False, 0, 0
        self.dead: list[AbstractContextManager[Grant]] = []
        self.model: dict[int, tuple[float, str, State]] = {}
        self.held: dict[int, tuple[AbstractContextManager[Grant], Grant]] = {}
        self.tickets: dict[int, tuple[ResumeToken, str, float]] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.patch.undo()
            assert verify(self.ledger._engine, reprice=False).problems == []
            shutil.rmtree(self.folder)

    def spend(self, run: str, noise: float, **more: Any) -> tuple[AbstractContextManager[Grant], Grant] | None:
        block = self.ledger.spend(
            dataset="adult",
            span=None,
            data_digest=DIGEST,
            split="train",
            run_id=run,
            node="Trainer",
            plan=make_plan(noise),
            **more,
        )
        try:
            return block, block.__enter__()
        except BudgetRefusedError:
            return None

    @rule(run=st.sampled_from(RUNS), noise=st.sampled_from(NOISES))
    def reserve(self, run: str, noise: float) -> None:
        got = self.spend(run, noise)
        if got is None:
            assert self.held_with(more=noise) > self.cap * 0.9  # nothing is refused that would plainly fit
            return
        _, grant = got
        known = self.model.get(grant.entry_id)
        assert known is None or known == (noise, run, State.RESERVED)  # only one that never started is taken over
        self.model[grant.entry_id] = (noise, run, State.RESERVED)
        if grant.entry_id in self.held:  # the former holder lives, and holds nothing any more
            self.dead.append(self.held[grant.entry_id][0])
        self.held[grant.entry_id] = got

    def reserved(self) -> list[int]:
        return [entry for entry in self.held if self.model[entry][2] is State.RESERVED]

    def started(self) -> list[int]:
        return [entry for entry in self.held if self.model[entry][2] is State.STARTED]

    @precondition(lambda self: self.reserved())
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.reserved()))
        noise, run, _ = self.model[entry]
        self.held[entry][1].start()
        self.model[entry] = (noise, run, State.STARTED)
        self.tickets[entry] = (self.held[entry][1].resume_token, run, noise)

    @precondition(lambda self: self.started())
    @rule(data=st.data(), overruns=st.booleans())
    def commit(self, data: st.DataObject, overruns: bool) -> None:
        """What ran is charged in full, also where that passes the cap."""
        entry = data.draw(st.sampled_from(self.started()))
        noise, run, _ = self.model[entry]
        block, grant = self.held.pop(entry)
        grant.commit(make_plan(noise, epochs=1 + overruns).event)
        block.__exit__(None, None, None)
        self.model[entry] = (-noise if overruns else noise, run, State.COMMITTED)
        self.above = self.above or overruns

    @rule(run=st.sampled_from(RUNS), paid_by=st.integers(1, 9))
    def cached(self, run: str, paid_by: int) -> None:
        """A node that is served from cache spends nothing."""
        self.ledger.zero(dataset="adult", run_id=run, node="Trainer", paid_by=paid_by)
        self.zeros += 1

    @rule(at=st.sampled_from(CLOCKS))
    def clock_jumps(self, at: str) -> None:
        for module in ("storage.journal", "charging.entries"):
            self.patch.setattr(f"privacy_pipeline.ledger.{module}.now", lambda: at)

    @rule(cap=st.sampled_from(CAPS))
    def new_cap(self, cap: float) -> None:
        """What is spent stays spent, also where the new cap is below it."""
        self.changes += cap != self.cap
        self.ledger.set_cap("adult", epsilon=cap, delta=DELTA)
        self.cap, self.above = cap, self.above or self.spent() > cap

    @rule(noise=st.just(20.0))
    def run_on_another_dataset(self, noise: float) -> None:
        plan = make_plan(noise)
        try:
            with self.ledger.spend(
                dataset="other", span=None, data_digest=OTHER, split="train", run_id="o", node="Trainer", plan=plan
            ) as grant:
                grant.start()
                grant.commit(plan.event)
        except BudgetRefusedError:
            assert self.spent_on(noises=[noise] * (self.other + 1)) > CAP * 0.9
        else:
            self.other += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data(), killed=st.booleans())
    def end(self, data: st.DataObject, killed: bool) -> None:
        """A run dies: killed, or by an exception that leaves the block."""
        entry = data.draw(st.sampled_from(sorted(self.held)))
        noise, run, state = self.model[entry]
        block, _ = self.held.pop(entry)
        if killed:
            self.dead.append(block)  # a block that nothing refers to would be left in good order
            return
        assert not block.__exit__(RuntimeError, RuntimeError("the run failed"), None)
        if state is State.RESERVED:
            self.model[entry] = (noise, run, State.EXPIRED)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Under the ticket of an attempt: the same entry if it was left started, a new charge otherwise."""
        entry = data.draw(st.sampled_from(sorted(self.tickets)))
        resume_token, run, noise = self.tickets[entry]
        if entry in self.held:
            return
        left = self.model[entry][2] is State.STARTED
        got = self.spend(run, noise, continues=resume_token)
        if got is None:
            assert not left
            return
        assert got[1].continued is left
        if left:
            assert got[1].entry_id == entry
        else:
            self.model[got[1].entry_id] = (noise, run, State.RESERVED)
        self.held[got[1].entry_id] = got

    @rule(run=st.sampled_from(RUNS))
    def expire(self, run: str) -> None:
        """A run is declared dead; what it reserved and never started comes back."""
        self.ledger.expire_reserved(run)
        for entry, (noise, owner, state) in list(self.model.items()):
            if owner == run and state is State.RESERVED:
                self.model[entry] = (noise, owner, State.EXPIRED)
                if entry in self.held:
                    self.dead.append(self.held.pop(entry)[0])

    def spent(self, *, more: float | None = None) -> float:
        noises = [noise for noise, _, state in self.model.values() if state is not State.EXPIRED]
        return self.spent_on(noises=[*noises, *([more] if more else [])])

    def held_with(self, *, more: float) -> float:
        """What the filter would hold with one entry more: at the order that the first one fixed, whatever the cap."""
        order = self.ledger.status("adult")[0].filter_order
        noises = [*(noise for noise, _, state in self.model.values() if state is not State.EXPIRED), more]
        if order is None or len(noises) == 1:
            return self.spent_on(noises=noises)
        values = [sum(parts) for parts in zip(*(VECTORS[noise] for noise in noises), strict=True)]
        return renyi_filter.filter_epsilon(ORDERS, values, order=order, delta=DELTA * (1 - truncation.SHARE))

    def spent_on(self, *, noises: list[float]) -> float:
        vectors = [VECTORS[noise] for noise in noises]
        return epsilon_from_rdp(ORDERS, [sum(parts) for parts in zip(*vectors, strict=True)], DELTA) if vectors else 0.0

    @invariant()
    def never_less_than_was_spent(self) -> None:
        if not hasattr(self, "ledger"):
            return
        status = self.ledger.status("adult")[0]
        for state in State:
            assert status.entries[state] == sum(held is state for _, _, held in self.model.values()), state
        assert status.spent_epsilon == pytest.approx(self.spent(), rel=1e-6, abs=1e-9)
        assert self.above or status.spent_epsilon <= self.cap
        assert (status.cap_epsilon, status.cap_changes) == (self.cap, self.changes)
        assert status.overruns == sum(noise < 0 for noise, _, _ in self.model.values())
        other = self.ledger.status("other")[0]
        assert other.spent_epsilon == pytest.approx(self.spent_on(noises=[20.0] * self.other), rel=1e-6, abs=1e-9)
        assert (other.cap_epsilon, other.cap_changes, sum(other.entries.values())) == (CAP, 0, self.other)
        assert sum(record.kind == "zero" for record in self.ledger.records(limit=None)) == self.zeros


@pytest.mark.timeout(300)
class TestSomeSequences(LedgerMachine.TestCase):  # type: ignore[name-defined, misc]
    """A part of the sequences, for the fast suite."""

    settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestLedgerMachine(LedgerMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
