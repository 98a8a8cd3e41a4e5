"""All checks that need no TFX: files, schema, columns, code and budget."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.backends import registry
from privacy_pipeline.backends.isolated import apart
from privacy_pipeline.backends.models import user_code
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.data.schema import schema_reader
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.charging.admission import require_division
from privacy_pipeline.ledger.state.held import against_cap
from privacy_pipeline.ledger.state.registration import TRAIN, division_of
from privacy_pipeline.ledger.storage import schema as ledger_schema
from privacy_pipeline.ledger.storage.schema import REGISTER_FIX
from privacy_pipeline.pipelines.nodes import TRAINER
from privacy_pipeline.pipelines.preflight import admission, convertible, planned_charges
from privacy_pipeline.pipelines.preflight.checked import Checked
from privacy_pipeline.pipelines.preflight.forecast import fitting
from privacy_pipeline.reports.record.tuning_record import one_trial
from privacy_pipeline.spans import Span, span_words
from privacy_pipeline.tasks import registry as tasks
from privacy_pipeline.text.typed import typed

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.ledger.state.entries import Forecast
    from privacy_pipeline.ledger.state.registration import Registration
    from privacy_pipeline.pipelines.preflight.planned_charges import PlannedCharge


def check(config: PipelineConfig, *, span: Span, paid: Collection[str] = ()) -> Checked:
    """Validate config, schema, user code and budget; reads no data.

    Args:
        config: the config.
        span: the span that a run would take.
        paid: nodes that an earlier run paid for.

    Raises:
        BadInputError: something is missing, or the config contradicts itself.
        BudgetRefusedError: the dataset is not registered, or this run does not fit its budget.
    """
    features = read_features(config)
    if config.model.use != "tabular":
        user_code.defined_by(config.model.use)  # refuses a module that is missing or does not parse
        apart.require_possible(config)
    _check_slices(config)
    convertible.require_convertible(config, features)
    if not config.training.claims_guarantee:
        ledger = admission.require_allowed(config, span=span)
        known = () if ledger is None else (registered.dataset for registered in ledger.registrations())
        journalled = config.dataset.name in known
        return Checked(features=features, plan=None, charges=(), registration=None, journalled=journalled)
    return _with_budget(config, span, features, paid)


def _with_budget(config: PipelineConfig, span: Span, features: FeaturePlan | None, paid: Collection[str]) -> Checked:
    _refuse_unreviewed(config)
    dataset = config.dataset
    ledger = admission.require_allowed(config, span=span)
    if ledger is None:  # no ledger: no budget, and so no run
        raise BudgetRefusedError(f"there is no ledger at {ledger_schema.name_of(config.ledger)}", fix=REGISTER_FIX)
    registration = ledger.registration(dataset.name, span)
    if registration is None:
        raise BudgetRefusedError(
            f"dataset {dataset.name!r}, span {span}, is not registered in {config.ledger}",
            fix="privacy-pipeline budget register CONFIG --epsilon E --delta D",
        )
    _check_registered_columns(features, registration)
    require_division(registration, division_of(dataset))
    units = registration.splits[TRAIN].units
    plan = registry.of(config).plan(config=config, units=units)
    asked = planned_charges.asked(config, features=features, plan=plan, registration=registration)
    charges = planned_charges.forecast(ledger, [ask for ask in asked if ask.node not in paid], registration)
    return Checked(features=features, plan=plan, charges=charges, registration=registration)


def read_features(config: PipelineConfig) -> FeaturePlan | None:
    """Return the feature plan of the config's schema; None where the schema is inferred."""
    dataset = config.dataset
    if dataset.schema_path == "infer":
        return None
    unit = dataset.privacy_unit
    return schema_reader.read_feature_plan(
        schema_path=dataset.schema_path,
        label=dataset.label,
        positive_class=dataset.positive_class,
        is_number=tasks.of(dataset).is_number,
        unit_key=unit.key if isinstance(unit, KeyedUnit) else None,
        silo=config.training.silo_column,
        may_be_unknown=config.preprocessing.dp is not None,
    )


def _check_slices(config: PipelineConfig) -> None:
    path = config.dataset.schema_path
    if path == "infer":
        return
    # Also columns that the model must not see: fairness is measured on them.
    known = {feature.name for feature in schema_reader.parse_schema(schema_path=path).feature}
    for keys in config.evaluation.slices:
        for key in keys:
            if key not in known:
                raise BadInputError(
                    f"evaluation.slices: {key!r} is not a column of the schema",
                    fix=f"one of {', '.join(sorted(known))}",
                )


def _refuse_unreviewed(config: PipelineConfig) -> None:
    if config.dataset.schema_path == "infer":
        return
    names = schema_reader.unreviewed(config.dataset.schema_path)
    if names:
        raise BadInputError(
            f"{config.dataset.schema_path}: features not reviewed yet: {', '.join(names)}",
            fix="replace ranges and domains that were read off the data by public ones, then drop the tag `unreviewed`",
        )


def _check_registered_columns(features: FeaturePlan | None, registration: Registration) -> None:
    if features is None or not registration.columns:
        return
    missing = [c.name for c in features.columns if c.name not in registration.columns and not c.optional]
    if missing:
        raise BadInputError(
            f"the registered dataset {registration.dataset} has no column {', '.join(missing)}",
            fix="correct the schema, or register the data that has these columns",
        )


def forecast_facts(plan: ChargedPlan, forecast: Forecast) -> dict[str, object]:
    """Return the forecast of a plan as plain values; its own epsilon at its own delta, by PLD where PLD supports the
    event.

    The epsilon of a tuning covers all of its trials; `epsilon_one_trial` is what a single trial would have claimed.
    `epsilon_after` is what would count against the cap, None where it has no finite bound. Where several budgets
    would pay, `epsilon_after` and the runs that fit are those of the one with the least room; `budgets` lists them all.
    """
    from privacy_pipeline.accounting import accountants

    guarantee = accountants.guarantee(plan.event, delta=plan.delta, relation=plan.relation)
    alone: dict[str, object] = {}
    if isinstance(plan, MechanismPlan) and plan.tuning is not None:
        epsilon, accountant = one_trial(plan)
        alone = {"epsilon_one_trial": epsilon, "accountant_one_trial": accountant.upper()}
    return {
        "epsilon": guarantee.epsilon,
        **alone,
        "delta": plan.delta,
        "accountant": guarantee.accountant.upper(),
        "epsilon_rdp": guarantee.epsilon_rdp,
        "epsilon_after": forecast.epsilon_after if math.isfinite(forecast.epsilon_after) else None,
        "cap": forecast.cap,
        "fits": forecast.fits,
        "runs_that_fit": forecast.runs_that_fit,
        **({} if not forecast.others else {"budgets": [_of_budget(one) for one in (forecast, *forecast.others)]}),
    }


def _of_budget(forecast: Forecast) -> dict[str, object]:
    """Return the forecast of one of several budgets."""
    return {
        "budget": forecast.budget,
        "epsilon_after": forecast.epsilon_after if math.isfinite(forecast.epsilon_after) else None,
        "cap": forecast.cap,
        "fits": forecast.fits,
        "runs_that_fit": forecast.runs_that_fit,
    }


def over_budget(
    config: PipelineConfig, checked: Checked, charge: PlannedCharge, *, span: Span, path: Path
) -> BudgetRefusedError:
    """Return the refusal of a run that does not fit its dataset's budget: its cost, what remains, and what would fit.

    Args:
        config: the run's config.
        checked: what the checks found.
        charge: its charge that does not fit.
        span: the span that the run would take.
        path: file of the config, for the next command to type.
    """
    forecast, ask = charge.forecast, charge.ask
    where = "" if ask.split == TRAIN else f", {ask.split} split,"
    before = [c for c in checked.charges if c.ask.split == ask.split and c is not charge]
    before = before[: [c.ask.node for c in checked.charges if c.ask.split == ask.split].index(ask.node)]
    beside = "".join(f", after {c.ask.what} at {c.forecast.epsilon_run:.3f}" for c in before)
    told = f"budget of dataset {config.dataset.name!r}{where} refused: {ask.what} costs epsilon"
    told += f" {forecast.epsilon_run:.3f}{beside}, "
    if forecast.others:
        lacking = [one for one in (forecast, *forecast.others) if not one.fits]
        told += f"charged to each budget of {span_words(span)} or to none; "
        told += "; ".join(f"budget {one.budget}: it {_would_hold(one)}" for one in lacking)
    else:
        told += f"which {_would_hold(forecast)}"
    return BudgetRefusedError(told, fix=_what_would_fit(config, checked, charge, span=span, path=path))


def _would_hold(forecast: Forecast) -> str:
    return (
        f"would raise what counts against the cap to {against_cap(forecast.epsilon_after, forecast.cap)}; the cap is "
        f"{forecast.cap:.3f}, {forecast.remaining:.3f} remain (RDP, delta {forecast.delta:.0e})"
        + (f"; {forecast.limit}" if forecast.limit else "")
    )


def _what_would_fit(config: PipelineConfig, checked: Checked, charge: PlannedCharge, *, span: Span, path: Path) -> str:
    owner = "ask the owner of the budget for more"
    if charge.ask.node != TRAINER:
        return f"{charge.ask.fix}, or {owner}; `privacy-pipeline budget status`"
    fits = fitting(config, checked, span=span)
    if fits is None:
        return f"no noise makes a run fit what remains: {owner}; `privacy-pipeline budget status`"
    return (
        f"{typed('run', path, '--set', fits.override)} (would cost {fits.epsilon_run:.3f} and fits now), "
        f"or {owner}; for more runs: {typed('budget', 'forecast', path, '--runs', 'N')}"
    )


def check_source(config: PipelineConfig, features: FeaturePlan | None) -> source.ResolvedSource:
    """Find the files of the run's span and check their first lines.

    Raises:
        BadInputError: a file is missing, unreadable or empty, or lacks a column.
    """
    resolved = source.resolve(dataset=config.dataset)
    _check_headers(config, resolved, features)
    return resolved


def _check_headers(config: PipelineConfig, resolved: source.ResolvedSource, features: FeaturePlan | None) -> None:
    dataset = config.dataset
    if dataset.format == "csv":
        unit = dataset.privacy_unit
        columns = [c.name for c in features.columns if not c.optional] if features else []
        if features is not None and features.silo is not None and features.silo not in columns:
            columns.append(features.silo)
        source.check_headers(
            source=resolved,
            dataset=dataset,
            columns=columns,
            label=dataset.label,
            unit_key=unit.key if isinstance(unit, KeyedUnit) else None,
        )


def look_through(
    config: PipelineConfig, resolved: source.ResolvedSource, features: FeaturePlan | None
) -> tuple[str, ...]:
    """Read headers and all rows as ExampleGen will, and refuse here the rows that would make a run fail later.

    Args:
        config: the config.
        resolved: its files; for a run, the private copy that ExampleGen reads.
        features: the feature plan; None where the schema is inferred, so that each row needs only to be readable.

    Returns:
        What a person should know about the keys although it is not an error.

    Raises:
        BadInputError: a row cannot be read, or the schema does not allow it; names file, line and column.
    """
    _check_headers(config, resolved, features)
    if features is None:
        source.require_readable(source=resolved, dataset=config.dataset)
        return ()
    found = source.survey(source=resolved, dataset=config.dataset, features=features)
    return () if found is None else found.notes


def schema_digest(path: Path) -> str:
    """Return the SHA-256 of a schema file."""
    return hashlib.sha256(schema_reader.schema_bytes(path)).hexdigest()
