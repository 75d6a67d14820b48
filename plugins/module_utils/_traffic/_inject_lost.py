# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""sidecar_inject's way back when the journal remembers no move: was nothing moved, or is the memory lost?

Disk and mirror may both be gone. The cluster still tells: the templates have the target's labels, and managedFields say who set
them. What another migration's journal remembers is that one's to take back.
"""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import AGENT, Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import remembered
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import MOVABLE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import Scope, Wish

Object = dict[str, t.Any]
# Names in a message or warning.
_MOST = 5


def lost(cluster: Cluster, journal: Journal, scope: Scope, namespace: str) -> tuple[list[str], MigrationError | None]:
    """Warnings, and the error when workloads that this collection moved are known to no journal.

    Only asked when nothing is known. Who may not read workloads never moved one, and is only warned.
    """
    try:
        ours, others = _labelled(cluster, scope)
        if ours:
            elsewhere = remembered(cluster, namespace, f"{scope.trail}/")
            ours = {key: place for key, place in ours.items() if f"{scope.trail}/{key}" not in elsewhere}
    except MigrationError as error:
        return [f"the journal knows of no moved workload; whether there are any could not be seen: {error.message}"], None
    labels = ", ".join(f"{key}: {value}" for key, value in sorted(scope.wish.labels.items()) if value is not None)
    warnings = []
    if others:
        warnings.append(
            f"{len(others)} workloads have the target's labels ({labels}), by somebody else's hand, and stay as they are: "
            f"{few(sorted(others), _MOST)}"
        )
    if not ours:
        return warnings, None
    places = sorted(ours.values())
    return warnings, MigrationError(
        f"{len(places)} workloads were moved, and what they were before is not known any more, so none is taken back",
        where=f"{cluster.name}: {few(places, _MOST)}",
        why=f"this collection set {labels} in their pod templates, but neither {journal.path} nor the ConfigMap "
        f"{namespace}/servicemesh-migration-{journal.migration} remembers a move",
        todo="run with the migration and the state_dir that they were moved with, or bring that folder or the ConfigMap back "
        "from a backup; else take these labels away by hand (and set istio.io/rev where the manifest has it), then run again; "
        "what a migration that is over has moved is left out by naming the namespaces of this one (namespaces)",
        not_done=places,
        details={"workloads": places},
    )


def _labelled(cluster: Cluster, scope: Scope) -> tuple[dict[str, str], list[str]]:
    """Workloads whose template has what a move sets: ``{place/uid: place}`` where this collection set it, and others' places."""
    places = scope.namespaces if 0 < len(scope.namespaces) <= 3 else ("",)
    jobs = [(kind, place) for kind in MOVABLE.values() for place in places]
    ours: dict[str, str] = {}
    others: list[str] = []
    for items in values(each(jobs, lambda job: list(cluster.list_all(*job)))):
        for item in items:
            meta, own = item["metadata"], item["spec"]["template"].get("metadata") or {}
            if scope.namespaces and meta["namespace"] not in scope.namespaces:
                continue
            if not scope.wish.fulfilled(own.get("labels") or {}, own.get("annotations") or {}):
                continue
            place = f"{meta['namespace']}/{item['kind']}/{meta['name']}"
            if _is_ours(meta, scope.wish):
                ours[f"{place}/{meta.get('uid', '')}"] = place
            else:
                others.append(place)
    return ours, others


def _is_ours(meta: Object, wish: Wish) -> bool:
    """Whether the API server noted us as the one who set one of these keys last."""
    parts = [
        (part, [f"f:{key}" for key, value in keys.items() if value is not None])
        for part, keys in (("f:labels", wish.labels), ("f:annotations", wish.annotations))
    ]
    for entry in meta.get("managedFields") or ():
        if str(entry.get("manager")) != AGENT:
            continue
        fields: t.Any = entry.get("fieldsV1") or {}
        for step in ("f:spec", "f:template", "f:metadata"):
            fields = fields.get(step) or {}
        if any(key in (fields.get(part) or {}) for part, keys in parts for key in keys):
            return True
    return False
