"""Format 4: the head of the journal signs budgets and registrations too.

Signing what is there would make it true, so the ledger is verified as a whole first: whoever edited it before finds no
signature here. A lost key or an import that nobody accepted stays what it was: `verify` goes on to say so.
"""

from __future__ import annotations

from alembic import op

from privacy_pipeline.accounting import ledger_tables as tables
from privacy_pipeline.accounting.journal import VERIFY
from privacy_pipeline.accounting.ledger_schema import LedgerError
from privacy_pipeline.accounting.migrations.columns import add_missing
from privacy_pipeline.accounting.verify import tampering

revision = "4"
down_revision = "3"


def upgrade() -> None:
    """Verifies; the caller signs the head.

    Raises:
        LedgerError: the ledger does not verify.
    """
    add_missing()
    tables.unit_digests.create(op.get_bind(), checkfirst=True)
    problems = tampering(op.get_bind())
    if problems:
        raise LedgerError(f"this ledger of format 3 does not verify, nothing was written: {problems[0]}", fix=VERIFY)
