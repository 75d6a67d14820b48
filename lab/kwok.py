# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated nodes by kwok: thousands of pods that say Running and Ready though nothing runs. For numbers only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lab import binaries, proc
from lab.kubeapi import KubeError, path_of
from lab.pki import Authority
from lab.state import LabError, write_atomic

if TYPE_CHECKING:
    from lab.cluster import Cluster

LABEL = {"type": "kwok"}
# Real workloads must not land here: a pod asks for a simulated node by tolerating this (and by nodeSelector type=kwok).
TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
# kwok's own template language: what it writes into the status of a pod that was put on one of its nodes
POD_STATUS = """
{{ $now := Now | Quote }}
phase: Running
startTime: {{ $now }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now }}}}
{{ end }}
{{ range NodeIPsWith .spec.nodeName }}
hostIP: {{ . | Quote }}
{{ end }}
{{ range PodIPsWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ . | Quote }}
podIPs: [{ip: {{ . | Quote }}}]
{{ end }}
"""


NODE_STATUS = """
conditions:
- {type: Ready, status: "True", reason: Kwok, message: simulated, lastHeartbeatTime: {{ Now | Quote }}}
"""


def _stage(name: str, kind: str, conditions: list[dict[str, Any]], then: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {"resourceRef": {"apiGroup": "v1", "kind": kind}, "selector": {"matchExpressions": conditions}, "next": then},
    }


def stages() -> list[dict[str, Any]]:
    """What happens to nodes and pods: they are Ready at once, and gone at once. kwok keeps the nodes' leases by itself."""
    ready = {"key": '.status.conditions.[] | select( .type == "Ready" ) | .status', "operator": "NotIn", "values": ["True"]}
    deleted = {"key": ".metadata.deletionTimestamp"}
    pending = {"key": ".status.phase", "operator": "In", "values": ["Pending"]}
    return [
        _stage("node-ready", "Node", [ready], {"statusTemplate": NODE_STATUS}),
        _stage("pod-runs", "Pod", [{**deleted, "operator": "DoesNotExist"}, pending], {"statusTemplate": POD_STATUS}),
        _stage("pod-goes", "Pod", [{**deleted, "operator": "Exists"}], {"finalizers": {"empty": True}, "delete": True}),
    ]


def add_nodes(cluster: Cluster, count: int, timeout: float = 60) -> None:
    """Add simulated nodes `<cluster>-kwok-<i>` with room for 1,000 pods each, and start kwok if it does not run.

    :raises LabError: kwok does not start, or a node cannot be made.
    """
    lab, name = cluster.lab, cluster.proc_name("kwok")
    if not proc.alive(lab, name):
        kubeconfig = cluster.dir / "kwok.kubeconfig"
        write_atomic(kubeconfig, Authority(cluster.pki, "ca").kubeconfig(cluster.server, "lab-kwok", ["system:masters"]))
        config = cluster.dir / "kwok.yaml"
        write_atomic(config, "\n---\n".join(json.dumps(stage) for stage in stages()))
        flags = [f"--kubeconfig={kubeconfig}", f"--config={config}", f"--cidr=10.{200 + cluster.index}.0.0/16"]
        selector = ",".join(f"{key}={value}" for key, value in LABEL.items())
        proc.spawn(
            lab,
            name,
            [binaries.path("kwok"), *flags, f"--manage-nodes-with-label-selector={selector}", "--node-lease-duration-seconds=40"],
        )
    try:
        have = len(cluster.api.list("/api/v1/nodes", labelSelector="type=kwok")["items"])
        wanted = [_node(cluster, i) for i in range(have, have + count)]
        for node in wanted:
            status = node.pop("status")
            cluster.api.create("/api/v1/nodes", node)
            cluster.api.patch(path_of("v1", "nodes", None, node["metadata"]["name"], "status"), {"status": status})
    except KubeError as error:
        raise LabError(f"cluster {cluster.name}: simulated nodes cannot be made: {error}") from error
    names = {node["metadata"]["name"] for node in wanted}
    cluster.wait(f"{count} kwok nodes Ready", lambda: names <= cluster.ready_nodes(), timeout)


def _node(cluster: Cluster, i: int) -> dict[str, Any]:
    name = f"{cluster.name}-kwok-{i}"
    room = {"cpu": "256", "memory": "1Ti", "pods": "1000"}
    labels = {
        **LABEL,
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        # no load balancer may send packets here; and a node without provider id would empty its groups (CCM v2.14)
        "node.kubernetes.io/exclude-from-external-load-balancers": "true",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [TAINT], "providerID": f"cn-hangzhou.i-{cluster.name}kwok{i}"},
        "status": {
            "allocatable": room,
            "capacity": room,
            "addresses": [{"type": "InternalIP", "address": f"10.10.{100 + cluster.index}.{i % 250 + 1}"}],
        },
    }
