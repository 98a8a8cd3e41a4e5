"""Points of the checklist on accounting, implementation and assurance."""

from __future__ import annotations

from privacy_pipeline.reports.dataset.dataset_report import DeclarationView, RunView, SpanView, of_facts
from privacy_pipeline.reports.dataset.statements import Material, by_run, count, fact, say, unknown
from privacy_pipeline.reports.figures import Quote, Statement, Words

NUMBERS = {
    "noise_multiplier": "noise multiplier",
    "clipping_norm": "clipping norm",
    "batch_size": "batch size",
    "epochs": "epochs",
    "steps": "steps",
    "units": "units",
}


def mechanism(material: Material) -> list[Statement]:
    """Mechanism and parameters as executed."""

    def words(run: RunView) -> Words:
        if run.mechanism is None:
            return []
        said: Words = [run.mechanism.name, ", batches ", run.mechanism.sampler]
        for name, figure in run.mechanism.numbers.items():
            said += [f", {NUMBERS[name]} ", figure]
        if run.mechanism.rows is not None:
            said += [", examples stay apart: ", run.mechanism.rows]
        return said

    return by_run(material.trained, words) or [unknown("mechanism: ")]


def accountant(material: Material) -> list[Statement]:
    """Accountant, version, settings."""
    found = by_run(material.private, lambda run: [run.accountant] if run.accountant else [])
    if not found:
        found = [unknown("accountant of a run: ")]
    for budget in material.budgets:
        if budget.filter_order is not None:
            found.append(
                say(
                    "the cap of budget ",
                    budget.key,
                    " is enforced by a Renyi filter at order ",
                    budget.filter_order,
                    ", fixed by the first run",
                )
            )
    return found


def assumptions(material: Material) -> list[Statement]:
    """Each assumption, and whether it held."""
    names = dict.fromkeys(a.name.quote for run in material.trained for a in run.assumptions)
    found: list[Statement] = []
    for name in names:

        def words(run: RunView, name: str = name) -> Words:
            for a in run.assumptions:
                if a.name.quote == name:
                    return ["held: " if a.held else "did NOT hold: ", a.name, ": ", a.detail]
            return []

        found += by_run(material.trained, words)
    found += [_declared(span, declared) for span in material.spans for declared in span.declared]
    return found or [unknown("assumptions: ")]


def _declared(span: SpanView, declared: DeclarationView) -> Statement:
    who: Words = ["the person who registered span ", span.span, " declared that "]
    if declared.id_space is None:
        what: Words = ["its rows that occur in other datasets too are those of other people"]
    else:
        what = ["its keys number other people than those of other datasets (id space ", declared.id_space, ")"]
    return say("NOT checked: ", *who, *what, "; the reason given: ", declared.reason)


def composition(material: Material) -> list[Statement]:
    """All runs together, and what is left."""
    found: list[Statement] = []
    for budget in material.budgets:
        found += [
            say("budget ", budget.key, ", ", budget.counted, " counted entries: ", budget.proven),
            say("counted against the cap, as enforced: ", budget.spent),
            say(
                "the tighter views, for a set of runs fixed beforehand: ",
                budget.best_order,
                " at its best order; ",
                budget.pld,
            ),
            say("without composition, the claim would be: ", budget.simple_addition),
            say("left of the cap: epsilon ", budget.left, " at delta ", budget.cap.delta),
        ]
        for state, number in budget.states.items():
            if number.value and state in ("reserved", "started"):
                found.append(say(f"{state} but not committed, yet counted in full: ", number, " of the entries"))
        if budget.overruns.value:
            found.append(say(budget.overruns, " entries executed more than they had planned; that is charged"))
        if budget.cap_changes.value:
            found.append(
                say(
                    "the cap or the policy was changed ",
                    budget.cap_changes,
                    " time(s); that costs no delta, and the epsilon that is stated first is the largest cap",
                )
            )
        if budget.delta_factor.value > 1:
            found.append(
                say(
                    "the filter's order or delta was chosen again after results were seen (version 0.1.0): what is "
                    "proven holds at ",
                    budget.delta_factor,
                    " times the cap's delta; that is in the delta that is stated first",
                )
            )
    for run in material.trained:
        if run.seed_fixed and run.entry is not None:
            words = ": its seed was fixed; its entry is counted, but no figure here covers what it released"
            found.append(say("run ", run.run, words))
    return found


_OF_A_TUNING = ("hyperparameter", "trials", "tuning")


def tuning(material: Material) -> list[Statement]:
    """Tuning: procedure, trials, charged or not."""
    found = [fact(material.facts, "tuning", "tuning procedure")]
    names = dict.fromkeys(a.what.quote for run in material.trained for a in run.accesses)
    for name in (name for name in names if any(word in name for word in _OF_A_TUNING)):

        def words(run: RunView, name: str = name) -> Words:
            for a in run.accesses:
                if a.what.quote == name:
                    return ["charged: " if a.covered else "NOT covered: ", a.what, ": ", a.detail]
            return []

        found += by_run(material.trained, words)
    return [
        *found,
        say("every private run of this framework on this data is in the ledger, a tuning trial too; others are not"),
    ]


def post_processing(material: Material) -> list[Statement]:
    """Return what is done to the result afterwards."""
    return [fact(material.facts, "post_processing", "post-processing")]


def noise_source(material: Material) -> list[Statement]:
    """Noise source, floating point, side channels, platform, access to raw data."""
    found = by_run(
        material.trained,
        lambda run: (
            [
                "source of randomness: ",
                run.generator,
                ", cryptographic" if run.cryptographic else ", NOT cryptographic",
                ", seed FIXED: no guarantee" if run.seed_fixed else ", seed not fixed",
            ]
            if run.mechanism
            else []
        ),
    )
    return [
        *(found or [unknown("noise source: ")]),
        fact(material.facts, "side_channels", "floating point, timing and other side channels"),
        fact(material.facts, "access_control", "access to the raw data"),
    ]


def evidence(material: Material) -> list[Statement]:
    """Return tests and audits."""
    found: list[Statement] = []
    for run in material.trained:
        for audit in run.audits:
            said: Words = ["; ", audit.statement] if audit.statement else []
            verdict = "CONTRADICTS the guarantee" if audit.contradiction else "does not contradict the guarantee"
            found.append(
                say(
                    "run ",
                    run.run,
                    ", audit ",
                    audit.kind,
                    ": ",
                    audit.lower,
                    ", with confidence ",
                    audit.confidence,
                    "; ",
                    audit.upper,
                    f"; {verdict}",
                    *said,
                )
            )
        if run.unreadable_audits.value:
            found.append(unknown("run ", run.run, ": ", run.unreadable_audits, " audit(s) in a form that is "))
    silent = [run for run in material.private if not run.audits]
    if silent or not found:
        number = count(len(silent), "runs with a guarantee and without an audit")
        found.append(unknown(number, " run(s) with a guarantee were not audited; how tight their bounds are is "))
    return found


def justification(material: Material) -> list[Statement]:
    """Why these choices, and who reviewed them."""
    found = [fact(material.facts, "justification", "why this budget and these choices")]
    for index, review in enumerate(material.facts.reviews):
        where = [of_facts(f"reviews.{index}.{name}") for name in ("by", "date", "verdict")]
        parts = [review.by, review.date.isoformat(), review.verdict]
        by, date, verdict = (Quote(quote=text, source=source) for text, source in zip(parts, where, strict=True))
        found.append(say("reviewed by ", by, " on ", date, ": ", verdict))
    return found if material.facts.reviews else [*found, unknown("who reviewed it: ")]


def limitations(material: Material) -> list[Statement]:
    """Plain-language reading and known limitations."""
    return [
        say("the first page reads the guarantee in plain language"),
        say(
            "the guarantee protects each unit against everybody, but not facts about groups; it holds only for what "
            "is covered, and only if the software does what its records state"
        ),
        fact(material.facts, "limitations", "further limitations"),
    ]


_KEY_LOST = (
    "a signing key replaced one that was declared lost, without the signature of any other key; whether that was right "
    "is "
)


def integrity(material: Material) -> list[Statement]:
    """Return whether record and ledger agree, and what that proves."""
    charged = [run for run in material.trained if run.receipt != "none"]
    agree = [run for run in charged if run.receipt == "agrees"]
    found = [
        say("budget ", budget.key, ": its stored charges were recomputed from its events, and are not below them")
        for budget in material.budgets
        if budget.spent.epsilon is not None
    ]
    found.append(
        say(
            count(len(agree), "records that agree with the ledger"),
            " of ",
            count(len(charged), "records with a ledger entry"),
            " record(s) that name a ledger entry name one of the same run and event",
        )
    )
    found += [
        say("run ", run.run, ": the ledger entry that its record names is missing or is another one")
        for run in charged
        if run.receipt != "agrees"
    ]
    return [
        *found,
        say(
            "the ledger was verified when this was made: the journal's chain and signatures, and the tables against it"
        ),
        *([unknown(_KEY_LOST)] if material.key_lost else []),
        unknown("signature of this report: it has none; its authorship is "),
        say(
            "a signature proves who wrote a ledger entry and in which order, never that the software ran correctly; a "
            "rollback of the whole ledger is found by a host that saw the newer state, or by a record that is newer"
        ),
    ]
