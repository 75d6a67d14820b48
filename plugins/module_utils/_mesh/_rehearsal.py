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
_NETWORK = "tell ASM the networks of Istio (asm_network, or ack_to_asm_networks in the role), then run again"
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
    """One workload of each namespace, one that knows its network first. What could not be asked is returned.

    A wrong sidecar, or one in another network than now, raises MigrationError.
    """
    answers, unasked = _ask(cluster, [(one, wish) for one in sorted(members, key=lambda one: not one.network)])
    for one, made in answers:
        proxy = sidecar_of(made)
        differs = proxies.differs(proxy)
        if differs:
            what = "that trusts both meshes" if proxies.two_meshes else "of the target"
            raise MigrationError(
                f"A new pod would not get a sidecar {what}, so nothing is restarted",
                where=f"{cluster.name}/{one.place}",
                why=f"in a dry run: {differs}",
                todo=_PREPARE if proxies.two_meshes else _SWITCH,
            )
        if proxy is not None and one.network and proxy.network != one.network and not proxies.two_meshes:
            raise MigrationError(
                "A new pod would not know the network that it is in, so nothing is restarted",
                where=f"{cluster.name}/{one.place}",
                why=f"its sidecar is in {one.network}; in a dry run the new one is in {proxy.network or 'no network'}, and would "
                "go past the gateways of other networks",
                todo=_NETWORK,
            )
    return unasked


def rehearse_back(
    cluster: Cluster, edits: t.Sequence[tuple[Workload, Wish]], proxies: Proxies
) -> tuple[dict[str, str], list[str]]:
    """``({namespace: why its pods would not get a sidecar of the source}, what could not be asked)``."""
    answers, unasked = _ask(cluster, edits)
    found = {}
    for one, made in answers:
        proxy = sidecar_of(made)
        if proxy is None:
            found[one.namespace] = f"a new pod of {one.place} would get no sidecar at all"
        elif not proxies.differs(proxy):
            found[one.namespace] = f"a new pod of {one.place} would get the target's sidecar all the same"
    return found, unasked


def _ask(cluster: Cluster, edits: t.Sequence[tuple[Workload, Wish]]) -> tuple[list[tuple[Workload, Object]], list[str]]:
    """The pod of one workload of each namespace as it would be, and what could not be asked."""
    first: dict[str, tuple[Workload, Wish]] = {}
    for one, wish in edits:
        first.setdefault(one.namespace, (one, wish))

    def ask(edit: tuple[Workload, Wish]) -> Object | None:
        one, wish = edit
        found = cluster.get(MOVABLE[one.kind], one.name, one.namespace)
        return None if found is None else cluster.create(POD, pod_of(found, wish), dry_run=True)

    made, unasked = [], []
    for answer in each(list(first.values()), ask):
        one = answer.item[0]
        if answer.value is not None:
            made.append((one, answer.value))
            continue
        why = answer.error.why if answer.error is not None else "it is gone"
        unasked.append(f"injection could not be rehearsed in {one.namespace} (dry run of a pod): {why}")
    return made, unasked
