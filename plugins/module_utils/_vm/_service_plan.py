# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What becomes of each object of a VM's service. Pure.

Ours: label ``servicemesh.migration/vm`` (the migration), annotation ``servicemesh.migration/vm-service`` (service and part) and
``servicemesh.migration/content`` (a hash of the spec that was written). An object of the user's that was written into has the
annotation ``servicemesh.migration/vm-edit`` instead (migration, service, hash), and the journal has its original.
Only specs are compared: others may put labels and annotations on an object, like a cloud's controller on a Service.
"""

from __future__ import annotations

import copy
import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _meaning
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import CONTENT, portable
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._order import order_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import TERMINATING, mark_of
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_objects import Wish
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import VmService

Object = dict[str, t.Any]
LABEL = "servicemesh.migration/vm"
OF = "servicemesh.migration/vm-service"
EDIT = "servicemesh.migration/vm-edit"
WRITES = ("create", "update", "edit", "restore", "delete")
BAD = ("conflict", "refused")
# Stages of writing: what routes need, routes, what routes needed. Subsets that go, go after the routes.
ROUTES, SHRINK, GONE = 40, 45, 120


@dataclasses.dataclass
class Item:
    """:arg action: WRITES; ``same``, ``kept`` (nothing to do); BAD. :arg first: a write before the routes are written, for a
    DestinationRule of which subsets come and go."""

    service: str
    part: str
    group: str
    kind: str
    namespace: str
    name: str
    action: str
    reason: str
    body: Object | None = None
    present: Object | None = None
    original: Object | None = None
    lines: list[str] = dataclasses.field(default_factory=list)
    stage: int = 0

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"

    def as_dict(self) -> Object:
        fields = ("kind", "namespace", "name", "action", "reason")
        return {**{field: getattr(self, field) for field in fields}, "differences": self.lines}

    def change(self, mesh: str) -> Change:
        before = _shown(self.present) if self.present else None
        after = None if self.action == "delete" else _shown(self.body or {})
        return Change(self.action, f"{mesh}/{self.namespace}/{self.kind}/{self.name}", before, after, self.reason)


def _shown(obj: t.Mapping[str, t.Any]) -> Object:
    made = portable(obj)
    made.pop("metadata", None)
    return made


def digest(obj: t.Mapping[str, t.Any]) -> str:
    """A hash of what the spec means."""
    return _meaning.digest(_bare(obj))


def _bare(obj: t.Mapping[str, t.Any]) -> Object:
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": {"name": ""}, "spec": obj.get("spec") or {}}


def differing(wanted: t.Mapping[str, t.Any], present: t.Mapping[str, t.Any]) -> list[str]:
    return _meaning.differences(_meaning.content(_bare(wanted)), _meaning.content(_bare(present)))


def holds(present: t.Mapping[str, t.Any], body: t.Mapping[str, t.Any]) -> bool:
    """Whether what is stored is what was written, by the hash in it, which knows the server's defaults, or as a whole."""
    notes = body["metadata"].get("annotations") or {}
    return digest(present) in (notes.get(CONTENT), str(notes.get(EDIT, "")).rpartition(" ")[2], digest(body))


# -- marks -------------------------------------------------------------------------------------------------------


def _notes(obj: t.Mapping[str, t.Any]) -> t.Mapping[str, str]:
    return obj["metadata"].get("annotations") or {}


def owner_of(obj: t.Mapping[str, t.Any], migration: str) -> tuple[str, str]:
    """Service and part for which this migration made it, or two empty texts."""
    if (obj["metadata"].get("labels") or {}).get(LABEL) != migration:
        return "", ""
    key, _blank, part = str(_notes(obj).get(OF, "")).partition(" ")
    return key, part


def editor_of(obj: t.Mapping[str, t.Any]) -> tuple[str, str, str]:
    """Migration, service and hash of the last edit, or three empty texts."""
    words = str(_notes(obj).get(EDIT, "")).split(" ")
    return (words[0], words[1], words[2]) if len(words) == 3 else ("", "", "")


def marked(body: Object, migration: str, service: str, part: str) -> Object:
    meta = body["metadata"]
    meta.setdefault("labels", {})[LABEL] = migration
    meta.setdefault("annotations", {}).update({OF: f"{service} {part}", CONTENT: digest(body)})
    return body


def remark(body: Object, stored: t.Mapping[str, t.Any]) -> None:
    """The server's defaults are part of what we wrote."""
    notes = body["metadata"].get("annotations") or {}
    if CONTENT in notes:
        notes[CONTENT] = digest(stored)
    if EDIT in notes:
        notes[EDIT] = f"{notes[EDIT].rpartition(' ')[0]} {digest(stored)}"


# -- decisions ---------------------------------------------------------------------------------------------------


def judge(wish: Wish, service: VmService, kind: Kind | None, present: Object | None, migration: str) -> Item:
    """What becomes of an object that is wished."""
    place = (service.key, wish.part, wish.group, wish.kind, wish.namespace, wish.name)
    if kind is None:
        return Item(*place, "refused", f"the API server does not serve the kind {wish.kind} ({wish.group or 'core'})")
    item = Item(*place, "create", "the service needs it", present=present, original=wish.edits)
    if wish.edits is not None:
        _edit(item, wish, t.cast(Object, present), migration)
    elif present is None:
        meta: Object = {"name": wish.name, "namespace": wish.namespace}
        meta.update({"labels": dict(wish.labels)} if wish.labels else {})
        meta.update({"annotations": dict(wish.annotations)} if wish.annotations else {})
        body = {"apiVersion": kind.api_version, "kind": wish.kind, "metadata": meta, "spec": wish.spec}
        item.body = marked(body, migration, service.key, wish.part)
    else:
        _compare(item, wish, present, migration)
    item.stage = stage_of(item)
    return item


def _compare(item: Item, wish: Wish, present: Object, migration: str) -> None:
    """An object that is there, and of which all is ours or nothing."""
    body = _copy(present)
    spec = {**body["spec"], **wish.spec} if wish.kind == "Service" else wish.spec
    body["spec"] = copy.deepcopy(spec)
    for field, values in (("labels", wish.labels), ("annotations", wish.annotations)):
        for key, value in values.items():
            body["metadata"].setdefault(field, {})[key] = value
            if (present["metadata"].get(field) or {}).get(key) != value:
                item.lines.append(f"metadata.{field}.{key}: -> {value}")
    item.lines += differing(body, present)
    owner, _part = owner_of(present, migration)
    if mark_of(present) == TERMINATING:
        item.action, item.reason = "conflict", "it is being deleted: run again when it is gone"
    elif not item.lines:
        item.action, item.reason = "same", "it is there" if owner else "it is there, and was not made by this migration"
    elif not owner:
        item.action, item.reason = "conflict", "it is there, was not made by this migration, and differs"
        option = {"VirtualService": "virtual_service", "DestinationRule": "destination_rule"}.get(wish.kind)
        if option:
            item.reason += f"; name it in {option} to have the wishes put into it"
    elif owner != item.service:
        item.action, item.reason = "conflict", f"this migration made it for {owner}"
    elif _notes(present).get(CONTENT) != digest(present):
        item.action, item.reason = "conflict", "somebody changed it since this migration wrote it"
    else:
        item.action, item.reason = "update", "the wishes changed"
        item.body = marked(body, migration, item.service, wish.part)


def _edit(item: Item, wish: Wish, present: Object, migration: str) -> None:
    """An object of the user's into which our wishes are put."""
    original = t.cast(Object, wish.edits)
    who, service, last = editor_of(present)
    if mark_of(present) == TERMINATING:
        item.action, item.reason = "conflict", "it is being deleted: run again when it is gone"
    elif who and (who, service) != (migration, item.service):
        item.action, item.reason = "conflict", f"the migration {who} writes into it for {service}"
    elif who and last != digest(present):
        item.action, item.reason = "conflict", "somebody changed it since this migration wrote into it"
    else:
        wanted = {**_copy(present), "spec": wish.spec}
        item.lines = differing(wanted, present)
        if not item.lines:
            item.action, item.reason = "same", "it has what is wished"
        elif not differing(wanted, original):
            _restore(item, present, original)
        else:
            item.action, item.reason = "edit", "the wishes are put into it"
            wanted["metadata"].setdefault("annotations", {})[EDIT] = f"{migration} {item.service} {digest(wanted)}"
            item.body = wanted


def _restore(item: Item, present: Object, original: Object) -> None:
    body = _copy(present)
    body["spec"] = copy.deepcopy(original["spec"])
    notes = body["metadata"].get("annotations") or {}
    notes.pop(EDIT, None)
    if not notes and "annotations" not in original["metadata"]:
        body["metadata"].pop("annotations", None)
    item.action, item.reason, item.body = "restore", "nothing of ours is wished in it any more", body
    item.lines = item.lines or differing(body, present)


def _copy(obj: Object) -> Object:
    made = copy.deepcopy({key: value for key, value in obj.items() if key != "status"})
    for field in ("managedFields", "generation", "selfLink", "creationTimestamp"):
        made["metadata"].pop(field, None)
    return made


def judge_gone(obj: Object, service: str, part: str, original: Object | None, migration: str) -> Item:
    """What becomes of an object of this migration's that is wished no more. :arg original: of one that was written into."""
    meta = obj["metadata"]
    group = str(obj["apiVersion"]).rpartition("/")[0]
    place = (service, part, group, obj["kind"], meta.get("namespace", ""), meta["name"])
    item = Item(*place, "delete", "this migration made it, and it is not wished any more", present=obj, original=original)
    _who, _service, last = editor_of(obj)
    if mark_of(obj) == TERMINATING:
        item.action, item.reason = "kept", "it is being deleted already"
    elif last and original is None:
        item.action, item.reason = (
            "conflict",
            "the journal has no copy of how it was: run with the state_dir of the first run",
        )
    elif last:
        if last == digest(obj):
            _restore(item, obj, t.cast(Object, original))
        else:
            item.action, item.reason = "conflict", "somebody changed it since this migration wrote into it: take that change back"
    elif _notes(obj).get(CONTENT) != digest(obj):
        item.action, item.reason = "conflict", "somebody changed it since this migration made it: take that back, or its label"
    item.stage = stage_of(item)
    return item


def stage_of(item: Item) -> int:
    rank = order_of(item.group, item.kind)
    if item.action == "delete":
        return GONE - rank
    if item.kind == "VirtualService":
        return ROUTES if item.action == "create" else ROUTES + 2
    if item.kind == "DestinationRule" and item.present and item.body and subsets(item.present) - subsets(item.body):
        return SHRINK
    return rank


def subsets(rule: t.Mapping[str, t.Any]) -> set[str]:
    return {str(one.get("name")) for one in (rule.get("spec") or {}).get("subsets") or []}


def widened(item: Item) -> Object | None:
    """For a DestinationRule of which subsets come and others go: the body that has both, for the time until the routes are
    written. None where nothing comes."""
    if item.stage != SHRINK:
        return None
    body, present = t.cast(Object, item.body), t.cast(Object, item.present)
    if not subsets(body) - subsets(present):
        return None
    made, new = copy.deepcopy(body), subsets(body)
    made["spec"]["subsets"] += [copy.deepcopy(one) for one in present["spec"]["subsets"] if one.get("name") not in new]
    notes = made["metadata"].get("annotations") or {}
    if CONTENT in notes:
        notes[CONTENT] = digest(made)
    if EDIT in notes:
        notes[EDIT] = f"{notes[EDIT].rpartition(' ')[0]} {digest(made)}"
    return made
