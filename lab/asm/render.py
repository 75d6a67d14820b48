# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From an IstioGateway to the objects of its gateway: a pure function."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

NAMESPACE = "istio-system"
OVERRIDE = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-force-override-listeners"
OWNER = "asm.alibabacloud.com/gateway"  # annotation: which IstioGateway of which mesh made an object
MANAGED = {"provider": "asm"}  # label of all that we make, for watching
RESOURCES = {"limits": {"cpu": "2", "memory": "2G"}, "requests": {"cpu": "200m", "memory": "256Mi"}}
SERVER = "asm-ingressgateway"
ISTIO_ROOT, ASM_ROOT = "istio-ca-root-cert", "asm-ca-root-cert"
XDS_AGENT = {"PROXY_CONFIG_XDS_AGENT": "true"}  # the agent asks its istiod for the roots to trust
STATUS_PORT = 15021
GRACE, PRE_STOP, DRAIN = 45, 3, 5  # seconds: as the source gateway's
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")


class GatewayError(Exception):
    """What is wrong with an IstioGateway, in words for its status."""


@dataclass(frozen=True)
class Mesh:
    """What the controller knows of the mesh: its id, the ACK cluster's id, where istiod is, which proxy image is run.

    :arg root: the ConfigMap in each namespace with the root by which a proxy knows istiod; Istio's own when both have one root.
    """

    id: str
    cluster_id: str
    image: str
    istiod: str = "istiod-1-31-0"
    version: str = "v1.31.0-lab-aliyun"
    trust_domain: str = "cluster.local"
    root: str = ISTIO_ROOT

    @property
    def discovery(self) -> str:
        return f"{self.istiod}.{NAMESPACE}.svc:15012"


def object_name(gateway: Object) -> str:
    """Name of the gateway's Service and Deployment."""
    return f"istio-{gateway['metadata']['name']}"


def owner(gateway: Object, mesh: Mesh) -> str:
    """The mark on every object of a gateway."""
    return f"{mesh.id}/{gateway['metadata']['namespace']}/{gateway['metadata']['name']}"


def settings(gateway: Object, mesh: Mesh) -> Object:
    """The spec as it holds for our cluster: `overrides` for it replace fields of the base.

    :raises GatewayError: namespace, name, type, clusterIds or ports cannot be right.
    """
    meta, spec = gateway["metadata"], gateway.get("spec") or {}
    if meta["namespace"] != NAMESPACE:
        raise GatewayError(f"an IstioGateway must be in namespace {NAMESPACE}, not {meta['namespace']}")
    if not _NAME.match(meta["name"]) or len(meta["name"]) > 50:
        raise GatewayError(f"the name {meta['name']!r} gives no valid Service name istio-{meta['name']}")
    if mesh.cluster_id not in (spec.get("clusterIds") or []):
        raise GatewayError(f"clusterIds {spec.get('clusterIds') or []} does not name the mesh's cluster {mesh.cluster_id}")
    unknown = sorted(set(spec["clusterIds"]) - {mesh.cluster_id})
    if unknown:
        raise GatewayError(f"clusters {unknown} are not in the mesh")
    merged = {**spec, **((spec.get("overrides") or {}).get(mesh.cluster_id) or {})}
    if merged.get("gatewayType") not in ("ingress", "egress"):
        raise GatewayError(f"gatewayType {merged.get('gatewayType')!r} is neither ingress nor egress")
    if not merged.get("ports"):
        raise GatewayError("ports is empty: the gateway's Service would serve nothing")
    return merged


def render(gateway: Object, mesh: Mesh, replicas_now: int | None = None) -> list[Object]:
    """All objects of a gateway, ServiceAccount first and Service last.

    `replicas_now` is what the Deployment has: kept (within bounds) when autoscaling is on.
    :raises GatewayError: see `settings`.
    """
    spec = settings(gateway, mesh)
    name = object_name(gateway)
    labels = {"app": name, "istio": gateway["metadata"]["name"]}
    mark = {OWNER: owner(gateway, mesh)}

    def made(api: str, kind: str, called: str, body: Object, more: Object | None = None, notes: Object | None = None) -> Object:
        meta = {
            "name": called,
            "namespace": NAMESPACE,
            "labels": {**labels, **MANAGED, **(more or {})},
            "annotations": {**(notes or {}), **mark},
        }
        return {"apiVersion": api, "kind": kind, "metadata": meta, **body}

    account, role = f"{name}-service-account", f"{name}-sds"
    objects = [
        made("v1", "ServiceAccount", account, {}),
        # istiod gives a gateway the certificates of its namespace only if the gateway itself may read them
        made(
            "rbac.authorization.k8s.io/v1",
            "Role",
            role,
            {"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}]},
        ),
        made(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            role,
            {
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
            },
        ),
        made("apps/v1", "Deployment", name, {"spec": _deployment(name, labels, account, spec, mesh, replicas_now)}),
    ]
    if spec.get("autoscaleEnabled"):
        objects.append(made("autoscaling/v2", "HorizontalPodAutoscaler", name, {"spec": _autoscaler(name, spec)}))
    service, notes = _service(labels, spec)
    objects.append(made("v1", "Service", name, {"spec": service}, spec.get("serviceLabels"), notes))
    return objects


def _bounds(spec: Object) -> tuple[int, int]:
    low = int(spec.get("minReplicas") or spec.get("replicaCount") or 1)
    return low, max(low, int(spec.get("maxReplicas") or 5))


def _autoscaler(name: str, spec: Object) -> Object:
    low, high = _bounds(spec)
    metrics = [
        {"type": "Resource", "resource": {"name": what, "target": {"type": "Utilization", "averageUtilization": wanted}}}
        for what in ("cpu", "memory")
        if (wanted := (spec.get(what) or {}).get("targetAverageUtilization") or (80 if what == "cpu" else None))
    ]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    return {"scaleTargetRef": target, "minReplicas": low, "maxReplicas": high, "metrics": metrics}


def _service(labels: Object, spec: Object) -> tuple[Object, Object]:
    """Spec and annotations of the Service."""
    kind = spec.get("serviceType") or ("LoadBalancer" if spec["gatewayType"] == "ingress" else "ClusterIP")
    notes = dict(spec.get("serviceAnnotations") or {})
    service: Object = {"type": kind, "selector": labels, "ports": [_port(i, port) for i, port in enumerate(spec["ports"])]}
    if kind != "ClusterIP":
        service["externalTrafficPolicy"] = spec.get("externalTrafficPolicy") or "Cluster"
    if kind == "LoadBalancer":
        notes.setdefault(OVERRIDE, "true")
        service |= {key: spec[key] for key in ("loadBalancerIP", "loadBalancerClass") if spec.get(key)}
    return service, notes


def _port(index: int, port: Object) -> Object:
    chosen = {"name": port.get("name") or f"port-{index}", "port": port["port"], "protocol": port.get("protocol") or "TCP"}
    chosen["targetPort"] = port.get("targetPort") or port["port"]
    return chosen | {key: port[key] for key in ("nodePort", "appProtocol") if port.get(key)}


def _deployment(name: str, labels: Object, account: str, spec: Object, mesh: Mesh, replicas_now: int | None) -> Object:
    low, high = _bounds(spec)
    replicas = min(max(replicas_now or low, low), high) if spec.get("autoscaleEnabled") else spec.get("replicaCount", 1)
    pod_labels = {
        **(spec.get("podLabels") or {}),
        **labels,
        "service.istio.io/canonical-name": name,
        "service.istio.io/canonical-revision": "latest",
        "sidecar.istio.io/inject": "false",
    }
    notes = {"sidecar.istio.io/inject": "false", **(spec.get("podAnnotations") or {})}
    return {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "strategy": {
            "rollingUpdate": {
                "maxSurge": _amount(spec.get("rollingMaxSurge") or "100%"),
                "maxUnavailable": _amount(spec.get("rollingMaxUnavailable") or "25%"),
            }
        },
        "template": {"metadata": {"labels": pod_labels, "annotations": notes}, "spec": _pod(name, account, spec, mesh)},
    }


def _amount(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def _pod(name: str, account: str, spec: Object, mesh: Mesh) -> Object:
    volumes, mounts = _volumes(spec, mesh)
    context: Object = {"runAsUser": 0, "runAsGroup": 0} if spec.get("runAsRoot") else {"runAsUser": 1337, "runAsGroup": 1337}
    context["fsGroup"] = 1337
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "0"} if _low_ports(spec) and not spec.get("hostNetwork") else {}
    kernel = spec.get("kernel") or {}
    if kernel.get("enabled"):
        sysctls |= kernel.get("parameters") or {}
    if sysctls:
        context["sysctls"] = [{"name": key, "value": value} for key, value in sorted(sysctls.items())]
    container = {
        "name": "istio-proxy",
        "image": mesh.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["proxy", "router", "--domain", f"$(POD_NAMESPACE).svc.{mesh.trust_domain}", "--proxyLogLevel=warning"],
        "ports": [
            *({"containerPort": number, "protocol": "TCP"} for number in sorted({_number(port) for port in spec["ports"]})),
            {"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"},
        ],
        "env": _environment(name, spec, mesh),
        "resources": spec.get("resources") or RESOURCES,
        "readinessProbe": {
            "httpGet": {"path": "/healthz/ready", "port": STATUS_PORT, "scheme": "HTTP"},
            "initialDelaySeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 30,
            "periodSeconds": 2,
            "successThreshold": 1,
            **(spec.get("readinessProbe") or {}),
        },
        "lifecycle": spec.get("lifecycle") or {"preStop": {"sleep": {"seconds": PRE_STOP}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
    }
    pod: Object = {
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": context,
        "containers": [container],
        "volumes": volumes,
    }
    for key in ("nodeSelector", "affinity", "tolerations", "hostNetwork", "dnsPolicy"):
        if spec.get(key):
            pod[key] = spec[key]
    return pod


def _number(port: Object) -> int:
    """The port that the proxy listens on; a port given by name means the Service's own number."""
    target = port.get("targetPort") or port["port"]
    return int(target) if str(target).isdigit() else int(port["port"])


def _low_ports(spec: Object) -> bool:
    return any(_number(port) < 1024 for port in spec["ports"])


def _environment(name: str, spec: Object, mesh: Mesh) -> list[Object]:
    proxy = {
        "discoveryAddress": mesh.discovery,
        "proxyHeaders": {"server": {"value": SERVER}},
        "terminationDrainDuration": f"{DRAIN}s",
    }
    plain = {
        "PILOT_CERT_PROVIDER": "istiod",
        "CA_ADDR": mesh.discovery,
        "ASM_ID": mesh.id,
        "ASM_APP_VERSION": mesh.version,
        "CLOUD_PLATFORM": "none",  # no metadata service is asked: it would cost 2 s at each start
        "ISTIO_META_CLUSTER_ID": mesh.cluster_id,
        "ISTIO_META_MESH_ID": mesh.trust_domain,
        "ISTIO_META_OWNER": f"kubernetes://apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}",
        # istiod opens no port below 1024 on a pod that says it may not; ours may when it must (a sysctl, or root)
        "ISTIO_META_UNPRIVILEGED_POD": "false" if spec.get("runAsRoot") or _low_ports(spec) else "true",
        "ISTIO_META_WORKLOAD_NAME": name,
        "PROXY_CONFIG": json.dumps(proxy),
        "TRUST_DOMAIN": mesh.trust_domain,
        **(XDS_AGENT if mesh.root == ASM_ROOT else {}),
    }
    fields = {
        "NODE_NAME": "spec.nodeName",
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "INSTANCE_IP": "status.podIP",
        "HOST_IP": "status.hostIP",
        "SERVICE_ACCOUNT": "spec.serviceAccountName",
        "ISTIO_META_NODE_NAME": "spec.nodeName",
    }
    own = {entry["name"] for entry in spec.get("env") or []}
    return [
        *({"name": key, "value": value} for key, value in plain.items() if key not in own),
        *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items() if key not in own),
        *(spec.get("env") or []),
    ]


def _volumes(spec: Object, mesh: Mesh) -> tuple[list[Object], list[Object]]:
    """Volumes and their mounts: what pilot-agent needs, then the gateway's own."""
    token = {"serviceAccountToken": {"path": "istio-token", "expirationSeconds": 43200, "audience": "istio-ca"}}
    info = [{"path": part, "fieldRef": {"fieldPath": f"metadata.{part}"}} for part in ("labels", "annotations")]
    table: Iterable[tuple[str, str, Object]] = (
        ("workload-socket", "/var/run/secrets/workload-spiffe-uds", {"emptyDir": {}}),
        ("credential-socket", "/var/run/secrets/credential-uds", {"emptyDir": {}}),
        ("workload-certs", "/var/run/secrets/workload-spiffe-credentials", {"emptyDir": {}}),
        ("istio-envoy", "/etc/istio/proxy", {"emptyDir": {}}),
        ("istio-data", "/var/lib/istio/data", {"emptyDir": {}}),
        ("istiod-ca-cert", "/var/run/secrets/istio", {"configMap": {"name": mesh.root}}),
        ("istio-token", "/var/run/secrets/tokens", {"projected": {"sources": [token]}}),
        ("podinfo", "/etc/istio/pod", {"downwardAPI": {"items": info}}),
        *(
            (one["name"], one["mountPath"], {"secret": {"secretName": one["secretName"], "optional": True}})
            for one in spec.get("secretVolumes") or []
        ),
        *(
            (one["name"], one["mountPath"], {"configMap": {"name": one["configMapName"], "optional": True}})
            for one in spec.get("configVolumes") or []
        ),
    )
    volumes = [{"name": name, **source} for name, _, source in table]
    return volumes, [{"name": name, "mountPath": path} for name, path, _ in table]
