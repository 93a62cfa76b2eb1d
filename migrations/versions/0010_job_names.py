"""Jobs are found by their name."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_name_id", "jobs", ["name", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_name_id", "jobs")
