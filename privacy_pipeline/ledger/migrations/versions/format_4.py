"""Format 4: the head of the journal signs budgets and registrations too.

Signing what is there would make it true, so the ledger is verified as a whole first: an edited ledger gets no signature
here. A lost key or an import that nobody accepted stays what it was: `verify` goes on to report it.
"""

from __future__ import annotations

revision = "4"
down_revision = "3"


def upgrade() -> None:
    """Change no table. A migration always goes on to format 5, which verifies before anything is signed."""
