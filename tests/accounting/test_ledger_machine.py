"""Retries, resumes, crashes, expiry and two runs at once, in any order, against a model of ten lines."""

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

from privacy_pipeline.accounting.accountants import ORDERS, epsilon_from_rdp, rdp_vector
from privacy_pipeline.accounting.grants import Grant, Ticket
from privacy_pipeline.accounting.ledger import Ledger
from privacy_pipeline.accounting.ledger_entries import State
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.verify import verify
from privacy_pipeline.errors import BudgetRefusedError
from tests.accounting.conftest import DIGEST, make_plan, make_registration

CAP, DELTA = 2.0, 1e-5
NOISES = (8.0, 20.0)
VECTORS = {noise: rdp_vector(make_plan(noise).event, Relation.ZERO_OUT)[1] for noise in NOISES}
RUNS = ("a", "b")


class LedgerMachine(RuleBasedStateMachine):
    """The model: entries by number, each with its noise and state; all but the expired ones count."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = Ledger.open(f"sqlite:///{self.folder}/ledger.db", create=True)
        self.ledger.register(make_registration(), epsilon=CAP, delta=DELTA)
        self.dead: list[AbstractContextManager[Grant]] = []
        self.model: dict[int, tuple[float, str, State]] = {}
        self.held: dict[int, tuple[AbstractContextManager[Grant], Grant]] = {}
        self.tickets: dict[int, tuple[Ticket, str, float]] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
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
            assert self.spent(more=noise) > CAP * 0.9  # nothing is refused that would plainly fit
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
        self.tickets[entry] = (self.held[entry][1].ticket, run, noise)

    @precondition(lambda self: self.started())
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.started()))
        noise, run, _ = self.model[entry]
        block, grant = self.held.pop(entry)
        grant.commit(make_plan(noise).event)
        block.__exit__(None, None, None)
        self.model[entry] = (noise, run, State.COMMITTED)

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
        ticket, run, noise = self.tickets[entry]
        if entry in self.held:
            return
        left = self.model[entry][2] is State.STARTED
        got = self.spend(run, noise, continues=ticket)
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
        vectors = [VECTORS[noise] for noise in [*noises, *([more] if more else [])]]
        return epsilon_from_rdp(ORDERS, [sum(parts) for parts in zip(*vectors, strict=True)], DELTA) if vectors else 0.0

    @invariant()
    def never_less_than_was_spent(self) -> None:
        if not hasattr(self, "ledger"):
            return
        status = self.ledger.status("adult")[0]
        for state in State:
            assert status.entries[state] == sum(held is state for _, _, held in self.model.values()), state
        assert status.spent_epsilon == pytest.approx(self.spent(), rel=1e-6, abs=1e-9)
        assert status.spent_epsilon <= CAP


TestLedgerMachine = pytest.mark.timeout(300)(LedgerMachine.TestCase)
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
