# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""State of a gateway in the middle of a move, what forbids a move, and in which order weights are written. Pure."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import (
    ID,
    IGNORE_WEIGHT,
    MADE_TAGS,
    OVERRIDE,
    VGROUP_PORT,
    WEIGHT,
    Object,
    annotation,
    annotations_of,
    parse_vgroup_port,
    ports_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import (
    WEIGHTED,
    by_port,
    owned_by,
    owner_key,
    shares,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import GatewayPair, PairView
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import SharePlan, Side, parse_share

SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True)
class GatewayState:
    """One gateway now. :arg gateway: the IstioGateway of the target's API server, None when it is not there."""

    view: PairView
    gateway: Object | None

    @property
    def pair(self) -> GatewayPair:
        return self.view.pair

    def side(self, name: str) -> Side:
        """All ports of a gateway have the same backends, unless a port's name is missing in the pods; the smallest counts."""
        counted = [self.view.counted(name, port) for port in self.view.ports]
        least = min(counted, key=lambda item: len(item.members)) if counted else None
        return Side(least.mode, least.members) if least else Side("cluster", ())

    @property
    def source(self) -> Side:
        return self.side("source")

    @property
    def target(self) -> Side:
        return self.side("target")

    def asks(self, side: str) -> int | None:
        """The weight in the annotation of this side's Service; None when there is none or the CCM would not take it."""
        try:
            return self.view.weight(side)
        except ValueError:
            return None

    @property
    def source_weight(self) -> int | None:
        return self.asks("source")

    @property
    def target_weight(self) -> int | None:
        return self.asks("target")

    @property
    def gateway_weight(self) -> str | None:
        """The weight in spec.serviceAnnotations of the IstioGateway, as it is written there."""
        spec = (self.gateway or {}).get("spec") or {}
        return t.cast("str | None", (spec.get("serviceAnnotations") or {}).get(WEIGHT))

    @property
    def shares(self) -> dict[int, float]:
        """Observed share of the target in percent, by listener port."""
        known = by_port(self.view.listeners)
        key = f"{self.pair.namespace}/{self.pair.target_service}"
        return {port: shares(known[port], self.view.group(port)).get(key, 0.0) for port in self.view.ports if port in known}

    @property
    def share(self) -> float:
        """The largest of them."""
        return max(self.shares.values(), default=0.0)

    def sum(self, side: str, port: int) -> int:
        group = self.view.group(port)
        return sum(self.view.own(side, group).values()) if group else 0

    @property
    def target_absent(self) -> bool:
        """No trace of the target's gateway: neither its objects nor a backend."""
        own = any(self.view.own("target", group) for group in self.view.gateway_groups)
        return self.view.target is None and self.gateway is None and not own

    def settled(self, plan: SharePlan) -> bool:
        """The annotations ask for the plan's weights, and the load balancer shows them."""
        if self.view.source is not None and not self._has("source", plan.source_weight):
            return False
        if self.target_absent:
            return plan.target_weight == 0
        return self.gateway_weight == str(plan.target_weight) and self._has("target", plan.target_weight)

    def _has(self, side: str, weight: int) -> bool:
        return self.asks(side) == weight and self.view.shows(side, weight)

    def as_dict(self) -> dict[str, t.Any]:
        return {
            **self.pair.as_dict(),
            "load_balancer_id": self.view.balancer.id,
            "source_weight": self.source_weight,
            "target_weight": self.target_weight,
            "source_backends": len(self.source.members),
            "target_backends": len(self.target.members),
            "mode": self.source.mode,
            "shares": {str(port): share for port, share in self.shares.items()},
            "observed": self.share,
        }


def worst(observed: t.Mapping[int, float], planned: float) -> float:
    """Of the observed shares the one that is farthest from the plan."""
    return max(observed.values(), key=lambda share: abs(share - planned), default=planned)


def order(state: GatewayState, plan: SharePlan) -> list[tuple[str, int]]:
    """``[(side, weight)]`` to write: first the side that gets more, then the side that gets less. So capacity never dips."""
    wanted = {"source": plan.source_weight, "target": plan.target_weight}
    sizes = {"source": plan.source_capacity, "target": plan.target_capacity}
    found: list[tuple[int, str, int]] = []
    for side in SIDES:
        if state.view.service(side) is None:
            continue
        written = state.asks(side) == wanted[side] and (side == "source" or state.gateway_weight == str(wanted[side]))
        if not written or not state.view.shows(side, wanted[side]):
            present = min((state.sum(side, port) for port in state.view.ports), default=0)
            found.append((present - sizes[side], side, wanted[side]))
    return [(side, weight) for _less, side, weight in sorted(found)]


def yields(state: GatewayState, plan: SharePlan, side: str, weight: int) -> bool:
    """Whether a side gives up something with this weight that the other one has to carry.

    Not when the other is to have nothing: then a node came, and the same weight has a lower sum.
    """
    other, carried = ("target", plan.target_capacity) if side == "source" else ("source", plan.source_capacity)
    lowers = any(state.sum(side, port) > sum(state.view.expected(side, port, weight).values()) for port in state.view.ports)
    return lowers and carried > 0 and state.view.service(other) is not None


def refusals(state: GatewayState, share: t.Any) -> list[str]:
    """Everything that forbids to write a weight now; empty when nothing does."""
    asked, view, found = parse_share(share), state.view, []
    if view.source is None and asked < 100:
        found.append(
            f"the Service {state.pair.source_service} is not there (retired?), so it cannot serve {100 - float(asked):g} %"
        )
    if asked > 0 and (view.target is None or state.gateway is None):
        found.append(f"the IstioGateway {state.pair.target_gateway} or its Service {state.pair.target_service} is not there")
    made = [key for key in MADE_TAGS if key in view.balancer.tags]
    if made:
        found.append(f"the load balancer has the tags {', '.join(made)}: it is not reusable (module clb_reuse)")
    for side in SIDES:
        service = view.service(side)
        if service is not None:
            found.extend(_annotation_problems(view, side, service))
    found.extend(_listener_problems(state))
    for name in view.bad_nodes():
        found.append(
            f"node {name} has no usable spec.providerID: the cloud-controller-manager would fail, or take all backends away"
        )
    for side, serves in (("source", asked < 100), ("target", asked > 0)):
        if serves and view.service(side) is not None:
            found.extend(not_ready(state, side))
    return found


def only_past_the_ccm(state: GatewayState, share: t.Any, reasons: t.Sequence[str]) -> bool:
    """All traffic is wanted back, and nothing but bad nodes forbids to write annotations."""
    return parse_share(share) == 0 and bool(reasons) and len(reasons) == len(state.view.bad_nodes())


def _annotation_problems(view: PairView, side: str, service: Object) -> list[str]:
    values = annotations_of(service)
    place = f"Service {view.pair.service(side)}"
    found = []
    if annotation(values, ID) != view.balancer.id:
        other = annotation(values, ID) or "nothing"
        return [f"{place} names {other} as its load balancer, not {view.balancer.id} (module clb_reuse)"]
    if annotation(values, OVERRIDE) != "false":
        found.append(f'{place}: force-override-listeners is {annotation(values, OVERRIDE) or "not set"}, not "false"')
    if annotation(values, IGNORE_WEIGHT).lower() == "on":
        found.append(f"{place}: ignore-weight-update is on, so weights would not be updated")
    named = parse_vgroup_port(annotation(values, VGROUP_PORT))
    for port in ports_of(service):
        group = view.group(int(port["port"]))
        if group is not None and named.get(int(port["port"])) != group.id:
            found.append(
                f"{place}: vgroup-port names {named.get(int(port['port'])) or 'nothing'} for port {port['port']}, "
                f"its listener uses {group.id}"
            )
    return found


def _listener_problems(state: GatewayState) -> list[str]:
    found, view, pair = [], state.view, state.pair
    known = by_port(view.listeners)
    for port in view.ports:
        listener = known.get(port)
        group = view.group(port)
        if listener is None or group is None:
            found.append(f"port {port} has no listener with a vServer group")
            continue
        if listener.scheduler not in WEIGHTED:
            found.append(
                f"listener {port} has the scheduler {listener.scheduler or '?'}: it does not look at weights (module clb_reuse)"
            )
        if listener.persistence:
            found.append(f"listener {port} keeps clients at their backend ({listener.persistence}), whatever the weights are")
        for backend in group.backends:
            if not any(owned_by(backend, pair.namespace, pair.service(side)) for side in SIDES):
                found.append(f"group {group.id} of port {port} has a backend of somebody else: {owner_key(backend)}")
                break
    return found


def not_ready(state: GatewayState, side: str) -> list[str]:
    """Why this side cannot serve. Backends that are missing in a group are no reason: writing the weight brings them."""
    view = state.view
    for port in view.ports:
        counted = view.counted(side, port)
        if counted.ready_pods == 0:
            return [f"no pod of {view.pair.service(side)} is ready"]
        if not counted.members:
            return [f"no node that the cloud-controller-manager takes is behind {view.pair.service(side)}"]
    return []


def unhealthy(view: PairView, side: str, health: t.Mapping[int, t.Collection[tuple[str, str, int, str]]]) -> list[str]:
    """Ports on which no backend of this side has a weight over 0 and is healthy.

    :arg health: listener port -> (server id, server ip, port, status). ``unavailable`` = the health check is off or has no result
        yet: then the pods' readiness has to do.
    """
    found = []
    for port in view.ports:
        group = view.group(port)
        states = {item[:3]: item[3] for item in health.get(port, ())}
        own = [
            item
            for item in (group.backends if group else ())
            if owned_by(item, view.pair.namespace, view.pair.service(side)) and item.weight > 0
        ]
        if not own:
            found.append(f"port {port}: no backend of {view.pair.service(side)} has a weight over 0")
        elif all(states.get((item.server_id, item.server_ip, item.port), "unavailable") == "abnormal" for item in own):
            found.append(f"port {port}: the load balancer's health check fails for all backends of {view.pair.service(side)}")
    return found


def refuse(state: GatewayState, reasons: t.Sequence[str], share: t.Any) -> MigrationError:
    return MigrationError(
        f"The share {share} % cannot be set for {state.pair}",
        where=state.view.where,
        why="; ".join(reasons),
        todo="mend this and run again",
        details={"refusals": list(reasons)},
    )
