"""The secret under which a run's digest of its data is made."""

from __future__ import annotations

from privacy_pipeline.accounting import pins
from privacy_pipeline.config.models import PipelineConfig
from privacy_pipeline.covered_digests import make_secret, new_secret, read_secret
from privacy_pipeline.data.files import folders_of
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.workspace import Workspace

FILE = "digests.key"


def data_secret(config: PipelineConfig) -> bytes:
    """That of the run's ledger; where there is no ledger, the workspace's own, made with its first run.

    Raises:
        BadInputError: the workspace's secret cannot be read or written.
        BudgetRefusedError: the data belongs to another ledger.
        LedgerError: the ledger's secret cannot be read, or is another one.
    """
    workspace = Workspace(config).root
    ledger = pins.open_pinned(config.ledger, data=folders_of(config.dataset), workspace=workspace)
    if ledger is not None:
        return ledger.digest_secret()
    path = workspace / FILE
    try:
        if not path.exists():
            workspace.mkdir(parents=True, exist_ok=True)
            make_secret(path, new_secret())
        return read_secret(path)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}", fix="make the workspace writable") from error
    except ValueError as error:
        raise BadInputError(
            f"{path}: {error}", fix=f"chmod 600 {path}; if it is damaged, remove it: results are then made anew"
        ) from error
