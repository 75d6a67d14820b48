# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Plans for the end of a source gateway, and for its return. Pure functions.

A source Service is deleted *with* its reuse annotations: then the cloud-controller-manager takes only its own backends out.
Without them it would delete the load balancer (CCM service_controller cleanup; observed with v2.8.0, v2.11.2 and v2.14.0).
"""

from __future__ import annotations

import copy
import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Health
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._proof import health_states, share
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._snapshot import creatable
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import GatewayObjects, rollout_trouble

Object = dict[str, t.Any]


@dataclasses.dataclass
class Observed:
    """:arg source: what is there of the source gateway. :arg target: Service and Deployment of the target gateway.
    :arg health: port -> what the health check says about the backends. :arg snapshot: the file that has the source Service,
        or empty. :arg kept: objects of a gateway that is retired already, in the order in which they come back.
    """

    source: GatewayObjects
    target: GatewayObjects
    view: PairView | None
    health: dict[int, list[Health]] = dataclasses.field(default_factory=dict)
    snapshot: str = ""
    kept: list[Object] = dataclasses.field(default_factory=list)

    @property
    def where(self) -> str:
        return f"source/{self.source.namespace}/Service/{self.source.name}"

    @property
    def parts(self) -> list[Object]:
        """What retiring deletes, in this order: what steers the pods, the pods, and the Service when no pod is left.

        The Service goes last: istiod finds the listener of a Gateway's port through it (port 80 is 8080 in the pod). Without it
        pods that still end connections answer them with 404.
        """
        found = [self.source.hpa, *self.source.pdbs, self.source.deployment, self.source.service]
        return [item for item in found if item is not None]


@dataclasses.dataclass
class RetirePlan:
    """:arg objects: the objects of the changes, in their order."""

    observed: Observed
    plan: Plan
    objects: list[Object] = dataclasses.field(default_factory=list)
    refusals: list[Refusal] = dataclasses.field(default_factory=list)
    done: list[str] = dataclasses.field(default_factory=list)

    @property
    def planned(self) -> list[str]:
        return [str(change) for change in self.plan.changes]


def place(obj: Object) -> str:
    """``source/<ns>/<Kind>/<name>``: the object in plans, and in the keys of its copies."""
    meta = obj["metadata"]
    return f"source/{meta['namespace']}/{obj['kind']}/{meta['name']}"


def plan_retired(seen: Observed) -> RetirePlan:
    """Every deletion by name and UID, and every reason against it."""
    made = RetirePlan(seen, Plan())
    parts = seen.parts
    if not parts:
        made.plan.notes.append(f"{seen.where}: nothing is left of the source gateway")
        return made
    made.refusals += _no_traffic(seen)
    made.refusals += _safe_to_delete(seen)
    made.refusals += _target_serves(seen)
    for obj in parts:
        if obj["metadata"].get("deletionTimestamp"):
            continue
        reason = "no pod is behind it any more; its annotations stay on it, so that only its own backends leave"
        reason = reason if obj["kind"] == "Service" else "the target serves everything"
        made.plan.add("delete", place(obj), {"uid": obj["metadata"]["uid"]}, None, reason)
        made.objects.append(obj)
    made.plan.notes.append("ServiceAccount, Role and RoleBinding of the source gateway are left alone")
    return made


def _no_traffic(seen: Observed) -> list[Refusal]:
    """The source has weight 0 in its annotation and in the load balancer, on every listener."""
    if seen.source.service is None:
        return []
    todo = "shift all traffic to the target first (traffic_shift or clb_weight with share 100)"
    view = seen.view
    weight = _ccm.annotation(_ccm.annotations_of(seen.source.service), _ccm.WEIGHT)
    reasons = [] if weight == "0" else [f"its weight annotation is {weight or 'not set, which means full weight'}"]
    if view is None:
        reasons.append("its load balancer was not found")
    else:
        for port in view.ports:
            group = view.group(port)
            if group is None:
                reasons.append(f"port {port} has no listener with a vServer group")
                continue
            mine, theirs = share(view, "source", port), share(view, "target", port)
            if any(view.own("source", group).values()) or theirs < 100:
                reasons.append(f"port {port}: source {mine:g} %, target {theirs:g} %")
    return [Refusal("The source gateway still has traffic", seen.where, "; ".join(reasons), todo, order=True)] if reasons else []


def _safe_to_delete(seen: Observed) -> list[Refusal]:
    """Nothing else goes with the Service, nobody else needs the pods, and there is a way back."""
    found: list[Refusal] = []
    service = seen.source.service
    if service is not None:
        notes, reasons = _ccm.annotations_of(service), []
        reasons += [f"{key} is missing" for key in (_ccm.ID, _ccm.VGROUP_PORT) if not _ccm.annotation(notes, key)]
        if _ccm.annotation(notes, _ccm.OVERRIDE) != "false":
            reasons.append(f'{_ccm.OVERRIDE} is not "false"')
        tags = [key for key in _ccm.MADE_TAGS if seen.view and key in seen.view.balancer.tags]
        if tags:
            reasons.append(f"the load balancer has the tags {', '.join(tags)}")
        if reasons:
            what = "Deleting the Service would take listeners or the load balancer with it"
            found.append(Refusal(what, seen.where, "; ".join(reasons), "run clb_reuse for this gateway first", order=True))
        if not seen.snapshot:
            why = "no whole snapshot holds this very Service (by its UID)"
            found.append(Refusal("There is no way back", seen.where, why, "run gateway_snapshot first", order=True))
    if seen.source.sharing:
        names = ", ".join(sorted(item["metadata"]["name"] for item in seen.source.sharing))
        where = place(t.cast(Object, seen.source.deployment))
        todo = "point these Services to other pods, or keep the gateway"
        found.append(Refusal("The gateway's pods are in use", where, f"they also serve the Services {names}", todo))
    return found


def _target_serves(seen: Observed) -> list[Refusal]:
    """The target's pods are ready, and the health check of every listener sees one of its backends.

    A port on which the source is not healthy either is one that nobody uses: that is no reason.
    """
    ready, lacking, _hopeless = rollout_trouble(seen.target.deployment, seen.target.pods)
    reasons = [] if ready else [f"Deployment {seen.target.name}: {lacking}"]
    sick, used = [], False
    for port in seen.view.ports if seen.view else []:
        mine, theirs = (health_states(t.cast(PairView, seen.view), seen.health, side, port) for side in ("target", "source"))
        if "normal" in mine:
            used = True
        elif not (theirs and "normal" not in theirs):
            used = True
            reasons.append(f"port {port}: no backend of the target is healthy ({', '.join(sorted(mine)) or 'no answer'})")
        else:
            sick.append(str(port))
    if sick and not used:
        reasons.append(f"no port is healthy, on neither side ({', '.join(sick)})")
    where = f"source/{seen.target.namespace}/Service/{seen.target.name}"
    todo = "wait until the target gateway is healthy on every port"
    return [Refusal("The target gateway does not serve yet", where, "; ".join(reasons), todo, order=True)] if reasons else []


# -- restored ----------------------------------------------------------------------------------------------------


def returned(obj: Object) -> Object:
    """A kept object as it is created again. A Service joins its groups without traffic, and leaves listeners alone."""
    fresh = creatable(obj)
    if fresh["kind"] != "Service":
        return fresh
    notes = fresh["metadata"].setdefault("annotations", {})
    for key in (_ccm.WEIGHT, _ccm.OVERRIDE):
        notes.pop(key.replace(_ccm.PREFIX, _ccm.LEGACY_PREFIX), None)
    notes[_ccm.WEIGHT], notes[_ccm.OVERRIDE] = "0", "false"
    labels = fresh["metadata"].get("labels") or {}
    for key in (_ccm.LABEL_LB, "service.beta.kubernetes.io/hash"):
        labels.pop(key, None)  # the CCM writes them again; an old hash would make it think that all is done
    return fresh


def without_numbers(service: Object) -> Object:
    """A Service that lets the cluster choose addresses and node ports again, when the old ones are taken by now."""
    fresh = copy.deepcopy(service)
    for field in ("clusterIP", "clusterIPs", "healthCheckNodePort"):
        fresh["spec"].pop(field, None)
    for port in fresh["spec"].get("ports") or []:
        port.pop("nodePort", None)
    return fresh


_ORDER = {"Deployment": 0, "HorizontalPodAutoscaler": 1, "PodDisruptionBudget": 2, "Service": 3}


def plan_restored(seen: Observed) -> RetirePlan:
    """Create what is missing of the kept objects: pods first, the Service last. What is there stays as it is."""
    made = RetirePlan(seen, Plan())
    if not seen.kept:
        made.plan.notes.append(f"{seen.where}: this migration has not retired it")
        return made
    there = {place(obj): obj for obj in seen.parts}
    for obj in sorted(seen.kept, key=lambda item: (_ORDER[item["kind"]], item["metadata"]["name"])):
        present = there.get(place(obj))
        if present is not None and not present["metadata"].get("deletionTimestamp"):
            continue
        body = returned(obj)
        reason = "it joins its vServer groups with weight 0" if obj["kind"] == "Service" else "it was retired by this migration"
        made.plan.add("create", place(obj), None, concealed(body), reason)
        made.objects.append(body)
    service = next((item for item in seen.kept if item["kind"] == "Service"), None)
    if service is None or not made.objects:
        return made
    if seen.view is not None:
        id_then = _ccm.annotation(_ccm.annotations_of(service), _ccm.ID)
        named = _ccm.parse_vgroup_port(_ccm.annotation(_ccm.annotations_of(service), _ccm.VGROUP_PORT))
        groups = {group.id for group in seen.view.groups}
        lost = sorted(group for group in named.values() if group not in groups)
        if id_then != seen.view.balancer.id or lost:
            why = f"it was in {id_then} (groups lost: {', '.join(lost) or 'none'}), the target is in {seen.view.balancer.id}"
            todo = "build the gateway anew: its old place in the load balancer is gone"
            made.refusals.append(Refusal("The gateway cannot return to its old place", seen.where, why, todo))
    bad = seen.view.bad_nodes() if seen.view else []
    if bad:
        why = f"no spec.providerID on {', '.join(bad)}: the cloud-controller-manager would fail, or drop backends in silence"
        todo = "wait until it is initialized, or label it node.kubernetes.io/exclude-from-external-load-balancers"
        made.refusals.append(Refusal("A node cannot become a backend", f"source/Node/{bad[0]}", why, todo))
    return made
