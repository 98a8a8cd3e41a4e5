"""Helpers that the first page and the checklist share: their sources, and statements that something is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from privacy_pipeline.reports.dataset.dataset_report import (
    BudgetView,
    RunView,
    SpanView,
    UnprotectedView,
    UnrecordedView,
    of_facts,
)
from privacy_pipeline.reports.dataset.facts import ReportFacts
from privacy_pipeline.reports.figures import Figure, Part, Quote, Source, Statement, Words, plain


@dataclass(frozen=True, kw_only=True)
class Material:
    """The sources for the points of the checklist."""

    facts: ReportFacts
    spans: Sequence[SpanView]
    budgets: Sequence[BudgetView]
    runs: Sequence[RunView]
    unreadable: Sequence[Quote]
    unrecorded: Sequence[UnrecordedView]
    unprotected: Sequence[UnprotectedView]
    key_lost: bool = False

    @property
    def private(self) -> list[RunView]:
        """Runs with a guarantee, each training once."""
        return [run for run in self.runs if run.guarantee is not None and not run.cached]

    @property
    def trained(self) -> list[RunView]:
        """Runs that trained a model, each training once."""
        return [run for run in self.runs if not run.cached]


def say(*words: Part) -> Statement:
    """Return a statement of something known."""
    return Statement(words=list(words))


def unknown(*words: Part) -> Statement:
    """Return a statement that something is not known."""
    return Statement(words=[*words, "not known"], known=False)


def fact(facts: ReportFacts, field: str, label: str) -> Statement:
    """Return the curator's statement under a key of the facts file, or that it is not known."""
    value = getattr(facts, field)
    texts = [str(item) for item in value] if isinstance(value, tuple) else [] if value is None else [str(value)]
    if not texts:
        return unknown(f"{label}: ")
    words: Words = [f"{label}: "]
    for index, text in enumerate(texts):
        where = f"{field}.{index}" if isinstance(value, tuple) else field
        words += [", "] * (index > 0) + [Quote(quote=text, source=of_facts(where))]
    return Statement(words=words)


def count(number: int, what: str) -> Figure:
    """Return a count that the report itself makes over the workspace's runs."""
    return Figure(value=number, kind="count", source=Source(place="workspace", field=what, method="count"))


def distinct(runs: Iterable[RunView], words: Callable[[RunView], Words]) -> list[tuple[Words, list[Quote]]]:
    """Return the statements of the runs, each one once, with the runs that make it."""
    found: dict[str, tuple[Words, list[Quote]]] = {}
    for run in runs:
        said = words(run)
        if said:
            found.setdefault(plain(said), (said, []))[1].append(run.run)
    return list(found.values())


def by_run(runs: Iterable[RunView], words: Callable[[RunView], Words]) -> list[Statement]:
    """Return one statement for each different statement of the runs, naming the runs."""
    return [
        Statement(words=[*said, *_in_runs(names)], known=not any(_says_not_known(part) for part in said))
        for said, names in distinct(runs, words)
    ]


def _says_not_known(part: Part) -> bool:
    return isinstance(part, Quote) and part.quote.startswith("not known")


def _in_runs(names: Sequence[Quote]) -> Words:
    words: Words = [" (run " if len(names) == 1 else " (runs "]
    for index, name in enumerate(names[:3]):
        words += [", "] * (index > 0) + [name]
    if len(names) > 3:
        words += [" and ", count(len(names) - 3, "further runs"), " more"]
    return [*words, ")"]
