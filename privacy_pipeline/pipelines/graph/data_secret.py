"""The secret key of a run's data digest."""

from __future__ import annotations

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.covered_digests import secret_in
from privacy_pipeline.data.files import folders_of
from privacy_pipeline.ledger import pins
from privacy_pipeline.pipelines.workspace.workspace import Workspace


def data_secret(config: PipelineConfig) -> bytes:
    """Return the secret of the run's ledger; without a ledger, the workspace's own secret, made with its first run.

    Raises:
        BadInputError: the workspace's secret cannot be read or written.
        BudgetRefusedError: the data belongs to another ledger.
        LedgerError: the ledger's secret cannot be read, or differs from the expected one.
    """
    workspace = Workspace(config).root
    ledger = pins.open_pinned(config.ledger, data=folders_of(config.dataset), workspace=workspace)
    return secret_in(workspace) if ledger is None else ledger.digest_secret()
