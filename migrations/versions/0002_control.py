"""Stop, pause, resume, retry and delete."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deleted_jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deleted_jobs"),
    )
    op.add_column("jobs", sa.Column("stop_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("pause_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("resume_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("retried_from", sa.String(length=32), nullable=True))
    op.add_column("jobs", sa.Column("start", sa.JSON(none_as_null=True), nullable=True))
    op.create_index("uq_jobs_retried_from", "jobs", ["retried_from"], unique=True)


def downgrade() -> None:
    op.drop_index("uq_jobs_retried_from", "jobs")
    for column in (
        "start",
        "retried_from",
        "resume_requested_at",
        "pause_requested_at",
        "stop_requested_at",
    ):
        op.drop_column("jobs", column)
    op.drop_table("deleted_jobs")
