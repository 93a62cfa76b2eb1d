"""`python -m migrations`: bring the database of CROSSKD_DATABASE_URL to the newest revision, without a checkout.

Anything else that Alembic can do is done with `alembic` in the checkout, where `alembic.ini` lies.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

if __name__ == "__main__":
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    command.upgrade(config, "head")
