"""Decide whether a run may use its data at all, by the ledger that the data belongs to and by its policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.files import folders_of
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.files.file_rights import real
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.unprotected import Use
from privacy_pipeline.ledger.storage.schema import REGISTER_FIX, name_of
from privacy_pipeline.pipelines.workspace.workspace import Workspace
from privacy_pipeline.spans import Span

if TYPE_CHECKING:
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.unit_digests import Array

ATTACK = "attack"  # its name in the journal and in policies, in the place of a backend


def require_allowed(config: PipelineConfig, *, span: Span, digest: str = "") -> Ledger | None:
    """Check a run against the pins of its data and its workspace, and against the policy of its data.

    Args:
        config: the run's config.
        span: the span that it takes.
        digest: SHA-256 of its files; without it, data under another name is not recognised. Only `begin` recognises
            data that was also edited.

    Returns:
        The ledger; None if there is none and nothing requires one.

    Raises:
        BadInputError: a pin is damaged, or the URL of the ledger is not usable.
        BudgetRefusedError: the data belongs to another ledger, or a policy does not allow the run.
        LedgerError: the ledger cannot be read.
    """
    ledger = pins.open_pinned(config.ledger, data=folders_of(config.dataset), workspace=Workspace(config).root)
    if ledger is not None:
        ledger.require_newest()
        ledger.require_allowed(_use(config, span, digest))
    return ledger


def begin(config: PipelineConfig, *, span: Span, digest: str, run_id: str, trains: bool = True) -> None:
    """Admit a run that is about to read its data; journal it if it has no guarantee and the data is registered.

    Registered data under a new name and in new files is recognised by its rows. A partial run that does not train is
    not charged, so it is journalled too, whatever its config claims about a training.

    Raises:
        BadInputError: a row cannot be read.
        BudgetRefusedError: see `require_allowed`.
        LedgerError: the journal cannot be written, or rows cannot be compared, so the run must not begin.
    """
    ledger = pins.open_pinned(config.ledger, data=folders_of(config.dataset), workspace=Workspace(config).root)
    if ledger is None:
        return
    if config.training.claims_guarantee and trains:
        ledger.require_allowed(_use(config, span, digest))
    else:
        ledger.run_unprotected(_use(config, span, digest), run_id=run_id, rows=lambda secret: _rows(config, secret))


def begin_attack(
    config: PipelineConfig, *, span: Span, digest: str, run_id: str, rows: Callable[[bytes], Array]
) -> None:
    """Admit an attack on a run's model: it reads the training rows exactly, so it counts as a run without a guarantee.

    Args:
        config, span, digest: of the run.
        run_id: the run.
        rows: digests the rows that the run read, under a secret.

    Raises:
        BudgetRefusedError, LedgerError: see `begin`.
    """
    ledger = pins.open_pinned(config.ledger, data=folders_of(config.dataset), workspace=Workspace(config).root)
    if ledger is not None:
        use = dataclasses.replace(_use(config, span, digest), backend=ATTACK, guarantee=False)
        ledger.run_unprotected(use, run_id=f"{run_id}-{ATTACK}", rows=rows)


def end(config: PipelineConfig) -> None:
    """Note the ledger's current head in the pins, so that an earlier state of it is recognised."""
    data, workspace = real(config.dataset.path), Workspace(config).root
    folders = folders_of(config.dataset)
    ledger = pins.open_pinned(config.ledger, data=folders, workspace=workspace)
    if ledger is None:
        return
    pins.note_again(ledger, data=folders, workspace=workspace)
    if config.training.claims_guarantee or pins.pinned([workspace, data]):
        pins.note(ledger, [workspace, data])


def pin(config: PipelineConfig, *, accept: Sequence[str] = ()) -> tuple[list[Path], list[Path]]:
    """Write the pins of a config's data and workspace again.

    Args:
        config: names both, and the ledger.
        accept: ids of keys that replaced a lost one and that a person has checked.

    Returns:
        The folders that were pinned, and those that cannot be written.

    Raises:
        BudgetRefusedError: they belong to another ledger, or there is no ledger.
        LedgerError: the ledger cannot be read.
    """
    data, workspace = real(config.dataset.path), Workspace(config).root
    ledger = pins.open_pinned(config.ledger, data=folders_of(config.dataset), workspace=workspace, accept=accept)
    if ledger is None:
        raise BudgetRefusedError(f"there is no ledger at {name_of(config.ledger)}", fix=REGISTER_FIX)
    folders = [workspace, data]
    failed = pins.note(ledger, folders, accept=accept)
    return [folder for folder in folders if folder not in failed], failed


def _rows(config: PipelineConfig, secret: bytes) -> Array:
    from privacy_pipeline.data import source
    from privacy_pipeline.data.counting.row_digests import RowHasher

    resolved = source.resolve(dataset=config.dataset)
    return source.row_digests(source=resolved, dataset=config.dataset, hasher=RowHasher(secret))


def _use(config: PipelineConfig, span: Span, digest: str) -> Use:
    training = config.training
    return Use(
        dataset=config.dataset.name,
        span=span,
        data_digest=digest,
        backend=training.backend,
        guarantee=training.claims_guarantee and training.seed is None,
    )
