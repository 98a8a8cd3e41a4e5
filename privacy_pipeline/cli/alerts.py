"""One line for each budget that has passed an alert level of its policy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privacy_pipeline.cli.output import err
from privacy_pipeline.cli.shown import escape

if TYPE_CHECKING:
    from privacy_pipeline.config.models.pipeline import PipelineConfig
    from privacy_pipeline.ledger.state.entries import BudgetStatus


def alert(status: BudgetStatus) -> str:
    """Return the line for a budget; empty where no level is passed."""
    if not status.alerts:
        return ""
    used = f"{status.used:.0%}" if math.isfinite(status.used) else "all"
    return (
        f"budget {status.budget}: the policy's alert level of {max(status.alerts):.0%} is passed: "
        f"{used} of the room is used; epsilon {status.enforced_epsilon:.3f} counts against the cap of "
        f"{status.cap_epsilon:.3f}, {status.remaining_epsilon:.3f} remain"
    )


def tell_alerts(statuses: list[BudgetStatus], *, told: list[BudgetStatus] | None = None) -> None:
    """Print the lines to standard error, one for each budget; omit levels that were printed before."""
    before = {status.budget: status.alerts for status in told or []}
    for status in statuses:
        line = alert(status)
        if line and before.get(status.budget) != status.alerts:
            err.print(f"[yellow]alert:[/] {escape(line)}", soft_wrap=True)


class RunAlerts:
    """Alerts about the budget that a run is charged to, before the run and after it."""

    def __init__(self, config: PipelineConfig) -> None:

        self._charged = config.training.claims_guarantee
        self._ledger, self._dataset = config.ledger, config.dataset.name
        self._told: list[BudgetStatus] = []

    def tell(self) -> None:
        """Print the levels that were passed since the last call."""
        if not self._charged:
            return
        from privacy_pipeline.ledger.ledger import Ledger

        statuses = Ledger.open(self._ledger).status(self._dataset)
        tell_alerts(statuses, told=self._told)
        self._told = statuses
