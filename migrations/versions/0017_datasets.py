"""Data sets that were imported, their versions, and which job reads which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "named_datasets",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("owner", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_named_datasets"),
    )
    op.create_index("ix_named_datasets_owner_name", "named_datasets", ["owner", "name"])
    op.create_table(
        "dataset_versions",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["name"], ["named_datasets.name"], name="fk_dataset_versions_name_named_datasets", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", "digest", name="pk_dataset_versions"),
    )
    op.create_index("ix_dataset_versions_job_id", "dataset_versions", ["job_id"])
    op.create_table(
        "job_datasets",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_datasets_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_datasets"),
    )
    op.create_index("ix_job_datasets_name_digest", "job_datasets", ["name", "digest"])


def downgrade() -> None:
    op.drop_table("job_datasets")
    op.drop_table("dataset_versions")
    op.drop_table("named_datasets")
