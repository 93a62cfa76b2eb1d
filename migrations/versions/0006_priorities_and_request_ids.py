"""Priorities, the request that a job came with, and a tally of the attempts of deleted jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UNPUBLISHED = sa.text("published_at IS NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("priority", sa.SmallInteger(), server_default="5", nullable=False))
    op.add_column("jobs", sa.Column("request_id", sa.String(length=128), nullable=True))
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=55), nullable=True))
    op.add_column("outbox", sa.Column("priority", sa.SmallInteger(), server_default="4", nullable=False))
    op.drop_index("ix_outbox_due_at", "outbox")
    op.create_index(
        "ix_outbox_priority_id",
        "outbox",
        ["priority", "id"],
        postgresql_where=UNPUBLISHED,
        sqlite_where=UNPUBLISHED,
    )
    op.create_table(
        "tallies",
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("status", name="pk_tallies"),
    )


def downgrade() -> None:
    op.drop_table("tallies")
    op.drop_index("ix_outbox_priority_id", "outbox")
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"], postgresql_where=UNPUBLISHED, sqlite_where=UNPUBLISHED)
    op.drop_column("outbox", "priority")
    for column in ("traceparent", "request_id", "priority"):
        op.drop_column("jobs", column)
