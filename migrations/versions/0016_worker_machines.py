"""A worker tells of its folders, disk and clock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("machine", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "machine")
