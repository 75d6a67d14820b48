# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an IstioGateway becomes: names, documented defaults, overrides, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from lab.asm.render import OVERRIDE, OWNER, RESOURCES, GatewayError, Mesh, Object, render
from lab.mesh_asm import CRDS

MESH = Mesh("c0asm", "c0ack", "registry/proxyv2:v1-aliyun")
PORTS = [{"name": "http2", "port": 80, "targetPort": 8080}, {"name": "https", "port": 443, "targetPort": 8443}]


def gateway(name: str = "ingressgateway-asm", namespace: str = "istio-system", **spec: Any) -> Object:
    whole = {"gatewayType": "ingress", "clusterIds": ["c0ack"], "ports": PORTS, **spec}
    return {
        "apiVersion": "istio.alibabacloud.com/v1beta1",
        "kind": "IstioGateway",
        "metadata": {"name": name, "namespace": namespace, "uid": "u"},
        "spec": {key: value for key, value in whole.items() if value is not None},
    }


def made(wanted: Object, replicas_now: int | None = None) -> dict[str, Object]:
    return {obj["kind"]: obj for obj in render(wanted, MESH, replicas_now)}


def environment(deployment: Object) -> dict[str, Any]:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_names_labels_and_documented_defaults() -> None:
    objects = made(gateway())
    deployment, service = objects["Deployment"], objects["Service"]
    assert {deployment["metadata"]["name"], service["metadata"]["name"]} == {"istio-ingressgateway-asm"}
    assert deployment["spec"]["template"]["metadata"]["labels"]["istio"] == "ingressgateway-asm"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["template"]["spec"]["containers"][0]["resources"] == RESOURCES
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["externalTrafficPolicy"] == "Cluster"
    assert "HorizontalPodAutoscaler" not in objects
    assert {obj["metadata"]["annotations"][OWNER] for obj in objects.values()} == {"c0asm/istio-system/ingressgateway-asm"}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        (None, "true"),
        ({"service.beta.kubernetes.io/alibaba-cloud-loadbalancer-id": "lb-1"}, "true"),
        ({OVERRIDE: "false"}, "false"),
        ({OVERRIDE: "true"}, "true"),
        ({OVERRIDE: ""}, ""),
    ],
)
def test_listeners_are_overridden_unless_told_otherwise(annotations: dict[str, str] | None, expected: str) -> None:
    service = made(gateway(serviceAnnotations=annotations))["Service"]
    assert service["metadata"]["annotations"][OVERRIDE] == expected
    for key, value in (annotations or {}).items():
        assert service["metadata"]["annotations"][key] == value


def test_no_override_annotation_without_a_load_balancer() -> None:
    service = made(gateway(serviceType="ClusterIP"))["Service"]
    assert OVERRIDE not in service["metadata"]["annotations"]
    assert "externalTrafficPolicy" not in service["spec"]
    assert made(gateway(gatewayType="egress"))["Service"]["spec"]["type"] == "ClusterIP"


def test_pods_look_like_asm_pods() -> None:
    deployment = made(gateway())["Deployment"]
    env = environment(deployment)
    assert env["ASM_ID"] == "c0asm"
    assert env["ISTIO_META_CLUSTER_ID"] == "c0ack"
    assert env["CA_ADDR"] == "istiod-1-31-0.istio-system.svc:15012"
    assert json.loads(env["PROXY_CONFIG"])["discoveryAddress"] == env["CA_ADDR"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == MESH.image
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert "istio.io/rev" not in deployment["spec"]["template"]["metadata"]["labels"]


def test_own_environment_replaces_the_rendered_one() -> None:
    env = environment(made(gateway(env=[{"name": "ASM_ID", "value": "x"}, {"name": "MY", "value": "y"}]))["Deployment"])
    assert (env["ASM_ID"], env["MY"]) == ("x", "y")


def test_ports_are_copied_and_completed() -> None:
    ports = [{"port": 80, "targetPort": 8080, "name": "http2", "nodePort": 30080}, {"port": 8443}]
    rendered = made(gateway(ports=ports))["Service"]["spec"]["ports"]
    assert rendered == [
        {"name": "http2", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30080},
        {"name": "port-1", "port": 8443, "protocol": "TCP", "targetPort": 8443},
    ]


@pytest.mark.parametrize(
    ("ports", "privileged"), [(PORTS, False), ([{"port": 80, "targetPort": 80}], True), ([{"port": 80}], True)]
)
def test_low_ports_can_be_listened_on(ports: list[Object], privileged: bool) -> None:
    deployment = made(gateway(ports=ports))["Deployment"]
    sysctls = deployment["spec"]["template"]["spec"]["securityContext"].get("sysctls", [])
    assert bool(sysctls) == privileged
    assert environment(deployment)["ISTIO_META_UNPRIVILEGED_POD"] == ("false" if privileged else "true")


def test_overrides_of_our_cluster_replace_fields() -> None:
    base: dict[str, Any] = {"replicaCount": 2, "serviceAnnotations": {"a": "1"}}
    overrides = {"c0ack": {"replicaCount": 4, "serviceAnnotations": {"b": "2"}}, "other": {"replicaCount": 9}}
    objects = made(gateway(**base, overrides=overrides))
    assert objects["Deployment"]["spec"]["replicas"] == 4
    notes = objects["Service"]["metadata"]["annotations"]
    assert notes["b"] == "2"
    assert "a" not in notes
    assert made(gateway(**base, overrides={"other": {"replicaCount": 9}}))["Deployment"]["spec"]["replicas"] == 2


@pytest.mark.parametrize(("now", "expected"), [(None, 2), (1, 2), (3, 3), (9, 5)])
def test_autoscaling_never_takes_replicas_away(now: int | None, expected: int) -> None:
    objects = made(gateway(autoscaleEnabled=True, minReplicas=2, maxReplicas=5, replicaCount=1), now)
    assert objects["Deployment"]["spec"]["replicas"] == expected
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 5)
    assert scaler["scaleTargetRef"]["name"] == "istio-ingressgateway-asm"
    assert [metric["resource"]["target"]["averageUtilization"] for metric in scaler["metrics"]] == [80]


def test_autoscaling_metrics() -> None:
    spec: dict[str, Any] = {"cpu": {"targetAverageUtilization": 50}, "memory": {"targetAverageUtilization": 70}}
    metrics = made(gateway(autoscaleEnabled=True, **spec))["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert {one["resource"]["name"]: one["resource"]["target"]["averageUtilization"] for one in metrics} == {
        "cpu": 50,
        "memory": 70,
    }


def test_pod_settings_reach_the_pod() -> None:
    spec: dict[str, Any] = {
        "podAnnotations": {"note": "1"},
        "podLabels": {"team": "a", "istio": "somebody-else"},
        "serviceLabels": {"lb": "x"},
        "rollingMaxSurge": "1",
        "rollingMaxUnavailable": "0",
        "nodeSelector": {"pool": "gateways"},
        "tolerations": [{"operator": "Exists"}],
        "readinessProbe": {"periodSeconds": 1},
        "kernel": {"enabled": True, "parameters": {"net.core.somaxconn": "1024"}},
        "secretVolumes": [{"name": "certs", "secretName": "s", "mountPath": "/etc/certs"}],
        "externalTrafficPolicy": "Local",
        "loadBalancerClass": "class",
    }
    objects = made(gateway(**spec))
    deployment = objects["Deployment"]["spec"]
    template, pod = deployment["template"], deployment["template"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert template["metadata"]["annotations"]["note"] == "1"
    assert (template["metadata"]["labels"]["team"], template["metadata"]["labels"]["istio"]) == ("a", "ingressgateway-asm")
    assert pod["nodeSelector"] == {"pool": "gateways"}
    assert pod["containers"][0]["readinessProbe"]["periodSeconds"] == 1
    assert pod["containers"][0]["readinessProbe"]["failureThreshold"] == 30
    assert {"name": "net.core.somaxconn", "value": "1024"} in pod["securityContext"]["sysctls"]
    assert {"name": "certs", "mountPath": "/etc/certs"} in pod["containers"][0]["volumeMounts"]
    service = objects["Service"]
    assert service["metadata"]["labels"]["lb"] == "x"
    assert (service["spec"]["externalTrafficPolicy"], service["spec"]["loadBalancerClass"]) == ("Local", "class")


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (gateway(namespace="demo"), "must be in namespace istio-system, not demo"),
        (gateway(clusterIds=None), r"clusterIds \[\] does not name"),
        (gateway(clusterIds=["else"]), "does not name the mesh's cluster c0ack"),
        (gateway(clusterIds=["c0ack", "else"]), r"\['else'\] are not in the mesh"),
        (gateway(ports=None), "ports is empty"),
        (gateway(gatewayType=None), "neither ingress nor egress"),
        (gateway(name="a" * 51), "no valid Service name"),
        (gateway(name="a.b"), "no valid Service name"),
    ],
)
def test_refused(wanted: Object, text: str) -> None:
    with pytest.raises(GatewayError, match=text):
        render(wanted, MESH)


def test_both_versions_of_the_crd_are_served_with_one_schema() -> None:
    crd = yaml.safe_load((CRDS / "istiogateways.yaml").read_text())
    versions = {version["name"]: version for version in crd["spec"]["versions"]}
    assert set(versions) == {"v1", "v1beta1"}
    assert all(version["served"] and version["subresources"] == {"status": {}} for version in versions.values())
    assert [version["storage"] for version in versions.values()].count(True) == 1
    assert versions["v1"]["schema"] == versions["v1beta1"]["schema"]
    spec = versions["v1"]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    per_cluster = spec["overrides"]["additionalProperties"]["properties"]
    assert set(spec) - set(per_cluster) == {"gatewayType", "clusterIds", "overrides"}
