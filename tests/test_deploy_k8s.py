"""The Kubernetes manifests as data: schemas of Kubernetes and KEDA, rules of our own, and planted faults."""

from __future__ import annotations

import copy
import hashlib
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from api.database import Database
from api.models import Base
from api.services.operations import prometheus
from tests.support import k8s
from tests.support.compose import command_line, fill, health_check, read_compose
from tests.support.dockerfile import ROOT, read_stages
from wire.tasks import queue

STAGES = read_stages((ROOT / "Dockerfile").read_text())
VARIABLES = (
    "CROSSKD_DATA", "POSTGRES_PASSWORD", "VALKEY_PASSWORD", "CROSSKD_WORKER_TOKEN", "CROSSKD_WORKER_TOKEN_SHA256",
)  # fmt: skip
SERVICES = fill(read_compose(), dict.fromkeys(VARIABLES, "x"))["services"]
EXAMPLE = k8s.gather(k8s.FOLDER / "example")
(SECRET,) = k8s.read(k8s.FOLDER / "secret.example.yaml")


def named(kind: str, name: str, manifests: list[Any] = EXAMPLE) -> Any:
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def container(kind: str, name: str) -> Any:
    (found,) = named(kind, name)["spec"]["template"]["spec"]["containers"]
    return found


def plant(kind: str, name: str, path: str, value: object) -> list[Any]:
    """The manifests with a fault: `value` at a dotted path of one of them."""
    manifests = copy.deepcopy(EXAMPLE)
    *parents, last = path.split(".")
    place = named(kind, name, manifests)
    for step in parents:
        place = place[int(step)] if step.isdigit() else place[step]
    place[int(last) if last.isdigit() else last] = value
    return manifests


POD = "spec.template.spec"
FIRST = f"{POD}.containers.0"


# --- schemas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", [*EXAMPLE, SECRET], ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_a_manifest_meets_its_schema(manifest: Any) -> None:
    assert k8s.schema_faults(manifest) == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "api", "spec.replica", 2),
        ("Deployment", "api", f"{FIRST}.readinessProbe.httpGet.prot", 1),
        ("Deployment", "worker-gpu", f"{POD}.terminationGracePeriodSeconds", "long"),
        ("Job", "migrate", "spec.ttl", 1),
        ("Service", "api", "spec.ports", {"http": 8000}),
        ("HorizontalPodAutoscaler", "api", "spec.maxReplicas", "many"),
        ("PodDisruptionBudget", "api", "spec.minAvailable", [1]),
        ("NetworkPolicy", "worker", "spec.egress", {"to": []}),
        ("ScaledObject", "worker-gpu", "spec.maxReplicas", 3),
        ("ScaledObject", "worker-gpu", "spec.minReplicaCount", "none"),
        ("ScaledObject", "worker-gpu", "spec.triggers", {}),
        ("ScaledObject", "worker-gpu", "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown", {"slow": 1}),
        ("ScaledObject", "worker-gpu", "spec.triggers.0.metadata.treshold", "1"),
        ("ScaledObject", "worker-gpu", "spec.triggers.0.metadata.threshold", 1),
        ("ScaledObject", "worker-gpu", "spec.triggers.0.metadata.query", "sum(crosskd_queue_depth"),
    ],
)
def test_the_schema_sees_a_planted_fault(kind: str, name: str, path: str, value: object) -> None:
    assert k8s.schema_faults(named(kind, name, plant(kind, name, path, value)))


# --- rules -----------------------------------------------------------------------------------------------------------


def test_the_manifests_meet_the_rules_of_the_house() -> None:
    assert k8s.rule_faults(EXAMPLE, SECRET) == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "fault"),
    [
        ("Deployment", "api", "spec.replicas", 2, "which an autoscaler does"),
        ("HorizontalPodAutoscaler", "api", "spec.scaleTargetRef.name", "apis", "which is not there"),
        ("Service", "valkey", "spec.selector", {"app.kubernetes.io/component": "redis"}, "selects no pod"),
        ("Deployment", "relay", f"{FIRST}.volumeMounts", [], "mounted or declared alone"),
        ("Deployment", "relay", f"{FIRST}.env.0.valueFrom.secretKeyRef.key", "PASS", "the Secret has no PASS"),
        ("Deployment", "relay", f"{FIRST}.env.0", {"name": "PGPASSWORD", "value": "x"}, "stands in the file"),
        ("Deployment", "api", f"{POD}.volumes.2.persistentVolumeClaim.claimName", "d", "there is no claim"),
        ("Deployment", "api", f"{POD}.securityContext.runAsNonRoot", False, "runs as root"),
        ("Deployment", "api", f"{POD}.automountServiceAccountToken", True, "a token for the cluster"),
        ("StatefulSet", "valkey", f"{POD}.hostNetwork", True, "reaches into its node"),
        ("StatefulSet", "valkey", f"{FIRST}.securityContext.capabilities", {}, "privileges"),
        ("StatefulSet", "valkey", f"{FIRST}.securityContext.readOnlyRootFilesystem", False, "write to its image"),
        ("StatefulSet", "valkey", f"{FIRST}.image", "valkey/valkey:9", "pins no version and digest"),
        ("Job", "migrate", f"{FIRST}.resources.requests", {}, "what it needs"),
        ("Job", "migrate", f"{FIRST}.resources.limits", {}, "all the memory"),
        ("ConfigMap", "crosskd-api", "data.CROSSKD_RELAYS", "1", "CROSSKD_RELAYS is no setting"),
        ("ConfigMap", "crosskd-worker", "data.CROSSKD_GRACE_SECONDS", "600", "before the grace"),
        ("Deployment", "worker-gpu", f"{FIRST}.livenessProbe", {"exec": {"command": ["x"]}}, "a command was slow"),
    ],
)
def test_the_rules_see_a_planted_fault(kind: str, name: str, path: str, value: object, fault: str) -> None:
    assert any(fault in found for found in k8s.rule_faults(plant(kind, name, path, value), SECRET))


def test_every_file_is_of_some_use() -> None:
    """What no kustomization leads to would be applied by nobody."""
    read = {str(m) for m in EXAMPLE}
    lost = [
        path.name
        for path in k8s.FOLDER.rglob("*.yaml")
        if path.parent.name in ("base", "stores", "scaling", "example")  # others are the user's own
        and path.name != "kustomization.yaml"
        and not all(str(m) in read for m in k8s.read(path))
    ]
    assert lost == []


def test_the_images_are_ours_or_those_of_compose() -> None:
    used = {c["image"] for _, pod in k8s.pods(EXAMPLE) for c in pod["containers"]}
    assert used == {service["image"] for service in SERVICES.values()}
    (kustomization,) = k8s.read(k8s.FOLDER / "example" / "kustomization.yaml")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    named_here = {image["name"]: image["newTag"] for image in kustomization["images"]}
    assert named_here == dict.fromkeys(("crosskd-api", "crosskd-worker"), version)


def test_every_command_is_one_that_is_tried_elsewhere() -> None:
    """`test_deploy_commands.py` runs those of Compose and the images; `api/test_server.py` runs the relay."""
    tried = [service["command"] for service in SERVICES.values() if "command" in service]
    tried += [
        command_line(health_check(service, STAGES)) for service in SERVICES.values() if health_check(service, STAGES)
    ]
    tried.append(["python", "-m", "api.relay"])
    strays = [command for command in k8s.commands(EXAMPLE) if command not in tried]
    assert strays == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Job", "migrate"), ("Deployment", "api"), ("Deployment", "relay"), ("Deployment", "worker-gpu"),
     ("Deployment", "worker-gpu-4")],
)  # fmt: skip
def test_the_settings_are_taken(kind: str, name: str) -> None:
    """Ours read the environment of each container, with something in the place of what is not in the files."""
    found = container(kind, name)
    secrets = {"CROSSKD_WORKER_TOKEN_SHA256": hashlib.sha256(b"x").hexdigest(), "CROSSKD_WORKER_TOKEN": "x" * 20}
    values = {
        variable.removeprefix("CROSSKD_").lower(): value if value is not None else secrets.get(variable, "x")
        for variable, value in k8s.environment(found, EXAMPLE).items()
        if variable.startswith("CROSSKD_")
    }
    settings = k8s.SETTINGS[found["image"]](**values)
    if name.startswith("worker"):
        gpus = found["resources"]["limits"]["nvidia.com/gpu"]
        assert len(settings.devices.split(",")) == int(gpus)
        assert settings.queues[0] == name.removeprefix("worker-")
    else:
        assert (settings.auth, settings.relay) == ("tokens", "external")
        assert settings.storage_url.startswith("s3://")


def test_a_secret_has_names_and_no_values() -> None:
    assert set(SECRET["stringData"].values()) == {""}
    text = "".join(path.read_text() for path in k8s.FOLDER.rglob("*.yaml"))
    assert "kind: Secret" in text
    assert not re.search(r"\bck_|(?<!@sha256:)\b[0-9a-f]{40}", text)


def test_who_uses_a_store_is_given_its_password() -> None:
    """And nobody else: neither a migration nor a worker has business in the other store."""
    for variable, key, users in (
        ("PGPASSWORD", "POSTGRES_PASSWORD", {"api", "relay", "migrate"}),
        ("CROSSKD_BROKER_PASSWORD", "VALKEY_PASSWORD", {"api", "relay", "worker-gpu", "worker-gpu-4"}),
        ("VALKEY_PASSWORD", "VALKEY_PASSWORD", {"valkey"}),
        ("POSTGRES_PASSWORD", "POSTGRES_PASSWORD", {"postgres"}),
    ):
        given = {
            manifest["metadata"]["name"]: entry["valueFrom"]["secretKeyRef"]["key"]
            for manifest, pod in k8s.pods(EXAMPLE)
            for entry in pod["containers"][0].get("env", [])
            if entry["name"] == variable
        }
        assert given == dict.fromkeys(users, key)


# --- what the parts promise each other -------------------------------------------------------------------------------


def test_the_api_can_lose_a_pod() -> None:
    assert named("HorizontalPodAutoscaler", "api")["spec"]["minReplicas"] >= 2
    assert named("PodDisruptionBudget", "api")["spec"]["maxUnavailable"] == 1
    assert named("Deployment", "api")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    probes = {
        probe: container("Deployment", "api")[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")
    }
    assert probes == {"livenessProbe": "/health", "readinessProbe": "/ready?part=database&part=migrations"}


def test_one_port_runs_through_all_files() -> None:
    expose = STAGES["api"].last("EXPOSE")
    assert expose
    port = int(expose.args[0])
    assert container("Deployment", "api")["ports"] == [{"name": "http", "containerPort": port}]
    assert named("ConfigMap", "crosskd-worker")["data"]["CROSSKD_API_URL"] == f"http://api:{port}"
    for policy, direction in (("api", "ingress"), ("worker", "egress")):
        assert named("NetworkPolicy", policy)["spec"][direction][0]["ports"] == [{"protocol": "TCP", "port": port}]


def test_postgres_has_a_connection_for_everybody(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    pool: Any = database.engine.pool
    each = pool.size() + pool._max_overflow
    database.close()
    (flag, setting) = container("StatefulSet", "postgres")["args"]
    most = 0
    for name, kind, count in (("api", "HorizontalPodAutoscaler", "maxReplicas"), ("relay", "Deployment", "replicas")):
        surge = named("Deployment", name)["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        most += named(kind, name)["spec"][count] + surge
    assert flag == "-c"
    assert int(setting.removeprefix("max_connections=")) >= each * most + 10
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert f"{each * most}" in page
    assert setting in page


def test_workers_are_scaled_by_figures_that_there_are(tmp_path: Any) -> None:
    registry = CollectorRegistry()
    database = Database(f"sqlite:///{tmp_path}/x.db")
    Base.metadata.create_all(database.engine)
    registry.register(prometheus.DatabaseCollector(database))
    told = {family.name for family in registry.collect()}
    database.close()
    for worker in ("worker-gpu", "worker-gpu-4"):
        (trigger,) = named("ScaledObject", worker)["spec"]["triggers"]
        asked = set(re.findall(r"crosskd_\w+", trigger["metadata"]["query"]))
        assert asked == {"crosskd_queue_depth", "crosskd_workers_busy", "crosskd_database_up"}
        assert asked <= told
        (devices,) = (e["value"] for e in container("Deployment", worker)["env"] if e["name"] == "CROSSKD_DEVICES")
        own = queue("gpu", len(devices.split(",")))
        assert f'crosskd_workers_busy{{queue="{own}"}}' in trigger["metadata"]["query"]


def test_every_queue_of_gpus_has_its_scaler() -> None:
    patterns = [
        re.search(r'queue=~"([^"]+)"', scaler["spec"]["triggers"][0]["metadata"]["query"])
        for scaler in EXAMPLE
        if scaler["kind"] == "ScaledObject"
    ]
    for name in ("any", "gpu", "gpu-2", "gpu-3", "gpu-4"):
        assert sum(bool(found and re.fullmatch(found[1], name)) for found in patterns) == 1, name


@pytest.mark.parametrize("component", ["postgres", "valkey"])
def test_only_who_needs_a_store_reaches_it(component: str) -> None:
    (rule,) = named("NetworkPolicy", component)["spec"]["ingress"]
    (peer,) = rule["from"]
    allowed: Callable[[str], bool] = peer["podSelector"]["matchExpressions"][0]["values"].__contains__
    users = {"postgres": {"api", "relay", "migrate"}, "valkey": {"api", "relay", "worker"}}[component]
    assert {name for name in ("api", "relay", "migrate", "worker", "postgres", "valkey") if allowed(name)} == users
    assert named("NetworkPolicy", "closed")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
