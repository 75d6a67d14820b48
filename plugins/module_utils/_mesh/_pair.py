# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""One gateway that is moved: two Services of the source cluster behind one load balancer, read into plain data."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb, Group, Listener, LoadBalancer
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import ENDPOINT_SLICE, NODE, SERVICE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import (
    DEFAULT_WEIGHT,
    ID,
    LABEL_LB,
    Object,
    annotation,
    annotations_of,
    parse_owner,
    ports_of,
    weight_of,
    weights,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm_members import Counted, count, mode_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import backend_key, by_port, owned_by


@dataclasses.dataclass(frozen=True)
class GatewayPair:
    """:arg target_gateway: name of the IstioGateway; its Service is ``istio-<name>`` in the source cluster."""

    namespace: str
    source_service: str
    target_gateway: str
    load_balancer_id: str | None = None

    @property
    def target_service(self) -> str:
        return f"istio-{self.target_gateway}"

    def service(self, side: str) -> str:
        return self.source_service if side == "source" else self.target_service

    def as_dict(self) -> dict[str, t.Any]:
        return {
            "namespace": self.namespace,
            "source_service": self.source_service,
            "target_gateway": self.target_gateway,
        }

    def __str__(self) -> str:
        return f"{self.namespace}/{self.source_service} -> {self.target_gateway}"


def now_text() -> str:
    """The time now, in UTC, with milliseconds: two touches in one second must differ."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"


def pairs_of(gateways: t.Sequence[t.Mapping[str, t.Any]]) -> list[GatewayPair]:
    """The option O(gateways). Raises InputError for an empty list and for a gateway that is named twice."""
    if not gateways:
        raise InputError("No gateway is named", why="the option gateways is empty", todo="name at least one gateway")
    found = [
        GatewayPair(item["namespace"], item["source_service"], item["target_gateway"], item.get("load_balancer_id") or None)
        for item in gateways
    ]
    seen: set[tuple[str, str]] = set()
    for pair in found:
        for name in sorted({pair.source_service, pair.target_service}):
            if (pair.namespace, name) in seen:
                raise InputError(f"The gateway {pair.namespace}/{name} is named twice", todo="name each gateway once")
            seen.add((pair.namespace, name))
        if pair.source_service == pair.target_service:
            raise InputError(
                f"The IstioGateway {pair.target_gateway} would take the name of the source's Service",
                where=f"{pair.namespace}/{pair.source_service}",
                why=f"the Service of an IstioGateway is named istio-<name>, here {pair.target_service}",
                todo="give the target gateway another name, like one that ends in -asm",
            )
    return found


@dataclasses.dataclass(frozen=True)
class PairView:
    """What is there now. ``source`` and ``target`` are the two Services (None: not there).

    :arg slices: EndpointSlices by name of the Service. :arg nodes: all nodes of the cluster.
    """

    pair: GatewayPair
    source: Object | None
    target: Object | None
    nodes: tuple[Object, ...]
    slices: dict[str, list[Object]]
    balancer: LoadBalancer
    listeners: tuple[Listener, ...]
    groups: tuple[Group, ...]

    # -- of the load balancer ------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        return f"clb/{self.balancer.id}"

    @property
    def source_there(self) -> Object:
        """The source's Service where the checks have seen it; somebody may have deleted it since."""
        if self.source is None:
            where = f"source/{self.pair.namespace}/Service/{self.pair.source_service}"
            raise MigrationError("The source's Service is gone", where=where, todo="find out who deleted it, then run this again")
        return self.source

    def service(self, side: str) -> Object | None:
        return self.source if side == "source" else self.target

    @property
    def ports(self) -> list[int]:
        """The ports of the gateway: of the source's Service, or of the target's when the source is gone."""
        return [int(port["port"]) for port in ports_of(self.source or self.target or {})]

    def group(self, port: int) -> Group | None:
        listener = by_port(self.listeners).get(port)
        return next((group for group in self.groups if listener and group.id == listener.group_id), None)

    @property
    def gateway_groups(self) -> list[Group]:
        """The groups behind the gateway's ports, each once, in the order of the ports."""
        found = [self.group(port) for port in self.ports]
        return list({group.id: group for group in found if group is not None}.values())

    @property
    def cluster_id(self) -> str:
        """The cluster's id as the CCM writes it: from what it wrote about the Services of this gateway."""
        names = {self.pair.source_service, self.pair.target_service}
        texts = [item.description for item in self.listeners]
        texts += [backend.description for group in self.groups for backend in group.backends]
        texts += [group.name for group in self.groups]
        for text in texts:
            owner = parse_owner(text)
            if owner and owner.namespace == self.pair.namespace and owner.service in names:
                return owner.cluster_id
        return ""

    def own(self, side: str, group: Group) -> dict[str, int]:
        """Weights of this side's backends in a group, by member (instance id, or address of a pod)."""
        name = self.pair.service(side)
        return {backend_key(item): item.weight for item in group.backends if owned_by(item, self.pair.namespace, name)}

    # -- of the cluster ------------------------------------------------------------------------------------------

    def mode(self, side: str) -> str:
        service = self.service(side)
        if service is None:
            return "cluster"
        name = self.pair.service(side)
        seen = {item.type for group in self.groups for item in group.backends if owned_by(item, self.pair.namespace, name)}
        return mode_of(service, seen)

    def counted(self, side: str, port: int) -> Counted:
        """What the CCM would make of this port of this side's Service."""
        service = self.service(side)
        ports = {int(item["port"]): item for item in ports_of(service or {})}
        if service is None or port not in ports:
            return Counted(self.mode(side), (), (), 0)
        name = self.pair.service(side)
        return count(service, ports[port], self.nodes, self.slices.get(name, []), self.mode(side))

    def weight(self, side: str) -> int | None:
        """The weight that the Service's annotation asks for. Raises ValueError when the CCM would not take it."""
        service = self.service(side)
        return weight_of(annotations_of(service)) if service else None

    def expected(self, side: str, port: int, weight: int | None) -> dict[str, int]:
        counted = self.counted(side, port)
        return weights(counted.mode, counted.members, weight)

    def accepted(self, side: str, port: int, weight: int | None) -> list[dict[str, int]]:
        """What the groups may hold: without a weight also the annotation default-weight, which only CCM v2.14 knows."""
        found = [self.expected(side, port, weight)]
        custom = annotation(annotations_of(self.service(side) or {}), DEFAULT_WEIGHT)
        if weight is None and custom.isdigit():
            counted = self.counted(side, port)
            found.append(weights(counted.mode, counted.members, None, int(custom)))
        return found

    def shows(self, side: str, weight: int | None) -> bool:
        """Whether every group of the gateway holds exactly what the formula gives for this weight, for this side."""
        return not self.differences(side, weight)

    def differences(self, side: str, weight: int | None) -> list[str]:
        """Why not, one line a port."""
        found: list[str] = []
        for port in self.ports:
            group = self.group(port)
            present = self.own(side, group) if group else {}
            wanted = self.accepted(side, port, weight)
            if group is None or present not in wanted:
                name = self.pair.service(side)
                found.append(f"port {port}: the load balancer has {present} for {name}, the annotation means {wanted[0]}")
        return found

    def bad_nodes(self) -> list[str]:
        found = {name for side in ("source", "target") for port in self.ports for name in self.counted(side, port).bad_nodes}
        return sorted(found)


def read_services(source: Cluster, pair: GatewayPair) -> dict[str, t.Any]:
    """``{source, target, nodes, slices}`` of a pair, read in parallel."""
    namespace = pair.namespace
    names = (pair.source_service, pair.target_service)
    selector = "kubernetes.io/service-name={}"

    def read(part: str) -> t.Any:
        if part == "nodes":
            return list(source.list_all(NODE))
        kind, _sep, name = part.partition(" ")
        if kind == "service":
            return source.get(SERVICE, name, namespace)
        return list(source.list_all(ENDPOINT_SLICE, namespace, label_selector=selector.format(name)))

    parts = ["nodes", *(f"service {name}" for name in names), *(f"slices {name}" for name in names)]
    nodes, first, second, slices_first, slices_second = values(each(parts, read))
    return {
        "source": first,
        "target": second,
        "nodes": tuple(nodes),
        "slices": {names[0]: slices_first, names[1]: slices_second},
    }


def balancer_id(clb: Clb, pair: GatewayPair, source: Object | None, target: Object | None) -> str:
    """The option, else the annotation, else the CCM's label, else by address. Contradictions are refused."""
    service = source or target
    place = f"source/{pair.namespace}/Service/{pair.source_service}"
    if service is None:
        raise MigrationError(
            "The gateway is not there",
            where=place,
            why=f"there is neither this Service nor {pair.target_service}",
            todo="check gateways[].namespace, source_service and target_gateway, and that source names the right cluster",
        )
    label = str((service["metadata"].get("labels") or {}).get(LABEL_LB) or "")
    told = annotation(annotations_of(service), ID)
    known = {item for item in (pair.load_balancer_id, told, label) if item}
    if len(known) > 1:
        raise MigrationError(
            "It is not clear which load balancer is meant",
            where=place,
            why=f"the option says {pair.load_balancer_id}, the annotation {told or None}, the label {label or None}",
            todo="leave out gateways[].load_balancer_id, or correct the Service",
        )
    if known:
        return known.pop()
    address = addresses_of(service)
    found = clb.find(address=address[0]) if address else []
    if len(found) != 1:
        raise MigrationError(
            "The load balancer of the gateway was not found",
            where=place,
            why=f"{len(found)} load balancers have the address {address[0]}" if address else "its status has no address",
            todo="set gateways[].load_balancer_id, and check that alibaba.region is the region of the load balancer",
        )
    return found[0].id


def addresses_of(service: Object) -> list[str]:
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [str(item["ip"]) for item in ingress if item.get("ip")]


def read_balancer(clb: Clb, lb_id: str) -> tuple[LoadBalancer, tuple[Listener, ...], tuple[Group, ...]]:
    """Load balancer, listeners and groups, read in parallel."""

    def read(part: str) -> t.Any:
        if part == "balancer":
            return clb.load_balancer(lb_id)
        return clb.listeners(lb_id) if part == "listeners" else clb.groups(lb_id)

    balancer, listeners, groups = values(each(["balancer", "listeners", "groups"], read))
    return balancer, tuple(listeners), tuple(groups)


def observe_pair(source: Cluster, clb: Clb, pair: GatewayPair) -> PairView:
    """Everything about one gateway. Reads only."""
    found = read_services(source, pair)
    lb_id = balancer_id(clb, pair, found["source"], found["target"])
    balancer, listeners, groups = read_balancer(clb, lb_id)
    return PairView(pair=pair, balancer=balancer, listeners=listeners, groups=groups, **found)
