# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What mesh_config reads, and others with it: Istio's objects of two API servers, the gateways' pods, the Secrets of Gateways."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import LARGE_PAGE, Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _snapshot
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import Selected, Workload, credentials_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS, key_of, kinds_at
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import NAMESPACE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import TERMINATING, mark_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import read_gateway, template_labels

Object = dict[str, t.Any]
SECRET = kind_of("v1", "Secret")


@dataclasses.dataclass
class Observed:
    """:arg source: objects of all kinds. :arg target: key -> object. :arg kinds: kind -> how the target serves it.
    :arg namespaces: of the target. :arg leaving: those that are being deleted; nothing can be written there any more.
    :arg going: objects that are being deleted in the source.
    """

    source: list[Object]
    target: dict[str, Object]
    kinds: dict[str, Kind | None]
    namespaces: set[str]
    leaving: set[str] = dataclasses.field(default_factory=set)
    going: list[Object] = dataclasses.field(default_factory=list)


def read_side(
    side: Cluster, kinds: t.Collection[str] = (), label_selector: str = ""
) -> tuple[list[Object], dict[str, Kind | None]]:
    """All objects of the kinds (default: all kinds of Istio's groups that are served), the kinds at the same time, and how
    this API server serves each; None when it does not."""
    there = kinds_at(side)
    served = {name: there.get(name) for name in (kinds or {**KINDS, **there})}

    def read(kind: Kind | None) -> list[Object]:
        found = list(side.list_all(kind, label_selector=label_selector, limit=LARGE_PAGE)) if kind else []
        for obj in found:
            obj["metadata"].pop("managedFields", None)  # half of what an object takes, and never looked at
        return found

    lists = values(each(list(served.values()), read))
    return [obj for objects in lists for obj in objects], served


def observe(source: Cluster, target: Cluster, kinds: t.Collection[str] = ()) -> Observed:
    """Read the kinds (default: all) on both sides at the same time."""
    first, second = values(each((source, target), lambda side: read_side(side, kinds)))
    found = Observed([], {}, second[1], set())
    for obj in first[0]:
        (found.going if mark_of(obj) == TERMINATING else found.source).append(obj)
    for item in target.list_all(NAMESPACE):
        place = found.leaving if item["metadata"].get("deletionTimestamp") else found.namespaces
        place.add(item["metadata"]["name"])
    # What is in a namespace that is being deleted goes with it.
    found.target = {key_of(obj): obj for obj in second[0] if obj["metadata"].get("namespace") not in found.leaving}
    return found


def workloads(
    source: Cluster, gateways: t.Sequence[Object], journal: Journal, target_selector: t.Mapping[str, str]
) -> list[Workload]:
    """The source gateways' pods. A gateway that is retired already is known from the copy that was kept of it."""

    def one(gateway: Object) -> Workload:
        namespace, name = gateway["namespace"], gateway["source_service"]
        labels = template_labels(read_gateway(source, namespace, name).deployment)
        if not labels:
            prefix = _snapshot.retired_prefix(namespace, name)
            for key in journal.originals(f"{prefix}Deployment/"):
                labels = template_labels(_snapshot.kept(journal, key))
        if not labels:
            raise MigrationError(
                "The source gateway's pods are not known",
                where=f"source/{namespace}/Service/{name}",
                why="there is no such Service with a Deployment behind it, and no copy of one",
                todo="check gateways[].namespace and gateways[].source_service",
            )
        return Workload(namespace, labels, target_selector or {"istio": gateway["target_gateway"]})

    return values(each(gateways, one))


def credentials(source: Cluster, selected: t.Sequence[Selected], gateways: t.Sequence[Object]) -> list[Object]:
    """The Secrets that the Gateways serve TLS with: gateways read them in their own namespace, and are in the same one."""
    names = sorted({name for item in selected if item.obj["kind"] == "Gateway" for name in credentials_of(item.obj)})
    places = sorted({gateway["namespace"] for gateway in gateways})
    wanted = [(namespace, name) for namespace in places for name in names if "://" not in name]

    def one(pair: tuple[str, str]) -> Object:
        return {"namespace": pair[0], "name": pair[1], "exists": source.exists(SECRET, pair[1], pair[0])}

    return values(each(wanted, one))
