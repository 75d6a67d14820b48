# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two meshes of the lab: what their gateways answer, what an IstioGateway becomes, and that restarts lose nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import apps, mesh_ca, mesh_source, proc, traffic
from lab.asm.render import OVERRIDE
from lab.cluster import Cluster
from lab.kubeapi import KubeError, path_of
from lab.mesh_asm import ACK_ID
from lab.state import Lab, LabError

NAME = "probe"  # of the tests' own IstioGateway
GROUP = "istio.alibabacloud.com"
PORTS = [{"name": "http2", "port": 80, "targetPort": 8080}, {"name": "https", "port": 443, "targetPort": 8443}]
SERVICE = path_of("v1", "services", "istio-system", f"istio-{NAME}")
GATEWAY = path_of(f"{GROUP}/v1beta1", "istiogateways", "istio-system", NAME)


def until(check: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for something; gives what `check` gave."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def ack(lab: Lab) -> Cluster:
    return Cluster(lab, "ack", 1)


@pytest.fixture(scope="module")
def asm(lab: Lab) -> Cluster:
    return Cluster(lab, "asm", 2)


def ask(lab: Lab, url: str, address: str, host: str = mesh_ca.HOST) -> tuple[int, dict[str, str], dict[str, Any]]:
    """One request from the internet: status, headers, JSON body ({} when it is none)."""
    words = ["curl", "-sS", "-i", "--http1.1", "--max-time", "5", "--cacert", str(mesh_ca.gateway_authority(lab).crt)]
    words += [
        "-H",
        f"Host: {host}",
        "--resolve",
        f"{mesh_ca.HOST}:443:{address}",
        "--resolve",
        f"{mesh_ca.HOST}:80:{address}",
        url,
    ]
    head, _, body = proc.run(lab, words, netns="net").stdout.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.split("\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body) if body.startswith("{") else {}


def answers(lab: Lab, address: str) -> bool:
    """Whether the load balancer has found its backends healthy: that takes a moment longer than the pods' readiness."""
    try:
        return ask(lab, f"http://{mesh_ca.HOST}/", address)[0] == 200 == ask(lab, f"https://{mesh_ca.HOST}/", address)[0]
    except LabError:
        return False


@pytest.fixture(scope="module")
def gateway(lab: Lab, ack: Cluster, asm: Cluster) -> Iterator[str]:
    """An IstioGateway of the tests' own, with the sample application's routes for it; gives its address."""
    asm.apply_object("v1", "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}})
    for obj in apps.routing(NAME):
        # A DestinationRule counts in the namespace of the Service, of its client (here the gateway), or of the mesh.
        obj["metadata"] = {"name": NAME, "namespace": "istio-system" if obj["kind"] == "DestinationRule" else NAME}
        if obj["kind"] == "VirtualService":
            obj["spec"]["gateways"] = [NAME]
        asm.apply_object(obj["apiVersion"], apps.PLURALS[obj["kind"]], obj)
    spec = {"gatewayType": "ingress", "clusterIds": [ACK_ID], "ports": PORTS}
    meta = {"name": NAME, "namespace": "istio-system"}
    asm.api.create(
        path_of(f"{GROUP}/v1", "istiogateways", "istio-system"),
        {"apiVersion": f"{GROUP}/v1", "kind": "IstioGateway", "metadata": meta, "spec": spec},
    )
    try:
        until(lambda: asm.api.get(GATEWAY).get("status", {}).get("Status") == "Running", 60)
        status = asm.api.get(GATEWAY)["status"]
        assert status["ClusterIdGatewayAddressMap"] == [{"ipAddress": status["GatewayAddress"][0], "clusterId": ACK_ID}]
        address = status["GatewayAddress"][0]
        until(lambda: answers(lab, address), 60)
        yield address
    finally:
        asm.api.delete(GATEWAY)
        asm.api.delete(path_of("v1", "namespaces", None, NAME))
        asm.api.delete(path_of("networking.istio.io/v1", "destinationrules", "istio-system", NAME))
        until(lambda: asm.api.find(path_of("v1", "namespaces", None, NAME)) is None)
        until(lambda: asm.api.find(GATEWAY) is None)
        for api_version, plural in (("v1", "services"), ("apps/v1", "deployments")):
            assert ack.api.find(path_of(api_version, plural, "istio-system", f"istio-{NAME}")) is None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_source_gateway_answers_and_says_who_it_is(lab: Lab, scheme: str) -> None:
    status, headers, said = ask(lab, f"{scheme}://{mesh_ca.HOST}/path", traffic.address(lab))
    assert (status, headers["server"], said["path"]) == (200, "istio-ingressgateway", "/path")
    assert headers["x-lab-version"] in apps.VERSIONS
    assert headers["x-lab-caller"] == "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
    assert said["headers"]["X-Forwarded-Proto"] == [scheme]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_asm_gateway_reaches_the_same_pods_by_mutual_tls(lab: Lab, gateway: str, scheme: str) -> None:
    status, headers, _ = ask(lab, f"{scheme}://{mesh_ca.HOST}/", gateway)
    assert status == 200
    assert headers["server"] == "asm-ingressgateway"
    assert headers["x-lab-caller"] == f"spiffe://cluster.local/ns/istio-system/sa/istio-{NAME}-service-account"


def test_own_errors_of_a_gateway_say_who_it_is_too(lab: Lab, gateway: str) -> None:
    for address, server in ((traffic.address(lab), "istio-ingressgateway"), (gateway, "asm-ingressgateway")):
        status, headers, _ = ask(lab, f"http://{mesh_ca.HOST}/", address, host="unknown.lab.test")
        assert (status, headers["server"]) == (404, server)


def test_override_is_true_by_default_and_a_change_reaches_the_service(ack: Cluster, asm: Cluster, gateway: str) -> None:
    notes = ack.api.get(SERVICE)["metadata"]["annotations"]
    assert notes[OVERRIDE] == "true"
    for version, value in (("v1", "false"), ("v1beta1", "true")):  # both versions are served, and are one object
        path = path_of(f"{GROUP}/{version}", "istiogateways", "istio-system", NAME)
        asm.api.patch(path, {"spec": {"serviceAnnotations": {OVERRIDE: value, "note": version}}})
        until(lambda: ack.api.get(SERVICE)["metadata"]["annotations"].get("note") == version, 5)  # noqa: B023
        assert ack.api.get(SERVICE)["metadata"]["annotations"][OVERRIDE] == value


def test_the_service_of_somebody_else_is_left_alone(ack: Cluster, asm: Cluster) -> None:
    name = "probe-taken"
    service, wanted = (path_of("v1", "services", "istio-system"), path_of(f"{GROUP}/v1", "istiogateways", "istio-system"))
    meta = {"name": f"istio-{name}", "namespace": "istio-system"}
    before = ack.api.create(service, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}})
    spec = {"gatewayType": "ingress", "clusterIds": [ACK_ID], "ports": PORTS}
    meta = {"name": name, "namespace": "istio-system"}
    asm.api.create(wanted, {"apiVersion": f"{GROUP}/v1", "kind": "IstioGateway", "metadata": meta, "spec": spec})
    try:
        message = until(lambda: asm.api.get(f"{wanted}/{name}").get("status", {}).get("ErrorMessage"), 10)
        assert f"Service istio-system/istio-{name} exists" in message
        assert ack.api.get(f"{service}/istio-{name}") == before
    finally:
        asm.api.delete(f"{wanted}/{name}")
        until(lambda: asm.api.find(f"{wanted}/{name}") is None, 10)
        assert ack.api.find(f"{service}/istio-{name}") is not None
        ack.api.delete(f"{service}/istio-{name}")


def test_control_plane_judges_configuration(asm: Cluster, gateway: str) -> None:
    http = [{"redirect": {"uri": "/x"}, "route": [{"destination": {"host": "x"}}]}]
    bad = {"hosts": ["a.b"], "http": http}
    meta = {"name": "bad", "namespace": NAME}
    obj = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": bad}
    with pytest.raises(KubeError, match="cannot contain both route and redirect"):
        asm.api.create(path_of("networking.istio.io/v1", "virtualservices", NAME), obj)


def test_restarts_of_gateway_application_and_istiod_lose_nothing(lab: Lab, ack: Cluster) -> None:
    run = traffic.start(lab, rate=150, seconds=120, name="restarts")
    try:
        for namespace, name in (("istio-system", "istio-ingressgateway"), ("demo", "echo-v1"), ("istio-system", "istiod")):
            ack.kubectl("-n", namespace, "rollout", "restart", f"deployment/{name}")
            ack.kubectl("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=60s", timeout=70)
        time.sleep(mesh_source.PRE_STOP + mesh_source.DRAIN + 1)  # the old pods drain
    finally:
        summary = run.stop()
    assert (summary["failed"], summary["errors"]) == (0, {})
    assert summary["sent"] == summary["ok"] > 1500
    assert {served["gateway"] for served in summary["served"]} == {"istio-ingressgateway"}
