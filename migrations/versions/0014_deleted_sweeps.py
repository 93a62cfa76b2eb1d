"""Of what is deleted, whether it was a job or a sweep.

Null for what was deleted before: it may have been either.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deleted_jobs", sa.Column("role", sa.String(8), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("deleted_jobs") as table:
        table.drop_column("role")
