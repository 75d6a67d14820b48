# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh `source`: self-managed Istio in the ACK cluster, installed by the real istioctl as a user would.

Istio 1.31 with Envoy from PyPI: what only Istio's own Envoy build understands is off (ALPN filter, metadata exchange,
Prometheus metrics); see ISTIOD_ENV. The gateway says who it is in the response header `server`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from lab import binaries, mesh_ca, proc
from lab.asm.render import XDS_AGENT
from lab.cluster import Cluster
from lab.images import ISTIO_HUB, ISTIO_TAG
from lab.state import Lab, write_atomic

NAMESPACE = "istio-system"
GATEWAY = "istio-ingressgateway"
# Stock Envoy knows neither of these filters; every listener with one of them would be refused.
ISTIOD_ENV = {"PILOT_ENABLE_ALPN_FILTER": "false", "PILOT_ENABLE_METADATA_EXCHANGE": "false"}
# Without it an agent asks the metadata services of the big clouds who it is: 2 s at each start.
AGENT_ENV = {"CLOUD_PLATFORM": "none"}
# What a gateway does when it is taken away: it is out of the Service while it still serves (preStop), then asks its
# clients to close (Connection: close on each answer) for DRAIN seconds, Istio's own default, and only then ends.
PRE_STOP, DRAIN, GRACE = 3, 5, 45


def gateway_proxy_config(server: str) -> dict[str, Any]:
    """ProxyConfig of a gateway: the `server` header of all its answers, its own errors too, and its way to end."""
    return {"proxyHeaders": {"server": {"value": server}}, "terminationDrainDuration": f"{DRAIN}s"}


def operator(*, two_roots: bool = False) -> dict[str, Any]:
    """The IstioOperator that istioctl installs: control plane and one ingress gateway with an HPA of 2 to 5.

    With two roots the gateway is prepared for the second one: a restart would not do that, for its manifest is istioctl's.
    """
    container = "spec.template.spec.containers.[name:istio-proxy]"
    gateway = {
        "name": GATEWAY,
        "autoscaleEnabled": True,
        "autoscaleMin": 2,
        "autoscaleMax": 5,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "2000m", "memory": "1024Mi"}},
        "podAnnotations": {"proxy.istio.io/config": json.dumps(gateway_proxy_config(GATEWAY))},
    }
    overlay = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": GATEWAY,
        "patches": [
            {"path": "spec.replicas", "value": 2},  # the HPA would say so too, but only 15 s later
            {"path": f"{container}.lifecycle", "value": {"preStop": {"sleep": {"seconds": PRE_STOP}}}},
            {"path": "spec.template.spec.terminationGracePeriodSeconds", "value": GRACE},
            {"path": f"{container}.readinessProbe.periodSeconds", "value": 1},
        ],
    }
    agent = [{"name": name, "value": value} for name, value in XDS_AGENT.items()] if two_roots else []
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": "source", "namespace": NAMESPACE},
        "spec": {
            "profile": "minimal",
            "hub": ISTIO_HUB,
            "tag": ISTIO_TAG,
            "meshConfig": {
                "trustDomain": "cluster.local",
                "accessLogFile": "/dev/stdout",
                "enablePrometheusMerge": False,
                "defaultConfig": {"proxyMetadata": AGENT_ENV},
            },
            "components": {
                "pilot": {
                    "k8s": {
                        "resources": small,
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
                    }
                },
                "ingressGateways": [{"name": GATEWAY, "enabled": True, "k8s": {"overlays": [overlay], "env": agent}}],
            },
            "values": {
                "telemetry": {"enabled": False},
                "global": {"configValidation": True, "proxy": {"resources": small}},
                "pilot": {"autoscaleEnabled": False, "env": ISTIOD_ENV},
                "gateways": {GATEWAY: gateway},
            },
        },
    }


def secret(name: str, kind: str, data: dict[str, str]) -> dict[str, Any]:
    """A Secret in the meshes' namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
    }


def namespace(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}


def install(lab: Lab, ack: Cluster) -> None:
    """Install the mesh and wait until istiod and both gateway pods are ready.

    :raises LabError: istioctl failed; with what it said.
    """
    authority = mesh_ca.mesh_authority(lab, "source")
    outside = mesh_ca.gateway_authority(lab)
    certificate, key = outside.issue(mesh_ca.HOST, names=[mesh_ca.HOST])
    lab.update(ca=str(outside.crt))
    ack.apply_object("v1", "namespaces", namespace(NAMESPACE))
    files = {path.name: path.read_text() for path in authority.iterdir()}
    ack.apply_object("v1", "secrets", secret("cacerts", "Opaque", files))
    pair = {"tls.crt": certificate, "tls.key": key}
    ack.apply_object("v1", "secrets", secret(mesh_ca.CREDENTIAL, "kubernetes.io/tls", pair))
    file = lab.dir / "istio-operator.json"
    write_atomic(file, json.dumps(operator(two_roots=mesh_ca.two_roots(lab)), indent=1))
    argv = [str(binaries.path("istioctl")), "install", "--skip-confirmation", f"--filename={file}"]
    argv += [f"--kubeconfig={ack.kubeconfig}", "--readiness-timeout=120s"]
    proc.run(lab, argv, timeout=180, env={"HOME": str(lab.dir)})
