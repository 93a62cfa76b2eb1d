"""Sweeps are found by their name."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_sweeps_name_id", "sweeps", ["name", "id"])


def downgrade() -> None:
    op.drop_index("ix_sweeps_name_id", "sweeps")
