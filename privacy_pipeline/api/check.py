"""Check a config before a run: its rows, its model and its privacy cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from privacy_pipeline.api.configs import Given, file_of, load_config
from privacy_pipeline.data import source
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.pictures.bar import bar
from privacy_pipeline.pictures.fragment import fragment, new_name, paragraph, picture, table
from privacy_pipeline.pipelines.nodes import TRAINER
from privacy_pipeline.pipelines.preflight import preflight, rows
from privacy_pipeline.pipelines.preflight.announce import announced_class
from privacy_pipeline.pipelines.preflight.imported_code import code_of_run
from privacy_pipeline.text.shown_text import visible

if TYPE_CHECKING:
    from privacy_pipeline.config.models.pipeline import PipelineConfig
    from privacy_pipeline.errors import BudgetRefusedError
    from privacy_pipeline.ledger.state.entries import Forecast
    from privacy_pipeline.pipelines.preflight.imported_code import ImportedFile
    from privacy_pipeline.pipelines.preflight.planned_charges import PlannedCharge
    from privacy_pipeline.pipelines.preflight.rows import Examined


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check found. A notebook shows it as a table, with the budget before and after the run as a bar.

    Attributes:
        config: the config.
        facts: all of it as plain values, as `check --json` prints them.
        examined: whether the model keeps examples apart.
        code: files of code that a run imports beside the installed packages.
        notes: what a person should know although it is not an error.
        forecast: what the training would do to the budget; None where it claims no guarantee.
        refusal: why the ledger would refuse the run; None where the run fits.
    """

    config: PipelineConfig
    facts: dict[str, Any] = field(repr=False)
    examined: Examined
    code: tuple[ImportedFile, ...]
    notes: tuple[str, ...]
    forecast: Forecast | None
    refusal: BudgetRefusedError | None

    @property
    def fits(self) -> bool:
        """Whether a run fits its budget now."""
        return self.refusal is None

    def require_fits(self) -> None:
        """Refuse a run that does not fit.

        Raises:
            BudgetRefusedError: its cost, what remains, and what would fit.
        """
        if self.refusal is not None:
            raise self.refusal

    @property
    def _verdict(self) -> str:
        named = f"{self.config.pipeline}, backend {self.config.training.backend}"
        if self.forecast is None:
            return f"{named}: no training guarantee"
        return f"{named}: a run {'fits' if self.fits else 'does not fit'} its budget"

    def __str__(self) -> str:
        """Return the verdict, the cost of a run, and why it is refused."""
        cost = [f"{label} {value}" for label, value in self._rows() if label in ("epsilon", "counted against the cap")]
        refusal = [] if self.refusal is None else [f"{self.refusal.message}. Fix: {self.refusal.fix}"]
        return visible("; ".join([self._verdict, *cost, *refusal]))

    def _repr_html_(self) -> str:
        told = self._verdict
        refusal = "" if self.refusal is None else paragraph(f"{self.refusal.message}. Fix: {self.refusal.fix}")
        notes = [paragraph(f"note: {note}") for note in self.notes]
        return fragment(paragraph(told, bold=True), table(self._rows()), self._picture(), refusal, *notes)

    def _rows(self) -> list[tuple[str, str]]:
        plan, ahead = self.facts["plan"], self.facts["forecast"]
        found = []
        if plan and ahead:
            after = "no finite bound" if ahead["epsilon_after"] is None else f"{ahead['epsilon_after']:.3f}"
            found = [
                ("epsilon", f"{ahead['epsilon']:.3f} at delta {plan['delta']:.0e} ({ahead['accountant']})"),
                ("privacy unit", f"{plan['unit']}, relation {plan['relation']}"),
                ("noise", f"multiplier {plan['noise_multiplier']:.4g}"),
                ("batches", f"{plan['steps']:,} steps of {plan['batch_size']:,} ({plan['sampler']})"),
                ("counted against the cap", f"{after} of {ahead['cap']:.3f} after this run (RDP)"),
                ("such runs that fit", f"{ahead['runs_that_fit']:,}"),
            ]
        else:
            found.append(("budget", "this run spends none, and its model may reveal single rows"))
        if str(self.examined):
            found.append(("rows", str(self.examined)))
        return [*found, ("code beside the packages", ", ".join(str(one.file) for one in self.code) or "none")]

    def _picture(self) -> str:
        ahead = self.forecast
        if ahead is None or ahead.cap <= 0:
            return ""
        added = max(0.0, ahead.epsilon_after - ahead.epsilon_before)
        words = (f"{ahead.epsilon_before:.3f} counted, this run {added:.3f} more", f"cap {ahead.cap:.3f}")
        drawing = bar(
            name=new_name("check"),
            title="Budget before and after the run",
            description=f"{words[0]}; {words[1]} at delta {ahead.delta:.0e}.",
            cap=ahead.cap,
            spent=ahead.epsilon_before,
            words=words,
            added=added,
        )
        return picture(drawing)


@reading_once()
def check(config: Given, *, overrides: Sequence[str] = (), on_examine: Callable[[], None] = lambda: None) -> Check:
    """Validate a config and its rows, examine its model and forecast its privacy cost; nothing is spent.

    >>> import privacy_pipeline as pp
    >>> checked = pp.check("config.yaml")
    >>> checked.fits, round(checked.facts["forecast"]["epsilon"], 2)
    (True, 0.32)

    Args:
        config: path of a YAML file, a mapping or a config; see `load_config`.
        overrides: `section.key=value` each.
        on_examine: called before the model of a private training is examined, which takes seconds.

    Returns:
        What was found; a run that does not fit its budget is found too (`Check.refusal`).

    Raises:
        BadInputError: config, schema, rows or model are not usable.
        BudgetRefusedError: the dataset is not registered, or the policy refuses the run.
    """
    loaded, path = load_config(config, overrides=overrides), file_of(config)
    code = code_of_run(loaded)
    span = source.resolve(dataset=loaded.dataset).span
    checked = preflight.check(loaded, span=span)
    notes = preflight.look_through(loaded, preflight.check_source(loaded, checked.features), checked.features)
    plan, forecast = checked.plan, checked.forecast
    if plan is not None:
        on_examine()
    examined = rows.examine(loaded, checked)
    facts: dict[str, Any] = {
        "config": str(path),
        "pipeline": loaded.pipeline,
        "backend": loaded.training.backend,
        "task": loaded.dataset.task,
        "span": span,
        "privacy_class": announced_class(loaded),
        "plan": plan.parameters() if plan else None,
        "forecast": preflight.forecast_facts(plan, forecast) if plan and forecast else None,
        "journalled": checked.journalled,
        "rows": examined.to_json(),
        "code": [one.to_json() for one in code],
        "notes": list(notes),
        "beside_training": [_beside(charge) for charge in checked.charges if charge.ask.node != TRAINER],
    }
    lacking = next((charge for charge in checked.charges if not charge.forecast.fits), None)
    return Check(
        config=loaded,
        facts=facts,
        examined=examined,
        code=tuple(code),
        notes=notes,
        forecast=forecast,
        refusal=None if lacking is None else preflight.over_budget(loaded, checked, lacking, span=span, path=path),
    )


def _beside(charge: PlannedCharge) -> dict[str, object]:
    ask = charge.ask
    return {
        "node": ask.node,
        "purpose": ask.purpose,
        "split": ask.split,
        "plan": ask.plan.parameters(),
        "forecast": preflight.forecast_facts(ask.plan, charge.forecast),
    }
