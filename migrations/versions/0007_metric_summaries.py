"""Summaries of metric points, also of those that are there already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

WIDTHS = (64, 1024)  # steps


def upgrade() -> None:
    op.create_table(
        "metric_summaries",
        sa.Column("attempt_id", sa.String(length=32), nullable=False),
        sa.Column("width", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=100), nullable=False),
        sa.Column("bucket", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("kinds", sa.SmallInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name="fk_metric_summaries_attempt_id_attempts", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("attempt_id", "width", "key", "bucket", name="pk_metric_summaries"),
        sqlite_with_rowid=False,
    )
    for width in WIDTHS:
        op.execute(
            sa.text(
                """
                INSERT INTO metric_summaries (attempt_id, width, key, bucket, points, low, high, kinds, last_step)
                SELECT attempt_id, :width, key, step / :width, count(*), min(value), max(value),
                       max(CASE WHEN kind = 1 THEN 1 ELSE 0 END) + max(CASE WHEN kind = 2 THEN 2 ELSE 0 END)
                       + max(CASE WHEN kind = 3 THEN 4 ELSE 0 END), max(step)
                FROM metric_points GROUP BY attempt_id, key, step / :width
                """
            ).bindparams(sa.bindparam("width", width, literal_execute=True))
        )


def downgrade() -> None:
    op.drop_table("metric_summaries")
