"""Any path can hold the database: what an address would read as something else is encoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import make_url, text

from api.database import Database
from api.settings import Settings
from client.stack import services
from client.stack.home import Home

ROOT = Path(__file__).parents[2]
NAMES = ["runs?1", "a#b", "100%", "x%3Fy", "ü ä", "a&b=c", "a:b@c", "plain"]


@pytest.mark.parametrize("name", NAMES)
def test_a_database_lies_where_its_path_says(tmp_path: Path, name: str) -> None:
    """`runs?1` and `runs?2` shared the file `runs`, outside of both homes."""
    home = Home(tmp_path / name)
    url = services.environments(home, "", "", [], {}).api["CROSSKD_DATABASE_URL"]
    default = Settings(home=home.path, worker_token_sha256="0" * 64).database_url
    assert [make_url(address).database for address in (url, default)] == [str(home / "crosskd.db")] * 2
    config = Config(ROOT / "alembic.ini")
    config.attributes["url"] = url
    command.upgrade(config, "head")
    database = Database(url)
    with database.transaction() as session:
        session.execute(text("SELECT * FROM jobs"))
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (home / "crosskd.db").stat().st_mode & 0o077 == 0
