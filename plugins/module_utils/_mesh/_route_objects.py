# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Objects that a route needs and that the user gives: made on the API server they are for, and taken away exactly.

What this migration made is known by the journal and by the label ``servicemesh.migration/managed-by``; whether somebody changed
it since, by the annotation ``servicemesh.migration/content``. What was there before is never written to.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, served_as
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _writer
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import holds, marked
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import (
    CONTENT,
    GROUPS,
    MANAGED_BY,
    key_of,
    portable,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import content, differences, digest
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._order import rank_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import TERMINATING, mark_of

Object = dict[str, t.Any]
ASM_GROUP = "istio.alibabacloud.com"
#: The journal's keys: ``route-object/<mesh>/<apiVersion>/<Kind>/<namespace>/<name>``; group and version are joined by ``@``.
PREFIX = "route-object/"


@dataclasses.dataclass(frozen=True)
class Given:
    """One object and the mesh (``source`` or ``target``) whose API server it is for."""

    mesh: str
    body: Object

    @property
    def place(self) -> tuple[str, str]:
        """Mesh and ``Kind/namespace/name``."""
        return self.mesh, key_of(self.body)

    @property
    def where(self) -> str:
        meta = self.body["metadata"]
        return f"{self.mesh}/{meta['namespace']}/{self.body['kind']}/{meta['name']}"

    @property
    def key(self) -> str:
        return f"{PREFIX}{self.mesh}/{self.body['apiVersion'].replace('/', '@')}/{key_of(self.body)}"

    @property
    def rank(self) -> int:
        # A gateway has to run before anything is sent to it.
        return 0 if self.body["kind"] == "IstioGateway" else rank_of(self.body)


def read_objects(given: t.Sequence[t.Mapping[str, t.Any]]) -> list[Given]:
    """The option ``objects``, in the order in which they are made. Raises InputError."""
    found: dict[tuple[str, str], Given] = {}
    for number, item in enumerate(given, 1):
        body = item["definition"]
        meta = body.get("metadata") or {}
        lacks = [name for name in ("apiVersion", "kind", "spec") if not body.get(name)]
        lacks += [f"metadata.{name}" for name in ("name", "namespace") if not meta.get(name)]
        if lacks:
            raise InputError(f"Object {number} of objects is not whole", why=f"it has no {', '.join(lacks)}")
        group = str(body["apiVersion"]).rpartition("/")[0]
        if group not in (*GROUPS, ASM_GROUP):
            raise InputError(
                f"Object {number} of objects is of a kind that is not made here: {body['kind']} ({body['apiVersion']})",
                todo="give objects of Istio, or IstioGateways; make others yourself",
            )
        one = Given(item["mesh"], portable(body))
        if one.place in found:
            raise InputError(f"{one.where} is twice in objects", todo="give each object once")
        found[one.place] = one
    return sorted(found.values(), key=lambda one: (one.rank, one.where))


def kind_at(cluster: Cluster, api_version: str, name: str) -> Kind:
    """How this API server serves a kind: in this version, else in the one that it prefers. Raises MigrationError."""
    group, _slash, version = api_version.rpartition("/")
    found = served_as(cluster.served(group), group, name, version)
    if found is not None:
        return found
    raise MigrationError(
        f"The API server of {cluster.name} does not serve the kind {name}",
        where=cluster.where(),
        why=f"discovery of {group} has none",
        todo=f"check that {cluster.name} names the right API server, and that the custom resource definitions are there",
    )


@dataclasses.dataclass
class Item:
    """What becomes of one object: ``create``, ``update``, ``delete``; ``same``, ``kept``; ``conflict``."""

    one: Given
    action: str
    reason: str
    kind: Kind
    body: Object
    present: Object | None = None
    lines: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        meta = self.one.body["metadata"]
        place = {"mesh": self.one.mesh, "kind": self.one.body["kind"], "namespace": meta["namespace"], "name": meta["name"]}
        return {**place, "action": self.action, "reason": self.reason, "differences": self.lines}


WRITES = ("create", "update", "delete")


def judge(one: Given, kind: Kind, present: Object | None, migration: str, *, made: bool, moved: bool) -> Item:
    """What becomes of a wanted object. Pure. :arg made: this migration made it. :arg moved: its weights are being moved."""
    item = Item(one, "create", "it is given in objects", kind, marked(one.body, kind, migration), present)
    if present is None:
        return item
    item.body["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
    item.lines = differences(content(one.body), content(present))
    notes = present["metadata"].get("annotations") or {}
    mine = made and (present["metadata"].get("labels") or {}).get(MANAGED_BY) == migration
    if mark_of(present) == TERMINATING:
        item.action, item.reason = "conflict", "it is being deleted: run again when it is gone"
    elif moved:
        item.action, item.reason = "kept", "this migration moves its weights"
    elif not item.lines:
        item.action, item.reason = "same", "it is there already"
    elif mine and notes.get(CONTENT) == digest(present):
        item.action, item.reason = "update", "objects changed since it was made"
    elif mine:
        item.action, item.reason = "conflict", "somebody changed it since this migration made it"
    else:
        item.action, item.reason = "conflict", "it is there, was not made by this migration, and differs"
    return item


def judge_gone(one: Given, kind: Kind, present: Object | None, migration: str) -> Item | None:
    """What becomes of an object that this migration made, on the way back. Pure."""
    if present is None or mark_of(present) == TERMINATING:
        return None
    item = Item(one, "delete", "this migration made it", kind, one.body, present)
    if (present["metadata"].get("labels") or {}).get(MANAGED_BY) != migration:
        item.action, item.reason = "kept", "it is not this migration's any more (its label is gone)"
    elif (present["metadata"].get("annotations") or {}).get(CONTENT) != digest(present):
        item.action, item.reason = "kept", "somebody changed it since it was made: it is left as it is"
    return item


class Objects:
    """Reads and writes them. ``clusters``: mesh -> its API server."""

    def __init__(self, clusters: t.Mapping[str, Cluster], journal: Journal) -> None:
        self._clusters = clusters
        self._journal = journal

    def _present(self, one: Given) -> tuple[Kind, Object | None]:
        kind = kind_at(self._clusters[one.mesh], one.body["apiVersion"], one.body["kind"])
        meta = one.body["metadata"]
        found = self._clusters[one.mesh].get(kind, meta["name"], meta["namespace"])
        if found is not None:
            found.update(apiVersion=kind.api_version, kind=kind.kind)
        return kind, found

    def wanted(self, given: t.Sequence[Given], moved: t.Collection[tuple[str, str]]) -> list[Item]:
        """What becomes of each, after the API server was asked about every write (dry run). Raises MigrationError.

        :arg moved: places (mesh, key) of VirtualServices whose weights this migration has changed.
        """
        found = []
        for one in given:
            kind, present = self._present(one)
            made = self._journal.original(one.key) is not None
            item = judge(one, kind, present, self._journal.migration, made=made, moved=one.place in moved)
            if item.action in WRITES or item.action == "conflict":
                self._rehearse(item)
            found.append(item)
        bad = [f"{item.one.where}: {item.reason}" for item in found if item.action in ("conflict", "refused")]
        if bad:
            raise MigrationError(
                f"{len(bad)} of {len(found)} objects cannot be made",
                where=", ".join(sorted({item.one.mesh for item in found})),
                why="; ".join(bad),
                todo="make objects and what is there agree, then run again",
                details={"objects": [item.as_dict() for item in found]},
            )
        return found

    def _rehearse(self, item: Item) -> None:
        cluster = self._clusters[item.one.mesh]
        try:
            stored, dropped = _writer.rehearse(cluster, item.kind, item.body, item.present)
        except MigrationError as error:
            if item.action != "conflict":
                item.action, item.reason = "refused", _writer.refusal(error)
            return
        if item.present is not None and mark_of(item.present) != TERMINATING and digest(stored) == digest(item.present):
            item.action, item.reason = "same", "the API server's own defaults are all that differs"
        elif item.action == "conflict":
            return
        elif dropped:
            item.action, item.reason = "refused", f"the API server would drop {', '.join(dropped)}"
        else:
            item.body["metadata"]["annotations"][CONTENT] = digest(stored)

    def doomed(self) -> list[Item]:
        """What becomes of all that this migration made, last made first."""
        given = []
        for key in self._journal.originals(PREFIX):
            mesh, version, kind, namespace, name = key[len(PREFIX) :].split("/")
            body = {"apiVersion": version.replace("@", "/"), "kind": kind, "metadata": {"namespace": namespace, "name": name}}
            given.append(Given(mesh, body))
        items = []
        for one in sorted(given, key=lambda one: (-one.rank, one.where)):
            item = judge_gone(one, *self._present(one), self._journal.migration)
            if item is not None:
                items.append(item)
        return items

    def write(self, items: t.Sequence[Item]) -> list[str]:
        """Carry out in order, and see each in the API server. Returns what was done; an error names it too."""
        done: list[str] = []
        try:
            for item in items:
                if item.action in WRITES:
                    self._write(item)
                    done.append(f"{item.action} {item.one.where}")
        except MigrationError as error:
            error.done = [*done, *error.done]
            raise
        return done

    def _write(self, item: Item) -> None:
        cluster, meta = self._clusters[item.one.mesh], item.one.body["metadata"]
        if item.action != "delete":
            self._journal.keep_original(item.one.key, {"made": True})
        with self._journal.around(change_of(item)):
            if item.action == "create":
                _writer.create(cluster, item.kind, item.body)
            elif item.action == "update":
                _writer.replace(cluster, item.kind, item.body)
            else:
                present = t.cast(Object, item.present)
                cluster.delete(item.kind, meta["name"], meta["namespace"], uid=present["metadata"]["uid"])
        _kind, found = self._present(item.one)
        if item.action == "delete":
            right = found is None or mark_of(found) == TERMINATING
        else:
            right = found is not None and holds(found, item.body)
        if not right:
            raise MigrationError(
                "The API server does not have what was written",
                where=item.one.where,
                todo="another tool may be writing the same object: stop it, and run again",
                done=[f"{item.action} {item.one.where}"],
            )

    def forget(self) -> None:
        """After the way back: nothing of it is remembered, not even what was left because somebody changed it."""
        self._journal.forget(PREFIX)


def change_of(item: Item) -> Change:
    before = portable(item.present) if item.present else None
    after = None if item.action == "delete" else portable(item.body)
    return Change(item.action, item.one.where, before, after, item.reason)


def tell(items: t.Sequence[Item], plan: Plan) -> None:
    """Into a plan, with a note for what stays as it is."""
    for item in items:
        if item.action in WRITES:
            plan.changes.append(change_of(item))
        elif item.action == "kept":
            plan.notes.append(f"{item.one.where}: {item.reason}")
