# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample application: echo in two versions with sidecars, and the Istio configuration that lets it out.

All objects are made in the ACK cluster. What ASM's control plane is to know of them (Gateway, VirtualService,
DestinationRule) is for the migration to copy.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lab import mesh_ca
from lab.cluster import Cluster
from lab.images import ECHO
from lab.mesh_source import namespace
from lab.state import Lab

NAMESPACE = "demo"
VERSIONS = {"v1": 80, "v2": 20}  # weight of each in the VirtualService
PRE_STOP, DRAIN, GRACE = 3, 3, 30  # seconds: out of the Service while serving; serving and closing; at most
Object = dict[str, Any]


def deployment(version: str, replicas: int = 2) -> Object:
    """One version of echo. It is ready at once and ends without losing a request (its native sidecar ends after it)."""
    labels = {"app": "echo", "version": version}
    container = {
        "name": "echo",
        "image": ECHO,
        "args": ["-listen=:8080", f"-drain={DRAIN}s"],
        "env": [
            {"name": "VERSION", "value": version},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP}}},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"echo-{version}", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": "echo",
                    "terminationGracePeriodSeconds": GRACE,
                    "containers": [container],
                },
            },
        },
    }


def workloads() -> list[Object]:
    """ServiceAccount, Service and the Deployments."""
    meta = {"name": "echo", "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "labels": {"app": "echo"}},
            "spec": {"selector": {"app": "echo"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        },
        *(deployment(version) for version in VERSIONS),
    ]


def routing(gateway_label: str = "ingressgateway") -> list[Object]:
    """Gateway (HTTP 80 and HTTPS 443), VirtualService, DestinationRule; `gateway_label`: value of the pods' label istio."""
    host = f"echo.{NAMESPACE}.svc.cluster.local"
    routes = [{"destination": {"host": host, "subset": name}, "weight": weight} for name, weight in VERSIONS.items()]
    servers = [
        {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [mesh_ca.HOST]},
        {
            "port": {"number": 443, "name": "https", "protocol": "HTTPS"},
            "hosts": [mesh_ca.HOST],
            "tls": {"mode": "SIMPLE", "credentialName": mesh_ca.CREDENTIAL},
        },
    ]

    def istio(kind: str, name: str, spec: Object) -> Object:
        meta = {"name": name, "namespace": NAMESPACE}
        return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}

    return [
        istio("Gateway", "echo-gateway", {"selector": {"istio": gateway_label}, "servers": servers}),
        istio("VirtualService", "echo", {"hosts": [mesh_ca.HOST], "gateways": ["echo-gateway"], "http": [{"route": routes}]}),
        istio("DestinationRule", "echo", {"host": host, "subsets": [{"name": v, "labels": {"version": v}} for v in VERSIONS]}),
    ]


PLURALS = {
    "Deployment": "deployments",
    "DestinationRule": "destinationrules",
    "Gateway": "gateways",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "VirtualService": "virtualservices",
}


def apply(cluster: Cluster, objects: list[Object]) -> None:
    """Server-side apply, all at once."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        jobs = [pool.submit(cluster.apply_object, one["apiVersion"], PLURALS[one["kind"]], one) for one in objects]
        for job in jobs:
            job.result()


def install(lab: Lab, ack: Cluster) -> None:
    """Install the application in the source mesh and wait until every pod (and its sidecar) is ready.

    :raises LabError: not ready in a minute.
    """
    ack.apply_object("v1", "namespaces", namespace(NAMESPACE, {"istio-injection": "enabled"}))
    apply(ack, [*workloads(), *routing()])
    for version in VERSIONS:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/echo-{version}"
        ack.wait(f"echo-{version}", lambda path=path: _complete(ack.api.get(path)), 60)  # type: ignore[misc]


def _complete(found: Object) -> bool:
    status, wanted = found.get("status", {}), found["spec"]["replicas"]
    return bool(status.get("observedGeneration") == found["metadata"]["generation"] and status.get("readyReplicas") == wanted)
