"""A record for the OpenDP Deployments Registry, tier 3, as YAML.

The registry's schema: repository opendp/deployments-registry-data. What is not known is written as such, or left out
where the schema requires one of a list of words. The fields that the registry requires are never made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.reports.dataset.dataset_report import BudgetView, DatasetReport
from privacy_pipeline.reports.dataset.points_definition import RELATIONS
from privacy_pipeline.reports.figures import Statement, plain

NOT_KNOWN = "not known"
# Facts that the registry requires; only the curator can know them, except the type of product.
DEMANDED = (
    "product",
    "curators",
    "description",
    "intended_use",
    "product_type",
    "region",
    "publication_date",
    "registry_authors",
)


def to_registry(report: DatasetReport) -> str:
    """Return the record as YAML, in the state "Draft".

    Raises:
        BadInputError: facts that the registry requires are not given, or the budget has no finite epsilon.
    """
    report = report.visible()
    facts = report.facts
    missing = [name for name in DEMANDED if not getattr(facts, name)]
    if missing:
        raise BadInputError(
            f"a registry record needs facts that only the curator can give: {', '.join(missing)}",
            fix="give them under `report:` in a YAML file, with --facts",
        )
    record = {
        "url_slug": facts.registry_slug or re.sub(r"[^a-z0-9]+", "-", report.dataset.quote.lower()).strip("-"),
        "status": "Draft",
        "tier": 3,
        "deployment": {
            "basic": _basic(report),
            "dp_variant": {
                "variant_name": "Approximate DP",
                "data_domain": facts.data_domain or NOT_KNOWN,
                "unprotected_quantities": _point(report, 6),
            },
            "privacy_loss": _privacy_loss(report),
            "deployment_model": _model(report),
            "accounting": {"post_processing": _point(report, 16), "composition": _point(report, 14)},
            "implementation": {
                "preprocessing_and_hyperparameter_tuning": _text([*_lines(report, 8), *_lines(report, 15)]),
                "mechanisms": _text(line for number in (11, 12, 17, 2) for line in _lines(report, number)),
                "justification": _point(report, 19),
            },
            "administrative": {
                "sources": facts.sources or NOT_KNOWN,
                "notes": _notes(report),
                "registry_authors": list(facts.registry_authors),
            },
        },
    }
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100)


def _basic(report: DatasetReport) -> dict[str, Any]:
    facts = report.facts
    found: dict[str, Any] = {
        "name": facts.product,
        "data_curators": list(facts.curators),
        "intended_use": facts.intended_use,
        "data_product_type": facts.product_type,
        "data_product_region": facts.region,
        "description": facts.description,
        "publication_date": facts.publication_date.isoformat() if facts.publication_date else None,
    }
    return found | ({"data_product_sector": facts.sector} if facts.sector else {})


def _privacy_loss(report: DatasetReport) -> dict[str, Any]:
    """Return the block of the training data's budget; the details name further budgets."""
    budgets = [b for b in report.budgets if b.split.quote == "train"] or report.budgets
    for budget in budgets:
        if budget.proven.epsilon is None:
            why = budget.proven.missing
            raise BadInputError(
                f"budget {budget.key.quote}: no epsilon is proven ({why}): there is nothing to register"
            )
    # Spans with their own budgets have no unit in common: the worst of them holds for all.
    epsilons = [float(b.proven.epsilon.text) for b in budgets if b.proven.epsilon]
    budget = budgets[0]
    return {
        "privacy_unit": _text([budget.unit.quote, *dict.fromkeys(run.unit_in_words.quote for run in report.runs)]),
        "privacy_unit_details": _point(report, 4),
        "privacy_parameters": {
            # Rounded up as everywhere else, so that the record never states less than what is proven.
            "epsilon": max(epsilons),
            "delta": max(b.proven.delta.value for b in budgets),
        },
        "privacy_parameters_details": _text(
            [
                f"relation {budget.relation.quote}: {RELATIONS[budget.relation.quote]}",
                _all_budgets(report.budgets),
                *_lines(report, 5),
            ]
        ),
    }


def _all_budgets(budgets: Iterable[BudgetView]) -> str:
    return "; ".join(
        plain(
            ["budget ", b.key, ": all runs together ", b.proven, ", counted against the cap ", b.spent, ", cap ", b.cap]
        )
        for b in budgets
    )


def _model(report: DatasetReport) -> dict[str, Any]:
    facts = report.facts
    named = {
        "model_name": facts.deployment_model,
        "release_type": facts.release_type,
        "data_source_type": facts.data_source_type,
        "access_type": facts.access_type,
    }
    told: dict[str, Any] = {name: value for name, value in named.items() if value}
    details = {
        "model_name_details": (facts.encrypted_inference, "model_name"),
        "release_type_details": (facts.release_details, "release_type"),
        "data_source_type_details": (facts.data_source_details, "data_source_type"),
        "access_type_details": (facts.access_details, "access_type"),
    }
    for name, (text, of) in details.items():
        if text or of not in told:
            told[name] = text or NOT_KNOWN
    return told | {"actors": facts.actors or NOT_KNOWN}


def _notes(report: DatasetReport) -> str:
    passages = [f"{passage.title}. {_text(map(_line, passage.statements))}" for passage in report.first_page]
    return "\n\n".join([report.facts.notes or "", *passages]).strip()


def _point(report: DatasetReport, number: int) -> str:
    return _text(_lines(report, number))


def _lines(report: DatasetReport, number: int) -> list[str]:
    return [_line(statement) for statement in report.checklist[number - 1].statements]


def _line(statement: Statement) -> str:
    return plain(statement.words)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
