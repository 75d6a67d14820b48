# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Reads everything of a backup as it was at one moment, page by page, into a writer; then asks what changed meanwhile.

All kinds are read at one resourceVersion (``resourceVersionMatch=Exact``), so a VirtualService and the Service it names are of
the same moment. The next page is on its way while this one is written, and each kind is watched since its first page came.

A check, which keeps nothing, reads each kind as it is now: an API server has that in memory, and reads the past from etcd.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import datetime
import gc
import itertools
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope, _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._scope import Part
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import LARGE_PAGE, PAGE, Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._watch import Watch
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import GROUPS

_AHEAD = 3
_LARGE = 16 << 20  # bytes of a page of objects; the next ones are asked for in smaller pieces
_NAMES = 50
_Page = tuple[Object, t.Iterator[Object]]


@dataclasses.dataclass
class Scope:
    """What is asked for; the fields are the options of mesh_backup."""

    namespaces: list[str]
    groups: list[str]
    more_kinds: list[str]
    skip_kinds: list[str]
    services: str
    workloads: str
    secrets: str
    config_maps: str
    crds: str

    def parts(self, cluster: Cluster) -> list[Part]:
        """The kinds in the order in which they are read: those that refer before those that are referred to."""
        found = [Part(kind) for kind in _scope.find_kinds(cluster, self.groups, self.more_kinds)]
        for mode, kinds in (
            (self.services, (_scope.SERVICE,)),
            (self.workloads, _scope.WORKLOADS),
            (self.workloads, (_scope.ACCOUNT,)),
            (self.secrets, (_scope.SECRET,)),
            (self.config_maps, (_scope.CONFIG_MAP,)),
        ):
            if mode != "none":
                found += [Part(kind, mode) for kind in kinds]
        unique: dict[str, Part] = {}
        for part in found:
            unique.setdefault(_name(part.kind), part)
        return [part for name, part in unique.items() if name not in self.skip_kinds]


def _name(kind: Kind) -> str:
    return f"{kind.group}/{kind.kind}" if kind.group else kind.kind


class Pages:
    """The pages of one kind, the next one always asked for ahead. Nothing of it is kept.

    :arg at: the moment; empty for the present. :arg watch: called with the kind when the first page with something on it came.
    """

    def __init__(
        self,
        pool: concurrent.futures.Executor,
        cluster: Cluster,
        kind: Kind,
        namespaces: t.Sequence[str],
        at: str,
        watch: t.Callable[[Kind], None],
    ) -> None:
        self._pool, self._cluster, self._kind, self._at, self._watch = pool, cluster, kind, at, watch
        self._empty = True
        self._places = collections.deque(sorted(namespaces) if kind.namespaced and namespaces else [""])
        # Of the past all pages are read from etcd, of the present all but the first; but a Secret may hold a megabyte.
        self._limit = LARGE_PAGE if not at and kind.group in GROUPS else PAGE
        self.version = at
        self.told: int | None = None  # how many there are, by the API server's own count
        self._place = self._places.popleft()
        self._rest: int | None = None  # how many there are behind the first page, while that is read
        self._next: concurrent.futures.Future[_Page] | None = self._ask("")

    def _ask(self, token: str) -> concurrent.futures.Future[_Page]:
        return self._pool.submit(self._page, self._place, self._limit, token)

    def _page(self, place: str, limit: int, token: str) -> _Page:
        meta, items = self._cluster.part(self._kind, place, limit=limit, token=token, at="" if token else self._at)
        if self._empty:
            found = list(itertools.islice(items, 1))
            items = itertools.chain(found, items)
            if found:
                self._empty = False
                self._watch(self._kind)
        return meta, items

    def __iter__(self) -> t.Iterator[t.Iterator[Object]]:
        first = True
        while self._next is not None:
            meta, items = self._next.result()
            self.version = self.version or str(meta.get("resourceVersion", ""))
            token = meta.get("continue")
            if token:
                if first and not self._place:
                    self._rest = meta.get("remainingItemCount")
                self._next = self._ask(token)
            elif self._places:
                self._place = self._places.popleft()
                self._next = self._ask("")
            else:
                self._next = None
            first = False
            yield items

    def read(self, size: int, count: int) -> None:
        """The last page was of so many bytes and objects: ask for fewer objects when they are large."""
        if self._rest is not None:
            self.told, self._rest = count + self._rest, None
        if size > _LARGE and count > 1:
            self._limit = max(1, int(count * _LARGE / size))


class Collector:
    """One backup. ``encrypt``: ``none`` (no key), ``secrets`` or ``all``. ``check``: nothing of it is kept."""

    def __init__(self, cluster: Cluster, scope: Scope, writer: Writer, encrypt: str, check: bool = False) -> None:
        self.cluster, self.scope, self.writer, self.encrypt, self.check = cluster, scope, writer, encrypt, check
        self.references = _scope.References()
        self.lists: list[Object] = []
        self.exposed: list[str] = []
        self._left_out: dict[tuple[str, str], list[str]] = {}
        self._missing: list[Object] = []
        self._kinds: dict[str, Kind] = {}
        self._watches: dict[str, Watch] = {}

    def run(self) -> Object:
        """Read and write everything. Returns the facts for the manifest. Raises MigrationError."""
        # Millions of small objects without cycles come and go: looking for cycles among them costs a fifth of the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._run()
        finally:
            for watch in self._watches.values():
                watch.close()
            if collecting:
                gc.enable()

    def _run(self) -> Object:
        cluster = self.cluster
        parts = self.scope.parts(cluster)
        self._kinds = {_name(part.kind): part.kind for part in parts}
        at = str(cluster.page(_scope.NAMESPACE, limit=1)["metadata"]["resourceVersion"])
        moment = "" if self.check else at

        def watch(kind: Kind) -> None:
            if moment:
                self._watches[_name(kind)] = Watch(cluster, kind, moment)

        with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool:
            about = pool.submit(lambda: {"uid": cluster.uid(), "host": cluster.host, "version": cluster.version()})
            waiting = collections.deque(parts)
            running: collections.deque[tuple[Part, Pages]] = collections.deque()
            while waiting or running:
                while waiting and len(running) < _AHEAD:
                    part = waiting.popleft()
                    running.append((part, Pages(pool, cluster, part.kind, self.scope.namespaces, moment, watch)))
                self._kind(*running.popleft())
        self._namespaces(at)
        changed = self._definitions(at)
        drift = self._drift()
        if changed:
            drift["changes"] += len(changed)
            drift["kinds"].append({"kind": _name(_scope.CRD), "changes": changed, "count": len(changed)})
        return {
            "created": datetime.datetime.now(tz=datetime.timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017
            "cluster": about.result(),
            "resource_version": at,
            "scope": dataclasses.asdict(self.scope),
            "encrypt": self.encrypt,
            "lists": self.lists,
            "left_out": [
                {"kind": kind, "why": why, "count": len(names), "names": names[:_NAMES]}
                for (kind, why), names in sorted(self._left_out.items())
            ]
            + self._missing,
            "drift": drift,
        }

    def _kind(self, part: Part, pages: Pages) -> None:
        kind, wanted = part.kind, part.mode == "all"
        api_version, name = kind.api_version, kind.kind
        refers = not wanted or kind.group not in ("", "apps")
        count = saved = 0
        try:
            for items in pages:
                bytes_before, before = self.writer.bytes, count
                for obj in items:
                    obj["apiVersion"], obj["kind"] = api_version, name
                    count += 1
                    why = _scope.left_out(obj)
                    if why:
                        self._leave(kind, obj, why)
                    elif wanted or self.references.wants(kind, obj):
                        if refers:
                            self.references.see(obj)
                        self._add(obj)
                        saved += 1
                pages.read(self.writer.bytes - bytes_before, count - before)
        except MigrationError as error:
            self._refused(kind, count, error)
            return
        self._prove_count(kind, pages, count)
        entry = {"kind": _name(kind), "api_version": api_version, "mode": part.mode, "listed": count, "saved": saved}
        self.lists.append({**entry, "resource_version": pages.version})

    def _refused(self, kind: Kind, count: int, error: MigrationError) -> None:
        status = error.details.get("status")
        if status == 404 and count == 0:
            self._missing.append({"kind": _name(kind), "why": "the cluster stopped serving it", "count": 0, "names": []})
            return
        if status == 403:
            error.todo = f"grant the right to list it, or leave it out by name: skip_kinds: [{_name(kind)}]"
        if status == 404:
            error.why, error.todo = "the kind was removed while it was read", "look who did it, then run again"
        if status == 410:
            error.todo = "it took longer than the API server remembers: choose fewer namespaces, or run again"
        raise error

    def _add(self, obj: Object) -> None:
        meta = obj["metadata"]
        uid, version = meta.get("uid", ""), meta.get("resourceVersion", "")
        namespace = meta.get("namespace")
        if namespace:
            self.references.namespaces.add(namespace)
        try:
            text, marked = _yaml.marked(_scope.clean(obj))
        except ValueError:
            text, marked = "", True  # the writer says what is wrong with it
        secret = self.encrypt == "all"
        if not secret and _scope.may_hold_secret(obj["kind"], text, marked):
            secret = self.encrypt == "secrets"
            if not secret:
                self.exposed.append(f"{namespace or ''}/{obj['kind']}/{meta['name']}")
        self.writer.add(obj, uid=uid, resource_version=version, secret=secret, text=text)

    def _leave(self, kind: Kind, obj: Object, why: str) -> None:
        meta = obj["metadata"]
        self._left_out.setdefault((_name(kind), why), []).append("/".join(filter(None, (meta.get("namespace"), meta["name"]))))

    def _namespaces(self, at: str) -> None:
        """The namespaces in which something was saved: their labels switch injection on."""
        kind, saved = _scope.NAMESPACE, 0
        found = {obj["metadata"]["name"]: obj for obj in self.cluster.list_all(kind)}
        for name in sorted(self.references.namespaces & set(found)):
            obj = found[name]
            obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
            self._add(obj)
            saved += 1
        entry = {"kind": _name(kind), "api_version": "v1", "mode": "referred", "listed": len(found), "saved": saved}
        self.lists.append({**entry, "resource_version": at})

    def _definitions(self, at: str) -> list[str]:
        """The CustomResourceDefinitions of the kinds of which something is saved. Returns those that changed since ``at``."""
        kind, changed = _scope.CRD, []
        if self.scope.crds == "none":
            return []
        saved = [self._kinds[entry["kind"]] for entry in self.lists if entry["saved"] and entry["kind"] in self._kinds]
        names = sorted(f"{one.plural}.{one.group}" for one in saved if "." in one.group)
        try:
            found = [obj for obj in values(each(names, lambda name: self.cluster.get(kind, name))) if obj is not None]
        except MigrationError as error:
            if error.details.get("status") == 403:
                error.todo = "grant the right to get it, or leave it out: crds: none"
            raise
        for obj in found:
            obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
            if int(obj["metadata"]["resourceVersion"]) > int(at):
                changed.append(f"modified /{obj['metadata']['name']}")
            self._add(obj)
        entry = {
            "kind": _name(kind),
            "api_version": kind.api_version,
            "mode": "referred",
            "listed": len(found),
            "saved": len(found),
        }
        self.lists.append({**entry, "resource_version": at})
        return changed

    def _prove_count(self, kind: Kind, pages: Pages, count: int) -> None:
        """What took several pages is counted against the number that the API server gave for the same moment with the first."""
        if pages.told not in (None, count):
            raise MigrationError(
                "A list was not complete",
                where=self.cluster.where(kind),
                why=f"{count} objects were read, the API server says that it has {pages.told}",
                todo="run again",
                transient=True,
            )

    def _drift(self) -> Object:
        """What happened to every kind since it was read: the backup holds the state before. Of a check nothing is held."""
        found: Object = {"changes": 0, "kinds": [], "unknown": []}
        if self.check:
            return found
        empty = [entry for entry in self.lists if not entry["listed"] and entry["mode"] == "all"]
        watched = [entry for entry in self.lists if entry["kind"] in self._watches] + empty
        for answer in each(watched, self._changes, workers=4):
            if answer.error is not None:
                found["unknown"].append(answer.item["kind"])
            elif answer.value:
                found["changes"] += len(answer.value)
                entry = {"kind": answer.item["kind"], "changes": answer.value[:_NAMES], "count": len(answer.value)}
                found["kinds"].append(entry)
        return found

    def _changes(self, entry: Object) -> list[str]:
        """The events of a kind; of one that was empty, what is there now. Of a kind of which only what others refer to is saved,
        a change of something that is not saved is none."""
        kind, watch = self._kinds[entry["kind"]], self._watches.get(entry["kind"])
        if watch is not None:
            events = [(event["type"].lower(), event["object"].get("metadata") or {}) for event in watch.events()]
        else:
            items = self.cluster.page(kind, limit=PAGE).get("items") or []
            events = [("added", item["metadata"]) for item in items]
        names = set()
        for what, meta in events:
            namespace, name = meta.get("namespace"), meta.get("name") or ""
            if self.scope.namespaces and namespace not in (None, *self.scope.namespaces):
                continue
            if entry["mode"] == "all" or self.writer.holds(kind.api_version, kind.kind, namespace or "", name):
                names.add(f"{what} {namespace or ''}/{name}")
        return sorted(names)
