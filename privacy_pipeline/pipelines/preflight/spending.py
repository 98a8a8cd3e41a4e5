"""What a run will spend, has spent, or need not spend because an earlier one did. Imports no TFX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.dp import attempts
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.pipelines.nodes import CHARGING, DP_EVALUATOR, DP_STATISTICS, TRAINER
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.workspace.run_state import NodeState, RunSpec, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace, readable_runs
from privacy_pipeline.reports.record.summary import RunSummary

if TYPE_CHECKING:
    from privacy_pipeline.data.source import ResolvedSource
    from privacy_pipeline.ledger.state.registration import Registration

FINISHED = ("done", "cached")


def charged_again(folder: RunFolder) -> list[str]:
    """Return the nodes that had begun, and that a resumed run repeats at the cost of privacy budget."""
    state, config = folder.read_state(), folder.read_spec().config
    if not config.training.claims_guarantee:
        return []
    begun = [name for name in CHARGING if state.nodes.get(name, NodeState()).status in ("running", "failed")]
    if TRAINER in begun and _can_continue(Workspace(config), state):
        begun.remove(TRAINER)
    return begun


def _can_continue(workspace: Workspace, state: RunState) -> bool:
    return attempts.can_continue(workspace.pipeline_root / attempts.ROOT, state.run_id)


def refuse_over_budget(workspace: Workspace, spec: RunSpec, state: RunState, *, files: ResolvedSource) -> None:
    """Refuse a run that the ledger would refuse on its way; nothing was started.

    Args:
        workspace, spec, state: the run.
        files: the private copy that the run reads; the spec holds its digest.

    Raises:
        BudgetRefusedError: the ledger would refuse the run.
    """
    paid = [name for name in CHARGING if _is_paid(workspace, spec.config, state, name)]
    checked = preflight.check(spec.config, span=spec.span, paid=paid)
    if checked.registration is not None and checked.registration.digest != spec.data_digest:
        raise BudgetRefusedError(
            f"the files of dataset {spec.config.dataset.name!r} are not the ones that were registered",
            fix="restore the registered files, or register the new ones as a span of their own",
        )
    for charge in checked.charges:
        if not charge.forecast.fits:
            raise preflight.over_budget(spec.config, checked, charge, span=spec.span, path=Path(state.config_path))
    if checked.registration is not None:
        _refuse_other_units(spec.config, checked.registration, files)


def _refuse_other_units(config: PipelineConfig, registration: Registration, together: ResolvedSource) -> None:
    """Check the units of one span against the registered ones, by content; count the units of several spans together.

    Each span was counted alone. Together the counts may differ: where a key is a number in one span and a text in
    another, where one person's key is written in two ways, or where the split of the config has changed. Rows would
    then be sampled, or held out, otherwise than registered. The trainer would refuse too, but with the budget spent.

    Raises:
        BadInputError: the keys are not of one type.
        BudgetRefusedError: a split has other units, or the numbers of rows or units are not those that were registered.
    """
    if not isinstance(registration.span, tuple):
        keys = source.unit_keys(source=together, dataset=config.dataset)
        if keys is not None:
            Ledger.open(config.ledger).require_same_units(registration, keys)
        return
    source.require_one_key_type(source=together, dataset=config.dataset)
    counts = source.count_units(source=together, dataset=config.dataset)
    for split, registered in registration.splits.items():
        if (counts[split].rows, counts[split].units) != (registered.rows, registered.units):
            raise BudgetRefusedError(
                f"split {split!r} of {registration.name}: read together, the spans have another number of rows or "
                "units than registered one by one",
                fix="write a unit's key alike in all spans, and let dataset.input and hash_split be what they were at "
                "the registration; or read the spans one at a time",
            )


def _is_paid(workspace: Workspace, config: PipelineConfig, state: RunState, node: str) -> bool:
    """Whether a node is done, or will be served from cache or go on under its charge.

    If it is not after all, the run requests a new charge from the ledger, which refuses what does not fit.
    """
    if state.nodes.get(node, NodeState()).status in FINISHED:
        return True
    if config.cache and executed_before(workspace, state, node):
        return True
    return node == TRAINER and _can_continue(workspace, state)


def executed_before(workspace: Workspace, state: RunState, node: str) -> bool:
    """Whether an earlier run made what a charging node would make, so that TFX serves it from its cache."""
    wanted = state.fingerprint_of(node)
    return wanted is not None and any(
        node in known.nodes and known.nodes[node].status in FINISHED and known.fingerprint_of(node) == wanted
        for _, known in readable_runs(workspace.root)
        if not known.pruned
    )


def record_zero(folder: RunFolder, state: RunState, config: PipelineConfig) -> None:
    """Record in the ledger what would have been charged, but was served from cache."""
    served = [name for name in CHARGING if state.nodes.get(name, NodeState()).status == "cached"]
    if not served or not config.training.claims_guarantee:
        return
    summary, ledger = folder.read_summary(), Ledger.open(config.ledger)
    for node in served:
        paid_by = _paid_by(node, summary) if summary is not None else None
        ledger.zero(dataset=config.dataset.name, run_id=state.run_id, node=node, paid_by=paid_by)


def _paid_by(node: str, summary: RunSummary) -> int | None:
    """Return the ledger entry that paid for a node's output."""
    if node == DP_STATISTICS:
        released = summary.record.preprocessing
        return released.ledger_entry if released is not None else None
    if node == DP_EVALUATOR:
        return summary.dp_evaluation.ledger_entry if summary.dp_evaluation is not None else None
    charged = summary.record.composition
    return charged.ledger_entry if charged is not None else None
