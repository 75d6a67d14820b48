# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Copy mesh configuration from one API server to another: what is copied, what is the same, what is in the way. Pure functions.

Each object that was written carries the label ``servicemesh.migration/managed-by`` (the migration) and the annotation
``servicemesh.migration/content`` (a hash of what was written): so a later run knows its own objects, and whether somebody
changed them since.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import (
    Selected,
    Workload,
    closure,
    ordered,
    rewrite,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import (
    CONTENT,
    KINDS,
    MANAGED_BY,
    foreign_marks,
    key_of,
    portable,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import content, differences, digest

Object = dict[str, t.Any]
WRITES = ("create", "update", "delete", "restore")


@dataclasses.dataclass
class Item:
    """What becomes of one object.

    :arg action: ``create``, ``update``, ``delete``, ``restore`` (writes); ``same``, ``kept`` (nothing to do);
        ``conflict`` (the target has it otherwise, and nobody said that it may be overwritten); ``refused`` (it cannot be
        written).
    :arg body: what is written, for writes.
    :arg present: what the target has now.
    :arg overwrites: the present object was not written by this migration, or was changed since: a copy is kept before the write.
    """

    kind: str
    namespace: str
    name: str
    action: str
    reason: str
    differences: list[str] = dataclasses.field(default_factory=list)
    body: Object | None = None
    present: Object | None = None
    overwrites: bool = False

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def where(self) -> str:
        return f"target/{self.namespace}/{self.kind}/{self.name}"

    def as_dict(self) -> dict[str, t.Any]:
        """The item for RV(items)."""
        return {
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "action": self.action,
            "reason": self.reason,
            "differences": self.differences,
        }


@dataclasses.dataclass
class ConfigPlan:
    """:arg namespaces: to be created in the target before everything else. :arg emptied: objects of namespaces that this
    migration made and that go after everything else; ``notes``: why others stay."""

    items: list[Item]
    namespaces: list[str] = dataclasses.field(default_factory=list)
    emptied: list[Object] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def writes(self) -> list[Item]:
        return [item for item in self.items if item.action in WRITES]

    def of(self, action: str) -> list[Item]:
        return [item for item in self.items if item.action == action]

    def as_plan(self) -> Plan:
        """As the Plan that check mode, diff and ``changed`` come from."""
        made = Plan()
        for name in self.namespaces:
            made.add("create", f"target/Namespace/{name}", None, {"name": name}, "objects of the selection live in it")
        for item in self.writes:
            before = portable(item.present) if item.present else None
            after = None if item.action == "delete" else portable(item.body or {})
            made.add(item.action, item.where, before, after, item.reason)
        for namespace in self.emptied:
            meta = namespace["metadata"]
            made.add(
                "delete",
                f"target/Namespace/{meta['name']}",
                {"uid": meta["uid"]},
                None,
                "this migration made it, and it is empty",
            )
        made.notes += self.notes
        for item in self.items:
            if item.action in ("conflict", "kept", "refused"):
                made.notes.append(f"{item.action}: {item.key}: {item.reason}")
        return made


def select(
    objects: t.Sequence[Object],
    workloads: t.Sequence[Workload],
    *,
    scope: str = "gateway",
    kinds: t.Collection[str] = (),
    namespaces: t.Collection[str] = (),
    names: t.Collection[str] = (),
) -> list[Selected]:
    """``scope`` gateway: the closure of the gateways; all: every object. The filters (names may hold ``*``) narrow either."""
    if scope == "gateway":
        found = closure(objects, workloads)
    else:
        found = ordered([rewrite(obj, workloads, "it is selected by the options") for obj in objects])

    def wanted(item: Selected) -> bool:
        meta = item.obj["metadata"]
        right_kind = not kinds or item.obj["kind"] in kinds
        return right_kind and matches(meta.get("namespace", ""), meta["name"], namespaces=namespaces, names=names)

    return [item for item in found if wanted(item)]


def matches(namespace: str, name: str, *, namespaces: t.Collection[str], names: t.Collection[str]) -> bool:
    """The filters of the options; an empty one lets everything through."""
    if namespaces and namespace not in namespaces:
        return False
    return not names or any(fnmatch.fnmatchcase(name, pattern) for pattern in names)


def marked(obj: Object, kind: Kind, migration: str) -> Object:
    """The object as it is written to the target."""
    fresh = portable(obj)
    fresh["apiVersion"] = kind.api_version
    meta = fresh["metadata"]
    meta.setdefault("labels", {})[MANAGED_BY] = migration
    meta.setdefault("annotations", {})[CONTENT] = digest(fresh)
    return fresh


def _owner(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get(MANAGED_BY, ""))


def _untouched(obj: Object) -> bool:
    """Whether nobody changed the object since a migration wrote it."""
    return (obj["metadata"].get("annotations") or {}).get(CONTENT) == digest(obj)


def plan_present(
    selected: t.Sequence[Selected],
    present: t.Mapping[str, Object],
    kinds: t.Mapping[str, Kind | None],
    *,
    migration: str,
    on_conflict: str = "fail",
    target_namespaces: t.Collection[str] = (),
    create_namespaces: bool = True,
) -> ConfigPlan:
    """Three ways: only in the source, the same, different.

    ``present``: key -> object of the target; ``kinds``: kind -> how the target serves it.
    """
    made = ConfigPlan([])
    for chosen in selected:
        obj = chosen.rewritten
        kind, meta = obj["kind"], obj["metadata"]
        item = Item(kind, meta.get("namespace", ""), meta["name"], "create", chosen.why, present=present.get(key_of(obj)))
        made.items.append(item)
        served = kinds.get(kind)
        if chosen.problem:
            item.action, item.reason = "refused", chosen.problem
        elif served is None:
            item.action, item.reason = "refused", f"the target does not serve the kind {kind} ({KINDS[kind].group})"
        elif item.namespace and item.namespace not in target_namespaces and not create_namespaces:
            item.action, item.reason = "refused", f"the target has no namespace {item.namespace}"
        else:
            item.body = marked(obj, served, migration)
            if item.present is not None:
                _compare(item, migration, on_conflict)
            elif item.namespace and item.namespace not in {*target_namespaces, *made.namespaces}:
                made.namespaces.append(item.namespace)
    return made


def _compare(item: Item, migration: str, on_conflict: str) -> None:
    """Decide about an object that both sides have."""
    present, body = t.cast(Object, item.present), t.cast(Object, item.body)
    owner = _owner(present)
    item.differences = differences(content(body), content(present))
    if not item.differences:
        item.action, item.reason = "same", "the target has the same"
        return
    if owner == migration and _untouched(present):
        item.action, item.reason = "update", "the source changed since it was copied"
    else:
        if owner == migration:
            item.reason = "somebody changed it in the target since it was copied"
        elif owner:
            item.reason = f"it belongs to the migration {owner}"
        else:
            item.reason = "the target has its own, and it differs"
        item.action = "update" if on_conflict == "update" else "conflict"
        item.overwrites = item.action == "update"
    meta = present["metadata"]
    # Marks of tools that manage the target's object are the target's own affair and stay.
    for field in ("labels", "annotations"):
        body["metadata"][field] = {**foreign_marks(meta.get(field)), **(body["metadata"].get(field) or {})}
    for field in ("finalizers", "ownerReferences"):
        if meta.get(field):
            body["metadata"][field] = copy.deepcopy(meta[field])
    body["metadata"]["resourceVersion"] = meta["resourceVersion"]


def plan_absent(present: t.Mapping[str, Object], originals: t.Mapping[str, Object], *, migration: str) -> ConfigPlan:
    """Take away what this migration wrote and nobody changed since; put back what it overwrote. ``originals``: key -> object."""
    made = ConfigPlan([])
    mine = [obj for obj in present.values() if _owner(obj) == migration]
    for obj in sorted(mine, key=lambda found: (-KINDS[found["kind"]].order, key_of(found))):
        meta = obj["metadata"]
        item = Item(obj["kind"], meta.get("namespace", ""), meta["name"], "delete", "this migration made it", present=obj)
        made.items.append(item)
        original = originals.get(item.key)
        if not _untouched(obj):
            item.action, item.reason = "kept", "somebody changed it since it was copied: it is left as it is"
        elif original is not None:
            item.action, item.reason = "restore", "this migration overwrote it"
            item.body = {**portable(original), "apiVersion": obj["apiVersion"]}
            for field in ("labels", "annotations"):
                item.body["metadata"][field] = dict(original["metadata"].get(field) or {})
            item.body["metadata"]["resourceVersion"] = meta["resourceVersion"]
    return made
