"""`python -m api.tokens create|list|revoke|check`: API tokens on the database itself, before there is one to call with.

Exit codes: 0 well, 1 refused, 2 wrong usage or settings, 3 (of `check`) no live token.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from api.database import Database
from api.errors import ApiError
from api.services import tokens
from api.settings import SettingsError, load
from wire.tokens import Token, TokenCreate

REFUSED, MISUSED, NONE_LIVE = 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks. A new token's secret is the one line on standard output."""
    asked = _parser().parse_args(arguments)
    try:
        database = Database(load().database_address)
    except SettingsError as error:
        _print_to_stderr(str(error))
        return MISUSED
    try:
        status: int = asked.run(database, asked)
    except ApiError as error:
        _print_to_stderr(f"{error.detail}. {error.remedy}")
        return REFUSED
    except ValidationError as error:
        for fault in error.errors(include_input=False):
            _print_to_stderr(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
        return REFUSED
    finally:
        database.close()
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tokens", description="API tokens of this service's database.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a token and print its secret, this once")
    create.add_argument("name", help="what it is for")
    create.add_argument("--scope", action="append", choices=("read", "write", "admin"), help="default: write")
    create.add_argument("--owner", help="whose jobs those are that it posts; default: admin")
    create.add_argument("--days", type=int, help="until it expires; default: never")
    create.set_defaults(run=_create)
    listed = verbs.add_parser("list", help="all tokens, without their secrets")
    listed.set_defaults(run=_list)
    revoke = verbs.add_parser("revoke", help="refuse a token from now on")
    revoke.add_argument("id", help="as `list` shows it")
    revoke.set_defaults(run=_revoke)
    check = verbs.add_parser("check", help="exit with 3 if there is no live token")
    check.set_defaults(run=_check)
    for verb in (create, listed, revoke, check):
        verb.add_argument("--json", action="store_true", dest="as_json", help="print the answer as JSON")
    return parser


def _create(database: Database, asked: argparse.Namespace) -> int:
    given = {"scopes": asked.scope, "owner": asked.owner, "days": asked.days}
    order = TokenCreate(name=asked.name, **{key: value for key, value in given.items() if value is not None})
    with database.transaction() as session:
        made = tokens.create(session, order)
    if asked.as_json:
        _print_json(made.model_dump(mode="json"))
        return 0
    _print_to_stderr(f"{_line(made)}\nIts secret follows. It is shown this once; only its sha256 is kept.")
    sys.stdout.write(f"{made.token}\n")
    return 0


def _list(database: Database, asked: argparse.Namespace) -> int:
    with database.reading() as session:
        found = tokens.listing(session).items
    if asked.as_json:
        _print_json([token.model_dump(mode="json") for token in found])
        return 0
    sys.stdout.writelines(f"{_line(token)}\n" for token in found)
    return 0


def _revoke(database: Database, asked: argparse.Namespace) -> int:
    with database.transaction() as session:
        revoked = tokens.revoke(session, asked.id)
    if asked.as_json:
        _print_json(revoked.model_dump(mode="json"))
        return 0
    sys.stdout.write(f"{_line(revoked)}\n")
    return 0


def _check(database: Database, asked: argparse.Namespace) -> int:
    with database.reading() as session:
        live = tokens.any_live(session)
    if asked.as_json:
        _print_json({"live": live})
    return 0 if live else NONE_LIVE


def _line(token: Token) -> str:
    until = f"until {token.expires_at:%Y-%m-%d}" if token.expires_at else "does not expire"
    state = f"revoked {token.revoked_at:%Y-%m-%d}" if token.revoked_at else until
    return f"{token.id}  {','.join(token.scopes):<12}  {token.owner:<12}  {token.name}  ({state})"


def _print_json(values: Any) -> None:
    sys.stdout.write(f"{json.dumps(values, indent=2)}\n")


def _print_to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
