"""Comparing jobs in a real browser: curves, differences, refusals with their remedies; the test plays the worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from crosskd.evaluation.average_precision import average_precision
from tests.support.api_server import Service, digest_of
from tests.support.browser import OpenPage, assert_accessible
from tests.support.evaluations import evaluation
from tests.support.matches import detections, truth
from tests.support.worker_calls import Worker, upload

pytestmark = pytest.mark.browser

SCRIPT = "<script>document.title = 'taken'</script>"
AT = "2026-01-01T00:00:00Z"
STEPS = 30
MINUS = "\N{MINUS SIGN}"


def trained(
    service: Service, name: str, matches: bytes | None, *, keys: tuple[str, ...] = ("loss",), **spec: Any
) -> str:
    """A job that ended well, with curves and perhaps matches."""
    job = service.post(name, **spec)
    worker = service.claimed(job)
    report(worker, keys)
    upload(worker, "best.safetensors", b"weights of " + job.encode())
    if matches is not None:
        assert worker.put("matches.safetensors?step=30", matches, **digest_of(matches)).is_success
    assert worker.finish("succeeded").is_success
    return job


def report(worker: Worker, keys: tuple[str, ...]) -> None:
    points = [
        {"key": key, "step": step, "value": "NaN" if step == 7 else 2 / step, "at": AT}
        for key in keys
        for step in range(1, STEPS + 1)
    ]
    assert worker.post("metrics", {"sequence": 0, "points": points}).is_success
    for step in (10, 20, STEPS):
        assert worker.post("evaluations", evaluation("student", step, step / 100, best=step == STEPS)).is_success


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Matches of three detectors on the same images, and of one on others."""
    folder: Path = tmp_path_factory.mktemp("truth")
    known, other = truth(folder, 3), truth(folder, 11)
    results = [average_precision(known, detections(known, seed)) for seed in (4, 5, 6)]
    results.append(average_precision(other, detections(other, 4)))
    found = [result.matches for result in results]
    assert None not in found
    return [matches for matches in found if matches is not None]


@pytest.fixture(scope="module")
def jobs(service: Service, files: list[bytes]) -> dict[str, str]:
    """By what each is for; two have one name."""
    return {
        "baseline": trained(service, "twice", files[0], keys=("loss", "lr")),
        "script": trained(service, SCRIPT, files[1], keys=("loss", "crosskd"), optimizer={"lr": 0.02}),
        "twice": trained(service, "twice", files[2], keys=("loss", "lr"), optimizer={"lr": 0.02}),
        "other": trained(service, "other split", files[3]),
        "none": trained(service, "no matches", None),
    }


def address(service: Service, *jobs: str, **more: str) -> str:
    query = [f"job={job}" for job in jobs] + [f"{name}={value}" for name, value in more.items()]
    return f"{service.url}/web/compare?{'&'.join(query)}"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def chosen(page: Page) -> list[str]:
    return parse_qs(urlsplit(page.url).query).get("job", [])


def test_the_numbers_are_those_of_the_api(service: Service, jobs: dict[str, str], open_page: OpenPage) -> None:
    three = [jobs["baseline"], jobs["script"], jobs["twice"]]
    page = open_page(address(service, *three, baseline=jobs["script"]))
    told = service.http.get("/compare", params={"job": three, "baseline": jobs["script"]}).json()
    rows = page.locator("#numbers table").first.locator("tbody tr")
    expect(rows).to_have_count(3)
    names = [f"{SCRIPT} (baseline)", f"twice …{jobs['baseline'][-6:]}", f"twice …{jobs['twice'][-6:]}"]
    for row, name, job in zip(rows.all(), names, told["jobs"], strict=True):
        expect(row.locator("td").first).to_have_text(name)
        for place, number in enumerate(("AP", "AP50", "AP75", "APs", "APm", "APl"), start=1):
            cell = row.locator("td").nth(place)
            expect(cell).to_contain_text(f"{job['metrics'][number]:.3f}")
            if difference := (job["differences"] or {"numbers": {}})["numbers"].get(number):
                low, high = difference["low"], difference["high"]
                expect(cell).to_contain_text(f"{signed(difference['value'])} [{signed(low)}, {signed(high)}]")
                shown = "better" if low > 0 else "worse" if high < 0 else None
                expect(cell.locator(".state")).to_have_text([shown] if shown else [])
    page.get_by_text("AP by class, the greatest loss first").click()
    classes = page.locator("#numbers details tbody tr")
    expect(classes).to_have_count(3)
    cat = told["jobs"][1]["differences"]["classes"]["cat"]
    expect(classes.filter(has_text=re.compile("^cat"))).to_contain_text(signed(cat["value"]))

    fields = page.locator("#specs tbody tr")
    assert [row.locator("td").all_inner_texts() for row in fields.all()] == [["/optimizer/lr", "0.01", "0.02", "0.02"]]
    assert page.title().startswith("Compare")


def test_curves_lie_over_each_other(service: Service, jobs: dict[str, str], open_page: OpenPage) -> None:
    page = open_page(address(service, jobs["baseline"], jobs["script"]))
    expect(page.locator("#curves canvas")).to_be_visible()
    expect(page.locator("#curves h2")).to_have_text("COCO AP of the student")
    series = page.get_by_label("Series")
    expect(series.locator("option")).to_have_text(["COCO AP", "loss", "crosskd", "lr"])
    expect(series.locator("optgroup option")).to_have_text(["crosskd", "lr"])  # that not all have
    series.select_option("loss")
    expect(page.locator("#curves h2")).to_have_text("loss")
    expect(page.locator("#broken")).to_have_text(
        f"Not finite (crosses): twice: NaN at step 7; {SCRIPT}: NaN at step 7."
    )
    page.get_by_label("Smoothing").fill("0.6")
    expect(page).to_have_url(re.compile(r"series=loss&smoothing=0.6$"))
    page.reload()
    expect(page.locator("#curves h2")).to_have_text("loss")
    expect(page.locator("#smoothing-told")).to_have_text("0.6")


def test_what_cannot_be_compared_hides_nothing_else(
    service: Service, jobs: dict[str, str], open_page: OpenPage
) -> None:
    """Each refusal stands with its remedy; the curves and all other differences stay, and what ends is compared."""
    running = service.post("not yet")
    worker = service.claimed(running)
    report(worker, ("loss",))
    refs = [jobs["baseline"], jobs["other"], jobs["none"], running, jobs["script"], "0" * 32]
    page = open_page(address(service, *refs), refusals={404, 409, 422})
    told = page.locator("#numbers .notice")
    expect(told.filter(has_text="other split: cannot be compared with twice")).to_contain_text(
        f"crosskd submit evaluate --weights-job {jobs['other']}"
    )
    expect(told.filter(has_text="no matches: cannot")).to_contain_text("it was run by a version that kept no matches")
    expect(told.filter(has_text="not yet: cannot").locator("code")).to_have_text(f"crosskd watch {running}")
    expect(told.filter(has_text=f"{'0' * 32}: cannot")).to_contain_text("there is no job")
    rows = page.locator("#numbers table").first.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#curves canvas")).to_be_visible()

    assert worker.finish("succeeded").is_success
    expect(told.filter(has_text="not yet: cannot")).to_contain_text("it was run by a version that kept no matches")
    page.get_by_label("Baseline: not yet").check()  # which has nothing that others could be compared with
    expect(told.first).to_contain_text("the student of the job not yet has no matches")
    expect(rows).to_have_count(0)
    expect(page.locator("#curves canvas")).to_be_visible()


def test_jobs_are_added_and_removed(service: Service, jobs: dict[str, str], open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/compare", refusals={422})
    rows = page.locator("#chosen tbody tr")
    page.get_by_role("button", name=f"Add other split {jobs['other']}").click()  # of the newest, which it offers
    expect(rows).to_have_count(1)
    expect(page.get_by_text("Add another job to compare it with.")).to_be_visible()
    for text in (SCRIPT, jobs["none"][:28]):
        page.get_by_label("Job to add").fill(text)
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_label("Job to add")).to_have_value("")
    expect(rows).to_have_count(3)
    page.get_by_label("Job to add").fill("twice")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("#found tbody tr")).to_have_count(2)
    page.get_by_role("button", name=f"Add twice {jobs['twice']}").click()
    page.get_by_role("button", name="Remove no matches").click()
    page.get_by_label("Job to add").fill("nobody is called so")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("#found")).to_contain_text("No job has this name")
    assert chosen(page) == [jobs["other"], jobs["script"], jobs["twice"]]
    page.get_by_label(f"Baseline: {SCRIPT}").check()
    expect(page).to_have_url(re.compile(f"baseline={jobs['script']}"))


def test_specifications_differ_by_field_or_as_a_section(service: Service, open_page: OpenPage) -> None:
    specs = [
        {"teacher": {"classes": ["a"]}, "optimizer": {"lr": 1, "a/b~": 2, "same": {"x": [1]}}, "one": 1},
        {"teacher": None, "optimizer": {"lr": 2, "a/b~": 3, "same": {"x": [1]}}},
    ]
    page = open_page(service.url)
    found = page.evaluate(
        "async (specs) => (await import('/web/static/0/compare_specs.js')).differences(specs)"
        ".map(({pointer, values}) => [pointer, JSON.stringify(values)])",
        specs,
    )
    assert found == [
        ["/one", "[1,null]"],
        ["/optimizer/a~1b~0", "[2,3]"],
        ["/optimizer/lr", "[1,2]"],
        ["/teacher", '[{"classes":["a"]},null]'],
    ]


def test_twenty_jobs_are_brought_a_few_at_a_time(service: Service, files: list[bytes], open_page: OpenPage) -> None:
    many = [trained(service, f"of twenty {number}", files[number % 3]) for number in range(21)]
    page = open_page("about:blank")
    under_way, most = set(), 0

    def begun(request: Any) -> None:
        nonlocal most
        if "/jobs/" in request.url:
            under_way.add(request)
            most = max(most, len(under_way))

    page.on("request", begun)
    page.on("requestfinished", lambda request: under_way.discard(request))
    page.goto(address(service, *many))
    expect(page.get_by_role("alert")).to_contain_text("The address names 21 jobs: these are the first 20.")
    expect(page.locator("#chosen tbody tr")).to_have_count(20)
    expect(page.locator("#numbers table").first.locator("tbody tr")).to_have_count(20)
    expect(page.locator("#curves canvas")).to_be_visible()
    assert 1 <= most <= 6  # three at a time, and another round may begin while one is drawn


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_everybody_can_read_it(
    service: Service, jobs: dict[str, str], open_page: OpenPage, width: int, dark: bool
) -> None:
    refs = [jobs[name] for name in ("baseline", "script", "other")]
    page = open_page(address(service, *refs, series="loss"), width=width, dark=dark, refusals={422})
    expect(page.locator("#curves canvas")).to_be_visible()
    expect(page.locator("#numbers .notice")).to_be_visible()
    page.get_by_text("AP by class, the greatest loss first").click()
    assert_accessible(page)
