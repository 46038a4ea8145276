"""The manifests of examples/kubernetes: valid for Kubernetes, closed, and consistent with each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.collector import rules

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "kubernetes"
TEMPLATE = FOLDER / "secrets.template.yaml"
KUSTOMIZATIONS = ("kustomization.yaml", "scaled/kustomization.yaml")
NO_OBJECTS = ("kustomization.yaml", "otel-collector.yaml")
OPERATORS = FOLDER / "operator" / "instrumentation.yaml"  # a kind that the Operator adds to Kubernetes
OBJECTS = tuple(p for p in sorted(FOLDER.rglob("*.yaml")) if p.name not in NO_OBJECTS and p != OPERATORS)
RELEASES = ("1.30", "1.37")
NAMESPACE = "tracelet"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def everything() -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable(documents(path) for path in OBJECTS))


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in everything():
        if "template" in document.get("spec", {}):
            yield f"{document['kind']} {document['metadata']['name']}", document["spec"]["template"]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in everything() if d["kind"] == kind}


PODS = pytest.mark.parametrize("pod", [pod for _, pod in pods()], ids=[name for name, _ in pods()])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_kubernetes_knows_every_field(path: Path, release: str) -> None:
    assert documents(path)
    for document in documents(path):
        kubernetes_validate.validate(document, release, strict=True)


def test_the_check_notices_a_wrong_field() -> None:
    [job] = documents(FOLDER / "training-job.yaml")
    job["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(job, RELEASES[-1], strict=True)


@PODS
def test_pods_are_closed(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["terminationGracePeriodSeconds"] >= 60
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        _, _, tag = container["image"].rpartition(":")
        assert tag[:1].isdigit(), "an image without a version is another one tomorrow"
    # Only the folder of a node has to be handed over, and nothing else is done as root.
    roots = [c for c in spec.get("initContainers", ()) if c["securityContext"].get("runAsUser") == 0]
    assert all(container["command"][0] == "chown" for container in roots)
    assert not roots or any("hostPath" in volume for volume in spec["volumes"])


@PODS
def test_what_pods_name_is_there(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    secrets = {name: set(secret["stringData"]) for name, secret in named("Secret").items()}
    maps = {g["name"]: g for k in KUSTOMIZATIONS for g in documents(FOLDER / k)[0]["configMapGenerator"]}
    volumes: dict[str, set[str] | None] = dict.fromkeys(claims(pod))
    for volume in spec["volumes"]:
        files: set[str] | None = None
        if secret := volume.get("secret"):
            files = secrets[secret["secretName"]]
            items = {item["key"] for item in secret.get("items", ())}
            assert items <= files
            files = items or files
            assert secret["defaultMode"] == 0o440
        if config := volume.get("configMap"):
            files = {Path(file).name for file in maps[config["name"]]["files"]}
        volumes[volume["name"]] = files
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for mount in container["volumeMounts"]:
            files = volumes[mount["name"]]
            assert "subPath" not in mount or mount["subPath"] in (files or ())
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        for argument in container.get("args", ()):
            if (file := argument.partition("=")[2] or argument).startswith("/"):
                assert any(file.startswith(path) for path in paths), file
        for variable in container.get("env", ()):
            if key := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert key["key"] in secrets[key["name"]]
    if account := spec.get("serviceAccountName"):
        assert account in named("ServiceAccount")


def claims(pod: dict[str, Any]) -> list[str]:
    [owner] = [d for d in everything() if d.get("spec", {}).get("template") == pod]
    return [claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", ())]


def test_services_and_policies_reach_the_pods() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods()}
    ports = {
        name: {port["name"]: port["containerPort"] for c in pod["spec"]["containers"] for port in c["ports"]}
        for name, pod in pods()
        if not name.startswith("Job")
    }
    for service in named("Service").values():
        [target] = [n for n, has in labels.items() if service["spec"]["selector"].items() <= has.items()]
        for port in service["spec"]["ports"]:
            assert ports[target][port["targetPort"]] == port["port"]
    policies = named("NetworkPolicy")
    assert policies["nothing-else"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ("tracelet-collector", "tracelet-gateway"):
        selected = policies[name]["spec"]["podSelector"]["matchLabels"]
        [target] = [n for n, has in labels.items() if selected.items() <= has.items()]
        for rule in policies[name]["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= set(ports[target].values())
    [only] = policies["tracelet-gateway"]["spec"]["ingress"]
    assert only["from"] == [{"podSelector": policies["tracelet-collector"]["spec"]["podSelector"]}]


def test_the_collectors_configuration_fits_its_pod() -> None:
    config = rules.read(ROOT / "otel-collector.yaml")
    [collector] = [pod for name, pod in pods() if name == "DaemonSet tracelet-collector"]
    [container] = collector["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    protocols = config["receivers"]["otlp"]["protocols"]
    assert protocols["grpc"]["endpoint"] == f"0.0.0.0:{ports['otlp-grpc']}"
    assert protocols["http"]["endpoint"] == f"0.0.0.0:{ports['otlp-http']}"
    assert config["exporters"]["prometheus"]["endpoint"] == f"0.0.0.0:{ports['metrics']}"
    assert config["extensions"]["health_check"]["endpoint"] == f"0.0.0.0:{ports['health']}"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/var/lib/otelcol"] == "state"
    assert config["extensions"]["file_storage/queue"]["directory"].startswith("/var/lib/otelcol/")
    secrets = {name: secret["stringData"] for name, secret in named("Secret").items()}
    for extension in config["extensions"].values():
        if "filename" in extension:
            folder, _, name = extension["filename"].rpartition("/")
            assert mounts[folder] == "tokens"
            assert name in secrets["tracelet-tokens"]
    for section in (protocols["grpc"], config["exporters"]["otlp_grpc/gateway"]):
        for path in section["tls"].values():
            if path.startswith("/"):
                folder, _, name = path.rpartition("/")
                assert mounts[folder] == "tls"
                assert name in secrets["tracelet-tls"]
    assert config["exporters"]["otlp_grpc/gateway"]["endpoint"].endswith(":-tracelet-gateway:4317}")


def test_several_gateways_are_the_replicas() -> None:
    config = rules.read(FOLDER / "scaled" / "otel-collector.yaml")
    [kustomization] = documents(FOLDER / "scaled" / "kustomization.yaml")
    [patch] = kustomization["patches"]
    gateway = named("StatefulSet")["tracelet-gateway"]
    service = gateway["spec"]["serviceName"]
    assert named("Service")[service]["spec"]["clusterIP"] == "None"
    [change] = yaml.safe_load(patch["patch"])
    assert (patch["target"]["kind"], change["path"]) == ("StatefulSet", "/spec/replicas")
    assert config["exporters"]["load_balancing/gateway"]["resolver"]["static"]["hostnames"] == [
        f"tracelet-gateway-{number}.{service}:4317" for number in range(change["value"])
    ]
    [generator] = kustomization["configMapGenerator"]
    assert (generator["behavior"], generator["files"]) == ("replace", ["otel-collector.yaml"])


@pytest.mark.parametrize("path", KUSTOMIZATIONS)
def test_kustomizations_name_files_that_are_there(path: str) -> None:
    [kustomization] = documents(FOLDER / path)
    assert kustomization["namespace"] == NAMESPACE
    folder = (FOLDER / path).parent
    files = [file for g in kustomization["configMapGenerator"] for file in g["files"]]
    for name in [*kustomization["resources"], *files]:
        assert (folder / name).exists(), name
    assert TEMPLATE.name not in kustomization["resources"]


def test_nothing_secret_is_in_the_template_and_no_secret_elsewhere() -> None:
    for document in documents(TEMPLATE):
        assert set(document["stringData"].values()) == {"REPLACE_ME"}
    others = [d for path in OBJECTS if path != TEMPLATE for d in documents(path)]
    assert not [d for d in others if d["kind"] == "Secret"]


def test_the_job_is_one_run_and_sends_to_its_nodes_collector() -> None:
    [job] = documents(FOLDER / "training-job.yaml")
    [container] = job["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["TRACELET_RUN_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == (
        "metadata.labels['batch.kubernetes.io/controller-uid']"
    )
    endpoint = variables["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"]
    assert endpoint == f"https://tracelet-collector.{NAMESPACE}.svc:4318"
    assert variables["OTEL_METRICS_EXPORTER"]["value"] == "otlp"
    assert variables["OTEL_EXPORTER_OTLP_HEADERS"]["value"] == "Authorization=Bearer%20$(TRACELET_TOKEN)"
    # Kubernetes replaces $(NAME) by variables that come before it only.
    names = list(variables)
    assert names.index("TRACELET_TOKEN") < names.index("OTEL_EXPORTER_OTLP_HEADERS")
    assert names.index("NODE_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
    # Only the Collector of the same node: its queue is where the node's data waits.
    service = named("Service")["tracelet-collector"]
    assert service["spec"]["internalTrafficPolicy"] == "Local"


def test_the_gateway_keeps_its_state_and_tells_its_health() -> None:
    gateway = named("StatefulSet")["tracelet-gateway"]
    [claim] = gateway["spec"]["volumeClaimTemplates"]
    [container] = gateway["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert claim["metadata"]["name"] in mounts
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {probe["scheme"] for probe in probes.values()} == {"HTTPS"}


def test_the_operator_sends_to_the_collector_without_a_tracker() -> None:
    [instrumentation] = documents(OPERATORS)
    spec = instrumentation["spec"]
    assert spec["exporter"]["endpoint"] == f"https://tracelet-collector.{NAMESPACE}.svc:4318"
    variables = {variable["name"]: variable["value"] for variable in spec["python"]["env"]}
    assert variables["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    assert spec["python"]["image"] in (FOLDER / "operator" / "Dockerfile").read_text(encoding="utf-8")
