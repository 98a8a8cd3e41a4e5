"""Runs over any spans, retried, resumed, killed, expired, overrun, in any order, against the totals of each budget."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS, epsilon_from_rdp, rdp_vector
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.audit.verify import verify
from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.spans import Span
from tests.ledger.charging.test_several_spans import SHARED, data_of, plan_for, register

CAP, DELTA = 3.0, 1e-5
NOISES = (3.0, 8.0)
# The noise of a run that executed twice what it planned is negative.
VECTORS = {noise: rdp_vector(plan_for(1, noise).event, Relation.ZERO_OUT)[1] for noise in NOISES}
VECTORS |= {-noise: rdp_vector(plan_for(1, noise, epochs=2).event, Relation.ZERO_OUT)[1] for noise in NOISES}
SPANS: tuple[Span, ...] = (1, 2, 3, 4, (1, 2), (2, 3), (1, 4), (1, 3, 4), (1, 2, 3, 4))
# Spans 1 and 4 share a budget.
BUDGETS = {1: SHARED, 2: f"{SHARED}/span-2", 3: f"{SHARED}/span-3", 4: SHARED}
RUNS = ("a", "b")


def budgets_of(span: Span) -> set[str]:
    assert span is not None
    return {BUDGETS[one] for one in (span if isinstance(span, tuple) else (span,))}


@dataclass(frozen=True)
class Query:
    """One run as the model knows it; it counts at each budget of its spans unless it expired."""

    span: Span
    noise: float
    run: str
    state: State
    entries: tuple[int, ...]


class SpansMachine(RuleBasedStateMachine):
    """The model: queries by their first entry; a budget's total is that of the queries over one of its spans."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = Ledger.open(f"sqlite:///{self.folder}/ledger.db", create=True)
        for span in BUDGETS:
            register(self.ledger, span, disjoint=span != 4)
        self.model: dict[int, Query] = {}
        self.held: dict[int, tuple[AbstractContextManager[Grant], Grant]] = {}
        self.tickets: dict[int, ResumeToken] = {}
        self.dead: list[AbstractContextManager[Grant]] = []
        self.overran: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            assert verify(self.ledger._engine, reprice=False).problems == []
            shutil.rmtree(self.folder)

    def ask(self, query: Query, **more: Any) -> tuple[AbstractContextManager[Grant], Grant] | None:
        block = self.ledger.spend(
            dataset="adult",
            span=query.span,
            data_digest=data_of(query.span),
            split="train",
            run_id=query.run,
            node="Trainer",
            plan=plan_for(query.span, query.noise),
            **more,
        )
        try:
            return block, block.__enter__()
        except BudgetRefusedError:
            return None

    def keep(self, query: Query, got: tuple[AbstractContextManager[Grant], Grant], state: State) -> None:
        grant = got[1]
        assert len(grant.entry_ids) == len(budgets_of(query.span))
        known = self.model.get(grant.entry_id)
        kept = replace(query, state=state, entries=grant.entry_ids)
        # What is taken over is the same query as a whole; what is new has entries that nobody had.
        assert known == kept if known else not any(set(q.entries) & set(kept.entries) for q in self.model.values())
        if grant.entry_id in self.held:
            self.dead.append(self.held[grant.entry_id][0])
        self.model[grant.entry_id], self.held[grant.entry_id] = kept, got

    @rule(span=st.sampled_from(SPANS), run=st.sampled_from(RUNS), noise=st.sampled_from(NOISES))
    def reserve(self, span: Span, run: str, noise: float) -> None:
        query = Query(span, noise, run, State.RESERVED, ())
        got = self.ask(query)
        if got is None:  # nothing is refused that would plainly fit every budget
            assert max(self.spent(budget, more=noise) for budget in budgets_of(span)) > CAP * 0.9
        else:
            self.keep(query, got, State.RESERVED)

    def in_state(self, state: State) -> list[int]:
        return sorted(first for first in self.held if self.model[first].state is state)

    @precondition(lambda self: self.in_state(State.RESERVED))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        first = data.draw(st.sampled_from(self.in_state(State.RESERVED)))
        grant = self.held[first][1]
        grant.start()
        self.model[first] = replace(self.model[first], state=State.STARTED)
        self.tickets[first] = grant.resume_token

    @precondition(lambda self: self.in_state(State.STARTED))
    @rule(data=st.data(), overruns=st.booleans())
    def commit(self, data: st.DataObject, overruns: bool) -> None:
        first = data.draw(st.sampled_from(self.in_state(State.STARTED)))
        query, (block, grant) = self.model[first], self.held.pop(first)
        grant.commit(plan_for(query.span, query.noise, epochs=1 + overruns).event)
        block.__exit__(None, None, None)
        assert [self.ledger.composition(entry).journal_seq for entry in grant.entry_ids] == [
            receipt.seq for receipt in grant.receipts
        ]
        noise = -query.noise if overruns else query.noise
        self.model[first] = replace(query, noise=noise, state=State.COMMITTED)
        self.overran |= budgets_of(query.span) if overruns else set()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), killed=st.booleans())
    def end(self, data: st.DataObject, killed: bool) -> None:
        """A run dies: killed, or by an exception that leaves the block."""
        first = data.draw(st.sampled_from(sorted(self.held)))
        query, (block, _) = self.model[first], self.held.pop(first)
        if killed:
            self.dead.append(block)  # a block that nothing refers to would be left in good order
            return
        assert not block.__exit__(RuntimeError, RuntimeError("the run failed"), None)
        if query.state is State.RESERVED:
            self.model[first] = replace(query, state=State.EXPIRED)

    @precondition(lambda self: set(self.tickets) - set(self.held))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Under the ticket of an attempt: all the same entries if they were left started, new charges otherwise."""
        first = data.draw(st.sampled_from(sorted(set(self.tickets) - set(self.held))))
        query = self.model[first]
        left = query.state is State.STARTED
        got = self.ask(replace(query, noise=abs(query.noise)), continues=self.tickets[first])
        if got is None:
            assert not left
            return
        assert got[1].continued is left
        if left:
            assert got[1].entry_ids == query.entries
        self.keep(replace(query, noise=abs(query.noise)), got, State.STARTED if left else State.RESERVED)

    @rule(run=st.sampled_from(RUNS))
    def expire(self, run: str) -> None:
        """A run is declared dead; what it reserved and never started comes back from every budget."""
        gone = [first for first, query in self.model.items() if (query.run, query.state) == (run, State.RESERVED)]
        assert self.ledger.expire_reserved(run) == sum(len(self.model[first].entries) for first in gone)
        for first in gone:
            self.model[first] = replace(self.model[first], state=State.EXPIRED)
            if first in self.held:
                self.dead.append(self.held.pop(first)[0])

    def of(self, budget: str) -> list[Query]:
        return [query for query in self.model.values() if budget in budgets_of(query.span)]

    def spent(self, budget: str, *, more: float | None = None) -> float:
        noises = [query.noise for query in self.of(budget) if query.state is not State.EXPIRED]
        vectors = [VECTORS[noise] for noise in (*noises, *([more] if more else []))]
        return epsilon_from_rdp(ORDERS, [sum(parts) for parts in zip(*vectors, strict=True)], DELTA) if vectors else 0.0

    @invariant()
    def each_budget_holds_what_was_done_over_its_spans(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for status in self.ledger.status("adult"):
            for state in State:
                assert status.entries[state] == sum(query.state is state for query in self.of(status.budget)), state
            assert status.spent_epsilon == pytest.approx(self.spent(status.budget), rel=1e-6, abs=1e-9)
            assert status.budget in self.overran or status.spent_epsilon <= CAP
            assert status.overruns == sum(query.noise < 0 for query in self.of(status.budget))


class TestFewSpans(SpansMachine.TestCase):  # type: ignore[name-defined, misc]
    """A few sequences, for the fast suite."""

    settings = settings(max_examples=6, stateful_step_count=25, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestSpansMachine(SpansMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
