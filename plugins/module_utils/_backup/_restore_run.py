# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""observe, plan, rehearse, apply and verify of mesh_restore. The archive is read as a stream, once for each step of the order."""

from __future__ import annotations

import collections
import datetime
import functools
import hashlib
import pathlib
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _restore, _scope, _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object, Reader, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._definitions import Definitions
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._info_run import (
    MARKS,
    Live,
    read_live,
    served_kinds,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore import Choice, RestorePlan
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Seal, seal_of
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import flow, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _writer
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import differing, fingerprint
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import (
    CONFLICT,
    CREATE,
    DIFFERS,
    EXTRA,
    NOT_SERVED,
    REFUSED,
    SAME,
    judge,
)


def restore_spec() -> Object:
    """Options of mesh_restore, beside the cluster and the keys."""
    return {
        "archive": {"type": "path", "required": True},
        "existing": {"type": "str", "choices": ["refuse", "skip", "update"], "default": "refuse"},
        "namespaces": {"type": "list", "elements": "str", "default": []},
        "only": {"type": "list", "elements": "str", "default": []},
        "namespace_map": {"type": "dict", "default": {}},
        "crds": {"type": "bool", "default": False},
        "prune": {"type": "bool", "default": False},
        "workers": {"type": "int", "default": 32},
        "undo_dir": {"type": "path", "default": "~/.ansible/servicemesh-migration/undo"},
    }


T = t.TypeVar("T")


class Restore:
    """One restore of one archive into one cluster."""

    def __init__(self, params: t.Mapping[str, t.Any], reader: Reader, seal: Seal | None) -> None:
        self.params, self.reader, self.seal = params, reader, seal
        self.choice: Choice = _restore.choice_of(params)
        self.cluster = Cluster("target", params["target"])
        self.cluster.guard()
        self.workers = max(1, min(32, params["workers"]))
        self.plan = RestorePlan()
        self.live = Live({}, {})
        self.there: set[str] = set()  # namespaces of the target
        self.places: set[str] = set()  # namespaces that objects go to
        self.restored: set[str] = set()  # namespaces that are restored themselves
        self.new: set[str] = set()  # those that will be made
        self.same_cluster = False
        self.coming: set[tuple[str, str]] = set()  # kinds that a run that is no check would define first
        self.done: list[str] = []
        self.failed: list[str] = []
        self.written = 0
        self.copies: dict[str, tuple[str, bytes]] = {}  # version and fingerprint of what a copy was kept of
        self._owners: dict[tuple[str, str, str, str], str] = {}

    # -- observe -----------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """What the target serves and has, of the kinds and namespaces that are restored."""
        entries: set[tuple[str, str, str]] = set()
        for entry in self.reader.entries():
            if self.choice.wants(entry):
                entries.add((entry.group, entry.kind, entry.api_version.rpartition("/")[2]))
                namespace, name = self.choice.place(entry)
                self.places.add(namespace)
                if _restore.is_namespace(entry):
                    self.restored.add(name)
        self.places.discard("")
        self.there = {item["metadata"]["name"] for item in self.cluster.list_all(_scope.NAMESPACE)}
        kinds = served_kinds(self.cluster, entries)
        limited = bool(self.choice.namespaces or self.choice.only) and not self.params["prune"]
        self.live = read_live(self.cluster, kinds, self.places & self.there if limited else None, everything=True)
        self.same_cluster = (self.reader.manifest.get("cluster") or {}).get("uid") == self.cluster.uid()

    # -- plan, with the target's word on every write -------------------------------------------------------------------

    def make_plan(self) -> None:
        """Decide about every object; then the API server checks each write that would follow (server-side dry run)."""
        needed: set[str] = set()
        seen: set[str] = set()
        self.new = (self.restored | self.places) - self.there
        for number, key, answer in self._flow(self._wanted(needed, seen), self._rehearse):
            if answer is not None:
                state, why, differences = answer
                if state == DIFFERS:
                    self.plan.update(number, key, differences)
                else:
                    self.plan.refuse(number, key, state, why)
        self.plan.namespaces = sorted(needed - self.there - self.restored)
        if self.params["prune"]:
            self._prune(seen)

    def _wanted(self, needed: set[str], seen: set[str]) -> t.Iterator[tuple[int, Entry, Object, Kind]]:
        """Objects that would be written, after the first decision; the others go into the plan as they are."""
        plan, policy = self.plan, self.params["existing"]
        for entry, obj in self.reader.objects(self.choice.wants):
            key = self.choice.key(entry)
            if self.params["prune"]:
                seen.add(key)
            kind = self.live.kinds.get((entry.group, entry.kind))
            found = self.live.objects.get(key)
            if kind is None and (entry.group, entry.kind) in self.coming:
                plan.add(entry, key, CREATE)
                needed.update({self.choice.place(entry)[0]} - {""})
            elif kind is None:
                plan.add(entry, key, NOT_SERVED, "the target does not serve this kind: install its CRDs, or set crds")
            elif obj is None:
                plan.add(entry, key, _restore.UNREADABLE, f"it is encrypted with {entry.sealed}, and no key is given")
            else:
                mark = MARKS.get(found[2], "") if found else ""
                state, why = judge(kind, found is not None, mark, functools.partial(self._equal, entry, obj, found))
                late = bool(obj["metadata"].get("ownerReferences"))
                if state == CREATE:
                    number = plan.add(entry, key, state, late=late)
                    needed.update({self.choice.place(entry)[0]} - {""})
                elif state == DIFFERS and policy == "update":
                    number = plan.add(entry, key, state, late=late)
                    plan.codes[number] = 2
                elif state == DIFFERS:
                    plan.add(entry, key, state, "it is left as it is", self._differences(entry, obj, kind))
                    continue
                else:
                    plan.add(entry, key, state, why)
                    continue
                yield number, entry, obj, kind

    def _equal(self, entry: Entry, obj: Object, found: tuple[str, str, bytes] | None) -> bool:
        if found is None:
            return False
        if self.same_cluster and found[:2] == (entry.uid, entry.resource_version):
            return True
        return found[2] == fingerprint(obj)

    def _secret(self, entry: Entry, *sides: Object) -> bool:
        """Whether the archive's object, or the target's, may hold a secret."""
        return bool(entry.sealed) or any(_scope.may_hold_secret(entry.kind, _yaml.dump(side)) for side in sides)

    def _differences(self, entry: Entry, obj: Object, kind: Kind) -> list[str]:
        namespace, name = self.choice.place(entry)
        now = self.cluster.get(kind, name, namespace)
        if now is None or len(self.plan.items) >= 300:
            return []
        return differing(obj, {**now, "apiVersion": kind.api_version, "kind": kind.kind}, secret=self._secret(entry, obj, now))

    def _rehearse(self, job: tuple[int, Entry, Object, Kind]) -> tuple[int, str, tuple[str, str, list[str]] | None]:
        """None: the target takes it."""
        number, entry, obj, kind = job
        key, update = self.choice.key(entry), self.plan.codes[number] == 2
        body = _restore.body_of(entry, obj, kind.api_version, self.choice, same_cluster=self.same_cluster)
        differences: list[str] = []
        try:
            if update:
                namespace, name = self.choice.place(entry)
                live = self.cluster.get(kind, name, namespace)
                if live is None:
                    return number, key, (REFUSED, "it vanished from the target: run again", [])
                live["apiVersion"], live["kind"] = kind.api_version, kind.kind
                differences = differing(body, live, secret=self._secret(entry, body, live))
                stored, missing = _writer.rehearse(self.cluster, kind, _restore.over(body, live), live)
                if fingerprint(stored) == fingerprint(live):
                    return number, key, (SAME, "", [])  # the difference is a default of the API server
            else:
                _stored, missing = _writer.rehearse(self.cluster, kind, body, None, self.new)
        except MigrationError as error:
            _writer.refusal(error)
            return number, key, (REFUSED, self._reason(error, self._secret(entry, obj)), [])
        if missing:
            return number, key, (REFUSED, f"the target would drop {', '.join(missing)}", [])
        return number, key, (DIFFERS, "", differences) if update else None

    def _reason(self, error: MigrationError, secret: bool) -> str:
        """What the API server says may quote the object: not when that may hold a secret."""
        if secret and error.details.get("status"):
            return f"the API server answered {error.details.get('status')} {error.details.get('reason') or ''}".rstrip()
        return error.why or error.what

    def _prune(self, seen: set[str]) -> None:
        """Objects of the target that the archive would hold if they had been there: each one is named in the plan."""
        manifest = self.reader.manifest
        whole, places = _restore.prunable(manifest.get("lists") or (), manifest.get("scope") or {}, self.choice)
        for key, (uid, _version, mark) in sorted(self.live.objects.items()):
            group, kind, namespace, name = key.split("/", 3)
            if key in seen or mark in MARKS or (f"{group}/{kind}" if group else kind) not in whole:
                continue
            if places is not None and namespace not in places:
                continue
            entry = Entry(f"{group}/v1" if group else "v1", kind, name, "", 0, namespace)
            if self.choice.only and not self.choice.wants(entry):
                continue
            if key in self.live.owned:
                self.plan.keep(key, self.live.owned[key])
                continue
            self.plan.counts[EXTRA] += 1
            self.plan.deletes.append((key, uid))
        if self.plan.counts[_restore.KEPT]:
            own = self.plan.counts[_restore.KEPT]
            self.plan.notes.append(f"{own} objects are not pruned, because they are the target's own (see items, state kept)")

    # -- apply ---------------------------------------------------------------------------------------------------------

    def keep(self) -> str:
        """A copy of everything that is overwritten or deleted, as an archive, before the first write. Returns its path."""
        doomed = [*(item.key for item in self.plan.updates), *(key for key, _uid in self.plan.deletes)]
        if not doomed:
            return ""
        now = datetime.datetime.now(tz=datetime.timezone.utc)  # noqa: UP017 (Python 3.9)
        digest = hashlib.sha256("\n".join(doomed).encode()).hexdigest()[:12]
        path = pathlib.Path(self.params["undo_dir"]).expanduser() / f"undo-{now:%Y%m%dT%H%M%S%fZ}-{digest}.tar.zst"
        with Writer(path, self.seal) as writer:
            for key, obj in self._flow(((key,) for key in doomed), self._fetch):
                if obj is None:
                    continue
                meta = obj["metadata"]
                self.copies[key] = meta.get("resourceVersion", ""), fingerprint(obj)
                uid, version = meta.get("uid", ""), meta.get("resourceVersion", "")
                secret = self.seal is not None or obj["kind"] == "Secret"
                if secret and self.seal is None:
                    raise MigrationError(
                        "A Secret is not deleted without a copy", where=key, todo="give a key, so that it can be kept"
                    )
                writer.add(_scope.clean(obj), uid=uid, resource_version=version, secret=secret)
            cluster = {"uid": self.cluster.uid(), "host": self.cluster.host, "version": self.cluster.version()}
            facts = {"created": now.isoformat(timespec="seconds"), "cluster": cluster, "undo_of": str(self.reader.path)}
            writer.close({**facts, "scope": {}, "lists": [], "left_out": [], "drift": {}})
        return str(path)

    def _fetch(self, job: tuple[str]) -> tuple[str, Object | None]:
        group, name, namespace, own = job[0].split("/", 3)
        kind = t.cast(Kind, self.live.kinds[(group, name)])
        obj = self.cluster.get(kind, own, namespace)
        if obj is not None:
            obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
        return job[0], obj

    def apply(self) -> None:
        """Write in the order of dependencies. A failure stops the ranks behind it, not its neighbours."""
        for name in self.plan.namespaces:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            _writer.create(self.cluster, _scope.NAMESPACE, body)
            self._note("create", f"/Namespace//{name}", "")
        codes, ranks = self.plan.codes, self.plan.ranks
        order = sorted({ranks[number] for number in range(len(codes)) if codes[number]})
        for answer in _writer.in_order(order, self._jobs, self._write, self.workers):
            number, entry, obj, _kind = answer.item
            why = ""
            if answer.error is not None:
                why = self._reason(answer.error, self._secret(entry, obj)) or "it failed"
            self._note("update" if codes[number] == 2 else "create", self.choice.key(entry), why)
        if self.failed:
            return
        for action, key, why in self._flow(iter(self.plan.deletes), self._delete):
            self._note(action, key, why)

    def _note(self, action: str, key: str, why: str) -> None:
        if why:
            self.failed.append(f"{action} {key.lstrip('/')}: {why}")
        else:
            self.written += 1
            if len(self.done) < 100:
                self.done.append(f"{action} target/{key.lstrip('/')}")

    def _jobs(self, rank: int) -> t.Iterator[tuple[int, Entry, Object, Kind]]:
        codes, ranks = self.plan.codes, self.plan.ranks
        numbers = iter(range(len(codes)))
        picked: collections.deque[int] = collections.deque()

        def mine(entry: Entry) -> bool:
            if not self.choice.wants(entry):
                return False
            number = next(numbers)
            if codes[number] and ranks[number] == rank:
                picked.append(number)
                return True
            return False

        for entry, obj in self.reader.objects(mine):
            yield picked.popleft(), entry, t.cast(Object, obj), t.cast(Kind, self.live.kinds[(entry.group, entry.kind)])

    def _write(self, job: tuple[int, Entry, Object, Kind]) -> None:
        number, entry, obj, kind = job
        body = _restore.body_of(entry, obj, kind.api_version, self.choice, same_cluster=self.same_cluster)
        if body["metadata"].get("ownerReferences"):
            self._adopt(body)
        if self.plan.codes[number] == 1:
            stored = _writer.create(self.cluster, kind, body)
        else:
            stored = self._update(kind, body, self.choice.key(entry))
        missing = _writer.dropped(body, stored)
        if missing:
            raise MigrationError("It is not whole", why=f"the target dropped {', '.join(missing)}")

    def _update(self, kind: Kind, body: Object, key: str) -> Object:
        meta = body["metadata"]
        live = self.cluster.get(kind, meta["name"], meta.get("namespace", ""))
        planned = self.live.objects[key]
        if live is None or live["metadata"].get("resourceVersion") != planned[1]:
            raise MigrationError("Somebody changed it since the plan", why="somebody changed it since the plan: run again")
        return _writer.replace(self.cluster, kind, _restore.over(body, live))

    def _delete(self, job: tuple[str, str]) -> tuple[str, str, str]:
        group, name, namespace, own = job[0].split("/", 3)
        kind, copy = t.cast(Kind, self.live.kinds[(group, name)]), self.copies.get(job[0], ("", b""))
        for _again in range(5):
            try:
                self.cluster.delete(kind, own, namespace, uid=job[1], version=copy[0])
            except MigrationError as error:
                if error.details.get("status") != 409:
                    return "delete", job[0], error.why or error.what
            else:
                return "delete", job[0], ""
            _key, now = self._fetch((job[0],))
            if now is None or now["metadata"].get("uid") != job[1] or fingerprint(now) != copy[1]:
                break
            copy = now["metadata"]["resourceVersion"], copy[1]  # only its status is another one
        return "delete", job[0], "somebody changed it since a copy was kept: run again"

    def _adopt(self, body: Object) -> None:
        """Owners have new UIDs: looked up by name. A reference to one that is gone would have the object deleted at once."""
        namespace, kept = body["metadata"].get("namespace", ""), []
        for owner in body["metadata"].pop("ownerReferences"):
            where = (owner["apiVersion"], owner["kind"], namespace, owner["name"])
            if where not in self._owners:
                group, _slash, version = owner["apiVersion"].rpartition("/")
                kind = served_kinds(self.cluster, [(group, owner["kind"], version)])[(group, owner["kind"])]
                found = self.cluster.get(kind, owner["name"], namespace if kind.namespaced else "") if kind else None
                self._owners[where] = found["metadata"]["uid"] if found else ""
            if self._owners[where]:
                kept.append({**owner, "uid": self._owners[where]})
        if kept:
            body["metadata"]["ownerReferences"] = kept

    # -- below ---------------------------------------------------------------------------------------------------------

    def _flow(self, jobs: t.Iterable[t.Any], call: t.Callable[[t.Any], T]) -> t.Iterator[T]:
        """Answers in the order of the jobs; the first error is raised."""
        for answer in flow(jobs, call, self.workers):
            yield from values([answer])


def _against(made: RestorePlan, policy: str) -> MigrationError | None:
    states = [state for state in _restore.AGAINST if made.counts[state] and not (state == CONFLICT and policy == "skip")]
    if policy == "refuse" and made.counts[DIFFERS]:
        states.append(DIFFERS)
    if not states:
        return None
    bad = [item for item in made.items if item.state in states]
    lines = [f"{item.key.lstrip('/')}: {item.reason}" for item in bad]
    todo = []
    if DIFFERS in states:
        todo.append("look at the differences, then set existing to update or skip")
    if _restore.UNREADABLE in states:
        todo.append("give the key")
    if not todo:
        todo.append("mend what is named, or choose objects with only and namespaces")
    return MigrationError(
        f"{sum(made.counts[state] for state in states)} of {len(made.codes)} objects cannot be restored",
        where="target",
        why=few(lines, 8, see=" (see items)"),
        todo=" and ".join(todo),
    )


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of mesh_restore. Raises MigrationError; what concerns single objects is in the Outcome, with ``failed``."""
    seal = seal_of(params)
    with Reader(params["archive"], seal) as reader:
        work = Restore(params, reader, seal)
        first = Definitions(reader, work.cluster, work.choice.wants).bring(check_mode) if params["crds"] else Plan()
        work.coming = {(change.after["group"], change.after["kind"]) for change in first.changes} if check_mode else set()
        work.observe()
        work.make_plan()
        made = work.plan
        outcome = Outcome(made.as_plan())
        outcome.plan.changes[:0] = first.changes
        outcome.plan.notes += first.notes
        outcome.result = {
            "crds": [change.target.rpartition("/")[2] for change in first.changes],
            "counts": made.counts,
            "items": [item.as_dict() for item in made.items],
            "namespaces": made.namespaces,
            "undo": "",
            "written": 0,
        }
        outcome.failed = _against(made, params["existing"])
        if outcome.failed is not None:
            # nothing of it is done, but for the definitions, which had to be there to ask the API server
            outcome.plan.changes[:] = [] if check_mode else first.changes
            return outcome
        if check_mode or not made.writes:
            return outcome
        outcome.result["undo"] = work.keep()
        try:
            work.apply()
        except MigrationError as error:
            work.failed.append(error.message)
        outcome.result["written"] = work.written
        if work.failed:
            outcome.failed = MigrationError(
                f"{work.written} of {made.writes} objects are written",
                where="target",
                why="; ".join(work.failed[:5]),
                todo="mend the cause and run again: what is there already is not written twice",
                done=work.done,
                not_done=work.failed[:100],
                details={"written": work.written, "planned": made.writes},
            )
    return outcome
