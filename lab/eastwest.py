# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traffic between two networks: a second cluster whose pods are reached through an east-west gateway and in no other way.

The ACK cluster is in network-1. Cluster `b` has a node and an API server of its own and is in network-2: the cloud has no route
to its pods, and what they send leaves with the node's address. It has no istiod: Istio's in the ACK cluster serves it (Istio's
"primary-remote on different networks"). Its east-west gateway routes by SNI and does not end the TLS (AUTO_PASSTHROUGH, port
15443), so mutual TLS goes from sidecar to sidecar. The Service `demo/far` is in both clusters and has its only server in `b`.

Built from these facts:
- Istio's pages of installation and of MeshNetworks: values.global.meshNetworks says which cluster is in which network and where
  its gateway is, values.global.network what sidecars are told; a secret tells istiod of a cluster; Gateways can AUTO_PASSTHROUGH.
  All of it is read by a real istiod here, and the proxies are real.
- The vendor's example of a migration: cluster a is network-1, cluster b network-2, in Istio and in ASM.

Not used: the label topology.istio.io/network of istio-system and of the gateway's Service. Any istiod that sees the cluster reads
it, so the lab's ASM, which is one, would know without being told; whether the real one reads it is not known, and the vendor
wants to be told. (The istiod of Istio 1.31 also sends a sidecar that knows no network to gateways it knows; older ones do not.)
Made simple: `b` is reached by nobody but the ACK cluster and calls nobody, so the ACK cluster needs no gateway of its own. ASM is
told of `b` and has it as a member from the beginning, as both are when a cluster has been added to an instance; `b` itself does
not migrate. Its root certificate and its way to istiod are written here instead of by a remote profile of istioctl.
Not verified: what ASM does with the networks (lab/asm/networks.py), and with the gateway of a cluster that it did not make.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lab import apps, images, mesh_asm, net
from lab.cluster import Cluster
from lab.kubeapi import path_of
from lab.load import Load
from lab.mesh_source import NAMESPACE as SYSTEM
from lab.mesh_source import namespace
from lab.state import Lab

NETWORK, OTHER = "network-1", "network-2"
B_ID = "c0b2c3d4e5f60718293a4b5c6d7e8f9a0"
NAMESPACE, NAME = apps.NAMESPACE, "far"
GATEWAY, HOST, PORT = "istio-eastwestgateway", "10.10.3.10", 15443  # at the node of `b`, as at a load balancer
ADDRESS = f"{HOST}:{PORT}"
ROOT = "istio-ca-root-cert"
Object = dict[str, Any]

INJECTOR = path_of("v1", "configmaps", SYSTEM, "istio-sidecar-injector")
MESH_CONFIG = path_of("v1", "configmaps", SYSTEM, "istio")
PODS = path_of("v1", "pods", NAMESPACE)
_PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "EndpointSlice": "endpointslices",
    "Gateway": "gateways",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "Namespace": "namespaces",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}


def service(name: str, place: str, ports: dict[int, int], selector: dict[str, str] | None, **labels: str) -> Object:
    """A Service with ports by number of port and target."""
    spec: Object = {"ports": [{"name": f"tcp-{port}", "port": port, "targetPort": to} for port, to in ports.items()]}
    if selector:
        spec["selector"] = selector
    meta = {"name": name, "namespace": place, "labels": labels}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def far() -> Object:
    """The Service that both clusters have; its pods are in one of them."""
    made = service(NAME, NAMESPACE, {80: 8080}, {"app": NAME})
    made["spec"]["ports"][0]["name"] = "http"
    return made


def _injected(deployment: Object, **annotations: str) -> Object:
    meta = deployment["spec"]["template"]["metadata"]
    meta["labels"] = {**meta["labels"], "sidecar.istio.io/inject": "true"}
    meta["annotations"] = annotations
    return deployment


def server() -> list[Object]:
    """What answers in the other network."""
    made = apps.deployment(NAME, replicas=1)
    labels = {"app": NAME, "version": NAME}
    made["metadata"] |= {"name": NAME, "labels": labels}
    made["spec"]["selector"]["matchLabels"] = made["spec"]["template"]["metadata"]["labels"] = labels
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "echo", "namespace": NAMESPACE}}
    return [account, far(), _injected(made)]


def gateway() -> list[Object]:
    """The way into the other network. Its Service waits for the address of a load balancer, which `running` gives."""
    labels = {"app": GATEWAY, "istio": "eastwestgateway"}
    container = {
        "name": "istio-proxy",
        "image": "auto",
        "imagePullPolicy": "IfNotPresent",  # else it is Always, since "auto" has no tag
        "env": [{"name": "ISTIO_META_REQUESTED_NETWORK_VIEW", "value": OTHER}],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    meta = {"name": GATEWAY, "namespace": SYSTEM, "labels": labels}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
    front = service(GATEWAY, SYSTEM, {PORT: PORT}, labels, **labels)
    front["spec"]["type"] = "LoadBalancer"
    return [front, _injected(deployment, **{"inject.istio.io/templates": "gateway"})]


def passthrough() -> Object:
    """What the gateway lets through: the whole mesh, by SNI. It is configuration of the mesh, which is in the ACK cluster."""
    one = {"port": {"number": PORT, "name": "tls", "protocol": "TLS"}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"]}
    spec = {"selector": {"istio": "eastwestgateway"}, "servers": [one]}
    meta = {"name": "cross-network-gateway", "namespace": SYSTEM}
    return {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": meta, "spec": spec}


def control_plane(address: str, root: str) -> list[Object]:
    """Istio's istiod (a pod of the ACK cluster) as seen from `b`: its name, its injection, and its root in each namespace."""
    ports = {15012: 15012, 443: 15017}
    labels = {"kubernetes.io/service-name": "istiod", "endpointslice.kubernetes.io/managed-by": "lab"}
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {"name": "istiod", "namespace": SYSTEM, "labels": labels},
        "ports": [{"name": f"tcp-{port}", "port": to, "protocol": "TCP"} for port, to in ports.items()],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    where = {"name": "istiod", "namespace": SYSTEM, "path": f"/inject/cluster/{B_ID}/net/{OTHER}", "port": 443}
    hook = {
        "name": "sidecar-injector.istio.io",
        "clientConfig": {"service": where, "caBundle": mesh_asm.encoded(root)},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        "objectSelector": {"matchLabels": {"sidecar.istio.io/inject": "true"}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    api = "admissionregistration.k8s.io/v1"
    hooks = {"apiVersion": api, "kind": "MutatingWebhookConfiguration", "metadata": {"name": "istiod"}, "webhooks": [hook]}
    roots = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOT, "namespace": place}, "data": {"root-cert.pem": root}}
        for place in (SYSTEM, NAMESPACE)
    ]
    return [*roots, service("istiod", SYSTEM, ports, None), slices, hooks]


def _apply(cluster: Cluster, obj: Object) -> None:
    cluster.apply_object(obj["apiVersion"], _PLURALS[obj["kind"]], obj)


def _remove(cluster: Cluster, obj: Object) -> None:
    meta = obj["metadata"]
    cluster.api.delete(path_of(obj["apiVersion"], _PLURALS[obj["kind"]], meta.get("namespace"), meta["name"]))


def _mesh(lab: Lab, change: Object | None = None) -> Object:
    """What the cloud knows of ASM, after a change."""
    data = None if change is None else json.dumps(change).encode()
    url, method = f"{mesh_asm.CLOUD}/_lab/meshes", "GET" if data is None else "PUT"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with net.inside(lab), urllib.request.urlopen(request, timeout=10) as answer:
        found: Object = json.load(answer)
    return found


def _member(lab: Lab, *, there: bool) -> None:
    """`b` is a cluster of the account and in the ASM instance, or neither."""
    mesh = _mesh(lab)["meshes"][mesh_asm.MESH_ID]
    kept = {part: {key: one for key, one in mesh[part].items() if key != B_ID} for part in ("members", "networks")}
    if there:
        kept["members"][B_ID] = {"cluster_id": B_ID}
    _mesh(lab, {"meshes": {mesh_asm.MESH_ID: kept}, "clusters": {B_ID: {"name": "b"} if there else None}})


def _ready(cluster: Cluster, place: str, name: str) -> None:
    where = path_of("apps/v1", "deployments", place, name)
    cluster.wait(name, lambda: bool(cluster.api.get(where).get("status", {}).get("readyReplicas")), 90)


def network_of(pod: Object) -> str | None:
    """The network that the proxy of a pod was told that it is in."""
    for one in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]:
        if one["name"] == "istio-proxy":
            return next((item.get("value") for item in one["env"] if item["name"] == "ISTIO_META_NETWORK"), None)
    return None


def _sidecars_know(ack: Cluster) -> bool:
    """Whether a pod that is made now would be told its network (asked by a dry run)."""
    spec = {"containers": [{"name": "app", "image": images.ECHO}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "dry", "namespace": NAMESPACE}, "spec": spec}
    return network_of(ack.api.create(PODS, pod, dryRun="All")) == NETWORK


def _forgotten(ack: Cluster) -> bool:
    """Whether no pod of the application knows a network, and all of it is ready."""
    if any(network_of(pod) for pod in ack.api.list(PODS)["items"]):
        return False
    made = ack.api.list(path_of("apps/v1", "deployments", NAMESPACE))["items"]
    return all(one.get("status", {}).get("readyReplicas", 0) == one["spec"]["replicas"] for one in made)


def _forget(ack: Cluster) -> None:
    """Pods that were made meanwhile know the network: they are made anew, and no template is changed for it."""
    for pod in ack.api.list(PODS)["items"]:
        if network_of(pod):
            ack.api.delete(path_of("v1", "pods", NAMESPACE, pod["metadata"]["name"]))
    ack.wait("the application without network", lambda: _forgotten(ack), 120)


@contextmanager
def _two_networks(ack: Cluster) -> Iterator[None]:
    """Istio knows both networks, and its new sidecars theirs."""
    networks = {
        NETWORK: {"endpoints": [{"fromRegistry": "Kubernetes"}], "gateways": []},
        OTHER: {"endpoints": [{"fromRegistry": B_ID}], "gateways": [{"address": HOST, "port": PORT}]},
    }
    before = {path: ack.api.get(path)["data"][key] for path, key in ((MESH_CONFIG, "meshNetworks"), (INJECTOR, "values"))}
    told = json.loads(before[INJECTOR])
    told["global"]["network"] = NETWORK
    try:
        ack.api.patch(MESH_CONFIG, {"data": {"meshNetworks": json.dumps({"networks": networks})}})
        ack.api.patch(INJECTOR, {"data": {"values": json.dumps(told, indent=2)}})
        ack.wait("the network of new sidecars", lambda: _sidecars_know(ack), 30)
        yield
    finally:
        ack.api.patch(INJECTOR, {"data": {"values": before[INJECTOR]}})
        ack.api.patch(MESH_CONFIG, {"data": {"meshNetworks": before[MESH_CONFIG]}})
        ack.wait("new sidecars without network", lambda: not _sidecars_know(ack), 30)
        _forget(ack)


@contextmanager
def _cluster_b(lab: Lab) -> Iterator[Cluster]:
    """Cluster `b` with a node that is a router with address translation, as at the border of a private network."""
    b = Cluster(lab, "b", 3)
    try:
        b.up(1, [images.archive(lab, name) for name in ("pause", "echo", "proxyv2", "istiod")])
        (node,) = b.nodes
        net.unroute(lab, node.pod_cidr)
        rule = f"-t nat -A POSTROUTING -s {node.pod_cidr} ! -d {b.pod_cidr} -j MASQUERADE"
        node.machine.run(["iptables", *rule.split()])
        yield b
    finally:
        b.down()


@contextmanager
def running(lab: Lab) -> Iterator[Cluster]:
    """The two networks and what is in them; gives cluster `b`. Afterwards nothing of it is left.

    :raises LabError: something does not get ready.
    """
    ack, asm = Cluster(lab, "ack", 1), Cluster(lab, "asm", 2)
    with ExitStack() as stack:
        b = stack.enter_context(_cluster_b(lab))
        stack.enter_context(_two_networks(ack))
        secret = mesh_asm.remote_secret(b.kubeconfig.read_text(), B_ID)
        for cluster, made in ((ack, secret), (asm, secret), (ack, passthrough()), (ack, far())):
            stack.callback(_remove, cluster, made)
            _apply(cluster, made)
        stack.callback(_member, lab, there=False)
        _member(lab, there=True)
        _apply(b, namespace(SYSTEM))
        _apply(b, namespace(NAMESPACE))
        (istiod,) = ack.api.list(path_of("v1", "pods", SYSTEM), labelSelector="app=istiod")["items"]
        root = ack.api.get(path_of("v1", "configmaps", SYSTEM, ROOT))["data"]["root-cert.pem"]
        for made in [*control_plane(istiod["status"]["podIP"], root), *gateway(), *server()]:
            _apply(b, made)
        given = {"loadBalancer": {"ingress": [{"ip": HOST}]}}
        b.api.patch(f"{path_of('v1', 'services', SYSTEM, GATEWAY)}/status", {"status": given})
        for place, name in ((SYSTEM, GATEWAY), (NAMESPACE, NAME)):
            _ready(b, place, name)
        yield b


class Caller(Load):
    """The client of `lab.load`, which calls the near application and the far one."""

    target = (*Load.target, f"-target={NAME}=http://{NAME}.{NAMESPACE}/")

    def answered(self) -> dict[str, int]:
        """How many requests each of the two has answered well."""
        found: dict[str, int] = {}
        for line in self.buckets():
            for served in line["served"]:
                good = int(served["n"]) if 0 < served["status"] < 400 else 0
                found[served["target"]] = found.get(served["target"], 0) + good
        return found
