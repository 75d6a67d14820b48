# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway pair behind a load balancer as plain data, to be spoiled by the cases. Two nodes, ports 80 and 443."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Backend, Group, Listener, LoadBalancer
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm as ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import GatewayPair, PairView
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._move_state import GatewayState

CLUSTER = "c0a1b2c3d4e5f60718293a4b5c6d7e8f9"
UID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
LB = "lb-1"
NODES = ("i-a", "i-b")
PORTS = {80: (30080, "rsp-80"), 443: (30443, "rsp-443")}
PAIR = GatewayPair("istio-system", "gw", "gw-asm")
REUSED = {
    ccm.ID: LB,
    ccm.VGROUP_PORT: "rsp-80:80,rsp-443:443",
    ccm.WEIGHT: "100",
    ccm.OVERRIDE: "false",
}
MADE_TAGS = {ccm.TAG_OWNER: ccm.owner_tag(UID), ccm.TAG_CLUSTER: CLUSTER}


def service(name: str, annotations: dict[str, str], uid: str = UID, node_ports: int = 0) -> dict[str, Any]:
    ports = [
        {"name": f"p{port}", "port": port, "targetPort": 8000 + port, "nodePort": first + node_ports}
        for port, (first, _group) in PORTS.items()
    ]
    return {
        "metadata": {"name": name, "namespace": "istio-system", "uid": uid, "annotations": dict(annotations), "labels": {}},
        "spec": {"type": "LoadBalancer", "ports": ports},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}},
    }


def owner(port: int, name: str) -> str:
    return f"k8s/{port}/{name}/istio-system/{CLUSTER}"


def backends(port: int, source: int, target: int | None) -> tuple[Backend, ...]:
    node_port = PORTS[port][0]
    found = [Backend(node, node_port, source, "ecs", "", owner(node_port, "gw")) for node in NODES]
    if target is not None:
        found += [Backend(node, node_port + 1000, target, "ecs", "", owner(node_port + 1000, "istio-gw-asm")) for node in NODES]
    return tuple(found)


def slices() -> list[dict[str, Any]]:
    endpoints = [
        {"addresses": [f"10.1.0.{index}"], "nodeName": node, "conditions": {"ready": True}} for index, node in enumerate("ab")
    ]
    return [{"addressType": "IPv4", "ports": [], "endpoints": endpoints}]


def node(name: str, provider: str | None = None) -> dict[str, Any]:
    spec = {"providerID": f"cn-hangzhou.i-{name}" if provider is None else provider}
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def fresh() -> PairView:
    """As the CCM made it: tags on, its own names, scheduler rr, weights 100."""
    return PairView(
        pair=PAIR,
        source=service("gw", {"team": "edge"}),
        target=None,
        nodes=(node("a"), node("b")),
        slices={"gw": slices(), "istio-gw-asm": slices()},
        balancer=LoadBalancer(LB, ccm.owner_tag(UID), "198.51.100.10", "active", "on", "ConsoleProtection", dict(MADE_TAGS)),
        listeners=tuple(
            Listener(port, "tcp", "rr", group, "running", owner(port, "gw")) for port, (_first, group) in PORTS.items()
        ),
        groups=tuple(
            Group(group, owner(first, "gw"), (port,), backends(port, 100, None)) for port, (first, group) in PORTS.items()
        ),
    )


def reused(source: int = 50, target: int | None = None, weight: str = "100") -> PairView:
    """Reusable and settled; with ``target`` its backends' weight."""
    view = fresh()
    return dataclasses.replace(
        view,
        source=service("gw", {"team": "edge", **REUSED, ccm.WEIGHT: weight}),
        balancer=dataclasses.replace(view.balancer, tags={ccm.TAG_REUSED: "true"}),
        listeners=tuple(dataclasses.replace(item, scheduler="wrr") for item in view.listeners),
        groups=tuple(
            Group(group, f"shared-{port}", (port,), backends(port, source, target)) for port, (_first, group) in PORTS.items()
        ),
    )


def moving(source: int = 100, target: int = 0) -> GatewayState:
    """Both gateways there with these annotation weights, and the load balancer shows them."""
    view = reused(max(1, source // 2) if source else 0, max(1, target // 2) if target else 0, str(source))
    second = service("istio-gw-asm", {**REUSED, ccm.WEIGHT: str(target)}, uid="another", node_ports=1000)
    gateway = {"spec": {"serviceAnnotations": {ccm.WEIGHT: str(target)}}}
    return GatewayState(dataclasses.replace(view, target=second), gateway)


def annotated(view: PairView, side: str = "source", **values: str | None) -> PairView:
    """``vgroup_port="..."`` sets the annotation ...-vgroup-port of a side's Service; None takes it away."""
    changed = copy.deepcopy(view.service(side))
    assert changed is not None
    for key, value in values.items():
        name = ccm.PREFIX + key.replace("_", "-")
        if value is None:
            changed["metadata"]["annotations"].pop(name, None)
        else:
            changed["metadata"]["annotations"][name] = value
    return dataclasses.replace(view, **{side: changed})  # type: ignore[arg-type]
