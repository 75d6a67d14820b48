# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway and its load balancer as plain objects, for the tables of cases. Each function returns a fresh copy."""

from __future__ import annotations

from typing import Any

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Backend, Group, Listener, LoadBalancer
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway import Observed
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import GatewayPair, PairView
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import GatewayObjects

Object = dict[str, Any]
NAMESPACE, SOURCE, TARGET = "istio-system", "istio-ingressgateway", "ingressgateway-asm"
CLUSTER_ID = "c0a1b2c3d4e5f60718293a4b5c6d7e8f9"
LB_ID = "lb-1"
PORTS = (15021, 80, 443)
KIND = Kind("istio.alibabacloud.com/v1beta1", "IstioGateway", "istiogateways")
REUSE = {
    _ccm.ID: LB_ID,
    _ccm.VGROUP_PORT: "rsp-15021:15021,rsp-80:80,rsp-443:443",
    _ccm.WEIGHT: "100",
    _ccm.OVERRIDE: "false",
}


def service(name: str = SOURCE, **annotations: str) -> Object:
    """A Service of type LoadBalancer with the lab's ports; annotations by their full name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "labels": {"app": name, "istio": name.removeprefix("istio-"), "team": "edge"},
            "annotations": dict(annotations),
            "finalizers": ["service.k8s.alibaba/resources"],
        },
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": {"istio": name.removeprefix("istio-")},
            "clusterIP": "10.96.0.10",
            "ports": [
                {"name": "status-port", "port": 15021, "targetPort": 15021, "nodePort": 30021, "protocol": "TCP"},
                {"name": "http2", "port": 80, "targetPort": 8080, "nodePort": 30080, "protocol": "TCP"},
                {"name": "https", "port": 443, "targetPort": "https", "nodePort": 30443, "protocol": "TCP"},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
    }


def deployment(name: str = SOURCE, *, replicas: int = 2, ready: bool = True) -> Object:
    labels = {"app": name, "istio": name.removeprefix("istio-"), "team": "edge"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-deploy-{name}", "generation": 3},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"istio": name.removeprefix("istio-")}},
            "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {"sidecar.istio.io/inject": "true", "prometheus.io/port": "15020", "audit": "yes"},
                },
                "spec": {
                    "serviceAccountName": name,
                    "affinity": {
                        "podAntiAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": [
                                {
                                    "topologyKey": "kubernetes.io/hostname",
                                    "labelSelector": {"matchLabels": {"istio": name.removeprefix("istio-")}},
                                }
                            ]
                        }
                    },
                    "tolerations": [{"key": "edge", "operator": "Exists"}],
                    "nodeSelector": {"pool": "edge"},
                    "terminationGracePeriodSeconds": 60,
                    "containers": [
                        {
                            "name": "istio-proxy",
                            "image": "auto",
                            "ports": [{"name": "https", "containerPort": 8443}],
                            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2"}},
                            "readinessProbe": {
                                "failureThreshold": 30,
                                "periodSeconds": 2,
                                "successThreshold": 1,
                                "timeoutSeconds": 1,
                            },
                            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
                            "env": [
                                {"name": "ISTIO_META_CLUSTER_ID", "value": "Kubernetes"},
                                {"name": "CA_ADDR", "value": "istiod"},
                                {"name": "TZ", "value": "UTC"},
                            ],
                        }
                    ],
                },
            },
        },
        "status": {
            "observedGeneration": 3,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "availableReplicas": replicas if ready else 0,
        },
    }


def hpa(name: str = SOURCE) -> Object:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-hpa-{name}"},
        "spec": {
            "minReplicas": 2,
            "maxReplicas": 7,
            "scaleTargetRef": {"kind": "Deployment", "name": name},
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
            ],
        },
    }


def nodes(count: int = 2, *, bad: bool = False) -> tuple[Object, ...]:
    """Ready nodes i-ack0, i-ack1, ...; ``bad``: one more without providerID."""
    names = [f"node{number}" for number in range(count)]
    found = [_node(name, f"cn-hangzhou.i-ack{number}") for number, name in enumerate(names)]
    return tuple([*found, _node("fresh", "")] if bad else found)


def _node(name: str, provider: str) -> Object:
    spec = {"providerID": provider} if provider else {}
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def slices(name: str) -> list[Object]:
    """Both nodes have one ready pod."""
    ready = {"conditions": {"ready": True}}
    endpoints = [{"addresses": [f"10.21.{number}.5"], "nodeName": f"node{number}", **ready} for number in range(2)]
    ports = [{"name": "status-port", "port": 15021}, {"name": "http2", "port": 8080}, {"name": "https", "port": 8443}]
    return [{"metadata": {"name": f"{name}-1"}, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}]


def backends(name: str, weight: int, port: int) -> tuple[Backend, ...]:
    """The two nodes with this weight each."""
    text = f"k8s/{port}/{name}/{NAMESPACE}/{CLUSTER_ID}"
    return tuple(Backend(f"i-ack{number}", port, weight, "ecs", "", text) for number in range(2))


def view(
    source: Object | None,
    target: Object | None,
    *,
    weights: tuple[int | None, int | None] = (50, None),
    tags: dict[str, str] | None = None,
    names: str = "shared-{}",
    scheduler: str = "wrr",
    bad_node: bool = False,
) -> PairView:
    """The load balancer with three listeners; ``weights``: of each backend of source and target, None = has no backends."""
    groups = []
    for port in PORTS:
        found: tuple[Backend, ...] = ()
        for name, weight, number in ((SOURCE, weights[0], 30000), (f"istio-{TARGET}", weights[1], 31000)):
            found += backends(name, weight, number + port % 1000) if weight is not None else ()
        groups.append(Group(f"rsp-{port}", names.format(port), (port,), found))
    listeners = tuple(
        Listener(port, "tcp", scheduler, f"rsp-{port}", "running", f"k8s/{port}/{SOURCE}/{NAMESPACE}/{CLUSTER_ID}")
        for port in PORTS
    )
    return PairView(
        GatewayPair(NAMESPACE, SOURCE, TARGET),
        source,
        target,
        nodes(bad=bad_node),
        {SOURCE: slices(SOURCE), f"istio-{TARGET}": slices(f"istio-{TARGET}")},
        LoadBalancer(LB_ID, "a-lb", "198.51.100.1", "active", "on", "ConsoleProtection", tags or {}),
        listeners,
        tuple(groups),
    )


def objects(name: str, present: bool = True, **annotations: str) -> GatewayObjects:
    found = GatewayObjects(NAMESPACE, name)
    if present:
        found.service, found.deployment = service(name, **annotations), deployment(name)
    return found


def observed(*, gateway: Object | None = None, made: bool = False, reuse: bool = True, **more: Any) -> Observed:
    """A source gateway that is reusable; with ``made`` the target's Service and Deployment are there too."""
    source = objects(SOURCE, **(REUSE if reuse else {}))
    target = objects(f"istio-{TARGET}", made, **{**REUSE, _ccm.WEIGHT: "0"})
    return Observed(NAMESPACE, TARGET, KIND, gateway, source, target, view(source.service, target.service, **more))
