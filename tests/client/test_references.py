"""What a job or a sweep may be called by, and what is said where it is none or not the only one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from client.references import AmbiguousReference, UnknownReference, job_or_teacher, resolve, resolved_in
from tests.support.flows import ended, flowing
from wire.jobs import JobSummary

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def job(id_: str, name: str, owner: str = "me") -> JobSummary:
    times = {"created_at": NOW, "updated_at": NOW}
    return JobSummary(id=id_, kind="train", name=name, owner=owner, labels={}, status="queued", **times)


ONE, TWO, THREE = ("abcd" + digit * 28 for digit in "123")
JOBS = [
    job("f" * 32, "of another", "somebody"),
    job(THREE, "student"),
    job(TWO, "student"),
    job(ONE, "teacher r50"),
    *(job(f"00001{number:027}", f"\x1b[2Jmany\n{number}") for number in range(7)),
]


def find(**filters: Any) -> list[JobSummary]:
    """As the service does."""
    fits = [
        each
        for each in JOBS
        if each.id.startswith(filters.get("id", ""))
        and filters.get("name", each.name) == each.name
        and ("owner" not in filters or each.owner == "me")
    ]
    assert filters.get("owner") in (None, "@me")
    return fits[: filters["limit"]]


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (ONE, ONE),
        (ONE.upper(), ONE),
        ("9" * 32, "9" * 32),  # an id is not looked up: what is asked of it says that there is none
        (ONE[:5], ONE),
        (ONE[:31].upper(), ONE),
        (f" {ONE[:5]} ", ONE),
        ("teacher r50", ONE),
        ("@last", THREE),
        ("of another", "f" * 32),
    ],
)
def test_one_job_is_meant(reference: str, found: str) -> None:
    assert ended(resolve(reference, flowing(find))) == found


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("studnet", "no job whose id begins with 'studnet', and none of that name. Near are 'student'"),
        ("teacher r5", "Near are 'teacher r50'. GET /jobs (`crosskd jobs`) lists the jobs."),
        ("abc", "no job named 'abc', and the beginning of an id has 4 characters at least"),
        ("abce", "no job whose id begins with 'abce'"),
        ("", "no job named ''"),
        ("x" * 5000, "no job whose id begins with"),
        ("\0", "no job named"),
        ("../health", "none of that name. GET /jobs"),
    ],
)
def test_none_is_meant(reference: str, said: str) -> None:
    with pytest.raises(UnknownReference) as caught:
        ended(resolve(reference, flowing(find)))
    assert caught.value.problem.status == 404
    (line,) = caught.value.lines()
    assert said in line
    assert len(line) < 500


def test_there_is_no_last_one_yet() -> None:
    with pytest.raises(UnknownReference, match="you have posted no job yet"):
        ended(resolve("@last", flowing(lambda **_: [])))
    with pytest.raises(
        UnknownReference, match=r"posted no sweep yet.*GET /sweeps \(`crosskd sweeps`\) lists the sweeps"
    ):
        ended(resolve("@last", flowing(lambda **_: []), "sweep"))


def test_several_are_meant_and_listed() -> None:
    with pytest.raises(AmbiguousReference) as caught:
        ended(resolve("student", flowing(find)))
    head, *rows = caught.value.lines()
    assert head == "2 jobs are called 'student'. Give more of an id, or all of it."
    assert [row.split()[:3] for row in rows] == [[THREE, "student", "queued"], [TWO, "student", "queued"]]
    assert all("2026-" in row for row in rows)


def test_five_at_most_are_listed_and_shown_as_all_text_from_outside() -> None:
    with pytest.raises(AmbiguousReference, match="more than 5 jobs are called '0000'") as caught:
        ended(resolve("0000", flowing(find)))
    assert len(caught.value.candidates) == 5
    assert caught.value.lines()[-1] == "  …"
    assert all(line.isprintable() for line in caught.value.lines())


@pytest.mark.parametrize(
    ("spec", "resolved"),
    [
        ({"weights": {"job": "student"}}, {"weights": {"job": "STUDENT"}}),
        (
            {"teacher": {"weights": {"job": "a", "checkpoint": "last"}, "model": None}, "student": {"init": None}},
            {"teacher": {"weights": {"job": "A", "checkpoint": "last"}, "model": None}, "student": {"init": None}},
        ),
        ({"student": {"init": {"job": "a"}}}, {"student": {"init": {"job": "A"}}}),
        ({"weights": {"file": "a"}},) * 2,
        ({"weights": {"job": 3}, "teacher": 4},) * 2,  # the service says what is wrong
        ("no mapping",) * 2,
    ],
    ids=str,
)
def test_weights_of_a_specification_name_jobs_too(spec: Any, resolved: Any) -> None:
    assert resolved_in({"spec": spec}, str.upper) == {"spec": resolved}


@pytest.mark.parametrize(
    ("reference", "resolved"), [("ab", "AB"), ("ab:teacher", "AB:teacher"), ("a:teacher b", "A:TEACHER B")]
)
def test_what_is_compared_is_a_job_or_its_teacher(reference: str, resolved: str) -> None:
    assert ended(job_or_teacher(reference, flowing(str.upper))) == resolved
