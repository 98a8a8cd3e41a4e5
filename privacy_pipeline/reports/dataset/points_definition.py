"""Points of the checklist on identity, definition, trust and scope."""

from __future__ import annotations

from privacy_pipeline.reports.dataset.dataset_report import BudgetView, RunView, SpanView
from privacy_pipeline.reports.dataset.run_views import NO_GUARANTEE
from privacy_pipeline.reports.dataset.statements import Material, by_run, count, fact, say, unknown
from privacy_pipeline.reports.figures import Part, Statement, Words

PLAIN_DIGEST = (
    "plain, and left out here: the record's digest of the data; it is not covered by a secret, and anyone who knows "
    "all rows but one can test guesses of that one with it"
)
RELATIONS = {
    "zero_out": "two datasets are neighbours if one unit's rows are replaced by rows that contribute nothing, so the "
    "number of units is public",
    "add_or_remove_one": "two datasets are neighbours if one has the rows of one unit more, so the number of units "
    "is protected too",
}


def product(material: Material) -> list[Statement]:
    """Product, curator, intended use, type, region, date."""
    labels = {
        "product": "product",
        "curators": "curators",
        "intended_use": "intended use",
        "product_type": "type of product",
        "region": "region or law",
        "publication_date": "publication date",
    }
    return [fact(material.facts, field, label) for field, label in labels.items()]


def versions(material: Material) -> list[Statement]:
    """Return runs, code, libraries, lock and data."""
    if not material.runs:
        return [unknown("runs, code and libraries: "), *map(_span_words, material.spans), *_plain_digests(material)]

    def of_run(run: RunView) -> Words:
        words: Words = []
        for index, (name, version) in enumerate(run.versions.items()):
            words += ["; " if index else "", f"{name} ", version]
        return words

    return [
        *map(_span_words, material.spans),
        *by_run(material.trained, of_run),
        fact(material.facts, "code", "code published at"),
        *_plain_digests(material),
    ]


def _plain_digests(material: Material) -> list[Statement]:
    """Return the records of versions that did not cover digests, in one line."""
    found = [run for run in material.trained if run.plain_digest]
    if not found:
        return []
    return by_run(found, lambda run: [PLAIN_DIGEST])


def _span_words(span: SpanView) -> Statement:
    return say("span ", span.span, ", registered ", span.registered, ", hash of the data ", span.digest)


def variant(material: Material) -> list[Statement]:
    """DP variant."""
    found = [
        say(
            "approximate DP, (epsilon, delta); the budget is enforced in Renyi DP, the neighbouring relation is ",
            budget.relation,
        )
        for budget in material.budgets
    ]
    if any(NO_GUARANTEE in run.marks for run in material.trained):
        open_runs = [run for run in material.trained if NO_GUARANTEE in run.marks]
        found.append(say(count(len(open_runs), "runs without guarantee"), " run(s) are under no variant at all"))
    return found


def unit(material: Material) -> list[Statement]:
    """Privacy unit, adjacency, contribution bound."""
    found = [
        say("unit ", b.unit, ", split ", b.split, "; relation ", b.relation, ": ", RELATIONS[b.relation.quote])
        for b in material.budgets
    ]
    found += by_run(material.trained, lambda run: ["in words: ", run.unit_in_words])
    return found + [
        say("span ", span.span, ": training may use at most ", span.contribution_bound, " row(s) of one unit")
        for span in material.spans
    ]


def parameters(material: Material) -> list[Statement]:
    """Epsilon and delta, curve, attack reading."""
    found: list[Statement] = []
    for budget in material.budgets:
        found += [
            say("budget ", budget.key, ", all ", budget.counted, " counted entries together: ", budget.proven),
            say("if all runs were fixed beforehand: ", budget.best_order, "; ", budget.pld),
            say("cap: ", budget.cap, "; counted against it: ", budget.spent),
            *[
                say(
                    "an attack with false-positive rate ",
                    reading.false_positive_rate,
                    " has a true-positive rate of at most ",
                    reading.true_positive_rate,
                    f" ({reading.basis}; "
                    + ("for what was spent" if reading.when == "now" else "if the whole cap were spent")
                    + ")",
                )
                for reading in budget.attack
            ],
            _delta_against_units(budget, material),
        ]
    return found


def _delta_against_units(budget: BudgetView, material: Material) -> Statement:
    delta = budget.proven.delta
    words: list[Part] = ["delta is ", delta]
    spans = _covered(budget, material)
    sizes = [span.splits[budget.split.quote][1] for span in spans if budget.split.quote in span.splits]
    if not sizes:
        return unknown(*words, "; the number of units is not stated here, so delta against it is ")
    least = min(sizes, key=lambda size: size.value)
    small = delta.value * least.value < 1
    words += ["; the smallest registered span that pays from it has ", least, " units, so delta is "]
    return say(*words, "below" if small else "NOT below", " one over the number of units")


def _covered(budget: BudgetView, material: Material) -> list[SpanView]:
    """Return the spans that pay from a budget: its own span, or all spans without an own budget."""

    def own(key: str, span: SpanView) -> bool:
        return key.endswith(f"/{budget.split.quote}/{budget.unit.quote}/span-{span.span.quote}")

    mine = [span for span in material.spans if own(budget.key.quote, span)]
    keys = [known.key.quote for known in material.budgets]
    return mine or [span for span in material.spans if not any(own(key, span) for key in keys)]


def domain(material: Material) -> list[Statement]:
    """Return data domain and unprotected quantities."""
    found = [fact(material.facts, "data_domain", "data domain")]
    if any(budget.relation.quote == "zero_out" for budget in material.budgets):
        found.append(say("unprotected by definition: the number of units of each registered split, and the columns"))
    found.append(fact(material.facts, "unprotected_quantities", "further unprotected quantities"))
    schema = by_run(
        material.trained,
        lambda run: next(([a.what, ": ", a.detail] for a in run.accesses if "schema" in a.what.quote), []),
    )
    return found + schema


def trust(material: Material) -> list[Statement]:
    """Deployment model, actors, encrypted inference."""
    found = [
        fact(material.facts, "deployment_model", "deployment model"),
        fact(material.facts, "actors", "actors and what each is trusted for"),
    ]
    protected = [run for run in material.runs if run.inference_protection != "none"]
    if protected:
        found += [
            say(
                "encrypted inference hides a query and the model from the computing parties as long as they do not "
                "collude beyond its threat model; it is not differential privacy and has no privacy loss of its own. "
                "What the model itself reveals is bounded by its training guarantee alone. A simulated protection "
                "protects nothing"
            ),
            *by_run(protected, _threat_model),
        ]
        told = fact(material.facts, "encrypted_inference", "threat model of encrypted inference")
        if told.known or not all(run.threat_model for run in protected):
            found.append(told)
    return found


def _threat_model(run: RunView) -> Words:
    words: Words = []
    for aspect, said in run.threat_model.items():
        words += ["; " if words else "encrypted inference: ", f"{aspect.replace('_', ' ')}: ", said]
    return words


def scope(material: Material) -> list[Statement]:
    """Return data accesses, covered and not, and who can see what is not covered."""
    if not (material.runs or material.unrecorded or material.unprotected):
        return [unknown("data accesses: ")]
    told = material.facts.preprocessing is not None
    found = [fact(material.facts, "preprocessing", "preprocessing, as stated by the curator")] if told else []
    names = dict.fromkeys(access.what.quote for run in material.trained for access in run.accesses)
    for name in names:
        for covered in (True, False):

            def words(run: RunView, name: str = name, covered: bool = covered) -> Words:
                for access in run.accesses:
                    if access.what.quote == name and access.covered is covered:
                        return ["covered: " if covered else "NOT covered: ", access.what, ": ", access.detail]
                return []

            found += by_run(material.trained, words)
    found += [
        say(
            "NOT covered: run ",
            left.run,
            " (",
            left.status,
            ") has no record; exact results of its nodes ",
            left.nodes,
            " lie in the workspace, and anyone who can read that sees them",
        )
        for left in material.unrecorded
    ]
    found += [
        say(
            "NOT covered: run ",
            left.run,
            " with backend ",
            left.backend,
            ", by ",
            left.who,
            " at ",
            left.at,
            ", claimed no guarantee; the workspaces that were read hold nothing of it",
        )
        for left in material.unprotected
    ]
    found += [
        unknown("run folder that could not be read: ", folder, "; what it did with the data is ")
        for folder in material.unreadable
    ]
    return found


def released(material: Material) -> list[Statement]:
    """Return what is released under the guarantee."""
    found = [fact(material.facts, "released", "what is given to others")]
    if material.private:
        blessed = [run for run in material.private if run.blessed]
        found.insert(
            0,
            say(
                "the guarantee covers the final model and everything computed from it; of ",
                count(len(material.private), "runs with a guarantee"),
                " run(s) with a guarantee, ",
                count(len(blessed), "blessed runs with a guarantee"),
                " had a model that was approved for release",
            ),
        )
    return found


def release_pattern(material: Material) -> list[Statement]:
    """One-shot or continual, static or dynamic, interactive or not."""
    found = [
        say(
            count(len(material.trained), "trainings"),
            " training(s) on ",
            count(len(material.spans), "registered spans"),
            " registered span(s) so far; no budget is refreshed by the passing of time",
        )
    ]
    for kind, label in (("release", "releases"), ("data_source", "data"), ("access", "access")):
        found.append(fact(material.facts, f"{kind}_type", label))
        if getattr(material.facts, f"{kind}_details") is not None:
            found.append(fact(material.facts, f"{kind}_details", f"{label}, details"))
    return found
