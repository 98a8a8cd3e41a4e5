"""Format 5: a budget fixes the ceiling of its caps too; what older versions left unfixed is stated (`earlier_rules`).

Signing what is there would make it true, so the ledger is verified as a whole first.
"""

from __future__ import annotations

from alembic import op

from privacy_pipeline.ledger.audit.verify import tampering
from privacy_pipeline.ledger.migrations.columns import add_missing
from privacy_pipeline.ledger.storage import tables
from privacy_pipeline.ledger.storage.journal import VERIFY
from privacy_pipeline.ledger.storage.schema import LedgerError, stored_format

revision = "5"
down_revision = "4"


def upgrade() -> None:
    """Add the new columns and verify. The caller appends the rules and signs the head (`migrate.settle`).

    Raises:
        LedgerError: the ledger does not verify.
    """
    add_missing()
    tables.unit_digests.create(op.get_bind(), checkfirst=True)
    problems = tampering(op.get_bind())
    if problems:
        found = stored_format(op.get_bind())
        raise LedgerError(
            f"this ledger of format {found} does not verify, nothing was written: {problems[0]}", fix=VERIFY
        )
