from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosskd.spec.coco.json_stream import JsonStream, NotJson

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
DOCUMENTS = st.dictionaries(st.text(), st.lists(VALUES, max_size=5) | VALUES, max_size=5)


def walk(text: str, chunk: int = 1, **bounds: int) -> dict[str, Any]:
    """The document, read the way the check reads it: arrays of the top level element by element."""
    stream = JsonStream(io.BytesIO(text.encode(errors="surrogatepass")), chunk=chunk, **bounds)
    found = {key: list(stream.elements()) if stream.peek() == "[" else stream.value() for key in stream.members()}
    stream.end()
    return found


@given(DOCUMENTS, st.integers(1, 40), st.sampled_from([None, 1, "\t"]))
def test_reads_what_json_reads_whatever_the_chunks(document: dict[str, Any], chunk: int, indent: Any) -> None:
    assert walk(json.dumps(document, indent=indent), chunk) == document
    assert walk(json.dumps(document, ensure_ascii=False), chunk) == document


@given(DOCUMENTS, st.data())
def test_refuses_every_cut(document: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(document)
    with pytest.raises(NotJson):
        walk(text[: data.draw(st.integers(0, len(text) - 1))], 3)


@given(st.text(alphabet='{}[]:,"0123eE.-+truefalsnNI \n\\'))
def test_refuses_what_json_refuses(text: str) -> None:
    try:
        expected = json.loads("{" + text)
    except ValueError:
        with pytest.raises(NotJson):
            walk("{" + text, 2)
    else:
        assert str(walk("{" + text, 2)) == str(expected)  # as text: NaN is not equal to itself


def test_keeps_nan_for_the_caller_to_place() -> None:
    assert math.isnan(walk('{"a": [1, NaN]}')["a"][1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": [' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "integer string conversion"),
        ('{"a": "' + "x" * 300 + '"}', "longer than 100"),
        ('{"a": 1} x', "behind the end of the JSON value at line 1, column 10 .character 9."),
        ('{"a": 1,}', "an object's key should stand at line 1, column 9 .character 8."),
        ('{"a" 1}', "expected ':', found '1' at line 1, column 6 .character 5."),
        ("", "cut off"),
    ],
)
def test_says_what_and_where(text: str, message: str) -> None:
    with pytest.raises(NotJson, match=message):
        walk(text, 16, max_value=6000 if "1111" in text else 200_000 if "[[" in text else 100)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte order mark"])
def test_names_bytes_that_are_not_utf8(mark: bytes, chunk: int) -> None:
    stream = JsonStream(io.BytesIO(mark + b'{\n"\xc3\xa4": "\xff"}'), chunk=chunk)
    with pytest.raises(NotJson, match=r"not UTF-8 .* at line 2, column 7 .character 8."):
        next(stream.value() for _ in stream.members())


@given(DOCUMENTS, st.integers(1, 40), st.sampled_from([None, 1]), st.data())
def test_a_fault_is_told_where_json_finds_it(
    document: dict[str, Any], chunk: int, indent: Any, data: st.DataObject
) -> None:
    """In files larger than a chunk the place was counted twice."""
    text = json.dumps(document, indent=indent)
    broken = data.draw(st.integers(0, len(text) - 1))
    text = f"{text[:broken]}\x01{text[broken + 1 :]}"
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(NotJson) as found:
        walk(text, chunk)
    place = expected.value
    assert found.value.position == place.pos
    assert str(found.value).endswith(f"at line {place.lineno}, column {place.colno} (character {place.pos})")
