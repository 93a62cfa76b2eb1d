"""The deployment files as data: the Compose schema, the project's own rules, and faults planted against both.

`test_deploy_commands.py` runs the commands that these files hold.
"""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

import api.settings
import worker.settings
from tests.support.compose import fill, read_compose, rule_faults, schema_faults
from tests.support.dockerfile import ROOT, build_context, copies, read_stages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAGES = read_stages((ROOT / "Dockerfile").read_text())
COMPOSE = read_compose()
SERVICES: dict[str, Any] = COMPOSE["services"]
TARGETS = ("api", "worker")
NEEDED = {
    "CROSSKD_DATA": "/srv/data",
    "POSTGRES_PASSWORD": "p$ss:/@",
    "CROSSKD_WORKER_TOKEN": "a-worker-token-of-some-length",
    "CROSSKD_WORKER_TOKEN_SHA256": "0" * 64,
}
TAKEN = {  # if they are there; by the settings that read them
    "api": {
        "CROSSKD_AUTH": "tokens",
        "CROSSKD_RELAY": "external",
        "CROSSKD_STORAGE_URL": "s3://bucket/artifacts",
        "CROSSKD_STORAGE_REGION": "eu-north-1",
        "CROSSKD_STORAGE_ENDPOINT": "https://minio:9000",
        "CROSSKD_STORAGE_ACCESS_KEY_ID": "id",
        "CROSSKD_STORAGE_SECRET_ACCESS_KEY": "key",
    },
    "worker": {"CROSSKD_DEVICES": "0,1", "CROSSKD_WORKER_NAME": "cellar"},
}


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A fault: `value` at a dotted path of the compose file."""

    def plant(compose: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place = compose
        for name in parents:
            place = place[name]
        place[last] = value

    return plant


# --- docker-compose.yml ----------------------------------------------------------------------------------------------


def test_compose_meets_the_specification() -> None:
    assert schema_faults(COMPOSE) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("services.api.comand", ["sleep"]),
        ("services.api.ports", {"8000": 8000}),
        ("services.api.build.targets", "api"),
        ("services.valkey.command", {"run": "valkey-server"}),
        ("services.postgres.healthcheck.retries", [3]),
        ("services.worker.depends_on.api.condition", "service_ready"),
        ("services.worker.deploy.resources.reservations.devices", [{"driver": "nvidia", "count": "all"}]),
        ("services.worker.volumes", "worker:/var/lib/crosskd"),
        ("service", {}),
    ],
)
def test_the_schema_sees_a_planted_fault(path: str, value: object) -> None:
    compose = copy.deepcopy(COMPOSE)
    put(path, value)(compose)
    assert schema_faults(compose)


def test_compose_meets_the_rules_of_the_house() -> None:
    assert rule_faults(COMPOSE, STAGES) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("services.api.depends_on.redis", {"condition": "service_started"}, "which is no service"),
        ("services.api.healthcheck", {"test": []}, "has no health check"),
        ("services.migrate.restart", "always", "which is started again"),
        ("services.postgres.volumes", ["data:/var/lib/postgresql"], "no declared volume"),
        ("volumes.spare", None, "declared and not used"),
        ("services.worker.build.target", "gpu", "which the Dockerfile lacks"),
        ("services.valkey.image", "valkey/valkey", "pins no version"),
        ("services.api.ports", ["8000:8000"], "beyond this machine"),
        ("services.postgres.environment.POSTGRES_PASSWORD", "hunter2", "in the file"),
        ("services.worker.environment.CROSSKD_WORKER_TOKEN", "${CROSSKD_WORKER_TOKEN}", "in the file"),
        ("services.api.environment.CROSSKD_STORAGE_SECRET_ACCESS_KEY", "${KEY:-minio}", "in the file"),
        ("services.api.cap_drop", [], "privileges"),
        ("services.worker.privileged", True, "take over the host"),
    ],
)
def test_the_rules_see_a_planted_fault(path: str, value: object, fault: str) -> None:
    compose = copy.deepcopy(COMPOSE)
    put(path, value)(compose)
    assert any(fault in found for found in rule_faults(compose, STAGES))


def test_the_rules_see_a_writable_data_folder() -> None:
    compose = copy.deepcopy(COMPOSE)
    data = next(mount for mount in compose["services"]["api"]["volumes"] if isinstance(mount, dict))
    data["read_only"] = False
    assert any("can write" in fault for fault in rule_faults(compose, STAGES))


def test_the_stack_is_the_one_in_the_papers() -> None:
    assert set(SERVICES) == {"postgres", "valkey", "migrate", "api", "worker"}
    (gpu,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (gpu["driver"], gpu["capabilities"]) == ("nvidia", ["gpu"])
    waits = {name: link["condition"] for name, link in SERVICES["api"]["depends_on"].items()}
    assert waits["migrate"] == "service_completed_successfully"
    assert waits["postgres"] == SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("postgres", "valkey", "api", "worker"):
        assert any(isinstance(mount, str) for mount in SERVICES[name]["volumes"]), f"{name} would forget everything"


def test_one_port_runs_through_all_files() -> None:
    expose, health, command = (STAGES["api"].last(name) for name in ("EXPOSE", "HEALTHCHECK", "CMD"))
    assert expose
    assert health
    assert command
    (port,) = expose.args
    assert command.args[command.args.index("--port") + 1] == port
    assert f"127.0.0.1:{port}/health" in health.args[-1]
    assert SERVICES["worker"]["environment"]["CROSSKD_API_URL"] == f"http://api:{port}"
    assert [published.rpartition(":")[2] for published in SERVICES["api"]["ports"]] == [port]


def test_a_missing_secret_says_what_to_do() -> None:
    filled = fill(COMPOSE, NEEDED)
    assert filled["services"]["api"]["environment"]["PGPASSWORD"] == "p$ss:/@"
    assert filled["services"]["api"]["ports"] == ["127.0.0.1:8000:8000"]
    for name in NEEDED:
        with pytest.raises(LookupError, match=f"{name}: set it to"):
            fill(COMPOSE, {**NEEDED, name: ""})


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of nobody's settings."""
    for name in list(os.environ):
        if name.startswith(("CROSSKD_", "AWS_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("service", "settings"), [("api", api.settings.Settings), ("worker", worker.settings.Settings)]
)
def test_what_the_environment_says_arrives(service: str, settings: Any, bare: pytest.MonkeyPatch) -> None:
    """And what it leaves out, Compose passes on as empty: the settings have their defaults then."""
    told = TAKEN[service]

    def read(variables: dict[str, str]) -> dict[str, Any]:
        for name, value in fill(SERVICES[service]["environment"], variables).items():
            bare.setenv(name, str(value))
        found = settings().model_dump(include={name.removeprefix("CROSSKD_").lower() for name in told})
        return {name: getattr(value, "get_secret_value", lambda value=value: value)() for name, value in found.items()}

    assert read(NEEDED | told) == {name.removeprefix("CROSSKD_").lower(): value for name, value in told.items()}
    plain = read(NEEDED)
    for name in told:
        bare.delenv(name)
    defaults = settings().model_dump(include=set(plain))
    assert plain == defaults | ({"devices": "0"} if service == "worker" else {})


def test_the_header_names_every_variable() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    header = text[: text.index("name: crosskd")]
    assert set(re.findall(r"\$\{(\w+)", text)) - set(re.findall(r"\w+", header)) == set()


class Override(yaml.SafeLoader):
    """Knows Compose's own tag."""


Override.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def test_the_override_in_the_documents_fits() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    example = yaml.load(page.partition("```yaml\n")[2].partition("```")[0], Override)
    merged = copy.deepcopy(COMPOSE)
    for name, service in example["services"].items():
        own = merged["services"].setdefault(name, {})
        for variable in service.get("environment", {}):
            assert variable in SERVICES["api"]["environment"]
        own |= service | {"environment": own.get("environment", {}) | service.get("environment", {})}
    assert schema_faults(merged) == []
    assert merged["services"]["relay"]["environment"].keys() <= SERVICES["api"]["environment"].keys()
    assert merged["services"]["valkey"]["command"][:-2] == SERVICES["valkey"]["command"]


# --- Dockerfile ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_without_root_and_can_be_asked_how_it_is(target: str) -> None:
    stage = STAGES[target]
    user, health, command = (stage.last(name) for name in ("USER", "HEALTHCHECK", "CMD"))
    assert user
    assert health
    assert command
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.args[0])
    assert command.json, "a shell between the engine and the process would swallow SIGTERM"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_its_own_extra_and_no_other(target: str) -> None:
    """The api image has no torch: `test_packaging.py` proves it of the extra, this that nothing else is installed."""
    chain, stage = "", STAGES[f"build-{target}"]
    for instruction in stage.instructions():
        chain += f"{instruction.original}\n"
    extras = re.findall(r"\.\[([\w,]+)\]", chain)
    assert extras == [target]
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert "torch" not in chain
    assert re.findall(r"--from=(\S+)", "\n".join(i.original for i in STAGES[target].instructions())) == [
        f"build-{target}"
    ]


def test_every_source_is_in_the_build_context() -> None:
    let_in = build_context()
    for stage in STAGES.values():
        for origin, sources, _ in copies(stage):
            if origin:
                assert origin in STAGES
                continue
            for source in sources:
                assert (ROOT / source).exists(), f"COPY {source}: no such file"
                assert let_in(source), f"COPY {source}: .dockerignore keeps it out"


@pytest.mark.parametrize(
    "path",
    [".env", ".git/config", ".venv/bin/python", ".crosskd/crosskd.db", "data/images/1.jpg", "docker-compose.yml",
     "tests/test_deploy.py", "api/__pycache__/main.pyc", "teacher.pth"],
)  # fmt: skip
def test_nothing_private_is_in_the_build_context(path: str) -> None:
    assert not build_context()(path)


def test_the_wheel_stage_gets_every_package() -> None:
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = {source for _, sources, _ in copies(STAGES["wheel"]) for source in sources}
    assert copied == {pattern.rstrip("*") for pattern in include}


def test_dependencies_are_installed_before_the_source_comes_in() -> None:
    for target in TARGETS:
        lines = [instruction.original for instruction in STAGES[f"build-{target}"].instructions()]
        install = next(k for k, line in enumerate(lines) if f".[{target}]" in line)
        assert not any(re.match(r"COPY (api|worker|crosskd|client|--from=wheel)\b", line) for line in lines[:install])
