"""The deployment files as data: the Compose schema, the project's own rules, and faults planted against both.

`test_deploy_commands.py` runs the commands that these files hold.
"""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from kombu.utils.url import url_to_parts
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import api.settings
import worker.settings
from deploy import pin_images
from tests.support.compose import PINNED, fill, read_compose, rule_faults, schema_faults
from tests.support.dockerfile import ROOT, build_context, copies, read_stages

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
STAGES = read_stages((ROOT / "Dockerfile").read_text())
COMPOSE = read_compose()
SERVICES: dict[str, Any] = COMPOSE["services"]
TARGETS = ("api", "worker")
NEEDED = {
    "CROSSKD_DATA": "/srv/data",
    "POSTGRES_PASSWORD": "p$ss:/@",
    "VALKEY_PASSWORD": "p$ss:/@?#%",
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
    """A fault: `value` at a dotted path of the compose file; None: nothing there."""

    def plant(compose: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place = compose
        for name in parents:
            place = place[name]
        if value is None:
            place.pop(last, None)
        else:
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
        ("volumes.spare", {}, "declared and not used"),
        ("services.worker.build.target", "gpu", "which the Dockerfile lacks"),
        ("services.valkey.image", "valkey/valkey:9", "pins no version and digest"),
        ("services.api.ports", ["8000:8000"], "beyond this machine"),
        ("services.postgres.environment.POSTGRES_PASSWORD", "hunter2", "in the file"),
        ("services.worker.environment.CROSSKD_WORKER_TOKEN", "${CROSSKD_WORKER_TOKEN}", "in the file"),
        ("services.api.environment.CROSSKD_STORAGE_SECRET_ACCESS_KEY", "${KEY:-minio}", "in the file"),
        ("services.api.cap_drop", [], "privileges"),
        ("services.postgres.cap_drop", [], "privileges"),
        ("services.valkey.security_opt", [], "privileges"),
        ("services.postgres.read_only", False, "can write to its image"),
        ("services.valkey.user", "0:0", "runs as root"),
        ("services.postgres.pids_limit", None, "the processes of its machine"),
        ("services.valkey.mem_limit", None, "the memory of its machine"),
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


@pytest.mark.parametrize("service", ["api", "worker"])
def test_the_brokers_password_arrives_as_it_is(service: str, bare: pytest.MonkeyPatch) -> None:
    for name, value in fill(SERVICES[service]["environment"], NEEDED).items():
        bare.setenv(name, str(value))
    settings = {"api": api.settings.Settings, "worker": worker.settings.Settings}[service]()
    parts = url_to_parts(settings.broker_address)
    assert (parts.hostname, parts.port, parts.password) == ("valkey", 6379, NEEDED["VALKEY_PASSWORD"])


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
    """Knows Compose's own tags."""


Override.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))
Override.add_constructor("!reset", lambda loader, node: None)


def merged_with(text: str) -> dict[str, Any]:
    """docker-compose.yml and an override, as Compose puts them together, as far as ours go."""
    merged = copy.deepcopy(COMPOSE)
    for name, service in yaml.load(text, Override)["services"].items():
        own = merged["services"].setdefault(name, {})
        own |= service | {"environment": own.get("environment", {}) | service.get("environment", {})}
        merged["services"][name] = {key: value for key, value in own.items() if value is not None}
    return merged


def test_the_override_in_the_documents_fits() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    merged = merged_with(page.partition("```yaml\n")[2].partition("```")[0])
    assert schema_faults(merged) == []
    assert set(rule_faults(merged, STAGES)) == {
        "valkey: publishes 10.0.0.1:6379:6379 beyond this machine",  # what the example is about
        "relay: has no health check",  # as in deploy/k8s
        "relay: pins no version and digest of crosskd-api",  # our own image, built by another service,
        "relay: runs as root",  # of a Dockerfile that names a user
    }
    for service in ("api", "relay"):
        assert merged["services"][service]["environment"].keys() <= SERVICES["api"]["environment"].keys()


def test_a_worker_on_the_processor_is_an_override_away() -> None:
    merged = merged_with((ROOT / "docker-compose.cpu.yml").read_text())
    assert schema_faults(merged) == []
    own, before = merged["services"]["worker"], SERVICES["worker"]
    assert own["environment"].pop("CROSSKD_DEVICES") == "cpu"
    changed = {key for key in before if own.get(key) != before[key]}
    assert changed == {"deploy", "environment"}
    assert "deploy" not in own
    assert own["environment"].items() <= before["environment"].items()


def test_a_worker_elsewhere_is_the_worker_of_the_stack() -> None:
    alone = yaml.safe_load((ROOT / "docker-compose.worker.yml").read_text())
    assert schema_faults(alone) == []
    assert rule_faults(alone, STAGES) == []
    own, stacks = copy.deepcopy(alone["services"]["worker"]), copy.deepcopy(SERVICES["worker"])
    assert stacks.pop("depends_on").keys() == {"valkey", "api"}
    differing = {name for name in own["environment"] if own["environment"][name] != stacks["environment"][name]}
    assert differing <= {
        "CROSSKD_API_URL", "CROSSKD_BROKER_URL", "CROSSKD_BROKER_PASSWORD", "CROSSKD_WORKER_TOKEN",
        "CROSSKD_WORKER_NAME",
    }  # fmt: skip
    assert own.pop("environment").keys() == stacks.pop("environment").keys()
    assert own == stacks


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.worker.yml"])
def test_the_example_of_an_environment_names_every_variable(name: str) -> None:
    """Those that have no default stand there to be filled in, with no value that could be left."""
    text = (ROOT / name).read_text()
    needed, taken = set(re.findall(r"\$\{(\w+):\?", text)), set(re.findall(r"\$\{(\w+):-", text))
    example = dict(re.findall(r"^(#?\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    elsewhere = {"CROSSKD_API_URL", "CROSSKD_BROKER_URL", "CROSSKD_WORKER_NAME"} if "worker" in name else set()
    for variable in needed - elsewhere:
        assert example[variable] == ""
    for variable in taken:
        assert f"#{variable}" in example
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_lines_that_add_a_machine_are_ten_and_name_what_there_is() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    (block,) = re.findall(r"### Add one GPU machine\n.*?```sh\n(.*?)```", page, re.DOTALL)
    assert len(block.splitlines()) <= 10
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.worker.yml").read_text()))
    assert asked <= set(re.findall(r"\w+", block))
    files = re.findall(r"docker-compose[\w.]*\.yml", block)
    assert files
    assert all((ROOT / file).is_file() for file in files)


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


LOCKED = {"api": ("api",), "worker": ("worker", "timm"), "build": ()}  # the extras in each file of deploy/lock
LINUX = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux", "platform_system": "Linux",
         "platform_machine": "x86_64", "implementation_name": "cpython", "platform_python_implementation": "CPython",
         "os_name": "posix"}  # fmt: skip


def lock(name: str) -> dict[str, str]:
    """The versions of a lock file, each with its hash, of those that the image takes."""
    text = (ROOT / "deploy" / "lock" / f"{name}.txt").read_text()
    entries = re.sub(r"\\\n\s*|^#.*\n", " ", text, flags=re.MULTILINE).strip().split("\n")
    found = {}
    for entry in entries:
        requirement, *hashes = entry.strip().split(" --hash=")
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in hashes), entry
        parsed = Requirement(requirement)
        if parsed.marker is None or parsed.marker.evaluate(LINUX):
            (specifier,) = parsed.specifier
            assert specifier.operator == "=="
            found[canonicalize_name(parsed.name)] = specifier.version
    return found


def wanted(name: str) -> Iterator[Requirement]:
    """What the project itself asks for, of what a lock file holds."""
    if name == "build":
        yield from map(Requirement, PYPROJECT["build-system"]["requires"])
        return
    pending = [*PROJECT["dependencies"], *(f"crosskd[{extra}]" for extra in LOCKED[name])]
    while pending:
        requirement = Requirement(pending.pop())
        if requirement.name == "crosskd":
            pending += [more for extra in requirement.extras for more in PROJECT["optional-dependencies"][extra]]
        else:
            yield requirement


@pytest.mark.parametrize("name", LOCKED)
def test_a_lock_holds_all_that_is_asked_for(name: str) -> None:
    """Run `make lock` where this fails: pyproject.toml asks for something else by now."""
    locked, pending = lock(name), list(wanted(name))
    seen = set()
    while pending:
        requirement = pending.pop()
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, requirement
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, but {version} is locked"
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            more = map(Requirement, metadata.requires(requirement.name) or [])
        except metadata.PackageNotFoundError:  # of another platform than this one
            continue
        pending += [
            found
            for found in more
            if found.marker is None
            or any(found.marker.evaluate(LINUX | {"extra": extra}) for extra in (requirement.extras or {""}))
        ]


def test_the_api_image_has_no_torch_and_no_tools_of_developers() -> None:
    """`test_packaging.py` proves it of the extra, this of the image."""
    assert not {"torch", "torchvision", "pycocotools", "pytest", "uv"} & lock("api").keys()
    assert not {"pytest", "uv"} & lock("worker").keys()


@pytest.mark.parametrize("stage", ["build-api", "build-worker", "wheel"])
def test_an_image_installs_its_lock_and_our_wheel_and_nothing_else(stage: str) -> None:
    """With hashes: what the registry serves by then is what was tried here, or the build stops."""
    lines = [instruction.args[0] for instruction in STAGES[stage].own if instruction.name == "RUN"]
    installs = [line.partition("python -m pip ")[2] for line in lines if "pip" in line]
    name = {"wheel": "build"}.get(stage, stage.removeprefix("build-"))
    ours = "wheel --no-deps --no-build-isolation --wheel-dir /wheels ."
    if stage != "wheel":
        ours = "install --no-deps --force-reinstall /wheels/*.whl"
    assert installs == [f"install --only-binary=:all: --require-hashes -r {name}.txt", ours]
    own = [source for _, sources, _ in copies(STAGES[stage]) for source in sources]
    assert f"deploy/lock/{name}.txt" in own
    if stage != "wheel":
        final = "\n".join(instruction.original for instruction in STAGES[name].instructions())
        assert re.findall(r"--from=(\S+)", final) == [stage]


def test_every_base_is_named_by_its_digest() -> None:
    assert {stage.base for stage in STAGES.values() if stage.parent is None and not PINNED.search(stage.base)} == set()
    assert not (ROOT / "Dockerfile").read_text().startswith("# syntax"), "it fetches a builder of any version"


def test_newer_digests_are_written_into_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `make pins`; a stand-in for docker knows a digest of each tag."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\n[ "$4" != gone:1 ] || exit 1\nprintf \'{"digest": "sha256:%064d"}\' "${#4}"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    files = [tmp_path / path.name for path in pin_images.FILES]
    for path, source in zip(files, pin_images.FILES, strict=True):
        path.write_text(source.read_text())
    monkeypatch.setattr(pin_images, "FILES", files)
    pin_images.main()
    seen = set()
    for path, source in zip(files, pin_images.FILES, strict=True):
        names = [name for name, _ in pin_images.IMAGE.findall(source.read_text())]
        assert pin_images.IMAGE.findall(path.read_text()) == [(name, f"sha256:{len(name):064d}") for name in names]
        seen |= {name.partition(":")[0] for name in names}
    assert seen == {"python", "postgres", "valkey/valkey"}
    before = files[0].read_text()
    files[-1].write_text(f"image: gone:1@sha256:{'0' * 64}")
    with pytest.raises(SystemExit, match="does not tell of gone:1"):
        pin_images.main()
    assert files[0].read_text() == before


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
    include = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = {source for _, sources, _ in copies(STAGES["wheel"]) for source in sources if (ROOT / source).is_dir()}
    assert copied == {pattern.rstrip("*") for pattern in include}


def test_dependencies_are_installed_before_the_source_comes_in() -> None:
    for target in TARGETS:
        lines = [instruction.original for instruction in STAGES[f"build-{target}"].instructions()]
        install = next(k for k, line in enumerate(lines) if f"-r {target}.txt" in line)
        assert not any(re.match(r"COPY (api|worker|crosskd|client|--from=wheel)\b", line) for line in lines[:install])
