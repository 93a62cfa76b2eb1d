"""A new job or sweep in a real browser: the form and its YAML, faults at their fields, posted once."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.api_server import Service
from tests.support.browser import OpenPage, assert_accessible

pytestmark = pytest.mark.browser

SCRIPT = "<img src=x onerror=\"document.title = 'taken'\">"


def yaml_of(page: Page) -> Locator:
    return page.locator("#yaml")


def give_data(page: Page, service: Service) -> None:
    for split, label in (("train", "Training"), ("val", "Validation")):
        for part in ("annotations", "images"):
            page.get_by_label(f"{label} {part}", exact=True).fill(service.spec["data"][split][part])


def test_form_and_yaml_say_the_same(service: Service, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/new?preset=demo_student", refusals={422})
    text = yaml_of(page)
    expect(page.get_by_label("Epochs", exact=True)).to_have_value("10")
    expect(page.get_by_label("Epochs", exact=True)).to_have_accessible_description(re.compile(r"\(1 to 10,000\)"))
    expect(page.get_by_label("Seed", exact=True)).to_have_attribute("placeholder", "default: 0")
    page.get_by_label("Epochs", exact=True).fill("3")
    page.get_by_label("Learning rate", exact=True).fill("0.0000002")
    expect(text).to_have_value(re.compile(r"epochs: 3\n"))
    expect(text).to_have_value(re.compile(r"lr: 2\.0e-7\n"))
    expect(text).to_have_value(re.compile(r"norm_decay: false\n"))  # of which the form knows nothing

    text.fill(
        "# mine\nname: by hand\nspec:\n  seed: 7  # a prime\n  # averaged\n  ema: {decay: 0.99}\n"
        "  augment: {short_edges: [320, 352]}\n"
    )
    expect(page.get_by_label("Name", exact=True)).to_have_value("by hand")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(page.get_by_label("Short edge of images, pixels")).to_have_value("320, 352")
    expect(page.get_by_label("Epochs", exact=True)).to_have_value("")
    page.get_by_label("Seed", exact=True).fill("11")
    page.get_by_label("Epochs", exact=True).fill("30")
    page.get_by_label("Short edge of images, pixels").fill("64")
    expect(text).to_have_value(
        "# mine\nname: by hand\nspec:\n  seed: 11  # a prime\n  # averaged\n  ema: {decay: 0.99}\n"
        "  augment: {short_edges: [64]}\n  schedule:\n    epochs: 30\n"
    )
    page.get_by_label("Seed", exact=True).fill("")
    page.get_by_label("Epochs", exact=True).fill("")
    expect(text).to_have_value(
        "# mine\nname: by hand\nspec:\n  # averaged\n  ema: {decay: 0.99}\n  augment: {short_edges: [64]}\n"
    )

    text.fill("name: a\nspec: {seed: 1, seed: 2}\n")
    expect(page.get_by_text("Line 2, column 17: the key seed is there twice")).to_be_visible()
    expect(page.get_by_label("Name", exact=True)).to_be_disabled()
    expect(page.get_by_role("button", name="Post the job")).to_be_disabled()
    text.fill("student: {detector: fcos}  # alone")  # a specification without its job
    expect(page.get_by_label("Detector", exact=True)).to_have_value("fcos")
    expect(page.get_by_role("button", name="Post the job")).to_be_enabled()
    page.get_by_label("Seed", exact=True).fill("5")
    expect(text).to_have_value("student: {detector: fcos}  # alone\nseed: 5\n")
    page.get_by_label("Name", exact=True).fill("no more")
    expect(text).to_have_value("name: no more\nspec:\n  student: {detector: fcos}  # alone\n  seed: 5\n")


NASTY: list[Any] = [
    ["yes", "no", "on", "null", "~", "", " ", "1", "1.5", "1e3", "0x1f", "1:30", "2026-01-01", "=", "<<", ".inf", "-"],
    [
        "a: b",
        "a #b",
        "# a",
        "- a",
        "? a",
        "'",
        '"',
        "\\",
        "\\n",
        "{a}",
        "[a",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%",
        "@",
        "`a",
    ],
    [
        "a\nb",
        "\ta",
        "a\r\nb",
        "\u0085",
        "\u2028x",
        "\x7f",
        "\x00",
        "\ufeffa",
        "\ufffe",
        "é",
        "名前",
        "😀",
        " a ",
        "a  b",
    ],
    ["/data/coco/train.json", "a/b.json", "x" * 2000, "---", "...", "--- a", "_", "a:", ":a", "C:\\data", "N", "TRUE"],
    [
        0,
        -1,
        1.5,
        1e-5,
        1e21,
        1.5e-7,
        -2.5e-9,
        9007199254740991,
        True,
        False,
        None,
        [],
        {},
        [[]],
        [{}],
        [[1, {"a": [2]}]],
    ],
]
NASTY_KEYS = {name: {"inner": name} for row in NASTY[:4] for name in row if name not in ("\x00",)}


def test_what_the_page_writes_is_read_as_the_same(service: Service, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/new")
    path = page.evaluate("document.querySelector('script[type=module]').src.replace('new.js', 'yaml.js')")
    for value in ({"a": NASTY, "b": {"c": NASTY}}, {"k": NASTY_KEYS}, *({"v": one} for row in NASTY for one in row)):
        text = page.evaluate("([path, value]) => import(path).then((yaml) => yaml.toYaml(value))", [path, value])
        told = service.http.post("/specs/parse", json={"text": text}).json()
        assert told["value"] == value, (told["problems"], text)


def test_a_dry_run_tells_each_fault_at_its_field(service: Service, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/new?preset=demo_student", refusals={422})
    epochs = page.get_by_label("Epochs", exact=True)
    epochs.fill("0")
    expect(epochs).to_have_attribute("aria-invalid", "true")  # without a click
    expect(epochs).to_have_accessible_description(re.compile("greater than or equal to 1"))
    expect(page.get_by_role("group", name="Data")).to_contain_text("Field required")
    give_data(page, service)
    page.get_by_label("Training annotations").fill("absent.json")
    expect(page.get_by_label("Training annotations")).to_have_accessible_description(
        re.compile("no file.*absent|absent")
    )
    yaml_of(page).evaluate("(area) => { area.value += '  nonsense: 1\\n  ema: {decay: 2}\\n'; }")
    yaml_of(page).dispatch_event("input")
    result = page.locator("#result")
    expect(result).to_contain_text("/spec/nonsense")
    line = yaml_of(page).input_value().splitlines().index("  nonsense: 1") + 1
    expect(result).to_contain_text(f"Line {line}:")
    expect(result).to_contain_text(re.compile("stand at their fields"))

    page.goto(f"{service.url}/web/new?preset=demo_student")
    give_data(page, service)
    expect(page.get_by_text("This would be taken as a job of the kind train.")).to_be_visible()
    expect(page.locator('[aria-invalid="true"]')).to_have_count(0)
    page.get_by_text("The specification with every default").click()
    expect(page.locator("#result pre")).to_contain_text("momentum: 0.9")
    expect(page.locator("#result li").first).to_be_visible()  # a note: no worker is known


def test_a_double_click_posts_one_job(service: Service, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/new?preset=demo_student", refusals={404, 422})
    give_data(page, service)
    page.get_by_label("Name", exact=True).fill(SCRIPT)
    sent = []

    def lose_the_first_answer(route: Route) -> None:
        sent.append(route.request.headers["idempotency-key"])
        if len(sent) > 1:
            route.continue_()
            return
        assert route.fetch().status == 201
        route.abort()

    page.route(f"{service.url}/jobs", lose_the_first_answer)
    page.get_by_role("button", name="Post the job").dblclick()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    page.get_by_role("button", name="Post the job").dblclick()
    expect(page).to_have_url(re.compile(r"/web/jobs/[0-9a-f]{32}$"))
    made = service.http.get("/jobs", params={"name": SCRIPT}).json()["items"]
    assert len(made) == 1
    assert (len(sent), len(set(sent))) == (2, 1)
    open_page.complaints[:] = [each for each in open_page.complaints if "ERR_FAILED" not in each]
    assert page.url.endswith(made[0]["id"])

    again = open_page(f"{service.url}/web/new?like={made[0]['id']}")
    expect(again.get_by_label("Name", exact=True)).to_have_value(SCRIPT)
    expect(again.get_by_label("Epochs", exact=True)).to_have_value("10")
    expect(again.get_by_text("This would be taken as a job of the kind train.")).to_be_visible()
    expect(again).to_have_title(re.compile("^New job"))


def test_a_teacher_is_found_by_its_name(service: Service, open_page: OpenPage) -> None:
    job = service.succeeded(f"great teacher {SCRIPT}", b"weights")
    service.succeeded("another one", b"weights")
    page = open_page(f"{service.url}/web/new", refusals={422})
    page.route("**/jobs?*", lambda route: route.continue_(url=route.request.url.replace("limit=50", "limit=1")))
    page.get_by_label("Start from a preset").select_option("demo_crosskd")
    expect(page.get_by_label("Teacher", exact=True)).to_have_value("job")
    options = page.get_by_label("Job whose weights teach").locator("option")
    expect(options.filter(has_text="another one")).to_have_count(1)
    expect(page.get_by_text("The newest 50 are listed")).to_be_visible()
    expect(options.filter(has_text=SCRIPT)).to_have_count(0)  # too old for the list, and found all the same
    page.get_by_label("Find a job by name").fill("GREAT")
    expect(options).to_have_count(1)
    expect(options).to_contain_text(SCRIPT)
    page.get_by_label("Job whose weights teach").select_option(job)
    expect(yaml_of(page)).to_have_value(re.compile(rf"teacher:\n    weights:\n      job: \"?{job}"))
    page.get_by_label("pkd", exact=True).check()
    expect(yaml_of(page)).to_have_value(re.compile(r"cls_weight: 1\n      box_weight: 4\n    pkd: \{\}"))
    page.get_by_label("crosskd", exact=True).uncheck()
    expect(yaml_of(page)).to_have_value(re.compile(r"distill:\n    pkd: \{\}"))
    page.get_by_label("Teacher", exact=True).select_option("file")
    page.get_by_label("File of weights").fill("teacher.safetensors")
    expect(page.get_by_label("File of weights")).to_have_attribute("aria-invalid", "true")  # there is none
    page.get_by_label("Teacher", exact=True).select_option("none")
    expect(yaml_of(page)).not_to_have_value(re.compile("distill|teacher"))


def test_a_sweep(service: Service, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/web/new?preset=demo_crosskd&sweep", refusals={404, 422})
    give_data(page, service)
    expect(page.get_by_label("Teacher", exact=True)).to_have_value("first")
    page.get_by_label("Seeds").fill("0, 1, 1")
    expect(page.get_by_label("Seeds")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Seeds").fill("0, 1")
    page.get_by_label("Another arm").select_option("crosskd+pkd")
    page.get_by_role("button", name="Add the arm").click()
    expect(page.get_by_role("list", name="Arms")).to_contain_text("{distill: {crosskd: {}, pkd: {}}}")
    expect(page.get_by_text("This would be taken as 7 jobs, compared with the arm alone.")).to_be_visible()
    page.get_by_role("button", name="Remove the arm crosskd", exact=True).click()
    expect(page.get_by_text("This would be taken as 5 jobs")).to_be_visible()
    rows = page.get_by_role("region", name="Jobs of the sweep").locator("tbody tr")
    expect(rows).to_have_count(5)

    page.get_by_label("One job").check()
    expect(yaml_of(page)).to_have_value(re.compile("^name: demo_crosskd\nspec:"))
    page.get_by_label("A sweep").check()
    expect(page.get_by_role("list", name="Arms").locator("li")).to_have_count(2)
    page.get_by_role("button", name="Post the sweep").click()
    expect(page).to_have_url(re.compile(r"/web/sweeps/[0-9a-f]{32}$"))
    made = service.http.get(f"/sweeps/{page.url[-32:]}").json()
    assert (made["arms"], made["seeds"], len(made["children"])) == (["alone", "crosskd+pkd"], [0, 1], 5)

    again = open_page(f"{service.url}/web/new?like_sweep={made['id']}")
    expect(again.get_by_text("This would be taken as 5 jobs")).to_be_visible()
    told = service.http.post("/specs/parse", json={"text": yaml_of(again).input_value()}).json()["value"]
    assert told == json.loads(json.dumps(made["spec"]))


def test_whoever_only_evaluates_has_the_yaml(service: Service, open_page: OpenPage) -> None:
    job = service.succeeded("to look at", b"weights")
    page = open_page(f"{service.url}/web/new", refusals={422})
    text = {
        "kind": "evaluate",
        "name": "once more",
        "spec": {"weights": {"job": job}, "data": {"val": service.spec["data"]["val"]}},
    }
    yaml_of(page).fill(json.dumps(text))
    expect(page.get_by_text("This job trains nothing")).to_be_visible()
    expect(page.get_by_label("Epochs", exact=True)).to_be_hidden()
    expect(page.get_by_label("Name", exact=True)).to_have_value("once more")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_everybody_can_read_it(service: Service, open_page: OpenPage, width: int, dark: bool) -> None:
    page = open_page(f"{service.url}/web/new?preset=demo_crosskd", width=width, dark=dark, refusals={422})
    page.get_by_text("More knobs").click()
    page.get_by_label("Epochs", exact=True).fill("0")
    expect(page.locator("#result .error")).to_be_visible()
    assert_accessible(page)
    with page.expect_response("**/sweeps?dry_run=true"):
        page.get_by_label("A sweep").check()
    expect(page.locator("#result .error")).to_be_visible()
    assert_accessible(page)
