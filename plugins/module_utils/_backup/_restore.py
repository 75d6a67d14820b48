# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a restore would do with each object, and how an object is written into a cluster. Pure functions."""

from __future__ import annotations

import dataclasses
import fnmatch
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import MASK
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._order import order_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import (
    CONFLICT,
    CREATE,
    DIFFERS,
    EXTRA,
    NOT_SERVED,
    REFUSED,
    SAME,
    Creates,
)

UNREADABLE, KEPT = "unreadable", "kept"
# What stands against the whole restore.
AGAINST = (CONFLICT, REFUSED, UNREADABLE, NOT_SERVED)
_LATE = 99
_ITEMS = 300


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which objects of an archive are wanted, and where they go."""

    namespaces: tuple[str, ...]
    only: tuple[str, ...]
    namespace_map: t.Mapping[str, str]

    def wants(self, entry: Entry) -> bool:
        """By the names in the archive. CustomResourceDefinitions are another step's affair (_definitions.py)."""
        if is_definition(entry):
            return False
        namespace = entry.name if is_namespace(entry) else entry.namespace
        if self.namespaces and namespace and namespace not in self.namespaces:
            return False
        return not self.only or any(fnmatch.fnmatchcase(entry.key, pattern) for pattern in self.only)

    def place(self, entry: Entry) -> tuple[str, str]:
        """Namespace and name in the target."""
        if is_namespace(entry):
            return "", self.namespace_map.get(entry.name, entry.name)
        return self.namespace_map.get(entry.namespace, entry.namespace), entry.name

    def key(self, entry: Entry) -> str:
        """The Entry's key in the target."""
        namespace, name = self.place(entry)
        return f"{entry.group}/{entry.kind}/{namespace}/{name}"


def is_namespace(entry: Entry) -> bool:
    return entry.kind == "Namespace" and not entry.group


def is_definition(entry: Entry) -> bool:
    return entry.kind == _scope.CRD.kind and entry.group == _scope.CRD.group


def choice_of(params: t.Mapping[str, t.Any]) -> Choice:
    """Raises InputError when two namespaces would become one."""
    mapping = {str(old): str(new) for old, new in (params["namespace_map"] or {}).items()}
    twice = sorted({new for new in mapping.values() if list(mapping.values()).count(new) > 1})
    if twice:
        raise InputError("Two namespaces cannot become one", where=f"namespace_map: {', '.join(twice)}")
    return Choice(tuple(params["namespaces"]), tuple(params["only"]), mapping)


@dataclasses.dataclass
class Item:
    """An object that the operator should see: all but those that are simply created or the same."""

    key: str
    state: str
    reason: str
    differences: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> Object:
        group, kind, namespace, name = self.key.split("/", 3)
        return {"group": group, "kind": kind, "namespace": namespace, "name": name, **dataclasses.asdict(self)}


class RestorePlan:
    """One byte an object, and a text for those that are not plain: memory does not grow with the objects that are the same.

    :arg codes: per object of the archive (in its order) 0 = nothing to do, 1 = create, 2 = update.
    :arg deletes: (key, uid) of what is pruned, each one named.
    """

    def __init__(self) -> None:
        self.codes = bytearray()
        self.ranks = bytearray()
        self.counts = dict.fromkeys((SAME, CREATE, DIFFERS, CONFLICT, REFUSED, UNREADABLE, NOT_SERVED, EXTRA, KEPT), 0)
        self.items: list[Item] = []
        self.namespaces: list[str] = []
        self.deletes: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self._creates = Creates()
        self.updates: list[Item] = []

    def add(
        self, entry: Entry, key: str, state: str, reason: str = "", differences: t.Sequence[str] = (), late: bool = False
    ) -> int:
        """Take in one object of the archive; returns its number."""
        self.codes.append(1 if state == CREATE else 0)
        self.ranks.append(_LATE if late else order_of(entry.group, entry.kind))
        self.counts[state] += 1
        if state == CREATE:
            self._creates.add(key)
        elif reason:
            self._tell(Item(key, state, reason, list(differences)))
        return len(self.codes) - 1

    def _tell(self, item: Item) -> None:
        if len(self.items) < _ITEMS or (item.state in AGAINST and len(self.items) < 2 * _ITEMS):
            self.items.append(item)

    def keep(self, key: str, why: str) -> None:
        """An object of the target alone that is its control plane's."""
        self.counts[KEPT] += 1
        self._tell(Item(key, KEPT, f"the archive has it not, and it is kept: {why}"))

    def refuse(self, number: int, key: str, state: str, why: str) -> None:
        """The target's API server does not take an object that was to be created or updated."""
        self.counts[CREATE if self.codes[number] == 1 else DIFFERS] -= 1
        if self.codes[number] == 1:
            self._creates.drop(key)
        self.codes[number] = 0
        self.counts[state] += 1
        if state != SAME:
            self._tell(Item(key, state, why))

    def update(self, number: int, key: str, differences: list[str]) -> None:
        """The object is there otherwise and is overwritten."""
        self.codes[number] = 2
        self.updates.append(Item(key, DIFFERS, "it is overwritten", differences))
        self._tell(self.updates[-1])

    @property
    def writes(self) -> int:
        """Objects that are written or deleted."""
        return len(self.codes) - self.codes.count(0) + len(self.namespaces) + len(self.deletes)

    def as_plan(self) -> Plan:
        """For check mode, diff and ``changed``. Many creates are counted by kind and namespace, other writes all named."""
        made = Plan(notes=list(self.notes))
        for name in self.namespaces:
            made.add("create", f"target/Namespace/{name}", None, {"name": name}, "restored objects live in it")
        self._creates.tell(made, "as in the archive", "it is not there")
        for item in self.updates:
            made.add("update", f"target/{item.key.lstrip('/')}", None, item.differences, item.reason)
        for key, _uid in self.deletes:
            made.add("delete", f"target/{key.lstrip('/')}", "as in the cluster", None, "it is not in the archive")
        return made


def body_of(entry: Entry, obj: Object, api_version: str, choice: Choice, *, same_cluster: bool) -> Object:
    """The object as it is created, in place: its new namespace, and without what another cluster gives out anew."""
    namespace, name = choice.place(entry)
    obj["apiVersion"] = api_version
    meta = obj["metadata"]
    meta["name"] = name
    if namespace:
        meta["namespace"] = namespace
    obj.pop("status", None)
    spec = obj.get("spec")
    if entry.group:
        return obj
    if entry.kind == "Service" and isinstance(spec, dict) and not same_cluster:
        if spec.get("clusterIP") != "None":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(field, None)
        spec.pop("healthCheckNodePort", None)
        for port in spec.get("ports") or ():
            port.pop("nodePort", None)
    elif entry.kind == "ServiceAccount":
        obj.pop("secrets", None)
    elif entry.kind == "Namespace":
        (meta.get("labels") or {}).pop("kubernetes.io/metadata.name", None)
        obj.pop("spec", None)
    return obj


def over(body: Object, live: Object) -> Object:
    """The body as it replaces the live object, in place: identity, owners and addresses stay the live one's."""
    meta, now = body["metadata"], live["metadata"]
    meta["resourceVersion"] = now["resourceVersion"]
    meta.pop("ownerReferences", None)
    if now.get("ownerReferences"):
        meta["ownerReferences"] = now["ownerReferences"]
    finalizers = [*(meta.get("finalizers") or ()), *(now.get("finalizers") or ())]
    if finalizers:
        meta["finalizers"] = list(dict.fromkeys(finalizers))
    if body["kind"] == "Service" and "/" not in body["apiVersion"]:
        spec, there = body.setdefault("spec", {}), live.get("spec") or {}
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"):
            if field in there:
                spec[field] = there[field]
        ports = {(port.get("protocol", "TCP"), port["port"]): port.get("nodePort") for port in there.get("ports") or ()}
        for port in spec.get("ports") or ():
            kept = ports.get((port.get("protocol", "TCP"), port["port"]))
            if kept:
                port["nodePort"] = kept
    if body["kind"] == "Namespace" and "/" not in body["apiVersion"]:
        body["spec"] = live.get("spec") or {}
    return body


def shown(lines: t.Sequence[str], secret: bool) -> list[str]:
    """Differences for plans and results; of what may hold a secret only the paths."""
    return [f"{line.split(': ', 1)[0]}: {MASK}" if secret else line for line in lines]


def prunable(lists: t.Sequence[Object], scope: t.Mapping[str, t.Any], choice: Choice) -> tuple[set[str], set[str] | None]:
    """``group/Kind`` of which the archive holds all, and the namespaces (of the target) of which it does; None = all."""
    whole = {str(entry["kind"]) for entry in lists if entry["mode"] == "all"}
    saved, wanted = set(scope.get("namespaces") or ()), set(choice.namespaces)
    if not saved and not wanted:
        return whole, (set(choice.namespace_map.values()) if choice.namespace_map else None)
    chosen = saved & wanted if saved and wanted else saved or wanted  # nothing in common is nothing, and not everything
    return whole, {choice.namespace_map.get(name, name) for name in chosen}
