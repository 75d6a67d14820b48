# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of mesh_backup_info: prove an archive, and tell what is otherwise in a cluster than in it."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope, _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object, Reader
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import seal_of
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, served_as
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import differing, fingerprint
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import OWNED, TERMINATING
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._vendor import owned

_SHOWN = 200


@dataclasses.dataclass
class Live:
    """What a cluster has of the kinds of an archive: a few bytes an object, never the objects.

    :arg objects: key of an Entry -> (uid, resourceVersion, fingerprint).
    :arg kinds: (group, kind) -> how the cluster serves it, None when it does not.
    :arg owned: key -> why it is the cluster's own, see _vendor.py; only of those that are, and when everything is read.
    """

    objects: dict[str, tuple[str, str, bytes]]
    kinds: dict[tuple[str, str], Kind | None]
    owned: dict[str, str] = dataclasses.field(default_factory=dict)


def served_kinds(cluster: Cluster, wanted: t.Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], Kind | None]:
    """``(group, kind, version)`` of an archive -> the kind here: in the archive's version if served, else the preferred one."""
    asked = sorted(set(wanted))
    values(each(sorted({group for group, _kind, _version in asked}), cluster.served))
    found: dict[tuple[str, str], Kind | None] = {}
    for group, name, version in asked:
        found.setdefault((group, name), served_as(cluster.served(group), group, name, version))
    return found


# In the place of a fingerprint.
MARKS = {mark.encode(): mark for mark in (TERMINATING, OWNED)}


def read_live(
    cluster: Cluster,
    kinds: dict[tuple[str, str], Kind | None],
    namespaces: t.Collection[str] | None,
    *,
    everything: bool = False,
) -> Live:
    """List all objects of these kinds; of namespaced kinds in these namespaces (None: in all).

    What a backup would leave out is left out, or (``everything``) has one of MARKS as its fingerprint.
    """
    live = Live({}, kinds)

    def one(kind: Kind) -> list[tuple[str, tuple[str, str, bytes]]]:
        found = []
        places = sorted(namespaces) if kind.namespaced and namespaces is not None and len(namespaces) <= 3 else [""]
        for place in places:
            for obj in cluster.list_all(kind, place):
                meta = obj["metadata"]
                namespace = meta.get("namespace") or ""
                if namespaces is not None and kind.namespaced and namespace not in namespaces:
                    continue
                obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
                mark = b""
                if _scope.left_out(obj):
                    if not everything:
                        continue
                    mark = (TERMINATING if meta.get("deletionTimestamp") else OWNED).encode()
                key = f"{kind.group}/{kind.kind}/{namespace}/{meta['name']}"
                if everything and not mark and (why := owned(obj)):
                    live.owned[key] = why
                found.append((key, (meta.get("uid", ""), meta.get("resourceVersion", ""), mark or fingerprint(obj))))
        return found

    for part in values(each([kind for kind in kinds.values() if kind is not None], one, workers=4)):
        live.objects.update(part)
    return live


def _item(key: str, state: str, differences: t.Sequence[str] = ()) -> Object:
    group, kind, namespace, name = key.split("/", 3)
    return {"group": group, "kind": kind, "namespace": namespace, "name": name, "state": state, "differences": list(differences)}


def compare(reader: Reader, cluster: Cluster) -> Object:
    """``items`` (all that is not the same) and ``counts`` of same, differs, missing, extra, unreadable, not_served."""
    entries = {(entry.group, entry.kind, entry.api_version.rpartition("/")[2]) for entry in reader.entries()}
    scope = reader.manifest.get("scope") or {}
    namespaces = set(scope.get("namespaces") or ()) or None
    live = read_live(cluster, served_kinds(cluster, entries), namespaces)
    same_cluster = (reader.manifest.get("cluster") or {}).get("uid") == cluster.uid()
    counts = dict.fromkeys(("same", "differs", "missing", "extra", "unreadable", "not_served"), 0)
    items: list[Object] = []

    def tell(entry: Entry, state: str, differences: t.Sequence[str] = ()) -> None:
        counts[state] += 1
        if state != "same" and len(items) < _SHOWN:
            items.append(_item(entry.key, state, differences))

    for entry, obj in reader.objects():
        found = live.objects.pop(entry.key, None)
        kind = live.kinds.get((entry.group, entry.kind))
        if kind is None:
            tell(entry, "not_served")
        elif found is None:
            tell(entry, "missing")
        elif same_cluster and found[:2] == (entry.uid, entry.resource_version):
            tell(entry, "same")  # nobody wrote to it since
        elif obj is None:
            tell(entry, "unreadable")
        elif found[2] == fingerprint(obj):
            tell(entry, "same")
        else:
            now = cluster.get(kind, entry.name, entry.namespace)
            if now is None:
                tell(entry, "missing")
                continue
            now["apiVersion"], now["kind"] = kind.api_version, kind.kind
            secret = bool(entry.sealed) or any(_scope.may_hold_secret(entry.kind, _yaml.dump(side)) for side in (now, obj))
            tell(entry, "differs", differing(now, obj, secret=secret))
    # A kind of which only some objects were wanted says nothing about the others.
    whole = {entry["kind"] for entry in reader.manifest.get("lists") or () if entry["mode"] == "all"}
    for key in sorted(live.objects):
        group, kind_name, _rest = key.split("/", 2)
        if (f"{group}/{kind_name}" if group else kind_name) in whole:
            counts["extra"] += 1
            if len(items) < _SHOWN:
                items.append(_item(key, "extra"))
    return {"items": items, "counts": counts, "same": not any(number for state, number in counts.items() if state != "same")}


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of mesh_backup_info. Raises MigrationError; ArchiveError when the archive is not whole."""
    del check_mode
    warnings: list[str] = []
    with Reader(params["archive"], seal_of(params)) as reader:
        manifest = {key: value for key, value in reader.manifest.items() if key not in ("sha256", "index_sha256")}
        result: Object = {"archive": str(reader.path), "manifest": manifest, "whole": True}
        source = params["source"]
        if params["compare"]:
            cluster = Cluster("source", source)
            cluster.guard()
            result["comparison"] = compare(reader, cluster)
            if result["comparison"]["counts"]["unreadable"]:
                warnings.append("Encrypted objects that changed in the cluster cannot be compared without a key")
        if params["list"]:
            result["objects"] = [entry.key for entry in reader.entries()]
    return Outcome(result=result, warnings=warnings)
