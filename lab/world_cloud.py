# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud's side of a lab's world: the cloud server, and the cloud-controller-manager in the ACK cluster."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import binaries, mesh_asm, net, proc
from lab.cluster import REGION, Cluster
from lab.kubeapi import Object, path_of
from lab.state import Lab, LabError, write_atomic

ROOT = Path(__file__).resolve().parents[1]
PORT = 8100
ENDPOINT = f"127.0.0.1:{PORT}"
HEALTH_PORT = 10258
ACK_ID = "c0a1b2c3d4e5f60718293a4b5c6d7e8f9"
VPC, VSWITCH = "vpc-lab", "vsw-lab"
KEY_ID, KEY_SECRET = "lab-access-key", "lab-access-key-secret"
KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": KEY_ID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": KEY_SECRET}
NAMESPACE, GATEWAY = "istio-system", "istio-ingressgateway"


def _get(lab: Lab, port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        with net.inside(lab):
            connection.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def _answers(lab: Lab, port: int, path: str) -> Callable[[], bool]:
    return lambda: _get(lab, port, path)[0] == 200


def instances(ack: Cluster, nodes: int) -> dict[str, dict[str, str]]:
    """The ECS instances behind the nodes, as the cloud server takes them: id -> ip and pod CIDR."""
    return {node.instance_id: {"ip": node.address, "pod_cidr": node.pod_cidr} for node in map(ack.node, range(nodes))}


def meshes(lab: Lab) -> dict[str, Any]:
    """The ASM instance and the ACK cluster as the cloud server takes them: not in it yet, and with a namespace istio-system."""
    asm = Cluster(lab, "asm", 2)
    version = f"v{binaries.ISTIO}.1-lab-aliyun"
    mesh = {"name": "lab", "version": version, "api_server": asm.server, "kubeconfig_file": str(asm.kubeconfig)}
    return {"meshes": {mesh_asm.MESH_ID: mesh}, "clusters": {ACK_ID: {"name": "ack", "forbidden": 4}}}


def start_cloud(lab: Lab, ack: Cluster, nodes: int) -> None:
    """Start the cloud server with HAProxy as the load balancers' data plane; state in STATE/cloud survives a restart of it.

    :raises LabError: not ready in 20 s.
    """
    folder = lab.dir / "cloud"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "instances.json"
    write_atomic(file, json.dumps(instances(ack, nodes), indent=1))
    write_atomic(folder / "meshes.json", json.dumps(meshes(lab), indent=1))
    argv: list[str | Path] = [sys.executable, "-m", "lab.cloud", "--state", folder, "--port", str(PORT), "--instances", file]
    argv += ["--meshes", folder / "meshes.json"]
    argv += ["--haproxy-dir", lab.dir / "haproxy", "--clb-interface", "clb0", "--region", REGION]
    env = {**KEYS, "PYTHONPATH": str(ROOT)}

    def ready() -> bool:
        status, body = _get(lab, PORT, "/_lab/ready")
        return status == 200 and bool(json.loads(body)["ready"])

    proc.spawn(lab, "cloud", argv, env=env, ready=ready, timeout=20)


def start_proxy(lab: Lab, cluster: Cluster) -> None:
    """Start the fault proxy before a cluster's API server: faulty.kubeconfig goes through it.

    :raises LabError: not ready in 20 s.
    """
    host, port = net.CLOUD_ADDRESS, cluster.proxy_port
    flags = {
        "listen": f"{host}:{port}",
        "upstream": cluster.server,
        "cert": cluster.pki / "fault-proxy.crt",
        "key": cluster.pki / "fault-proxy.key",
        "upstream-ca": cluster.pki / "ca.crt",
        "rules-url": f"http://{ENDPOINT}/_lab/faults",
        "target": cluster.name,
    }
    argv = [sys.executable, "-m", "lab.cloud.apiproxy", *(f"--{name}={value}" for name, value in flags.items())]

    def listens() -> bool:
        with net.inside(lab), socket.create_connection((host, port), timeout=2):
            return True

    proc.spawn(lab, cluster.proc_name("faults"), argv, env={"PYTHONPATH": str(ROOT)}, ready=listens, timeout=20)


def start_ccm(lab: Lab, ack: Cluster, version: str) -> None:
    """Start our cloud-controller-manager, or the real one that LAB_CCM names.

    :raises LabError: not ready in 30 s.
    """
    real = os.environ.get("LAB_CCM")
    argv, env = _real(lab, ack, real) if real else _ours(ack, version)
    proc.spawn(lab, "ccm", argv, env=env, ready=_answers(lab, HEALTH_PORT, "/healthz"), timeout=30)


def _ours(ack: Cluster, version: str) -> tuple[list[str | Path], dict[str, str]]:
    argv: list[str | Path] = [sys.executable, "-m", "lab.ccm", "--kubeconfig", ack.kubeconfig, "--cloud-endpoint", ENDPOINT]
    argv += ["--cluster-id", ACK_ID, "--region", REGION, "--ccm-version", version, "--health-port", str(HEALTH_PORT)]
    return argv, {**KEYS, "PYTHONPATH": str(ROOT)}


def _real(lab: Lab, ack: Cluster, program: str) -> tuple[list[str | Path], dict[str, str]]:
    """Flags and environment with which the real one was observed; it wants its keys in base64."""
    if not os.access(program, os.X_OK):
        raise LabError(f"LAB_CCM={program} is not an executable file")
    key, secret = (base64.b64encode(text.encode()).decode() for text in (KEY_ID, KEY_SECRET))
    settings = {"clusterID": ACK_ID, "region": REGION, "vpcid": VPC, "vswitchid": f":{VSWITCH}"}
    file = lab.dir / "ccm" / "cloud.json"
    write_atomic(file, json.dumps({"Global": {**settings, "accessKeyID": key, "accessKeySecret": secret}}))
    argv: list[str | Path] = [program, f"--kubeconfig={ack.kubeconfig}", f"--cloud-config={file}", "--controllers=service"]
    argv += ["--configure-cloud-routes=false", "--leader-elect=false", "--metrics-bind-addr=0", "--pprof-bind-addr=0"]
    argv += [f"--health-probe-bind-addr=127.0.0.1:{HEALTH_PORT}"]
    env = {f"{service}_ENDPOINT": ENDPOINT for service in ("SLB", "ECS", "VPC", "NLB")}
    env |= {"ALICLOUD_CLIENT_SCHEME": "HTTP", "METADATA_ENDPOINT": f"http://{ENDPOINT}"}
    return argv, {**env, "ACCESS_KEY_ID": key, "ACCESS_KEY_SECRET": secret}


def gateway_mode(ack: Cluster, mode: str) -> None:
    """How the CLB is to reach the source gateway: by every node (cluster), by nodes with a pod (local), by pod address (eni)."""
    path = path_of("v1", "services", NAMESPACE, GATEWAY)
    patch: Object = {}
    if mode == "local":
        patch = {"spec": {"externalTrafficPolicy": "Local"}}
    elif mode == "eni":
        patch = {"metadata": {"annotations": {"service.beta.kubernetes.io/backend-type": "eni"}}}
    if patch:
        ack.api.patch(path, patch)


def load_balancer(ack: Cluster, timeout: float = 30) -> tuple[str, str]:
    """Id and address of the CLB that the CCM made for the source gateway, once it has backends for its ports.

    :raises LabError: there is none in `timeout` seconds.
    """
    found: list[tuple[str, str]] = []

    def there() -> bool:
        service: dict[str, Any] = ack.api.get(path_of("v1", "services", NAMESPACE, GATEWAY))
        clb = service["metadata"].get("labels", {}).get("service.k8s.alibaba/loadbalancer-id")
        addresses = [one.get("ip") for one in service.get("status", {}).get("loadBalancer", {}).get("ingress") or []]
        if clb and addresses and addresses[0]:
            found.append((str(clb), str(addresses[0])))
        return bool(found)

    ack.wait("a load balancer of the source gateway", there, timeout)
    return found[-1]
