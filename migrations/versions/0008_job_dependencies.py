"""Which job needs the weights of which, also of the jobs that are there already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAMED = {"teacher": ("teacher", "weights"), "weights": ("weights",), "init": ("student", "init")}  # where, by role


def upgrade() -> None:
    op.create_table(
        "job_dependencies",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("depends_on", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_dependencies_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "role", name="pk_job_dependencies"),
    )
    op.create_index("ix_job_dependencies_depends_on", "job_dependencies", ["depends_on"])
    for role, path in NAMED.items():
        named = _text((*path, "job"))
        op.execute(
            "INSERT INTO job_dependencies (job_id, role, depends_on) "  # noqa: S608 - constants of this file
            f"SELECT id, '{role}', {named} FROM jobs WHERE {named} IS NOT NULL"
        )


def _text(path: tuple[str, ...]) -> str:
    """SQL for what stands there in a specification; null where the path leads nowhere."""
    if op.get_bind().dialect.name == "sqlite":
        return f"json_extract(spec, '$.{'.'.join(path)}')"
    return f"spec #>> '{{{','.join(path)}}}'"


def downgrade() -> None:
    op.drop_table("job_dependencies")
