"""Format 1: registrations, budgets and entries."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing to do: alembic starts here."""
