# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Plans for the target gateway (IstioGateway) beside a source gateway: made without traffic, removed without a listener. Pure.

The ASM controller makes Deployment and Service ``istio-<name>`` in the source cluster. It overrides listeners unless it is
told not to, so that annotation is always written.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway_clone import check_overrides, clone
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import MANAGED_BY
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._proof import live_ports
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import GatewayObjects

Object = dict[str, t.Any]
NAMESPACE = "istio-system"
# A gateway without pods. The autoscaler would bring them back.
EMPTY: Object = {"autoscaleEnabled": False, "replicaCount": 0}
SOURCE_NOTE = "servicemesh.migration/source"
_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """:arg cluster_id: of the ACK cluster; empty = as the load balancer's backends say."""

    migration: str
    cluster_id: str = ""
    overrides: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Observed:
    """All that is there of one pair.

    :arg kind: IstioGateway as the target serves it, or None. :arg source: the source gateway.
    :arg made: Service and Deployment ``istio-<name>`` in the source cluster. :arg view: None when neither Service is there.
    """

    namespace: str
    name: str
    kind: Kind | None
    gateway: Object | None
    source: GatewayObjects
    made: GatewayObjects
    view: PairView | None

    @property
    def where(self) -> str:
        return f"target/{self.namespace}/IstioGateway/{self.name}"


@dataclasses.dataclass
class GatewayPlan:
    """:arg body: of a create, or the merge patch of an update. :arg refusals: why nothing of it is done. :arg done: so far."""

    observed: Observed
    plan: Plan
    refusals: list[Refusal] = dataclasses.field(default_factory=list)
    action: str = ""
    body: Object = dataclasses.field(default_factory=dict)
    done: list[str] = dataclasses.field(default_factory=list)

    @property
    def planned(self) -> list[str]:
        return [str(change) for change in self.plan.changes]


def check_input(gateways: t.Sequence[Object], overrides: t.Mapping[str, t.Any]) -> None:
    """Refuse what cannot be right before anything is read."""
    check_overrides(overrides)
    names = [gateway["target_gateway"] for gateway in gateways]
    for gateway in gateways:
        name, why = gateway["target_gateway"], ""
        if gateway["namespace"] != NAMESPACE:
            why = f"an IstioGateway must be in the namespace {NAMESPACE}, not in {gateway['namespace']!r}"
        elif not _NAME.match(name) or len(name) > 57:
            why = f"{name!r} is no name for a Service istio-{name}: lower case letters, digits and '-', at most 57 characters"
        elif name == "ingressgateway" or f"istio-{name}" == gateway["source_service"]:
            why = f"the IstioGateway {name!r} would be named istio-{name} in the source cluster, as Istio's own gateway is"
        elif names.count(name) > 1:
            why = f"{name!r} is named more than once"
        if why:
            todo = f"choose another name, like {name.removeprefix('istio-')}-asm" if _NAME.match(name) else "choose another name"
            todo = "use namespace istio-system" if gateway["namespace"] != NAMESPACE else todo
            raise InputError("This gateway cannot be made", where="the option gateways", why=why, todo=todo)


# -- present -----------------------------------------------------------------------------------------------------


def plan_present(seen: Observed, wanted: Wanted) -> GatewayPlan:
    """Create the IstioGateway, mend its intent, or nothing. The weight of one that exists is never touched."""
    made = GatewayPlan(seen, Plan())
    if seen.kind is None:
        made.refusals.append(
            Refusal(
                "The target knows no IstioGateway",
                seen.where,
                "its API server does not serve the kind IstioGateway of istio.alibabacloud.com",
                "check that target is the API server of the ASM instance, not the one of the ACK cluster",
            )
        )
        return made
    if seen.source.service is None or seen.source.deployment is None:
        _without_source(made, wanted)
        return made
    made.refusals += _not_reusable(seen)
    cluster_id = wanted.cluster_id or _cluster_id(seen)
    if not cluster_id:
        why, todo = "nothing in the load balancer names it", "set cluster_id to the id of the ACK cluster"
        made.refusals.append(Refusal("The id of the ACK cluster is not known", seen.where, why, todo))
    spec, notes = clone(
        seen.source.service,
        seen.source.deployment,
        seen.source.hpa,
        target=seen.name,
        cluster_id=cluster_id,
        overrides=wanted.overrides,
        predicted=_predicted(seen),
    )
    made.plan.notes += [f"{seen.name}: {note}" for note in notes]
    bad = seen.view.bad_nodes() if seen.view else []
    if bad and seen.gateway is None:
        why = f"no spec.providerID on {', '.join(bad)}: the cloud-controller-manager would fail, or drop backends in silence"
        todo = "wait until it is initialized, or label it node.kubernetes.io/exclude-from-external-load-balancers"
        made.refusals.append(Refusal("A node cannot become a backend", f"source/Node/{bad[0]}", why, todo))
    if seen.gateway is None:
        _create(made, wanted, spec)
    else:
        _update(made, wanted, spec)
    return made


def _without_source(made: GatewayPlan, wanted: Wanted) -> None:
    seen = made.observed
    if seen.gateway is not None and _managed_by(seen.gateway) == wanted.migration:
        made.plan.notes.append(f"{seen.name}: the source gateway is gone (retired), so there is nothing to compare with")
        return
    what = "Service" if seen.source.service is None else "Deployment"
    why = "there is no such Service" if what == "Service" else "no Deployment has the labels that the Service chooses"
    where = f"source/{seen.source.namespace}/Service/{seen.source.name}"
    todo = "check gateways[].namespace and gateways[].source_service, and that source is the right cluster"
    made.refusals.append(Refusal(f"The source gateway's {what} does not exist", where, why, todo))


def _not_reusable(seen: Observed) -> list[Refusal]:
    """Whether clb_reuse has done its work: annotations, tags, names of groups."""
    service = t.cast(Object, seen.source.service)
    notes, reasons = _ccm.annotations_of(service), []
    for key in (_ccm.ID, _ccm.VGROUP_PORT, _ccm.WEIGHT):
        if not _ccm.annotation(notes, key):
            reasons.append(f"the annotation {key} is missing")
    if _ccm.annotation(notes, _ccm.OVERRIDE) != "false":
        reasons.append(f'the annotation {_ccm.OVERRIDE} is not "false"')
    named = _ccm.parse_vgroup_port(_ccm.annotation(notes, _ccm.VGROUP_PORT))
    lost = [str(port["port"]) for port in _ccm.ports_of(service) if int(port["port"]) not in named]
    if _ccm.annotation(notes, _ccm.VGROUP_PORT) and lost:
        reasons.append(f"vgroup-port does not reach port {', '.join(lost)}")
    if seen.view is not None:
        tags = [key for key in _ccm.MADE_TAGS if key in seen.view.balancer.tags]
        if tags:
            reasons.append(f"the load balancer has the tags {', '.join(tags)}")
        names = [group.name for group in seen.view.groups if group.id in named.values() and _ccm.parse_owner(group.name)]
        if names:
            reasons.append(f"vServer groups have names of the cloud-controller-manager: {', '.join(names)}")
    if not reasons:
        return []
    where, todo = f"source/{seen.source.namespace}/Service/{seen.source.name}", "run clb_reuse for this gateway first"
    return [Refusal("The source's load balancer is not reusable yet", where, "; ".join(reasons), todo, order=True)]


def _predicted(seen: Observed) -> dict[str, str]:
    """What clb_reuse would write, from the listeners as they are."""
    if seen.view is None:
        return {}
    groups = [(port, seen.view.group(port)) for port in seen.view.ports]
    pairs = [f"{group.id}:{port}" for port, group in groups if group]
    return {_ccm.ID: seen.view.balancer.id, _ccm.VGROUP_PORT: ",".join(pairs)}


def _cluster_id(seen: Observed) -> str:
    """As the CCM wrote it into backends and names; the tag says it too while it is there."""
    if seen.view is None:
        return ""
    return seen.view.cluster_id or seen.view.balancer.tags.get(_ccm.TAG_CLUSTER, "")


def _managed_by(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get(MANAGED_BY, ""))


def _create(made: GatewayPlan, wanted: Wanted, spec: Object) -> None:
    seen = made.observed
    for kind, obj in (("Service", seen.made.service), ("Deployment", seen.made.deployment)):
        if obj is not None:
            leaving = obj["metadata"].get("deletionTimestamp")
            made.refusals.append(
                Refusal(
                    f"The {kind} istio-{seen.name} exists already",
                    f"source/{seen.namespace}/{kind}/istio-{seen.name}",
                    f"there is no IstioGateway {seen.name} that could have made it"
                    + (", and it is being deleted" if leaving else ""),
                    "wait until it is gone" if leaving else "choose another target_gateway, or remove it if nobody needs it",
                )
            )
    body = {
        "apiVersion": t.cast(Kind, seen.kind).api_version,
        "kind": "IstioGateway",
        "metadata": {
            "name": seen.name,
            "namespace": seen.namespace,
            "labels": {MANAGED_BY: wanted.migration},
            "annotations": {SOURCE_NOTE: f"{seen.source.namespace}/{seen.source.name}"},
        },
        "spec": spec,
    }
    made.action, made.body = "create", body
    made.plan.add("create", seen.where, None, concealed(body), "like the source's, in the same vServer groups, with weight 0")


def _update(made: GatewayPlan, wanted: Wanted, spec: Object) -> None:
    """Only what differs from the intent is patched; an IstioGateway that we did not make is never changed."""
    seen, present = made.observed, t.cast(Object, made.observed.gateway)
    spec["serviceAnnotations"].pop(_ccm.WEIGHT)
    patch = unlike(spec, present.get("spec") or {})
    notes = (present.get("spec") or {}).get("serviceAnnotations") or {}
    if present["metadata"].get("deletionTimestamp"):
        why, todo = "a deletion is under way", "run again when it is gone"
        made.refusals.append(Refusal("The IstioGateway is being deleted", seen.where, why, todo))
        return
    if not _ccm.annotation(notes, _ccm.WEIGHT):
        made.plan.notes.append(f"{seen.name}: it has no weight annotation, which means full weight; clb_weight sets one")
    if not patch:
        return
    if _managed_by(present) != wanted.migration:
        what = "An IstioGateway of this name exists, and it is not this migration's"
        todo = "choose another target_gateway, or change the existing one by hand so that it agrees"
        made.refusals.append(Refusal(what, seen.where, "it differs in " + ", ".join(_paths(patch)), todo))
        return
    moved = {_ccm.ID, _ccm.VGROUP_PORT} & {*(patch.get("serviceAnnotations") or {})}
    if moved and seen.view and live_ports(seen.view, "target"):
        why = "another load balancer or other groups would take its backends away"
        made.refusals.append(Refusal("The gateway has traffic", seen.where, why, "set its share to 0 with clb_weight first"))
    before = {key: (present.get("spec") or {}).get(key) for key in patch}
    after = {key: spec.get(key, value) for key, value in patch.items()}
    made.action = "update"
    made.body = {"metadata": {"resourceVersion": present["metadata"]["resourceVersion"]}, "spec": patch}
    reason = "it differs from the source gateway in " + ", ".join(_paths(patch))
    made.plan.add("update", seen.where, concealed({"spec": before}), concealed({"spec": after}), reason)


def unlike(wanted: t.Any, present: t.Any) -> Object:
    """A merge patch that brings ``present`` to hold ``wanted``; what is present beyond it (server defaults) stays."""
    patch: Object = {}
    for key, value in wanted.items():
        have = (present or {}).get(key)
        if isinstance(value, dict) and isinstance(have, dict):
            inner = unlike(value, have)
            if inner:
                patch[key] = inner
        elif not _holds(value, have):
            patch[key] = copy.deepcopy(value)
    return patch


def _holds(wanted: t.Any, have: t.Any) -> bool:
    if isinstance(wanted, dict) and isinstance(have, dict):
        return not unlike(wanted, have)
    if isinstance(wanted, list) and isinstance(have, list):
        return len(wanted) == len(have) and all(_holds(item, have[index]) for index, item in enumerate(wanted))
    if wanted in ({}, [], "", None) and have in ({}, [], "", None):
        return True
    if isinstance(wanted, str) and isinstance(have, str) and wanted != have:
        left, right = quantity(wanted), quantity(have)
        return left is not None and left == right
    return bool(wanted == have)


_QUANTITY = re.compile(r"^([0-9.]+)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
_FACTORS = {"m": 1e-3, None: 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_FACTORS.update({"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50})


def quantity(text: str) -> float | None:
    """The number that a Kubernetes quantity means (2000m = 2); None when it is none."""
    found = _QUANTITY.match(text)
    try:
        return float(found.group(1)) * _FACTORS[found.group(2)] if found else None
    except ValueError:
        return None


def _paths(patch: Object, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in patch.items():
        found += _paths(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
    return found


# -- absent ------------------------------------------------------------------------------------------------------


def plan_absent(seen: Observed, wanted: Wanted) -> GatewayPlan:
    """Delete the IstioGateway that this migration made, when it has no traffic and its deletion takes no listener."""
    made = GatewayPlan(seen, Plan())
    gateway, service = seen.gateway, seen.made.service
    if gateway is None:
        if service is not None and not service["metadata"].get("deletionTimestamp"):
            made.plan.notes.append(f"the Service istio-{seen.name} is there without an IstioGateway: it is left alone")
        return made
    if _managed_by(gateway) != wanted.migration:
        why = f"its label {MANAGED_BY} is {_managed_by(gateway) or 'missing'}, not {wanted.migration}"
        todo = "delete it yourself if that is meant"
        made.refusals.append(Refusal("This migration did not make the IstioGateway", seen.where, why, todo))
        return made
    made.refusals += in_use(seen)
    if gateway["metadata"].get("deletionTimestamp"):
        return made
    if service is not None and _ccm.annotation(_ccm.annotations_of(service), _ccm.OVERRIDE) != "false":
        value = _ccm.annotation(_ccm.annotations_of(service), _ccm.OVERRIDE)
        reason = "with any other value the cloud-controller-manager would delete the listeners together with this Service"
        made.plan.add("annotate", seen.where, {_ccm.OVERRIDE: value or None}, {_ccm.OVERRIDE: "false"}, reason)
    if seen.made.deployment is not None and int(seen.made.deployment["spec"].get("replicas", 1)) > 0:
        spec = gateway.get("spec") or {}
        before = {key: spec.get(key) for key in EMPTY}
        reason = "its pods end their connections while its Service is there; without it istiod would make them answer 404"
        made.plan.add("empty", seen.where, before, EMPTY, reason)
    made.action = "delete"
    made.plan.add("delete", seen.where, {"uid": gateway["metadata"]["uid"]}, None, "it has no traffic; its listeners stay")
    return made


def in_use(seen: Observed) -> list[Refusal]:
    """Reasons of traffic: weight on a port, weight in the annotation, or nobody else who would serve."""
    found: list[Refusal] = []
    todo = "set its share to 0 with clb_weight first"
    if seen.view is not None:
        live = live_ports(seen.view, "target")
        if live:
            why = ", ".join(f"it has {percent:g} % of port {port}" for port, percent in sorted(live.items()))
            found.append(Refusal("The gateway has traffic", seen.where, why, todo, order=True))
    weight = _ccm.annotation(_ccm.annotations_of(seen.made.service or {}), _ccm.WEIGHT)
    if seen.made.service is not None and weight != "0" and not found:
        why = f"the weight of its Service is {weight or 'not set, which means full weight'}"
        found.append(Refusal("The gateway may get traffic", seen.where, why, todo, order=True))
    if seen.view is not None and not found:
        groups = [(port, seen.view.group(port)) for port in seen.view.ports]
        dry = [str(port) for port, group in groups if group and not any(item.weight for item in group.backends)]
        if dry:
            why, todo = f"no backend has weight on port {', '.join(dry)}", "give the source gateway its weight back first"
            found.append(Refusal("Nobody else would serve", seen.where, why, todo, order=True))
    return found
