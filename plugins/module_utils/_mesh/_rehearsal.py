# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A rehearsal: would a pod with the new labels get a sidecar of the target? Asked by a dry run, before any real pod is replaced.

The API server calls the injection webhooks for ``dryRun=All`` too, and answers with the pod as it would be. Nothing is stored.
"""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import MOVABLE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import Wish, Workload

Object = dict[str, t.Any]
_PREPARE = "let ASM prepare Istio first (asm_migration, state: SetupIstioForMigrate)"
_SWITCH = (
    "check that the target's injection is on for this cluster and namespace (ASM: state Migrating), and the options labels and "
    "target_proxy"
)
_NAME = "servicemesh-migration-rehearsal"


def pod_of(workload: Object, wish: Wish) -> Object:
    """The pod that this workload would make after the edit."""
    template = workload["spec"]["template"]
    meta = template.get("metadata") or {}
    parts = {}
    for part, wanted in (("labels", wish.labels), ("annotations", wish.annotations)):
        merged = {**(meta.get(part) or {}), **wanted}
        parts[part] = {key: value for key, value in merged.items() if value is not None}
    name = {"name": _NAME, "namespace": workload["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**name, **parts}, "spec": template.get("spec") or {}}


def rehearse(cluster: Cluster, members: t.Sequence[Workload], wish: Wish, proxies: Proxies) -> list[str]:
    """One workload of each namespace. What could not be asked is returned; a wrong sidecar raises MigrationError."""
    first: dict[str, Workload] = {}
    for one in members:
        first.setdefault(one.namespace, one)

    def ask(one: Workload) -> str:
        found = cluster.get(MOVABLE[one.kind], one.name, one.namespace)
        if found is None:
            return "it is gone"
        made = cluster.create(POD, pod_of(found, wish), dry_run=True)
        differs = proxies.differs(sidecar_of(made))
        if differs:
            what = "that trusts both meshes" if proxies.two_meshes else "of the target"
            raise MigrationError(
                f"A new pod would not get a sidecar {what}, so nothing is restarted",
                where=f"{cluster.name}/{one.place}",
                why=f"in a dry run: {differs}",
                todo=_PREPARE if proxies.two_meshes else _SWITCH,
                details={"rehearsal": True},
            )
        return ""

    unasked = []
    for answer in each(list(first.values()), ask):
        if answer.error is not None and answer.error.details.get("rehearsal"):
            raise answer.error
        why = answer.error.why if answer.error is not None else answer.value
        if why:
            unasked.append(f"injection could not be rehearsed in {answer.item.namespace} (dry run of a pod): {why}")
    return unasked
