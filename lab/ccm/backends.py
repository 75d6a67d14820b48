# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends of a vServer group: who is in it, and with which weight. Pure functions of Nodes, endpoints and the Service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from lab.ccm import names
from lab.ccm.names import CcmError, Object
from lab.ccm.versions import Quirks

CLUSTER, LOCAL, ENI = "Cluster", "Local", "ENI"
DEFAULT_WEIGHT = 100
_EXCLUDED = ("service.beta.kubernetes.io/exclude-node", "service.alibabacloud.com/exclude-node")
_NO_BACKEND = (
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "alpha.service-controller.kubernetes.io/exclude-balancer",
)
_MASTER = "node-role.kubernetes.io/master"
_LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"


@dataclass(frozen=True)
class Backend:
    """One entry of a vServer group. ECS: server id and NodePort, no address. ENI: interface id, pod address, pod port."""

    server_id: str
    server_ip: str
    port: int
    type: str  # ecs | eni
    weight: int
    description: str
    foreign: bool = False  # not ours: another Service's or made by hand

    def as_json(self) -> Object:
        return {
            "description": self.description,
            "serverId": self.server_id,
            "serverIp": self.server_ip,
            "weight": self.weight,
            "port": self.port,
            "type": self.type,
        }


@dataclass
class Group:
    """A vServer group, as wanted or as read."""

    name: str
    id: str = ""
    foreign: bool = False  # its name is not one that the CCM gives, or it holds a backend of somebody else
    backends: list[Backend] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # pod addresses in the VPC without a network interface
    keep_weights: bool = False  # annotation ignore-weight-update


@dataclass(frozen=True)
class Endpoint:
    ip: str
    port: int
    node: str | None


def mode_of(svc: Object) -> str:
    if names.eni_mode(svc):
        return ENI
    return LOCAL if names.local_mode(svc) else CLUSTER


# --- nodes --------------------------------------------------------------------------------------------------------------------


def _labels(node: Object) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


def is_virtual(node: Object) -> bool:
    return _labels(node).get("type") == "virtual-kubelet"


def is_master(node: Object) -> bool:
    """The old label only: `node-role.kubernetes.io/control-plane` does not count."""
    return _MASTER in _labels(node)


def is_excluded(node: Object) -> bool:
    return any(label in _labels(node) for label in _EXCLUDED)


def is_candidate(node: Object, svc: Object) -> bool:
    """Nodes that are looked at: no masters, not about to be removed by the autoscaler, Ready (or virtual)."""
    spec = node.get("spec") or {}
    if is_master(node) or any(taint.get("key") == _LEAVING_TAINT for taint in spec.get("taints") or []):
        return False
    if spec.get("unschedulable") and names.annotation(svc, "remove-unscheduled-backend") == "on":
        return False
    if is_virtual(node):
        return True
    conditions = (node.get("status") or {}).get("conditions") or []
    return bool(conditions) and all(item.get("status") == "True" for item in conditions if item.get("type") == "Ready")


def candidates(nodes: Iterable[Object], svc: Object) -> list[Object]:
    wanted = names.annotation(svc, "backend-label")
    found = []
    for node in nodes:
        pairs = [pair.split("=") for pair in wanted.split(",")] if wanted else []
        if any(len(pair) < 2 for pair in pairs):
            raise CcmError(f"get nodes error: filter nodes by label error: parse backend label: {wanted}, [k1=v1,k2=v2]")
        if all(_labels(node).get(pair[0]) == pair[1] for pair in pairs) and is_candidate(node, svc):
            found.append(node)
    return found


def takes_traffic(node: Object) -> bool:
    """Virtual nodes carry the exclude label: their pods enter, they do not."""
    return not is_excluded(node) and not any(label in _labels(node) for label in _NO_BACKEND)


def instance_id(node: Object, prefix: str = "") -> str:
    """`i-xxx` of providerID `cn-hangzhou.i-xxx` (also with alicloud:// in front). `prefix` begins the error's text."""
    provider = str((node.get("spec") or {}).get("providerID") or "")
    cut = provider.removeprefix("alicloud://").split(".")
    if len(cut) < 2:
        raise CcmError(
            f"{prefix}parse providerid: {provider}. expected: ${{regionid}}.${{nodeid}}, "
            f"alicloud: unable to split instanceid and region from providerID, error unexpected providerID={provider}"
        )
    return cut[1]


# --- endpoints ----------------------------------------------------------------------------------------------------------------


def _port_number(port: Object, ports: Iterable[Object]) -> int:
    """The pods' port: a numeric targetPort as it is, a named one by the name of the service port. 0: not known."""
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    return next((int(item.get("port") or 0) for item in ports if item.get("name", "") == port.get("name", "")), 0)


def from_slices(slices: Iterable[Object], port: Object) -> list[Endpoint]:
    """Ready endpoints of IPv4 EndpointSlices, no address twice, none that is terminating."""
    found: dict[str, Endpoint] = {}
    for item in slices:
        if item.get("addressType") != "IPv4":
            continue
        number = _port_number(port, item.get("ports") or [])
        if not number:
            continue
        for entry in item.get("endpoints") or []:
            state = entry.get("conditions") or {}
            if not state.get("ready") or state.get("terminating"):
                continue
            for address in entry.get("addresses") or []:
                found.setdefault(address, Endpoint(address, number, entry.get("nodeName")))
    return list(found.values())


def from_endpoints(endpoints: Object | None, port: Object) -> list[Endpoint]:
    found = []
    for subset in (endpoints or {}).get("subsets") or []:
        number = _port_number(port, subset.get("ports") or [])
        if number:
            found += [Endpoint(item["ip"], number, item.get("nodeName")) for item in subset.get("addresses") or []]
    return found


# --- weights ------------------------------------------------------------------------------------------------------------------


def weighted(mode: str, backends: list[Backend], weight: int | None, default: int = DEFAULT_WEIGHT) -> list[Backend]:
    """Gives every backend its weight.

    weight None: every one `default` (Local: the number of its pods). Otherwise `weight` is shared out with integer division and
    never less than 1 each, so the sum is not `weight`: 10 over 30 nodes is 30. weight 0: all 0.
    Local: by pods on the node; a pod on a virtual node gets weight // pods, which may be 0. (alibaba.md 2.6)
    """
    if weight == 0:
        return [replace(item, weight=0) for item in backends]
    if mode in (ENI, CLUSTER):
        each = default if weight is None else max(1, weight // len(backends)) if backends else 0
        return [replace(item, weight=each) for item in backends]
    pods: dict[str, int] = {}
    for item in backends:
        if item.server_id:
            pods[item.server_id] = pods.get(item.server_id, 0) + 1
    shared = []
    for item in backends:
        if item.type != "ecs":
            each = 1 if weight is None else weight // len(backends)
        else:
            count = pods[item.server_id]
            each = count if weight is None else max(1, weight * count // len(backends))
        shared.append(replace(item, weight=each))
    return shared


# --- groups -------------------------------------------------------------------------------------------------------------------


def backends_of(
    mode: str,
    svc: Object,
    port: Object,
    owner: str,
    nodes: list[Object],
    endpoints: list[Endpoint],
    weight: int | None,
    default: int,
) -> list[Backend]:
    """ENI backends leave here without their interface id: see resolve_interfaces."""
    by_name = {node["metadata"]["name"]: node for node in nodes}
    pods = [Backend("", item.ip, item.port, "eni", 0, owner) for item in endpoints]
    if mode == ENI:
        return weighted(ENI, pods, weight, default)
    node_port = int(port.get("nodePort") or 0)
    found, virtual = [], []
    if mode == CLUSTER:
        found = [Backend(instance_id(node, "normal "), "", node_port, "ecs", 0, owner) for node in nodes if takes_traffic(node)]
    for endpoint, pod in zip(endpoints, pods, strict=True):
        if endpoint.node is None:
            where = f"{svc['metadata']['namespace']}/{svc['metadata']['name']}"
            raise CcmError(f"add ecs backends for service[{where}] error, NodeName is nil for ip {endpoint.ip} ")
        node = by_name.get(endpoint.node)
        if node is None:
            continue
        if is_virtual(node):
            virtual.append(pod)
        elif mode == LOCAL and takes_traffic(node):
            found.append(Backend(instance_id(node), "", node_port, "ecs", 0, owner))
    shared = weighted(mode, found + virtual, weight, default)
    once: dict[tuple[str, str], Backend] = {}
    for item in shared:
        once.setdefault((item.server_id, item.server_ip), item)
    return list(once.values())


def wanted_group(
    svc: Object,
    port: Object,
    cluster: str,
    quirks: Quirks,
    nodes: list[Object],
    endpoints: list[Endpoint],
    groups_of: Callable[[], list[Group]],
) -> Group:
    """The group that one service port needs.

    Reused load balancer with vgroup-port: the group of the user's that it names (`groups_of()` lists those of the load balancer,
    one call a port as the real one does). Otherwise one named after the Service. The annotation weight counts only in the
    former case. Raises CcmError: unknown group, group made by a CCM, bad weight, node without providerID.
    """
    name = str(names.group_owner(svc, port, cluster))
    group = Group(name=name)
    text = names.annotation(svc, "vgroup-port")
    weight = None
    if names.reused(svc) and text:
        try:
            wanted = names.group_for_port(text, port["port"])
        except CcmError as error:
            raise CcmError(f"vgroupid parse error: {error}") from None
        lb = names.annotation(svc, "id")
        if wanted:
            found = next((item for item in groups_of() if item.id == wanted), None)
            if found is None:
                raise CcmError(f"can not find vgroupId {wanted} in lb {lb}")
            if quirks.refuse_made_groups and not found.foreign:
                raise CcmError(f"cannot reuse a ccm created vgroup {wanted} for slb {lb}")
            group.id = wanted
            group.foreign = True
        if names.annotation(svc, "weight"):
            weight = names.weight_of(names.annotation(svc, "weight"))
    group.keep_weights = quirks.ignore_weight and names.annotation(svc, "ignore-weight-update").lower() == "on"
    default = DEFAULT_WEIGHT
    if quirks.default_weight and names.annotation(svc, "default-weight"):
        default = names.weight_of(names.annotation(svc, "default-weight"), "default weight")
    mode = mode_of(svc)
    try:
        group.backends = backends_of(mode, svc, port, name, nodes, endpoints, weight, default)
    except CcmError as error:
        raise CcmError(f"build {mode.lower()} backends error: {error}") from None
    return group


def resolve_interfaces(group: Group, interfaces: dict[str, str], in_vpc: Callable[[str], bool]) -> list[str]:
    """Puts the interface id into every ENI backend; returns the addresses left out because they are outside the VPC.

    Addresses inside the VPC without an interface go to `group.unknown`.
    """
    kept, outside = [], []
    for item in group.backends:
        if item.type != "eni":
            kept.append(item)
        elif item.server_ip in interfaces:
            kept.append(replace(item, server_id=interfaces[item.server_ip]))
        elif in_vpc(item.server_ip):
            group.unknown.append(item.server_ip)
        else:
            outside.append(item.server_ip)
    group.backends = kept
    return outside


def as_backend(answer: Any, svc: Object, cluster: str) -> Backend:
    """A backend of DescribeVServerGroupAttribute; foreign unless its Description names this Service of this cluster."""
    text = str(answer.get("Description") or "")
    owner = names.Owner.parse(text)
    return Backend(
        server_id=str(answer.get("ServerId") or ""),
        server_ip=str(answer.get("ServerIp") or ""),
        port=int(answer.get("Port") or 0),
        type=str(answer.get("Type") or ""),
        weight=int(answer.get("Weight") or 0),
        description=text,
        foreign=owner is None or not owner.same_service(svc, cluster),
    )
