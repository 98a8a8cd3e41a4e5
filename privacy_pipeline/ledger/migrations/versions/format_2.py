"""Format 2: truncated sampling has a total variation distance beside its Renyi vector."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add the column; older entries cut no batch."""
    column = sa.Column("total_variation", sa.Float(53), nullable=False, server_default="0")
    op.add_column("entries", column)
