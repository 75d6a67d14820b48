# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud remembers of Alibaba Cloud Service Mesh: instances, the ACK clusters of the account, who is in which mesh.

What takes time is a state and the moment of its end (``until``, seconds since the epoch): it goes on when somebody looks, also
after a restart of the server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

# Why a cluster may not be added (ForbiddenFlag of DescribeServiceMeshClusters, as its page lists them).
NO_RIGHT, NO_ROUTE, CIDR_CONFLICT, HAS_NAMESPACE = 1, 2, 3, 4


def stamp(seconds: float) -> str:
    """A time as ASM writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


@dataclass
class AckCluster:
    """A cluster of the account. ``forbidden``: 0, or one of the reasons above; ``join_error``: how a join of it ends."""

    id: str
    name: str = "ack"
    version: str = "v1.36.3-aliyun.1"
    type: str = "ManagedKubernetes"
    state: str = "running"
    region_id: str = "cn-hangzhou"
    vpc_id: str = "vpc-lab"
    sg_id: str = "sg-lab"
    domain: str = "cluster.local"
    forbidden: int = 0
    join_error: str = ""
    created: float = field(default_factory=time.time)


@dataclass
class Member:
    """A cluster in a mesh: ``starting`` until it is ``running`` (or ``failed``), ``stopping`` until it is gone."""

    cluster_id: str
    state: str = "running"
    until: float = 0.0
    error: str = ""
    ignore_namespace_check: bool = False
    discovery_only: bool = False
    reserve_namespace: bool = False
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)


@dataclass
class ServiceMesh:
    """An ASM instance. Its kubeconfig is a text, or the content of a file that the lab knows."""

    id: str
    name: str = "mesh"
    version: str = "v1.24.6.64-g5c8f1f4b-aliyun"
    state: str = "running"
    error: str = ""
    profile: str = "Pro"
    cluster_spec: str = "enterprise"
    region_id: str = "cn-hangzhou"
    vpc_id: str = "vpc-lab"
    api_server: str = ""
    kubeconfig: str = ""
    kubeconfig_file: str = ""
    kubeconfig_expires: str = "2099-01-01 00:00:00"
    join_seconds: float = 1.0
    members: dict[str, Member] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: float = field(default_factory=time.time)

    def settle(self, clusters: dict[str, AckCluster], now: float) -> None:
        """Bring what has ended by now to its end."""
        for key, member in list(self.members.items()):
            if now < member.until:
                continue
            if member.state == "starting":
                problem = clusters[key].join_error if key in clusters else "the cluster does not exist any more"
                member.state, member.error = ("failed", problem) if problem else ("running", "")
                member.updated = member.until
            elif member.state == "stopping":
                del self.members[key]
                self.networks.pop(key, None)


def read_mesh(raw: dict[str, Any]) -> ServiceMesh:
    members = {key: Member(**member) for key, member in (raw.get("members") or {}).items()}
    return ServiceMesh(**{**raw, "members": members})
