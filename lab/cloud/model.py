# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud remembers: load balancers, listeners, vServer groups, backends, ECS instances; service meshes: asm_model.

Plain dataclasses; ``World.to_json`` / ``World.from_json`` give the whole state as one JSON object (the shape of
``GET /_lab/state`` and of the state file). Times are UTC in the form ``2026-01-02T03:04Z``, ports and weights integers.
"""

from __future__ import annotations

import ipaddress
import random
import string
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from .asm_model import AckCluster, ServiceMesh, read_mesh

_ALPHABET = string.ascii_lowercase + string.digits


def new_id(prefix: str) -> str:
    """An id in the vendor's form: ``lb-bp1`` + 17 letters and digits."""
    return f"{prefix}-bp1" + "".join(random.choices(_ALPHABET, k=17))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())


@dataclass
class Backend:
    server_id: str
    port: int
    weight: int = 100
    type: str = "ecs"
    server_ip: str = ""
    description: str = ""

    def key(self) -> tuple[str, str, int]:
        """A backend is one server and port; an ENI or ECI has several addresses, so the address counts too."""
        return (self.server_id, self.server_ip, self.port)


@dataclass
class VServerGroup:
    id: str
    load_balancer_id: str
    name: str
    backends: list[Backend] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    created: str = field(default_factory=now)

    def find(self, key: tuple[str, str, int]) -> Backend | None:
        return next((b for b in self.backends if b.key() == key), None)


@dataclass
class Listener:
    protocol: str
    port: int
    status: str = "stopped"
    description: str = ""
    scheduler: str = "wrr"
    bandwidth: int = -1
    vserver_group_id: str = ""
    backend_port: int = 0
    acl_id: str = ""
    acl_status: str = "off"
    acl_type: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def key(self) -> str:
        return listener_key(self.protocol, self.port)


def listener_key(protocol: str, port: int) -> str:
    """TCP, HTTP and HTTPS share the port space; UDP has its own."""
    return f"{'udp' if protocol == 'udp' else 'tcp'}:{port}"


@dataclass
class LoadBalancer:
    id: str
    name: str
    address: str
    region_id: str
    address_type: str = "internet"
    address_ip_version: str = "ipv4"
    network_type: str = "classic"
    vpc_id: str = ""
    vswitch_id: str = ""
    master_zone_id: str = ""
    slave_zone_id: str = ""
    internet_charge_type: str = "paybytraffic"
    instance_charge_type: str = "PayBySpec"
    spec: str = ""
    bandwidth: int = 5120
    resource_group_id: str = "rg-lab"
    status: str = "active"
    delete_protection: str = "off"
    modification_protection_status: str = "NonProtection"
    modification_protection_reason: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    listeners: dict[str, Listener] = field(default_factory=dict)
    created: str = field(default_factory=now)
    created_ms: int = field(default_factory=lambda: int(time.time() * 1000))


@dataclass
class Instance:
    """An ECS instance: its private address and, as its ENI has them, the addresses of its pods."""

    id: str
    ip: str
    pod_cidr: str = ""
    zone_id: str = "cn-hangzhou-h"
    tags: dict[str, str] = field(default_factory=dict)

    def eni(self) -> str:
        return "eni-" + self.id.removeprefix("i-")

    def has(self, address: str) -> bool:
        if address == self.ip:
            return True
        if not self.pod_cidr:
            return False
        try:
            return ipaddress.ip_address(address) in ipaddress.ip_network(self.pod_cidr, strict=False)
        except ValueError:
            return False


@dataclass
class World:
    region_id: str = "cn-hangzhou"
    vpc_id: str = "vpc-lab"
    vswitch_id: str = "vsw-lab"
    vpc_cidr: str = "10.0.0.0/8"
    batch_limit: int = 40
    load_balancers: dict[str, LoadBalancer] = field(default_factory=dict)
    groups: dict[str, VServerGroup] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    client_tokens: dict[str, str] = field(default_factory=dict)
    meshes: dict[str, ServiceMesh] = field(default_factory=dict)
    ack_clusters: dict[str, AckCluster] = field(default_factory=dict)

    def groups_of(self, lb_id: str) -> list[VServerGroup]:
        return [g for g in self.groups.values() if g.load_balancer_id == lb_id]

    def users_of(self, group_id: str) -> list[tuple[LoadBalancer, Listener]]:
        """The listeners that forward to a vServer group."""
        pairs = ((lb, ln) for lb in self.load_balancers.values() for ln in lb.listeners.values())
        return [(lb, ln) for lb, ln in pairs if ln.vserver_group_id == group_id]

    def address_of(self, backend: Backend) -> str:
        """The address behind a backend; empty for an instance that nobody registered."""
        if backend.type != "ecs":
            return backend.server_ip
        instance = self.instances.get(backend.server_id)
        return instance.ip if instance else ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> World:
        nested = ("load_balancers", "groups", "instances", "meshes", "ack_clusters")
        world = cls(**{k: v for k, v in data.items() if k not in nested})
        for key, raw in data.get("load_balancers", {}).items():
            listeners = {k: Listener(**v) for k, v in raw["listeners"].items()}
            world.load_balancers[key] = LoadBalancer(**{**raw, "listeners": listeners})
        for key, raw in data.get("groups", {}).items():
            world.groups[key] = VServerGroup(**{**raw, "backends": [Backend(**b) for b in raw["backends"]]})
        world.instances = {k: Instance(**v) for k, v in data.get("instances", {}).items()}
        world.meshes = {k: read_mesh(v) for k, v in data.get("meshes", {}).items()}
        world.ack_clusters = {k: AckCluster(**v) for k, v in data.get("ack_clusters", {}).items()}
        return world
