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
import functools
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._selector import (
    Selector,
    parse_selector,
    selects,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import (
    Selected,
    Workload,
    closure,
    ordered,
    rewrite,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import (
    CONTENT,
    MANAGED_BY,
    foreign_marks,
    key_of,
    mesh_kind,
    portable,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import content, differences, digest
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._misfit import misfit
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._order import order_of, rank_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import (
    CONFLICT,
    CREATE,
    NOT_SERVED,
    SAME,
    Creates,
    judge,
    mark_of,
)

Object = dict[str, t.Any]
WRITES = ("create", "update", "delete", "restore")
NAMED = 500


@dataclasses.dataclass
class Item:
    """What becomes of one object.

    :arg action: ``create``, ``update``, ``delete``, ``restore`` (writes); ``same``, ``kept`` (nothing to do);
        ``conflict`` (the target has it otherwise, and nobody said that it may be overwritten); ``refused`` (the target does not
        take it); ``extra`` (only the target has it).
    :arg comparison: ``only_in_source``, ``same``, ``differs``, ``only_in_target``; empty where nothing is compared.
    :arg wanted: what the source has, for writes; ``body``: what is written, with our marks (see ``fill``).
    :arg present: what the target has now.
    :arg overwrites: the present object was not written by this migration, or was changed since: a copy is kept before the write.
    :arg asked: the target was asked about this write (server-side dry run).
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
    comparison: str = ""
    wanted: Object | None = None
    asked: bool = False

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def where(self) -> str:
        return f"target/{self.namespace}/{self.kind}/{self.name}"

    @property
    def rank(self) -> int:
        return order_of(mesh_kind(self.kind).group, self.kind)

    def as_dict(self) -> dict[str, t.Any]:
        """The item for RV(items)."""
        return {
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "action": self.action,
            "reason": self.reason,
            "differences": self.differences,
            "comparison": self.comparison,
            "asked": self.asked,
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

    @property
    def is_told_whole(self) -> bool:
        """Whether the plan shows whole objects, as long as they are few."""
        return len(self.of("create")) <= NAMED and len(self.writes) <= 2 * NAMED

    def rehearsal(self) -> dict[str, t.Any]:
        """About how many of the writes the target was asked, for RV(rehearsal). A deletion needs no question."""
        asked = sum(1 for item in self.items if item.asked)
        left = sum(1 for item in self.writes if item.action != "delete" and not item.asked)
        return {"asked": asked, "of": asked + left, "complete": not left}

    def as_plan(self) -> Plan:
        """As the Plan that check mode, diff and ``changed`` come from."""
        made = Plan()
        for name in self.namespaces:
            made.add("create", f"target/Namespace/{name}", None, {"name": name}, "objects of the selection live in it")
        self._tell_writes(made)
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

    def _tell_writes(self, made: Plan) -> None:
        """Whole objects while they are few. Of many, creates are counted, and of updates there is what differs."""
        few = self.is_told_whole
        if not few:
            creates = Creates()
            for item in self.of("create"):
                creates.add(f"{item.namespace}/{item.kind}/{item.name}")
            creates.tell(made, "as in the source", "the target does not have them")
        for item in self.writes:
            if few:
                before = portable(item.present) if item.present else None
                after = None if item.action == "delete" else portable(item.body or {})
                made.add(item.action, item.where, before, after, item.reason)
            elif item.action != "create":
                told = None if item.action == "delete" else item.differences
                made.add(item.action, item.where, "as in the target", told, item.reason)

    def counts(self) -> dict[str, int]:
        """How many objects stand how to each other."""
        found = dict.fromkeys(("only_in_source", "same", "differs", "only_in_target"), 0)
        for item in self.items:
            if item.comparison:
                found[item.comparison] += 1
        return found


@dataclasses.dataclass(frozen=True)
class Filters:
    """The options that narrow a selection; an empty one lets everything through. Names may hold ``*``."""

    kinds: t.Collection[str] = ()
    namespaces: t.Collection[str] = ()
    names: t.Collection[str] = ()
    label_selector: str | None = None

    @functools.cached_property
    def labels(self) -> Selector:
        return parse_selector(self.label_selector)

    def lets_through(self, obj: Object) -> bool:
        meta = obj["metadata"]
        return (
            (not self.kinds or obj["kind"] in self.kinds)
            and (not self.namespaces or meta.get("namespace", "") in self.namespaces)
            and (not self.names or any(fnmatch.fnmatchcase(meta["name"], pattern) for pattern in self.names))
            and selects(self.labels, meta.get("labels"))
        )


def select(
    objects: t.Sequence[Object],
    workloads: t.Sequence[Workload],
    *,
    scope: str = "gateway",
    filters: Filters | None = None,
) -> list[Selected]:
    """``scope`` gateway: the closure of the gateways; all: every object. The filters narrow either."""
    if scope == "gateway":
        found = closure(objects, workloads)
    else:
        found = ordered([rewrite(obj, workloads, "it is selected by the options") for obj in objects])

    return [item for item in found if filters is None or filters.lets_through(item.obj)]


def only_in_target(
    source: t.Iterable[Object],
    target: t.Mapping[str, Object],
    workloads: t.Sequence[Workload],
    *,
    scope: str,
    filters: Filters,
    migration: str,
) -> list[Item]:
    """What the target has and the source has not. Scope gateway: of what acts on the target's gateways."""
    known = {key_of(obj) for obj in source}
    if scope == "gateway":
        there = [Workload(one.namespace, one.target_selector, one.target_selector) for one in workloads]
        found = [item.obj for item in closure(list(target.values()), there)]
    else:
        found = sorted(target.values(), key=lambda obj: (rank_of(obj), key_of(obj)))
    made = []
    for obj in found:
        if key_of(obj) in known or not filters.lets_through(obj):
            continue
        mine = _owner(obj) == migration
        reason = "this migration copied it, and the source has it no more" if mine else "the source does not have it"
        meta = obj["metadata"]
        made.append(Item(obj["kind"], meta.get("namespace", ""), meta["name"], "extra", reason, comparison="only_in_target"))
    return made


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


def holds(present: Object, body: Object) -> bool:
    """Whether the target's object is what was written: by the hash in it, which knows the target's defaults, or as a whole."""
    return digest(present) in ((body["metadata"].get("annotations") or {}).get(CONTENT), digest(body))


def plan_present(
    selected: t.Sequence[Selected],
    present: t.Mapping[str, Object],
    kinds: t.Mapping[str, Kind | None],
    *,
    migration: str,
    on_conflict: str = "fail",
    target_namespaces: t.Collection[str] = (),
    create_namespaces: bool = True,
    target_version: str = "",
) -> ConfigPlan:
    """Only in the source, the same, different; what is only in the target is told by ``only_in_target``.

    ``present``: key -> object of the target; ``kinds``: kind -> how the target serves it; ``target_version``: of its proxies.
    Creates get their body from ``fill``.
    """
    made = ConfigPlan([])
    for chosen in selected:
        obj = chosen.rewritten
        kind, meta = obj["kind"], obj["metadata"]
        item = Item(kind, meta.get("namespace", ""), meta["name"], "create", chosen.why, present=present.get(key_of(obj)))
        made.items.append(item)
        served = kinds.get(kind)
        if item.present is not None:
            item.differences = differences(content(obj), content(item.present))
        mark = mark_of(item.present) if item.present else ""
        state, why = judge(served, item.present is not None, mark, functools.partial(bool, not item.differences))
        item.comparison = "only_in_source" if item.present is None else "differs" if item.differences else "same"
        unfit, note = misfit(obj, target_version)
        if note:
            made.notes.append(f"{item.key}: {note}")
        if state == SAME and not chosen.problem:
            item.action, item.reason = "same", "the target has the same"
        elif chosen.problem or unfit:
            item.action, item.reason = "refused", chosen.problem or unfit
        elif served is None or state == NOT_SERVED:
            group = mesh_kind(kind).group or obj["apiVersion"].rpartition("/")[0]
            item.action, item.reason = "refused", f"the target does not serve the kind {kind} ({group})"
        elif state == CONFLICT:
            item.action, item.reason = "conflict", why
        elif item.namespace and item.namespace not in target_namespaces and not create_namespaces:
            item.action, item.reason = "refused", f"the target has no namespace {item.namespace}"
        else:
            item.wanted = obj
            if state != CREATE:
                fill([item], kinds, migration)
                _compare(item, migration, on_conflict)
            elif item.namespace and item.namespace not in {*target_namespaces, *made.namespaces}:
                made.namespaces.append(item.namespace)
    return made


def fill(items: t.Iterable[Item], kinds: t.Mapping[str, Kind | None], migration: str) -> None:
    """Give the items that lack it what is written: a hash of each object, so it is not done for those that nobody looks at."""
    for item in items:
        if item.body is None and item.wanted is not None:
            item.body = marked(item.wanted, t.cast(Kind, kinds[item.kind]), migration)


def _compare(item: Item, migration: str, on_conflict: str) -> None:
    """Decide about an object that both sides have, and that differs."""
    present, body = t.cast(Object, item.present), t.cast(Object, item.body)
    owner = _owner(present)
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
    for obj in sorted(mine, key=lambda found: (-rank_of(found), key_of(found))):
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
