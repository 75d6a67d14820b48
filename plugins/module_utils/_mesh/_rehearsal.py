# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A rehearsal: would a pod with the new labels get a sidecar of the target? Asked by a dry run, before any real pod is replaced.

The API server calls the injection webhooks for ``dryRun=All`` too, and answers with the pod as it would be. Nothing is stored.
"""

from __future__ import annotations

import math
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import repeated_until
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._fleet import Clock
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
# Namespaces in a message.
_MOST = 3
_NAME = "servicemesh-migration-rehearsal"
# So many are asked at once; and seconds for which one that gets no answer is asked again.
_WORKERS, _LISTEN = 8, 5.0


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


class Rehearsal:
    """``rehearse`` for many namespaces, a few at a time: a transient MigrationError says that it goes on when it is called again.

    Gates and orders are heard in between.
    """

    def __init__(self, cluster: Cluster, wish: Wish, proxies: Proxies, clock: Clock) -> None:
        self._cluster = cluster
        self._wish = wish
        self._proxies = proxies
        self._clock = clock
        self._asked: set[str] = set()
        #: What could not be asked.
        self.unasked: set[str] = set()

    def __call__(self, members: t.Sequence[Workload]) -> None:
        began = self._clock.monotonic()
        left = sorted({one.namespace for one in members} - self._asked)
        while left:
            some, left = left[:_WORKERS], left[_WORKERS:]
            mine = [one for one in members if one.namespace in some]
            self.unasked.update(rehearse(self._cluster, mine, self._wish, self._proxies))
            self._asked.update(some)
            if left and self._clock.monotonic() - began >= _LISTEN:
                raise MigrationError(
                    "Injection is not rehearsed in all namespaces yet", why=f"{len(left)} are left", transient=True
                )
        self._asked.clear()


def rehearse(cluster: Cluster, members: t.Sequence[Workload], wish: Wish, proxies: Proxies) -> list[str]:
    """One workload of each namespace, one that knows its network first. What could not be asked is returned.

    A wrong sidecar, one in another network than now, and a pod that nobody could make now raise MigrationError.
    """
    answers, unasked, broken = _ask(cluster, [(one, wish) for one in sorted(members, key=lambda one: not one.network)])
    if broken:
        raise MigrationError(
            "A new pod could not be made now, so nothing is restarted",
            where=cluster.name,
            why=f"in a dry run: {few(broken, _MOST)}",
            todo="look at the injection webhook of the target (its Service, its pods, its certificate) and at the API server; a "
            "rollout would take old pods away and get no new ones",
        )
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
    answers, unasked, broken = _ask(cluster, edits)
    found = {}
    for one, made in answers:
        proxy = sidecar_of(made)
        if proxy is None:
            found[one.namespace] = f"a new pod of {one.place} would get no sidecar at all"
        elif not proxies.differs(proxy):
            found[one.namespace] = f"a new pod of {one.place} would get the target's sidecar all the same"
    return found, [*unasked, *broken]


def _ask(
    cluster: Cluster, edits: t.Sequence[tuple[Workload, Wish]]
) -> tuple[list[tuple[Workload, Object]], list[str], list[str]]:
    """The pod of one workload of each namespace as it would be, what could not be asked, and what failed on the way.

    A refusal (no right, a policy for pods without a workload) tells nothing of the pods of a workload; a failure (5xx: a webhook
    that does not answer) meets them too. Whoever waits for this has gates and orders to hear, or traffic to bring back: a server
    that lets all of a few wait until they give up is not asked for the rest.
    """
    first: dict[str, tuple[Workload, Wish]] = {}
    for one, wish in edits:
        first.setdefault(one.namespace, (one, wish))

    def ask(edit: tuple[Workload, Wish]) -> Object | None:
        one, wish = edit
        found = cluster.get(MOVABLE[one.kind], one.name, one.namespace)
        return None if found is None else cluster.create(POD, pod_of(found, wish), dry_run=True)

    made: list[tuple[Workload, Object]] = []
    unasked: list[str] = []
    broken: list[str] = []
    left = list(first.values())
    while left:
        some, left = left[:_WORKERS], left[_WORKERS:]
        began = time.monotonic()
        with repeated_until(min(began + _LISTEN, cluster.until or math.inf), cluster):
            answers = each(some, ask, _WORKERS)
        for answer in answers:
            one = answer.item[0]
            if answer.value is not None:
                made.append((one, answer.value))
                continue
            why = answer.error.why if answer.error is not None else "it is gone"
            failed = answer.error is not None and answer.error.details.get("status", 0) >= 500
            (broken if failed else unasked).append(_unasked(one.namespace, why))
        if all(answer.error is not None and answer.error.transient for answer in answers):
            unasked += [_unasked(one.namespace, f"not asked, after {len(some)} got no answer") for one, _wish in left]
            break
    return made, unasked, broken


def _unasked(namespace: str, why: str) -> str:
    return f"injection could not be rehearsed in {namespace} (dry run of a pod): {why}"
