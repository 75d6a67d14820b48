# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""All services of one call together: what is wished, what goes, and what must not happen. Pure."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import fqdn
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _service_objects as objects_of
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_objects import (
    DISCONNECTED,
    NETWORKING,
    Wish,
    healthy,
    is_auto,
    names_host,
    sent_to,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_plan import (
    BAD,
    OF,
    WRITES,
    Item,
    editor_of,
    judge,
    judge_gone,
    owner_of,
    stage_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_routes import Unfit
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import VmService

Object = dict[str, t.Any]
#: The journal's keys of objects that are written into: ``vm-service/<ns>/<service>/<Kind>/<ns>/<name>``.
PREFIX = "vm-service/"


def original_key(service: str, key: str) -> str:
    return f"{PREFIX}{service}/{key}"


@dataclasses.dataclass
class Observed:
    """:arg objects: ``Kind/namespace/name`` -> object. :arg kinds: how the API servers serve them. :arg originals: by the keys of
    the journal. :arg pods: service -> the labels of its ready pods."""

    objects: dict[str, Object]
    kinds: dict[str, Kind | None]
    originals: dict[str, Object] = dataclasses.field(default_factory=dict)
    pods: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Decision:
    """What becomes of a service. ``problems``: why nothing of it is written."""

    service: VmService
    items: list[Item] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def writes(self) -> list[Item]:
        return [] if self.problems else [item for item in self.items if item.action in WRITES]

    def refuse(self) -> None:
        """Items that cannot be are problems of the service."""
        for item in self.items:
            text = f"{item.key}: {item.reason}"
            if item.action in BAD and text not in self.problems:
                self.problems.append(text)

    def as_dict(self, observed: Observed) -> Object:
        rows = []
        for work in self.service.workloads:
            there = [obj for obj in _entries(observed, self.service) if str(obj["spec"].get("address")) == work.address]
            how = "" if not there else "auto" if is_auto(there[0]) else "made"
            rows.append(
                {
                    "address": work.address,
                    "name": there[0]["metadata"]["name"] if there else work.name,
                    "registration": how,
                    "healthy": healthy(there[0]) if there else None,
                }
            )
        objects = [item.as_dict() for item in self.items]
        return {"service": self.service.key, "objects": objects, "workloads": rows, "problems": self.problems}


def _entries(observed: Observed, service: VmService) -> list[Object]:
    start = f"WorkloadEntry/{service.namespace}/"
    return [obj for key, obj in observed.objects.items() if key.startswith(start)]


def decide(
    services: t.Sequence[VmService],
    observed: Observed,
    migration: str,
    *,
    present: bool,
    parts: t.Collection[str],
    unserved: bool = False,
) -> list[Decision]:
    """What becomes of all of them. Two services may share a Gateway: what one wishes is not taken away for another.

    :arg unserved: routes may send where nobody is.
    """
    made = [Decision(service) for service in services]
    for decision in made:
        wishes = _wishes(decision, observed, migration, parts) if present else []
        for wish in wishes:
            item = judge(wish, decision.service, observed.kinds.get(wish.kind), observed.objects.get(wish.key), migration)
            _alone(item, wish, decision.service, observed)
            decision.items.append(item)
    wished = {item.key for decision in made for item in decision.items}
    for decision in made:
        decision.items += [
            item for item in _gone(decision, observed, migration, present=present, parts=parts) if item.key not in wished
        ]
        _once(decision, made)
        if not present:
            _keep(decision, observed, migration)
        decision.refuse()
    if not unserved:
        _guard(made, observed)
    return made


def _once(decision: Decision, made: t.Sequence[Decision]) -> None:
    """An object that several services wish alike is written once."""
    for other in made[: next(index for index, one in enumerate(made) if one is decision)]:
        earlier = {item.key: item for item in other.items if item.action in ("create", "update")}
        for item in decision.items:
            twin = earlier.get(item.key)
            if twin is not None and item.body and twin.body:
                equal = item.body["spec"] == twin.body["spec"]
                item.action = "same" if equal else "conflict"
                item.reason = f"{other.service.key} wishes the same" if equal else f"{other.service.key} wishes it otherwise"


def _wishes(decision: Decision, observed: Observed, migration: str, parts: t.Collection[str]) -> list[Wish]:
    service, found = decision.service, []
    if "workloads" in parts:
        registered = {str(obj["spec"].get("address")) for obj in _entries(observed, service) if is_auto(obj)}
        found += objects_of.workloads(service, registered)
        for work in service.workloads:
            if not service.auto and work.present and work.address in registered:
                decision.notes.append(f"{service.key}: istiod has registered {work.address} itself, no entry is made")
    if "service" in parts:
        found += objects_of.registry(service)
    if "routes" not in parts:
        return found
    for kind, name, wanted, option in (
        ("DestinationRule", service.rule_name, service.wants_rule, service.given["destination_rule"]),
        ("VirtualService", service.route_name, service.wants_routes, service.given["virtual_service"]),
    ):
        if not wanted:
            continue
        try:
            original = _original(service, f"{kind}/{service.namespace}/{name}", option, observed, migration)
            found += [objects_of.rule(service, original)] if kind == "DestinationRule" else objects_of.routes(service, original)
        except Unfit as reason:
            item = Item(service.key, "routes", NETWORKING, kind, service.namespace, name, "conflict", str(reason))
            item.present = observed.objects.get(item.key)
            decision.items.append(item)
    return found


def _original(service: VmService, key: str, option: str | None, observed: Observed, migration: str) -> Object | None:
    """The user's object that the wishes are put into, as it was before; None when ours is made. Raises Unfit."""
    there = observed.objects.get(key)
    if not option or there is None or owner_of(there, migration)[0]:
        return None
    if editor_of(there)[:2] != (migration, service.key):
        return there
    kept = observed.originals.get(original_key(service.key, key))
    if kept is None:
        raise Unfit("the journal has no copy of how it was: run with the state_dir of the first run")
    return kept


def _alone(item: Item, wish: Wish, service: VmService, observed: Observed) -> None:
    """Proxies take one VirtualService for a host, and of several DestinationRules not all: ours would do nothing."""
    if item.action != "create" or wish.kind not in ("VirtualService", "DestinationRule"):
        return
    if not names_host(wish.spec, service.host, wish.namespace):
        return
    for key, obj in sorted(observed.objects.items()):
        kind, namespace, name = key.split("/")
        mine = service.key in (_service_of(obj), editor_of(obj)[1])
        if kind == wish.kind and not mine and names_host(obj.get("spec") or {}, service.host, namespace):
            if (namespace, name) == (service.namespace, service.route_name):
                continue  # it becomes the one that is delegated to
            option = "virtual_service" if kind == "VirtualService" else "destination_rule"
            hint = f"name it in {option} to have the wishes put into it" if namespace == service.namespace else "remove it first"
            item.action, item.reason = "conflict", f"{namespace}/{name} is for {service.host} already; {hint}"
            return


# -- what goes ---------------------------------------------------------------------------------------------------


def _gone(decision: Decision, observed: Observed, migration: str, *, present: bool, parts: t.Collection[str]) -> t.Iterator[Item]:
    service = decision.service
    named = {work.name for work in service.workloads} | {work.address for work in service.workloads}
    leaving = {one for work in service.workloads if not work.present or not present for one in (work.name, work.address)}

    def leaves(obj: Object) -> bool:
        mine = {obj["metadata"]["name"], str(obj["spec"].get("address"))}
        return bool(mine & leaving) if present or named else True

    for key, obj in sorted(observed.objects.items()):
        owner, part = owner_of(obj, migration)
        if owner == service.key and part in parts and (part != "workloads" or leaves(obj)):
            item = judge_gone(obj, service.key, part, None, migration)
            if item.action == "delete":
                _in_use(item, service, observed)
            yield item
        elif editor_of(obj)[:2] == (migration, service.key) and "routes" in parts:
            yield judge_gone(obj, service.key, "routes", observed.originals.get(original_key(service.key, key)), migration)
        elif "workloads" in parts and _is_auto_of(obj, service) and leaves(obj):
            yield _auto_gone(obj, service, named=bool(leaving))


def _is_auto_of(obj: Object, service: VmService) -> bool:
    here = obj["kind"] == "WorkloadEntry" and obj["metadata"].get("namespace") == service.namespace
    return here and is_auto(obj) == service.group


def _auto_gone(obj: Object, service: VmService, *, named: bool) -> Item:
    """istiod's own entry. A VM that is named leaves before its proxy goes, so that nobody is sent to a proxy that is gone."""
    meta = obj["metadata"]
    place = (service.key, "workloads", NETWORKING, "WorkloadEntry", meta["namespace"], meta["name"])
    item = Item(*place, "delete", "istiod made it, and its proxy is gone", present=obj)
    if not (meta.get("annotations") or {}).get(DISCONNECTED):
        item.reason = "istiod made it; its VM leaves, and would be there again when its proxy connects again"
        if not named:
            item.action, item.reason = "conflict", "its proxy is connected: take its VM out first, by name"
    item.stage = stage_of(item)
    return item


def _in_use(item: Item, service: VmService, observed: Observed) -> None:
    """What others use stays."""
    if item.kind == "Gateway":
        name = f"{item.namespace}/{item.name}"
        users = []
        for key, obj in observed.objects.items():
            if key.startswith("VirtualService/") and name in _gateways(obj):
                users += [] if service.key in (_service_of(obj), editor_of(obj)[1]) else [key]
        if users:
            item.action, item.reason = "kept", f"others use it: {', '.join(sorted(users))}"


def _service_of(obj: Object) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(OF, "")).partition(" ")[0]


def _keep(decision: Decision, observed: Observed, migration: str) -> None:
    """The service of VMs that are still registered stays: the last one that leaves takes it away."""
    service = decision.service
    going = {item.key for item in decision.items if item.action == "delete"}
    entries = [
        obj for obj in _entries(observed, service) if f"WorkloadEntry/{service.namespace}/{obj['metadata']['name']}" not in going
    ]
    here = [obj for obj in entries if owner_of(obj, migration)[0] == service.key or is_auto(obj) == service.group]
    for item in decision.items:
        if item.part == "service" and item.action == "delete" and here:
            item.action, item.reason = "kept", f"{len(here)} VMs are still registered for it"


def _gateways(obj: Object) -> set[str]:
    namespace = obj["metadata"].get("namespace", "")
    names = (obj.get("spec") or {}).get("gateways") or []
    return {str(name) if "/" in str(name) else f"{namespace}/{name}" for name in names}


# -- what must not happen ----------------------------------------------------------------------------------------


def _guard(made: t.Sequence[Decision], observed: Observed) -> None:
    """No route sends requests where nobody takes them, and nothing that is still sent to goes."""
    after = dict(observed.objects)
    written: set[str] = set()
    for decision in made:
        for item in decision.writes:
            if item.action != "restore":  # that is how it was before
                written.add(item.key)
            if item.action == "delete":
                after.pop(item.key, None)
            else:
                after[item.key] = {"metadata": {"name": item.name, "namespace": item.namespace}, **(item.body or {})}
    for decision in made:
        if not decision.writes:
            continue
        service, pods = decision.service, observed.pods.get(decision.service.key, [])
        names = {f"{kind}/{service.key}" for kind in ("Service", "ServiceEntry")}
        gone = bool(names & set(observed.objects)) and not names & set(after)
        known = dict(_starving(observed.objects, service, pods))
        back = {item.key for item in decision.writes if item.action == "restore"}
        for (route, subset), why in _starving(after, service, pods):
            if route in written or (route not in back and (route, subset) not in known):
                decision.problems.append(why)
        for key, obj in sorted(after.items()):
            if gone and key.startswith("VirtualService/") and _sends(obj, service):
                decision.problems.append(f"{key} sends to {service.host}, which would be gone: change or remove it first")


def _sends(obj: t.Mapping[str, t.Any], service: VmService) -> set[str]:
    return sent_to(obj.get("spec") or {}, service.host, obj["metadata"].get("namespace", ""))


def _starving(
    objects: t.Mapping[str, Object], service: VmService, pods: t.Sequence[t.Mapping[str, str]]
) -> t.Iterator[tuple[tuple[str, str], str]]:
    """For each route and subset that nobody can take requests for: why."""
    labels: dict[str, dict[str, str]] = {"": {}}
    able = [dict(one) for one in pods]
    for key, obj in objects.items():
        kind, namespace, _name = key.split("/")
        spec = obj.get("spec") or {}
        if kind == "DestinationRule" and fqdn(str(spec.get("host", "")), namespace) == service.host:
            labels.update({str(one.get("name")): one.get("labels") or {} for one in spec.get("subsets") or []})
        elif kind == "WorkloadEntry" and namespace == service.namespace and healthy(obj) is not False:
            able.append(spec.get("labels") or {})
    for key, obj in sorted(objects.items()):
        for subset in sorted(_sends(obj, service)) if key.startswith("VirtualService/") else []:
            if subset not in labels:
                yield (key, subset), f"{key} sends to the subset {subset} of {service.host}, which no DestinationRule has"
                continue
            wanted = {**service.selector, **labels[subset]}
            if not any(all(one.get(name) == value for name, value in wanted.items()) for one in able):
                text = ", ".join(f"{name}={value}" for name, value in sorted(wanted.items()))
                whom = f"{service.host} subset {subset}" if subset else service.host
                yield (key, subset), f"{key} sends to {whom}, and nobody takes it: no healthy VM or pod with {text} is registered"
