# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh `asm`: what a customer sees of Alibaba Cloud Service Mesh, beside the ACK cluster.

An API server of its own holds the Istio configuration and the IstioGateways. istiod is a process in the cloud at
10.10.0.3: configuration from there, Services, secrets and token reviews from the ACK cluster (a remote cluster of Istio's
multi-cluster kind, named by the ACK cluster's id). In the ACK cluster it is the selectorless Service `istiod-1-31-0` in
istio-system, as ASM names it. It answers injection webhooks too; lab.asm.migrate makes one in the ACK cluster when a
migration is that far. It shares the source mesh's root certificate through an intermediate authority of its own, or has a
root of its own.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from lab import binaries, images, mesh_ca, net, proc
from lab.asm.render import ASM_ROOT, ISTIO_ROOT, XDS_AGENT
from lab.cluster import REGION, Cluster
from lab.mesh_manifest import injection
from lab.mesh_manifest import istio_crds as istio_crds
from lab.mesh_source import AGENT_ENV, ISTIOD_ENV, NAMESPACE, namespace, secret
from lab.state import Lab, write_atomic

ACK_ID = "c0a1b2c3d4e5f60718293a4b5c6d7e8f9"
MESH_ID = "c0asm11112222333344445555666677778"
ISTIOD = f"istiod-{binaries.ISTIO.replace('.', '-')}"
CLOUD = "http://127.0.0.1:8100"
CRDS = Path(__file__).resolve().parent / "crds"
Object = dict[str, Any]


def own_crds() -> list[Object]:
    """The CustomResourceDefinitions of lab/crds."""
    return [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]


def mesh_config(agent_env: dict[str, str] = AGENT_ENV) -> Object:
    """ConfigMap `istio` of the control plane."""
    config = {
        "trustDomain": "cluster.local",
        "accessLogFile": "/dev/stdout",
        "enablePrometheusMerge": False,
        "rootNamespace": NAMESPACE,
        "defaultConfig": {"discoveryAddress": f"{ISTIOD}.{NAMESPACE}.svc:15012", "proxyMetadata": agent_env},
    }
    meta = {"name": "istio", "namespace": NAMESPACE}
    data = {"mesh": json.dumps(config, indent=1), "meshNetworks": "networks: {}"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def remote_secret(kubeconfig: str, cluster_id: str = ACK_ID) -> Object:
    """Tells istiod of a cluster, by default of the ACK cluster (what `istioctl create-remote-secret` makes)."""
    found = secret(f"istio-remote-secret-{cluster_id}", "Opaque", {cluster_id: kubeconfig})
    found["metadata"] |= {"labels": {"istio/multiCluster": "true"}, "annotations": {"networking.istio.io/cluster": cluster_id}}
    return found


def encoded(root: str) -> str:
    """A certificate as a caBundle has it."""
    return base64.b64encode(root.encode()).decode()


def validation(root: str) -> Object:
    """istiod judges Istio configuration before the control plane's API server stores it, as in any Istio."""
    groups = ["security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"]
    rule = {"operations": ["CREATE", "UPDATE"], "apiGroups": groups, "apiVersions": ["*"], "resources": ["*"]}
    url = f"https://{net.ASM_ADDRESS}:15017/validate"
    hook = {
        "name": "validation.istio.io",
        "clientConfig": {"url": url, "caBundle": encoded(root)},
        "rules": [rule],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 5,
        "admissionReviewVersions": ["v1"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "istio-validator-istio-system"},
        "webhooks": [hook],
    }


def service() -> list[tuple[str, str, Object]]:
    """istiod in the ACK cluster: (apiVersion, plural, object) of the Service and its EndpointSlice."""
    port = {"name": "tls-xds", "port": 15012, "protocol": "TCP"}
    meta = {"name": ISTIOD, "namespace": NAMESPACE, "labels": {"app": "istiod", "provider": "asm"}}
    one = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [port]}}
    labels = {"kubernetes.io/service-name": ISTIOD, "endpointslice.kubernetes.io/managed-by": "asm"}
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {"name": ISTIOD, "namespace": NAMESPACE, "labels": labels},
        "ports": [port],
        "endpoints": [{"addresses": [net.ASM_ADDRESS], "conditions": {"ready": True}}],
    }
    return [("v1", "services", one), ("discovery.k8s.io/v1", "endpointslices", slices)]


def install(lab: Lab, ack: Cluster, asm: Cluster) -> None:
    """Start the control plane and the gateway controller; there is no gateway until somebody makes an IstioGateway.

    :raises LabError: a CRD is refused, istiod or the controller does not get ready.
    """
    authority = mesh_ca.mesh_authority(lab, "asm")
    with ThreadPoolExecutor(max_workers=8) as pool:
        crds = [*istio_crds(lab), *own_crds()]
        jobs = [pool.submit(asm.apply_object, one["apiVersion"], "customresourcedefinitions", one) for one in crds]
        jobs.append(pool.submit(_control_plane_objects, ack, asm))
        jobs.append(pool.submit(_ack_objects, ack))
        for job in jobs:
            job.result()
    for crd in crds:
        asm.wait(crd["metadata"]["name"], lambda crd=crd: _established(asm, crd), 20)  # type: ignore[misc]
    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(start_istiod, lab, asm), pool.submit(start_controller, lab, ack, asm)]:
            job.result()
    webhook = validation((authority / "root-cert.pem").read_text())
    asm.apply_object(webhook["apiVersion"], "validatingwebhookconfigurations", webhook)


def _established(asm: Cluster, crd: Object) -> bool:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
    conditions = asm.api.get(path).get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _control_plane_objects(ack: Cluster, asm: Cluster) -> None:
    asm.apply_object("v1", "namespaces", namespace(NAMESPACE))
    asm.apply_object("v1", "configmaps", mesh_config(AGENT_ENV | (XDS_AGENT if mesh_ca.two_roots(asm.lab) else {})))
    asm.apply_object("v1", "secrets", remote_secret(ack.kubeconfig.read_text()))


def _ack_objects(ack: Cluster) -> None:
    ack.apply_object("v1", "namespaces", namespace(NAMESPACE))
    for api_version, plural, obj in service():
        ack.apply_object(api_version, plural, obj)


def start_istiod(lab: Lab, asm: Cluster) -> None:
    """istiod as a process; ready when it has read both clusters."""
    folder = lab.dir / "asm-istiod"  # it looks for several files relative to where it runs: there are those of injection
    (folder / "var/lib/istio/inject").mkdir(parents=True, exist_ok=True)
    root = ASM_ROOT if mesh_ca.two_roots(lab) else ISTIO_ROOT
    for name, text in injection(lab, images.asm_proxy(REGION), f"{ISTIOD}.{NAMESPACE}.svc:15012", root).items():
        write_atomic(folder / "var/lib/istio/inject" / name, text, 0o644)
    host = net.ASM_ADDRESS
    flags = {
        "kubeconfig": asm.kubeconfig,
        "clusterID": MESH_ID,
        "httpAddr": f"{host}:8080",
        "grpcAddr": f"{host}:15010",
        "secureGRPCAddr": f"{host}:15012",
        "httpsAddr": f"{host}:15017",
        "monitoringAddr": f"{host}:15014",
        "ctrlz_port": 0,
        "domain": "cluster.local",
    }
    env = {
        **ISTIOD_ENV,
        "CLUSTER_ID": MESH_ID,
        "POD_NAME": f"{ISTIOD}-0",
        "POD_NAMESPACE": NAMESPACE,
        "PILOT_CERT_PROVIDER": "istiod",
        "ROOT_CA_DIR": str(mesh_ca.mesh_authority(lab, "asm")),
        "EXTERNAL_ISTIOD": "true",
        "ISTIOD_CUSTOM_HOST": f"{ISTIOD}.{NAMESPACE}.svc,{host}",
        "INJECTION_WEBHOOK_CONFIG_NAME": "",  # the controller of migrations makes the webhook, when it is time
        "VALIDATION_WEBHOOK_CONFIG_NAME": "",
        "PILOT_ENABLE_GATEWAY_API": "false",
        "HOME": str(folder),
    }
    if mesh_ca.two_roots(lab):
        env["ISTIO_MULTIROOT_MESH"] = "true"
    argv = ["env", f"--chdir={folder}", str(binaries.path("pilot-discovery")), "discovery"]
    argv += [f"--{key}={value}" for key, value in flags.items()]

    def ready() -> bool:
        with net.inside(lab), urllib.request.urlopen(f"http://{host}:8080/ready", timeout=2) as answer:
            return bool(answer.status == 200)

    proc.spawn(lab, "asm-istiod", argv, env=env, ready=ready, timeout=60)


def start_controller(lab: Lab, ack: Cluster, asm: Cluster) -> None:
    """The controllers of gateways and of migrations as a process."""
    argv = [sys.executable, "-m", "lab.asm", f"--asm-kubeconfig={asm.kubeconfig}", f"--ack-kubeconfig={ack.kubeconfig}"]
    argv += [f"--cluster-id={ACK_ID}", f"--mesh-id={MESH_ID}", f"--region={REGION}", f"--istiod={ISTIOD}"]
    # The path says what its proxies are told: the cluster they are in, and the mesh that they belong to.
    argv += [f"--inject=https://{net.ASM_ADDRESS}:15017/inject/cluster/{ACK_ID}/asm_id/{MESH_ID}"]
    argv += [f"--cloud={CLOUD}", f"--root={mesh_ca.mesh_authority(lab, 'asm') / 'root-cert.pem'}"]
    argv += ["--own-root"] if mesh_ca.two_roots(lab) else []
    proc.spawn(lab, "asm-controller", argv, env={"PYTHONPATH": str(CRDS.parents[1])})
