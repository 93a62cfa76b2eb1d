"""The Kubernetes manifests as data: what kustomize would gather, their schemas, and this project's own rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from kubernetes_validate import ValidationError as SchemaError
from pydantic import ValidationError
from pydantic_settings import BaseSettings

import api.settings
import worker.settings
from tests.support.compose import PINNED
from tests.support.dockerfile import ROOT

FOLDER = ROOT / "deploy" / "k8s"
VERSIONS = ("1.29", "1.37")  # of Kubernetes: the oldest that this was written for, and a new one
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY")
SETTINGS: dict[str, type[BaseSettings]] = {
    "crosskd-api": api.settings.Settings,
    "crosskd-worker": worker.settings.Settings,
}
# What the documentation of KEDA's Prometheus scaler names; its schema takes any text here.
PROMETHEUS = {
    "serverAddress",
    "query",
    "threshold",
    "activationThreshold",
    "ignoreNullValues",
    "namespace",
    "unsafeSsl",
}

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def gather(folder: Path) -> list[Manifest]:
    """Every manifest that a folder's kustomization leads to, by its resources and components."""
    (kustomization,) = read(folder / "kustomization.yaml")
    found: list[Manifest] = []
    for name in [*kustomization.get("resources", []), *kustomization.get("components", [])]:
        path = (folder / name).resolve()
        found += gather(path) if path.is_dir() else read(path)
    return found


def schema_faults(manifest: Manifest) -> list[str]:
    """What the schemas of Kubernetes, or of KEDA, say against a manifest; a field that they do not know is a fault."""
    if manifest.get("apiVersion") == "keda.sh/v1alpha1":
        return list(_keda_faults(manifest))
    faults = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except (SchemaError, kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
            faults.append(f"{version}: {str(error).splitlines()[0]}")
    return faults


def _keda_faults(manifest: Manifest) -> Iterator[str]:
    try:
        model = getattr(keda, manifest["kind"]).model_validate(manifest)
    except ValidationError as error:
        yield from (f"{fault['loc']}: {fault['msg']}" for fault in error.errors())
        return
    yield from _dropped(manifest, model.model_dump(mode="json", by_alias=True, exclude_unset=True), "")
    for trigger in manifest["spec"]["triggers"]:
        for name in trigger["metadata"].keys() - PROMETHEUS:
            yield f"the Prometheus scaler knows no {name}"
        if not all(isinstance(value, str) for value in trigger["metadata"].values()):
            yield "the metadata of a trigger are text"
        try:
            promql_parser.parse(trigger["metadata"]["query"])
        except ValueError as error:
            yield f"the query is no PromQL: {error}"


def _dropped(given: Any, kept: Any, where: str) -> Iterator[str]:
    """What the model did not take over: it knows no such field."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from _dropped(value, kept[name], f"{where}/{name}")
            else:
                yield f"{where}/{name} is no field"
    elif isinstance(given, list) and isinstance(kept, list):
        for place, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _dropped(one, other, f"{where}/{place}")


# --- the rules of the house ------------------------------------------------------------------------------------------


def pods(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Everything that starts pods, and their specification."""
    for manifest in manifests:
        template = manifest.get("spec", {}).get("template") if manifest["kind"] != "ScaledObject" else None
        if template is not None:
            yield manifest, template["spec"]


def commands(manifests: Sequence[Manifest]) -> Iterator[list[str]]:
    """Every command line that the manifests hold, those of probes too."""
    for _, pod in pods(manifests):
        for container in pod["containers"]:
            if "command" in container:
                yield container["command"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "exec" in container.get(probe, {}):
                    yield container[probe]["exec"]["command"]


def environment(container: Manifest, manifests: Sequence[Manifest]) -> dict[str, str | None]:
    """What a container finds in its environment; None: it comes from the Secret or from its own pod."""
    maps = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    found: dict[str, str | None] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    return found | {entry["name"]: entry.get("value") for entry in container.get("env", [])}


def rule_faults(manifests: Sequence[Manifest], secret: Mapping[str, Any]) -> list[str]:
    """What the schemas cannot see."""
    faults = list(_reference_faults(manifests, secret))
    for manifest, pod in pods(manifests):
        found = [*_privilege_faults(pod), *_container_faults(manifest, pod, manifests)]
        faults += [f"{manifest['metadata']['name']}: {fault}" for fault in found]
    return faults


def _reference_faults(manifests: Sequence[Manifest], secret: Mapping[str, Any]) -> Iterator[str]:
    names = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    if len(names) < len(manifests):
        yield "a name is given twice"
    labels = [m["spec"]["template"]["metadata"]["labels"] for m, _ in pods(manifests)]
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        target = spec.get("scaleTargetRef")
        if target:
            scaled = next((m for m, _ in pods(manifests) if m["metadata"]["name"] == target["name"]), None)
            if scaled is None:
                yield f"{kind} scales {target['name']}, which is not there"
            elif "replicas" in scaled["spec"]:
                yield f"{target['name']} counts its replicas, which an autoscaler does"
        selected = spec.get("selector") or spec.get("podSelector")
        wanted = selected.get("matchLabels", {} if kind != "Service" else selected) if selected else {}
        if not any(wanted.items() <= found.items() for found in labels):
            yield f"{kind} {manifest['metadata']['name']} selects no pod"
    keys = set(secret["stringData"])
    for manifest, pod in pods(manifests):
        claims = {c["metadata"]["name"] for c in manifest["spec"].get("volumeClaimTemplates", [])}
        volumes = claims | {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            if strays := {mount["name"] for mount in container["volumeMounts"]} ^ volumes:
                yield f"{manifest['metadata']['name']}: {', '.join(sorted(strays))}: mounted or declared alone"
            for entry in container.get("env", []):
                ref = entry.get("valueFrom", {}).get("secretKeyRef")
                if ref and (ref["name"] != secret["metadata"]["name"] or ref["key"] not in keys):
                    yield f"{manifest['metadata']['name']}: the Secret has no {ref['key']}"
                if SECRET.search(entry["name"]) and ref is None:
                    yield f"{manifest['metadata']['name']}: {entry['name']} stands in the file"
        for volume in pod.get("volumes", []):
            claim = volume.get("persistentVolumeClaim")
            if claim and ("PersistentVolumeClaim", claim["claimName"]) not in names:
                yield f"{manifest['metadata']['name']}: there is no claim {claim['claimName']}"


def _privilege_faults(pod: Manifest) -> Iterator[str]:
    """What the Pod Security Standard `restricted` refuses, and a service account's token that nobody needs."""
    own = pod.get("securityContext", {})
    if own.get("runAsNonRoot") is not True or own.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "runs as root, or without a seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "gets a token for the cluster"
    if pod.get("hostNetwork") or any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "reaches into its node"
    for container in pod["containers"]:
        kept = container.get("securityContext", {})
        if kept.get("allowPrivilegeEscalation") is not False or kept.get("capabilities") != {"drop": ["ALL"]}:
            yield "keeps privileges that it does not need"
        if kept.get("readOnlyRootFilesystem") is not True:
            yield "can write to its image"


def _container_faults(manifest: Manifest, pod: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    for container in pod["containers"]:
        if not {"cpu", "memory"} <= container["resources"]["requests"].keys():
            yield "does not say what it needs"
        if "memory" not in container["resources"]["limits"]:
            yield "may take all the memory of its node"
        if manifest["kind"] != "Job" and container.get("ports") and "readinessProbe" not in container:
            yield "serves without being asked whether it is ready"
        if "exec" in container.get("livenessProbe", {}):
            yield "can be killed because a command was slow"
        image = container["image"]
        if image not in SETTINGS:
            if not PINNED.search(image):
                yield f"pins no version and digest of {image}"
            continue
        found = environment(container, manifests)
        fields: Mapping[str, Any] = SETTINGS[image].model_fields
        for name in found:
            if name.startswith("CROSSKD_") and name.removeprefix("CROSSKD_").lower() not in fields:
                yield f"{name} is no setting"
        grace = found.get("CROSSKD_GRACE_SECONDS")
        if grace is not None and pod.get("terminationGracePeriodSeconds", 30) < float(grace) + 30:
            yield "is killed before the grace of its training is over"
