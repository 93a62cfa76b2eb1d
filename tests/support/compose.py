"""docker-compose.yml as data: the Compose schema, this project's own rules for it, and its variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema.validators import validator_for

from tests.support.dockerfile import Stage

ROOT = Path(__file__).parents[2]
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY")
PINNED = re.compile(r":\d[\w.-]*@sha256:[0-9a-f]{64}$")
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<operator>:\?|:-)(?P<rest>[^}]*))?\})")


def read_compose() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return compose


def schema_faults(compose: Mapping[str, Any]) -> list[str]:
    """What the Compose specification's own schema says against the file."""
    file = resources.files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    schema = json.loads(file.read_text())
    validator = validator_for(schema)(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(compose)]


def rule_faults(compose: Mapping[str, Any], stages: Mapping[str, Stage]) -> list[str]:
    """What the schema cannot see: names that lead nowhere, open ports, secrets in the file, missing health checks."""
    faults = []
    services = compose["services"]
    for name, service in services.items():
        found = [
            *_reference_faults(service, compose, stages),
            *_exposure_faults(service),
            *_lifetime_faults(service, stages),
        ]
        faults += [f"{name}: {fault}" for fault in found]
    used = {
        mount.partition(":")[0] for s in services.values() for mount in s.get("volumes", []) if isinstance(mount, str)
    }
    return faults + [f"volume {name} is declared and not used" for name in compose["volumes"] if name not in used]


def _reference_faults(
    service: Mapping[str, Any], compose: Mapping[str, Any], stages: Mapping[str, Stage]
) -> Iterator[str]:
    for other, link in service.get("depends_on", {}).items():
        target = compose["services"].get(other)
        if target is None:
            yield f"depends on {other}, which is no service"
        elif link["condition"] == "service_healthy" and not health_check(target, stages):
            yield f"waits for the health of {other}, which has no health check"
        elif link["condition"] == "service_completed_successfully" and target.get("restart") != "no":
            yield f"waits for the end of {other}, which is started again"
    for mount in service.get("volumes", []):
        if isinstance(mount, str) and mount.partition(":")[0] not in compose["volumes"]:
            yield f"mounts {mount}, which is no declared volume"
        if isinstance(mount, dict) and not mount.get("read_only"):
            yield f"can write to {mount['source']}"
    if "build" in service and service["build"]["target"] not in stages:
        yield f"builds {service['build']['target']}, which the Dockerfile lacks"
    if "build" not in service and not PINNED.search(service["image"]):
        yield f"pins no version and digest of {service['image']}"


def _exposure_faults(service: Mapping[str, Any]) -> Iterator[str]:
    for port in service.get("ports", []):
        if not port.startswith("127.0.0.1:"):
            yield f"publishes {port} beyond this machine"
    for key, value in service.get("environment", {}).items():
        if SECRET.search(key) and not re.fullmatch(r"\$\{\w+(:\?[^}]+|:-)\}", str(value)):
            yield f"has {key} in the file; write ${{{key}:?what to do}}"
    if service.get("privileged") or "docker.sock" in str(service.get("volumes")):
        yield "could take over the host"
    yield from _privilege_faults(service)


def _privilege_faults(service: Mapping[str, Any]) -> Iterator[str]:
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", []):
        yield "keeps privileges that it does not need"
    if service.get("read_only") is not True:
        yield "can write to its image"
    if "build" not in service and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", str(service.get("user"))):
        yield "runs as root"  # of our own images the Dockerfile says it, and a test of its own asks that
    if "pids_limit" not in service:
        yield "may take all the processes of its machine"
    trains = "devices" in service.get("deploy", {}).get("resources", {}).get("reservations", {})
    if "mem_limit" not in service and not trains:
        yield "may take all the memory of its machine"


def _lifetime_faults(service: Mapping[str, Any], stages: Mapping[str, Stage]) -> Iterator[str]:
    if "restart" not in service:
        yield "says nothing about restarting"
    if service.get("restart") != "no" and not health_check(service, stages):
        yield "has no health check"


def health_check(service: Mapping[str, Any], stages: Mapping[str, Stage]) -> list[str]:
    """The health check in force, in Compose's form (["CMD", …] or ["CMD-SHELL", line]); the image's one by default."""
    if "healthcheck" in service:
        return list(service["healthcheck"].get("test", []))  # none: it is disabled
    stage = stages.get(service.get("build", {}).get("target", ""))
    instruction = stage.last("HEALTHCHECK") if stage else None
    if instruction is None or instruction.args[0] == "NONE":
        return []
    return ["CMD" if instruction.json else "CMD-SHELL", *instruction.args[1:]]


def command_line(test: list[str]) -> list[str]:
    """A health check as the argument list that the engine starts."""
    kind, *rest = test
    return rest if kind == "CMD" else ["/bin/sh", "-c", *rest]


def fill(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$` resolved, as Compose does it.

    Raises LookupError with the message where a required variable is missing.
    """
    if isinstance(value, dict):
        return {key: fill(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def resolve(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        found = variables.get(match["name"])
        if found or (found is not None and not match["operator"]):
            return found
        if match["operator"] == ":-":
            return match["rest"]
        raise LookupError(f"{match['name']}: {match['rest'] or 'not set'}")

    return VARIABLE.sub(resolve, value)
