# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What leaves the mesh: a server in the internet, Istio's egress gateway before it, and a client that calls it all the time.

The server is a process in the internet's namespace at 192.0.2.2, known to the mesh as `partner.lab.test` by a ServiceEntry. Each
gateway's route puts the gateway's name in the place of the server's version, so the client counts which way an answer came.
Istio's gateway is a Deployment that Istio's own webhook makes a gateway of. ASM's is for the migration to make.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import binaries, net, proc
from lab.asm.render import GRACE, PRE_STOP
from lab.cluster import Cluster
from lab.kubeapi import KubeError, path_of
from lab.load import Load
from lab.mesh_source import NAMESPACE as SYSTEM
from lab.mesh_source import gateway_proxy_config
from lab.state import Lab

HOST, PORT = "partner.lab.test", 8088
NAMESPACE = "demo"
GATEWAY = "istio-egressgateway"
ASM_GATEWAY = "asm-egress"
SERVER = "internet-server"
NETWORKING = "networking.istio.io/v1"
Object = dict[str, Any]


def service(name: str) -> str:
    """The full name of a Service of the meshes' namespace."""
    return f"{name}.{SYSTEM}.svc.cluster.local"


def istio(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": NETWORKING, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def service_entry() -> Object:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": PORT}]
    spec = {"hosts": [HOST], "ports": ports, "resolution": "STATIC", "location": "MESH_EXTERNAL"}
    return istio("ServiceEntry", "partner", {**spec, "endpoints": [{"address": net.INTERNET_THERE}]})


def inside() -> Object:
    """The route of the mesh to the gateway: the one that moves."""
    route = [{"destination": {"host": service(GATEWAY), "port": {"number": 80}}}]
    http = [{"match": [{"gateways": ["mesh"], "port": 80}], "route": route}]
    return istio("VirtualService", "partner-through-egress", {"hosts": [HOST], "gateways": ["mesh"], "http": http})


def outside(gateway: str, label: str) -> list[Object]:
    """The gateway's port, and its route to the world; the answers say its name."""
    port = {"number": 80, "name": "http", "protocol": "HTTP"}
    out = [{"destination": {"host": HOST, "port": {"number": 80}}, "headers": {"response": {"set": {"x-lab-version": gateway}}}}]
    spec = {"hosts": [HOST], "gateways": [gateway], "http": [{"route": out}]}
    return [
        istio("Gateway", gateway, {"selector": {"istio": label}, "servers": [{"port": port, "hosts": [HOST]}]}),
        istio("VirtualService", f"partner-out-of-{gateway}", spec),
    ]


def source_gateway() -> list[Object]:
    """Istio's egress gateway, as its documentation makes one by injection."""
    labels = {"app": GATEWAY, "istio": "egressgateway"}
    meta = {"name": GATEWAY, "namespace": SYSTEM, "labels": labels}
    notes = {"inject.istio.io/templates": "gateway", "proxy.istio.io/config": json.dumps(gateway_proxy_config(GATEWAY))}
    container = {
        "name": "istio-proxy",
        "image": "auto",
        "imagePullPolicy": "IfNotPresent",  # else it is Always, since "auto" has no tag
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP}}},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": GRACE}
    template = {"metadata": {"labels": {**labels, "sidecar.istio.io/inject": "true"}, "annotations": notes}, "spec": pod}
    ports = [{"name": "http2", "port": 80, "targetPort": 8080}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        },
    ]


def asm_gateway(cluster_id: str) -> Object:
    """The IstioGateway of ASM's egress gateway, for the migration to make."""
    spec = {
        "gatewayType": "egress",
        "clusterIds": [cluster_id],
        "replicaCount": 2,
        "ports": [{"name": "http2", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    meta = {"name": ASM_GATEWAY, "namespace": SYSTEM}
    return {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": "IstioGateway", "metadata": meta, "spec": spec}


_PLURALS = {
    "Service": "services",
    "Deployment": "deployments",
    "ServiceEntry": "serviceentries",
    "Gateway": "gateways",
    "VirtualService": "virtualservices",
}


def path(obj: Object) -> str:
    return path_of(obj["apiVersion"], _PLURALS[obj["kind"]], obj["metadata"]["namespace"], obj["metadata"]["name"])


@contextmanager
def running(lab: Lab) -> Iterator[Cluster]:
    """The server, Istio's gateway and its routes are there; afterwards nothing of them is."""
    ack = Cluster(lab, "ack", 1)
    made = [*source_gateway(), service_entry(), *outside(GATEWAY, "egressgateway"), inside()]
    echo: list[str | Path] = [binaries.path("echo"), f"-listen={net.INTERNET_THERE}:{PORT}"]
    proc.spawn(lab, SERVER, echo, netns="net", env={"VERSION": "internet", "POD_NAME": "server"})
    try:
        for obj in made:
            ack.apply_object(obj["apiVersion"], _PLURALS[obj["kind"]], obj)
            if obj["kind"] == "Deployment":
                ack.wait(GATEWAY, lambda obj=obj: ack.api.get(path(obj)).get("status", {}).get("readyReplicas") == 2, 90)  # type: ignore[misc]
        yield ack
    finally:
        for obj in reversed(made):
            with contextlib.suppress(KubeError):
                ack.api.delete(path(obj))
        proc.stop(lab, SERVER)


class Caller(Load):
    """The client of `lab.load`, which calls the server in the internet instead of the application."""

    # No DNS knows the name: the address is never called, for the sidecar goes by the name.
    target = (f"-target=partner=http://{HOST}/", f"-resolve={HOST}={net.INTERNET_THERE}")

    def by_gateway(self) -> dict[str, int]:
        """How many answers came through each gateway."""
        found: dict[str, int] = {}
        for line in self.buckets():
            for served in line["served"]:
                name = str(served.get("version") or "none")
                found[name] = found.get(name, 0) + int(served["n"])
        return found
