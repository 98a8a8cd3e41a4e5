"""The first page, for a reader who is new to differential privacy."""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.reports.dataset.dataset_report import (
    AttackReading,
    BudgetView,
    Passage,
    RunView,
    UnprotectedView,
    UnrecordedView,
)
from privacy_pipeline.reports.dataset.run_views import FIXED_SEED, NO_GUARANTEE
from privacy_pipeline.reports.dataset.statements import count, say, unknown
from privacy_pipeline.reports.figures import Part, Quote, Statement, Words


def first_page(
    *,
    budgets: Sequence[BudgetView],
    runs: Sequence[RunView],
    unreadable: Sequence[Quote],
    unrecorded: Sequence[UnrecordedView],
    unprotected: Sequence[UnprotectedView],
    key_lost: bool,
) -> list[Passage]:
    """Return what is protected, how strongly, what a guess could gain, what is left, and what is not covered."""
    uncovered = [
        *([unknown(_KEY_LOST)] if key_lost else []),
        *_without_guarantee(runs),
        *_not_covered(runs),
        *_unrecorded(unrecorded),
        *_unprotected(unprotected),
        *_gaps(budgets, runs, unreadable),
    ]
    nothing = unknown("There is no record of a run in the given workspaces; what else was done with the data is ")
    return [
        Passage(title="What is protected", statements=[_protected(budget, runs) for budget in budgets]),
        Passage(title="How strongly", statements=[s for budget in budgets for s in _strength(budget)]),
        Passage(title="What a guess could gain", statements=[s for budget in budgets for s in _guess(budget)]),
        Passage(title="What is left of the budget", statements=[_left(budget) for budget in budgets]),
        Passage(title="What is NOT covered", statements=uncovered or [nothing]),
    ]


_KEY_LOST = (
    "A signing key of the ledger was declared lost, and another one replaced it, without the signature of any other "
    "key. The person who asked for this report accepted it; whether nothing was changed at that time is "
)


def _protected(budget: BudgetView, runs: Sequence[RunView]) -> Statement:
    unit = next((run.unit_in_words for run in runs if run.unit.quote == budget.unit.quote), None)
    row = budget.unit.quote == "row"
    who: Words = [unit] if unit else ["one row of the data"] if row else ["all rows with one value of ", budget.unit]
    return say(
        "The ",
        budget.split,
        " split, unit by unit. A unit is: ",
        *who,
        ". Whatever was computed under the guarantee would have come out nearly the same without any one unit. What "
        "can be learned about people in general can still be learned.",
    )


def _strength(budget: BudgetView) -> list[Statement]:
    """Return first the bound that holds without assumptions, then those that hold only for runs fixed beforehand."""
    found = [
        say(
            "Budget ",
            budget.key,
            ", all that was done with it together: ",
            budget.proven,
            ". The smaller epsilon, the stronger the protection; delta is a small allowance for failure.",
        )
    ]
    if budget.counted.value > 1:
        found.append(
            say(
                "Had all runs been fixed before the first result was seen, it would be: ",
                budget.best_order,
                "; ",
                budget.pld,
                ". Runs that were chosen after a look at results are not covered by these.",
            )
        )
    if budget.cap_changes.value:
        found.append(
            say(
                "The cap or the policy was changed ",
                budget.cap_changes,
                " time(s). That costs no delta; the epsilon above is the largest cap.",
            )
        )
    if budget.delta_factor.value > 1:
        found.append(
            say(
                "The filter's order or delta was chosen again after results were seen (version 0.1.0). So the delta "
                "above is ",
                budget.delta_factor,
                " times that of the cap.",
            )
        )
    if budget.overruns.value:
        found.append(say(budget.overruns, " entries executed more than they had planned; that is counted in full."))
    return found


def _guess(budget: BudgetView) -> list[Statement]:
    now = [_reading(reading) for reading in budget.attack if reading.when == "now"]
    cap = [_reading(reading) for reading in budget.attack if reading.when == "cap"][:1]
    return [
        say(
            "Budget ",
            budget.key,
            ": somebody who sees everything that was released under the guarantee guesses which units were in the "
            "data. How good can the guesses be?",
        ),
        *(now if budget.counted.value <= 1 else []),
        *cap,
        *(now if budget.counted.value > 1 else []),
    ]


def _reading(reading: AttackReading) -> Statement:
    start = "If they wrongly accuse " if reading.when == "now" else "Once the whole budget is spent: if they accuse "
    return say(
        start,
        reading.false_positive_rate,
        " of those that were not in the data, they find at most ",
        reading.true_positive_rate,
        " of those that were; from nothing at all they would find ",
        reading.false_positive_rate,
        f" ({reading.basis}).",
    )


def _left(budget: BudgetView) -> Statement:
    return say(
        "Budget ",
        budget.key,
        ": allowed over all its runs together: ",
        budget.cap,
        ". Counted against it: ",
        budget.spent,
        ". Left: epsilon ",
        budget.left,
        " at delta ",
        budget.cap.delta,
        ". The counted epsilon decides whether a run is granted; part of it is the price of the counting method. Of "
        "the rest, the runs used ",
        *([budget.used] if budget.used else ["all"]),
        ". A run that needs more than what is left is refused.",
    )


def _without_guarantee(runs: Sequence[RunView]) -> list[Statement]:
    open_runs = [run for run in runs if NO_GUARANTEE in run.marks and not run.cached]
    if not open_runs:
        return []
    seeded = [run for run in open_runs if FIXED_SEED in run.marks]
    words: list[Part] = [
        count(len(open_runs), "runs without guarantee"),
        " run(s) on this data trained without any guarantee. The budget does not cover them, and their models may "
        "reveal single rows",
    ]
    if seeded:
        words += ["; of these, ", count(len(seeded), "runs with a fixed seed"), " had a fixed seed"]
    return [say(*words, ".")]


def _not_covered(runs: Sequence[RunView]) -> list[Statement]:
    found: dict[tuple[str, str], Statement] = {}
    for run in runs:
        for access in run.accesses:
            if not access.covered and run.guarantee is not None:
                said = say(access.what, ": ", access.detail, ".")
                found.setdefault((access.what.quote, access.detail.quote), said)
    return list(found.values())


def _unprotected(unprotected: Sequence[UnprotectedView]) -> list[Statement]:
    if not unprotected:
        return []
    words = " run(s) elsewhere used the data without a guarantee, by the ledger's journal: no epsilon covers them."
    return [say(count(len(unprotected), "runs without a guarantee elsewhere"), words)]


def _unrecorded(unrecorded: Sequence[UnrecordedView]) -> list[Statement]:
    if not unrecorded:
        return []
    words = (
        " run(s) read this data and did not finish with a record. What they left (statistics, examples, perhaps a "
        "model) is exact; anyone who can read the workspace sees it."
    )
    return [say(count(len(unrecorded), "runs without a record"), words)]


def _gaps(budgets: Sequence[BudgetView], runs: Sequence[RunView], unreadable: Sequence[Quote]) -> list[Statement]:
    found = []
    seen = {name.quote for run in runs for name in (run.run, run.trained_by)}
    lacking = {entry.run.quote for b in budgets for entry in b.entries if entry.state.quote != "expired"} - seen
    if lacking:
        words = (
            " run(s) were charged but left no record in the given workspaces. They count in full; what else they did "
            "with the data is "
        )
        found.append(unknown(count(len(lacking), "charged runs without a record"), words))
    if unreadable:
        words = " run folder(s) could not be read; what their runs did with the data is "
        found.append(unknown(count(len(unreadable), "unreadable runs"), words))
    kinds = sorted({run.inference_protection for run in runs} - {"none"})
    if kinds:
        found.append(
            say(
                f"The model's answers were protected in some runs ({' and '.join(kinds)} inference): that hides a "
                "query from those who compute on it, and protects nobody whose data the model was trained on."
            )
        )
    return found
