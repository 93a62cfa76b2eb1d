from __future__ import annotations

import pytest
import redis
from kombu.utils.url import url_to_parts
from pydantic import SecretStr

from wire.broker import broker, check, with_password

DIRECT = ["redis://:secret@h:6379/0", "rediss://h/1", "unix:///run/valkey.sock", "redis+socket:///run/valkey.sock"]


@pytest.mark.parametrize("url", DIRECT)
def test_an_address_of_one_broker_is_kept(url: str) -> None:
    assert check(url) == url
    assert broker(url) == (url, {})


def test_sentinels_name_the_group_whose_primary_they_know() -> None:
    url = "sentinel://:secret@a:26379;sentinel://:secret@b:26379/0"
    assert check(f"{url}?master_name=messages") == f"{url}?master_name=messages"
    found = broker(f"{url}?master_name=messages")
    assert (found.url, found.options["master_name"]) == (url, "messages")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("amqp://h", "redis://HOST:PORT"),
        ("", "redis://HOST:PORT"),
        ("sentinel://h:26379", "master_name=NAME"),
        ("sentinel://h:26379?master_name=", "master_name=NAME"),
        ("sentinel://h:26379;redis://h?master_name=x", "master_name=NAME"),
        ("redis://:s3cr/et@host:6379/0", "percent-encode"),
        ("redis://:s3cr#et@host:6379/0", "percent-encode"),
        ("rediss://user:12/s3cr@host:6379/0", "percent-encode"),
        ("redis://:12?s3cr@host:6379/0", "percent-encode"),
        ("sentinel://:s3cr@a:1;sentinel://:s3cr/et@b:1/0?master_name=x", "percent-encode"),
        ("redis://[s3cr:6379/0", "percent-encode"),
    ],
)
def test_what_names_no_broker_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        check(url)
    assert "s3cr" not in str(caught.value)
    assert caught.value.__context__ is None  # nor does a traceback tell a part of a password


@pytest.mark.parametrize("password", ["plain", "p@ss:/word", "a?b#c", "100%", "%41", " ;&=\u00fc\"'\\$", "[x]"])
@pytest.mark.parametrize(
    "url", ["redis://h:6379/0", "rediss://me@h:1/0", "sentinel://a:1;sentinel://b:2/0?master_name=x"]
)
def test_a_password_apart_may_hold_any_character(url: str, password: str) -> None:
    address = check(with_password(url, SecretStr(password)))
    for part in broker(address).url.split(";"):
        assert url_to_parts(part).password == password
        assert url_to_parts(part).hostname in ("h", "a", "b")
    if url.startswith("redis"):
        told = redis.Redis.from_url(address).connection_pool.connection_kwargs
        assert (told["password"], told["host"], told.get("username")) == (password, "h", "me" if "me@" in url else None)


@pytest.mark.parametrize(
    ("url", "reason"), [("redis://:s3cr@h/0", "leave one of them out"), ("unix:///run/valkey.sock", "over TCP")]
)
def test_two_passwords_or_none_that_fits_are_refused(url: str, reason: str) -> None:
    assert with_password(url, None) == url
    with pytest.raises(ValueError, match=reason) as caught:
        with_password(url, SecretStr("s3cr"))
    assert "s3cr" not in str(caught.value)
