"""Find how many more runs of a config fit its dataset's budget, and what noise fits the rest. Reads no data, imports no
TFX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.calibration import least_noise
from privacy_pipeline.accounting.tuning import purpose_of
from privacy_pipeline.backends import registry
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.state.registration import TRAIN
from privacy_pipeline.pipelines.nodes import TRAINER
from privacy_pipeline.spans import Span

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan, MechanismPlan
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.entries import Forecast
    from privacy_pipeline.ledger.state.registration import Registration
    from privacy_pipeline.pipelines.preflight.checked import Checked

_TOLERANCE = 1e-3  # of the noise multiplier, which is reported with as many digits
_LOWERED = 0.99  # factor that lowers a target epsilon that turns out not to fit
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A change of the config that the ledger would grant now; the ledger was asked about exactly this plan.

    Attributes:
        noise_multiplier: the least noise multiplier with which the runs fit, rounded up.
        target_epsilon: the target that gives at least that noise: epsilon of one run at the config's own delta, by the
            accountant of its headline; None where no target was found that fits.
        delta: the config's delta.
        epsilon_run: what one such run costs, by RDP at the cap's delta.
        epsilon_after: what counts against the cap after one such run.
        runs_that_fit: how many such runs fit; at least as many as were asked for.
        override: the change, as an argument of `--set`.
    """

    noise_multiplier: float
    target_epsilon: float | None
    delta: float
    epsilon_run: float
    epsilon_after: float
    runs_that_fit: int
    override: str


def fitting(config: PipelineConfig, checked: Checked, *, span: Span, runs: int = 1) -> Fitting | None:
    """Return the least noise with which this many runs of a config fit into what remains of its budget.

    Every candidate is weighed as a reservation would be, so that a policy's shares, the filter's order and the cost of
    truncation count.

    Args:
        config: the config.
        checked: what `preflight.check` found for it.
        span: the span that a run would take.
        runs: how many runs have to fit, one after the other.

    Returns:
        The change; None where no noise fits, or where the backend has no noise multiplier.

    Raises:
        BadInputError: `runs` is below 1.
        AccountingError: an event cannot be added by RDP.
        LedgerError: the ledger cannot be read.
    """
    if runs < 1:
        raise BadInputError(f"--runs must be at least 1 (got {runs})", fix="--runs 1")
    if checked.registration is None or noise_section(config) is None:
        return None
    asking = _Asking.of(config, checked, checked.registration, span=span)

    def fits(noise: float) -> bool:
        return asking.forecast(_changed(config, noise_multiplier=noise)).runs_that_fit >= runs

    found = least_noise(fits, tolerance=_TOLERANCE)
    if found is None:
        return None
    noise = math.ceil(found / _TOLERANCE) * _TOLERANCE
    noise = round(noise, 3) if fits(round(noise, 3)) else found
    return _stated(asking, noise=noise, runs=runs)


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """Plans of a config that the ledger weighs."""

    config: PipelineConfig
    registration: Registration
    ledger: Ledger
    span: Span
    before: tuple[tuple[str, ChargedPlan], ...]  # what the run will have spent before it trains

    @classmethod
    def of(cls, config: PipelineConfig, checked: Checked, registration: Registration, *, span: Span) -> _Asking:
        from privacy_pipeline.ledger.ledger import Ledger

        asks = [charge.ask for charge in checked.charges]
        before = tuple((ask.purpose, ask.plan) for ask in asks if ask.split == TRAIN and ask.node != TRAINER)
        ledger = Ledger.open(config.ledger)
        return cls(config=config, registration=registration, ledger=ledger, span=span, before=before)

    def plan(self, config: PipelineConfig) -> MechanismPlan:
        units = self.registration.splits[TRAIN].units
        plan = registry.of(config).plan(config=config, units=units)
        if plan is None:
            raise BudgetRefusedError(f"backend {config.training.backend} has no plan to be charged")
        return plan

    def forecast(self, config: PipelineConfig) -> Forecast:
        return self.ledger.forecast(
            self.plan(config),
            dataset=config.dataset.name,
            span=self.span,
            split=TRAIN,
            purpose=purpose_of(config),
            before=self.before,
        )


def _stated(asking: _Asking, *, noise: float, runs: int) -> Fitting:
    """Return the change as a target epsilon that the ledger was asked about, or else as a noise multiplier."""
    from privacy_pipeline.accounting import accountants

    config = asking.config
    path, block = noise_section(config) or ("", None)
    plan = asking.plan(_changed(config, noise_multiplier=noise))
    forecast, target = asking.forecast(_changed(config, noise_multiplier=noise)), None
    override = f"training.{path}.noise_multiplier={noise!r}"
    if getattr(block, "target_epsilon", None) is not None:
        epsilon = accountants.epsilon_of(plan.event, delta=plan.delta, relation=plan.relation)
        target, asked = _target(asking, epsilon, runs=runs)
        if target is not None and asked is not None:
            forecast, override = asked, f"training.{path}.target_epsilon={target:g}"
    return Fitting(
        noise_multiplier=noise,
        target_epsilon=target,
        delta=plan.delta,
        epsilon_run=forecast.epsilon_run,
        epsilon_after=forecast.epsilon_after,
        runs_that_fit=forecast.runs_that_fit,
        override=override,
    )


def _target(asking: _Asking, epsilon: float, *, runs: int) -> tuple[float | None, Forecast | None]:
    """Return the epsilon rounded down, or a little less; the returned value itself was found to fit."""
    for _ in range(_TRIES):
        if not math.isfinite(epsilon) or epsilon <= 0:
            break
        target = _rounded_down(epsilon)
        forecast = asking.forecast(_changed(asking.config, target_epsilon=target))
        if forecast.runs_that_fit >= runs:
            return target, forecast
        epsilon *= _LOWERED
    return None, None


def _rounded_down(value: float, digits: int = 3) -> float:
    """Return the value rounded to this number of significant digits, never above the value."""
    text = f"{value:.{digits - 1}e}"
    if float(text) > value:
        text = f"{value - 10 ** (math.floor(math.log10(value)) - digits + 1):.{digits - 1}e}"
    return float(text)


def noise_section(config: PipelineConfig) -> tuple[str, Any] | None:
    """Return the block that sets the noise, with its path below `training`; None where the backend has none."""
    training, backend = config.training, config.training.backend
    paths: list[str] = [backend]
    if training.federated is not None:
        paths = [f"{backend}.{name}" for name in ("privacy", "silo_privacy")]
    for path in paths:
        block: Any = training
        for name in path.split("."):
            block = getattr(block, name, None)
        if hasattr(block, "noise_multiplier") and hasattr(block, "target_epsilon"):
            return path, block
    return None


def _changed(
    config: PipelineConfig, *, noise_multiplier: float | None = None, target_epsilon: float | None = None
) -> PipelineConfig:
    found = noise_section(config)
    if found is None:
        raise ValueError("the caller checks this first")
    path, block = found
    changed = block.model_copy(update={"noise_multiplier": noise_multiplier, "target_epsilon": target_epsilon})
    backend, _, inner = path.partition(".")
    if inner:
        changed = getattr(config.training, backend).model_copy(update={inner: changed})
    return config.model_copy(update={"training": config.training.model_copy(update={backend: changed})})
