# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Who runs pods in a cluster: read in few calls, and sorted into what can be moved, what cannot now, and what is left alone.

Pods are followed up to the owner that makes them: a ReplicaSet of a Deployment counts as the Deployment. What has no sidecar of
the source is none of our business; what has one and is not moved is listed with the reason.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD, SERVICE, Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._selector import Selector, selector_of, selects
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _rollouts
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import NAMESPACE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import MOVABLE, Manners
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies, Sidecar, live, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import PDB

Object = dict[str, t.Any]
Labels: t.TypeAlias = "t.Mapping[str, str | None]"

REPLICA_SET = kind_of("apps/v1", "ReplicaSet")
CONTROLLER = kind_of("v1", "ReplicationController")
JOB = kind_of("batch/v1", "Job")
CRON_JOB = kind_of("batch/v1", "CronJob")
_READ: tuple[Kind, ...] = (NAMESPACE, POD, *MOVABLE.values(), CONTROLLER, JOB, CRON_JOB, PDB, SERVICE)
# So many workloads are asked for one by one, more by a list of their kind.
_FEW = 10
_NEVER = ("kube-system", "kube-public", "kube-node-lease")
#: What a run does with workloads; its originals in the journal are apart from those of the other.
MOVE, RESTART = "inject", "restart"
#: Where the pods of a workload are.
SOURCE, MOVING, TARGET = "source", "moving", "target"
_INJECT = "sidecar.istio.io/inject"
_OTHER = "the template is not followed by its pods: give the label in its manifest, then replace its pods by hand"
_WHY = {
    "ReplicaSet": f"a ReplicaSet without Deployment: {_OTHER}",
    "ReplicationController": f"a ReplicationController: {_OTHER}",
    "Job": "a Job is not restarted: it ends with the sidecar it has",
    "CronJob": "a CronJob is not restarted: give the label in its pod template, and its next runs have it",
    "Node": "a static pod: its file on the node decides",
}


@dataclasses.dataclass(frozen=True)
class Wish:
    """The edit of pod templates: values to set, None to take a key away."""

    labels: Labels
    annotations: Labels = dataclasses.field(default_factory=dict)

    def fulfilled(self, labels: t.Mapping[str, str], annotations: t.Mapping[str, str]) -> bool:
        pairs = ((self.labels, labels), (self.annotations, annotations))
        return all(have.get(key) == value for wanted, have in pairs for key, value in wanted.items())


@dataclasses.dataclass(frozen=True)
class Workload:
    """A workload that follows its template.

    :arg guard: what maxUnavailable is set to while it rolls, when its own value would take too much away; None: left as it is.
    :arg cost: pods that are at most away at once. :arg obstacle: why it is not moved now. :arg pdbs: budgets over its pods.
    :arg slack: seconds in which one pod may come and go without a sign: minReadySeconds and the grace period.
    :arg trail: what is done with it, see MOVE. :arg network: that its sidecars of the source know of.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    labels: t.Mapping[str, str]
    template_labels: t.Mapping[str, str]
    template_annotations: t.Mapping[str, str]
    manners: Manners
    state: str
    cost: int = 0
    guard: int | None = None
    slack: int = 0
    pods: int = 0
    native: bool = False
    obstacle: str = ""
    pdbs: tuple[str, ...] = ()
    trail: str = MOVE
    network: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.kind}/{self.name}"


@dataclasses.dataclass(frozen=True)
class Listed:
    """What has a sidecar, or asks for one, and is not moved."""

    kind: str
    namespace: str
    name: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Survey:
    """:arg without: workloads and pods without any sidecar.

    :arg there: ``place/uid`` of all that could be a workload, sidecar or not; None when that was not looked at.
    :arg namespaces: those that were looked at, empty for all.
    """

    workloads: list[Workload]
    listed: list[Listed]
    without: int = 0
    there: t.Collection[str] | None = None
    namespaces: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scope:
    """:arg namespaces: empty for all of them. :arg proven: places of workloads that were seen to have come to the target."""

    wish: Wish
    proxies: Proxies
    namespaces: tuple[str, ...] = ()
    selector: Selector = ()
    proven: t.Collection[str] = ()
    trail: str = MOVE


Inventory = dict[str, list[Object]]


def read(cluster: Cluster, namespaces: t.Sequence[str]) -> Inventory:
    """All that runs pods: one paged list a kind, or one a kind and namespace when a few namespaces are named."""
    places = list(namespaces) if 0 < len(namespaces) <= 3 else [""]
    jobs = [(kind, place if kind.namespaced else "") for kind in _READ for place in (places if kind.namespaced else [""])]
    found: Inventory = {kind.kind: [] for kind in _READ}
    for (kind, _place), items in zip(jobs, values(each(jobs, lambda job: list(cluster.list_all(*job))))):  # noqa: B905
        found[kind.kind] += items
    names = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in found["Deployment"]}
    strange = {place for pod in found["Pod"] if (place := _strange(pod, names))}
    found["ReplicaSet"] = [
        item
        for namespace in sorted(strange)
        for item in cluster.list_all(REPLICA_SET, namespace)
        if int((item.get("status") or {}).get("replicas", 0)) > 0
    ]
    return found


def _strange(pod: Object, deployments: t.Collection[tuple[str, str]]) -> str:
    """The namespace of a pod whose ReplicaSet is of no Deployment."""
    owner, namespace = controller_of(pod), pod["metadata"]["namespace"]
    if owner.get("kind") != "ReplicaSet" or (namespace, deployment_of(pod)) in deployments:
        return ""
    return str(namespace)


def controller_of(item: Object) -> Object:
    owners = item["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def deployment_of(pod: Object) -> str:
    """The Deployment's name in that of the pod's ReplicaSet; the Deployment controller names it so."""
    name, digest = str(controller_of(pod).get("name", "")), (pod["metadata"].get("labels") or {}).get("pod-template-hash")
    return name.removesuffix(f"-{digest}") if digest else ""


def owner_of(
    pod: Object, sets: t.Mapping[tuple[str, str], Object], deployments: t.Collection[tuple[str, str]]
) -> tuple[str, str]:
    """``(kind, name)`` of what makes this pod in the end; an empty kind without a controller."""
    owner, namespace = controller_of(pod), pod["metadata"]["namespace"]
    kind, name = str(owner.get("kind", "")), str(owner.get("name", ""))
    if kind == "ReplicaSet":
        made = deployment_of(pod)
        if (namespace, made) in deployments:
            return "Deployment", made
        above = controller_of(sets[namespace, name]) if (namespace, name) in sets else {}
        return (str(above["kind"]), str(above["name"])) if above else (kind, name)
    return kind, name


def pods_of(pods: t.Sequence[Object], deployments: t.Collection[tuple[str, str]]) -> dict[tuple[str, str, str], list[Object]]:
    """The live pods of each owner, by (kind, namespace, name)."""
    found: dict[tuple[str, str, str], list[Object]] = {}
    for pod in pods:
        if live(pod):
            kind, name = owner_of(pod, {}, deployments)
            found.setdefault((kind, pod["metadata"]["namespace"], name), []).append(pod)
    return found


def survey(seen: Inventory, scope: Scope) -> Survey:
    """Sort everything. Pure."""
    return _Survey(seen, scope).run()


class _Survey:
    def __init__(self, seen: Inventory, scope: Scope) -> None:
        self._seen = seen
        self._scope = scope
        there = {_identity(kind, item["metadata"]) for kind in MOVABLE for item in seen[kind]}
        self._found = Survey([], [], there=there, namespaces=scope.namespaces)
        self._enabled = {item["metadata"]["name"] for item in seen["Namespace"] if _enabled(item)}
        self._names = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in seen["Deployment"]}
        sets = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in seen["ReplicaSet"]}
        self._pods: dict[tuple[str, str, str], list[Object]] = {}
        for pod in seen["Pod"]:
            if live(pod):
                kind, name = owner_of(pod, sets, self._names)
                self._pods.setdefault((kind, pod["metadata"]["namespace"], name), []).append(pod)
        self._pdbs = [(item, selector_of((item.get("spec") or {}).get("selector"))) for item in seen["PodDisruptionBudget"]]

    def run(self) -> Survey:
        for kind in MOVABLE:
            for item in self._seen[kind]:
                pods = self._pods.pop((kind, item["metadata"]["namespace"], item["metadata"]["name"]), [])
                if self._wanted(item["metadata"]):
                    self._workload(item, pods)
        for item in self._seen["CronJob"]:
            meta, template = item["metadata"], item["spec"]["jobTemplate"]["spec"]["template"]
            if self._wanted(meta) and self._asks(meta["namespace"], template) and not _opted_out(template):
                self._list("CronJob", meta["namespace"], meta["name"], _WHY["CronJob"])
        for (kind, namespace, name), pods in sorted(self._pods.items()):
            self._other(kind, namespace, name, pods)
        self._found.workloads.sort(key=lambda one: (one.namespace, one.kind, one.name))
        self._found.listed.sort(key=lambda one: (one.namespace, one.kind, one.name))
        return self._found

    def _wanted(self, meta: Object) -> bool:
        namespace = meta["namespace"]
        if namespace in _NEVER or (self._scope.namespaces and namespace not in self._scope.namespaces):
            return False
        return selects(self._scope.selector, meta.get("labels"))

    def _list(self, kind: str, namespace: str, name: str, reason: str) -> None:
        self._found.listed.append(Listed(kind, namespace, name, reason))

    def _asks(self, namespace: str, template: Object) -> bool:
        labels = (template.get("metadata") or {}).get("labels") or {}
        return namespace in self._enabled or labels.get(_INJECT) == "true" or bool(labels.get("istio.io/rev"))

    def _other(self, kind: str, namespace: str, name: str, pods: list[Object]) -> None:
        """Pods of no workload that could be moved."""
        meta = pods[0]["metadata"]
        if not self._wanted({**meta, "namespace": namespace}):
            return
        proxies = [found for pod in pods if (found := sidecar_of(pod)) is not None]
        if not proxies:
            self._without(kind or "Pod", namespace, name or meta["name"], pods[0])
            return
        if all(not self._scope.proxies.differs(proxy) for proxy in proxies):
            return
        if not kind:
            for pod in pods:
                self._list("Pod", namespace, pod["metadata"]["name"], "a pod without controller: nothing would make it again")
            return
        reason = f"pods of a {kind}, which is moved by its own controller: give the label in its pod template"
        self._list(kind, namespace, name, _WHY.get(kind, reason))

    def _without(self, kind: str, namespace: str, name: str, pod: Object) -> None:
        """No sidecar: only worth a line where one was to be expected."""
        self._found.without += 1
        if not self._asks(namespace, pod):
            return
        if (pod.get("spec") or {}).get("hostNetwork"):
            reason = "it has no sidecar: its pods use the network of the node"
        elif _opted_out(pod):
            reason = f"it has no sidecar: it opted out with {_INJECT}"
        else:
            reason = "it has no sidecar, though injection is on: its pods are older than that"
        self._list(kind, namespace, name, reason)

    def _workload(self, item: Object, pods: list[Object]) -> None:
        meta, template = item["metadata"], item["spec"]["template"]
        proxies = [found for pod in pods if (found := sidecar_of(pod)) is not None]
        asks = self._asks(meta["namespace"], template) and not _opted_out(template)
        if not proxies and not self._edited(template) and (pods or not asks):
            self._without(item["kind"], meta["namespace"], meta["name"], {**template, "metadata": template.get("metadata") or {}})
            return
        if any(proxy.router for proxy in proxies):
            self._list(item["kind"], meta["namespace"], meta["name"], "a gateway: its own modules move it")
            return
        owner = controller_of(item)
        state = self._state(item, pods)
        if owner and state != TARGET:
            reason = f"made by {owner.get('kind')} {owner.get('name')}, which would take the label away: set it there"
            self._list(item["kind"], meta["namespace"], meta["name"], reason)
            return
        self._found.workloads.append(self._member(item, state, len(pods), proxies))

    def _edited(self, template: Object) -> bool:
        meta = template.get("metadata") or {}
        return self._scope.wish.fulfilled(meta.get("labels") or {}, meta.get("annotations") or {})

    def _state(self, item: Object, pods: t.Sequence[Object]) -> str:
        template, place = item["spec"]["template"], f"{item['metadata']['namespace']}/{item['kind']}/{item['metadata']['name']}"
        # A run that was killed when the last old pod had gone: the new ones are still to come.
        if self._edited(template) and pods and place not in self._scope.proven and not _rollouts.judge(item).done:
            return MOVING
        if pods and all(not self._scope.proxies.differs(sidecar_of(pod)) for pod in pods):
            return TARGET
        if not self._edited(template):
            return SOURCE
        return MOVING if pods else TARGET

    def _member(self, item: Object, state: str, pods: int, proxies: t.Sequence[Sidecar]) -> Workload:
        meta, template = item["metadata"], item["spec"]["template"]
        labels = dict((template.get("metadata") or {}).get("labels") or {})
        own = _rollouts.manners(item)
        budgets = [pdb for pdb, chosen in self._pdbs if _in(pdb, meta["namespace"]) and selects(chosen, labels)]
        cost, guard, trouble = safely(own, [_allowed(pdb) for pdb in budgets])
        obstacle = ""
        if state == SOURCE:
            obstacle = self._in_the_way(item, labels) or own.trouble or self._unsettled(item) or trouble
        return Workload(
            item["kind"],
            meta["namespace"],
            meta["name"],
            str(meta.get("uid", "")),
            dict(meta.get("labels") or {}),
            labels,
            dict((template.get("metadata") or {}).get("annotations") or {}),
            own,
            state,
            cost,
            guard,
            int(item["spec"].get("minReadySeconds") or 0) + _grace(template),
            pods,
            any(proxy.native for proxy in proxies),
            obstacle,
            tuple(sorted(f"{meta['namespace']}/{pdb['metadata']['name']}" for pdb in budgets)),
            self._scope.trail,
            next((proxy.network for proxy in proxies if proxy.network and self._scope.proxies.differs(proxy)), ""),
        )

    def _in_the_way(self, item: Object, labels: t.Mapping[str, str]) -> str:
        """Edited labels that something selects by: pods would leave their workload or their Service."""
        edited = {key for key, value in self._scope.wish.labels.items() if labels.get(key) != value}
        if item["metadata"].get("deletionTimestamp"):
            return "it is being deleted"
        own = {requirement.key for requirement in selector_of(item["spec"].get("selector")) or ()}
        if both := sorted(edited & own):
            return f"its selector, which nobody can change, has the label {both[0]}"
        for service in self._seen["Service"]:
            chosen = (service.get("spec") or {}).get("selector") or {}
            keys = sorted(edited & set(chosen))
            if keys and _in(service, item["metadata"]["namespace"]) and all(labels.get(k) == v for k, v in chosen.items()):
                return f"Service {service['metadata']['name']} chooses its pods by the label {keys[0]}, and would lose them"
        return ""

    def _unsettled(self, item: Object) -> str:
        rollout = _rollouts.judge(item)
        return "" if rollout.done else f"it is not at rest: {rollout.hopeless or rollout.missing}"


def _identity(kind: str, meta: Object) -> str:
    return f"{meta['namespace']}/{kind}/{meta['name']}/{meta.get('uid', '')}"


def afresh(cluster: Cluster, members: t.Sequence[Workload]) -> list[Workload]:
    """The same as they are now: between two waves an autoscaler, and whoever edits templates, have time for a lot.

    What is gone or was made anew stays as it was, and its patch is refused.
    """
    present, budgets = present_of(cluster, [one.key for one in members]), _budgets(cluster, members)
    return [_as_now(one, present.get(one.key), budgets) for one in members]


def present_of(cluster: Cluster, keys: t.Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], Object]:
    """These workloads as they are now: each by itself when they are few, else one paged list a kind."""
    if len(keys) <= _FEW:
        answers = values(each(keys, lambda key: cluster.get(MOVABLE[key[0]], key[2], key[1])))
        return {key: item for key, item in zip(keys, answers) if item is not None}  # noqa: B905
    place = keys[0][1] if len({key[1] for key in keys}) == 1 else ""
    kinds = [MOVABLE[kind] for kind in sorted({key[0] for key in keys})]
    lists = values(each(kinds, lambda kind: list(cluster.list_all(kind, place))))
    return {(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item for some in lists for item in some}


def _budgets(cluster: Cluster, members: t.Sequence[Workload]) -> list[tuple[Object, Selector | None]]:
    places = {one.namespace for one in members}
    found = cluster.list_all(PDB, places.pop() if len(places) == 1 else "") if places else ()
    return [(item, selector_of((item.get("spec") or {}).get("selector"))) for item in found]


def _as_now(one: Workload, item: Object | None, budgets: t.Sequence[tuple[Object, Selector | None]]) -> Workload:
    if item is None or str(item["metadata"].get("uid", "")) != one.uid:
        return one
    own = _rollouts.manners({**item, "kind": one.kind})
    meta = item["spec"]["template"].get("metadata") or {}
    labels, notes = dict(meta.get("labels") or {}), dict(meta.get("annotations") or {})
    mine = [pdb for pdb, chosen in budgets if _in(pdb, one.namespace) and selects(chosen, labels)]
    cost, guard, _trouble = safely(own, [_allowed(pdb) for pdb in mine])
    names = tuple(sorted(f"{one.namespace}/{pdb['metadata']['name']}" for pdb in mine))
    return dataclasses.replace(
        one, manners=own, cost=cost, guard=guard, pdbs=names, template_labels=labels, template_annotations=notes
    )


def risk(own: Manners, guard: int | None) -> str:
    """Why a rollout must not begin now, whatever was seen earlier: the last ready pod stays. Pure."""
    cost = own.unavailable if guard is None else guard
    if own.replicas == 0 or cost == 0 or min(own.replicas, own.ready) - cost >= 1:
        return ""
    return f"its last ready pod would go ({own.ready} of {own.replicas} ready, up to {cost} away at once)"


def safely(own: Manners, allowed: t.Sequence[int]) -> tuple[int, int | None, str]:
    """``(pods away at once, what to set maxUnavailable to meanwhile, why it cannot be)``: the last ready pod stays. Pure.

    A workload that makes more pods first needs to give none away. It is never told to make more than it would by itself.

    :arg allowed: how many pods each disruption budget lets go.
    """
    if own.replicas == 0:
        return 0, None, ""
    cost = own.unavailable
    least = min([*allowed, own.replicas - 1])
    if cost <= least and own.ready - cost >= 1:
        return cost, None, ""
    if own.surge > 0:
        return 0, 0 if cost else None, ""
    if own.replicas - cost < 1 or own.ready - cost < 1:
        return (
            cost,
            None,
            (
                f"its last ready pod would go ({own.ready} ready, up to {cost} away at once) and it may not make one more first: "
                "give it one more replica, or maxSurge 1 where there is that"
            ),
        )
    return cost, None, f"a disruption budget lets {min(allowed)} pods go now, and it would take {cost}"


def _grace(template: Object) -> int:
    seconds = (template.get("spec") or {}).get("terminationGracePeriodSeconds")
    return 30 if seconds is None else int(seconds)


def _enabled(namespace: Object) -> bool:
    labels = namespace["metadata"].get("labels") or {}
    return labels.get("istio-injection") == "enabled" or bool(labels.get("istio.io/rev"))


def _opted_out(template: Object) -> bool:
    meta = template.get("metadata") or {}
    return "false" in ((meta.get("labels") or {}).get(_INJECT), (meta.get("annotations") or {}).get(_INJECT))


def _in(item: Object, namespace: str) -> bool:
    return bool(item["metadata"].get("namespace") == namespace)


def _allowed(pdb: Object) -> int:
    return int((pdb.get("status") or {}).get("disruptionsAllowed", 0))


def budgets_of(pdbs: t.Sequence[Object]) -> dict[str, int]:
    """Pods that each budget lets go now."""
    return {f"{pdb['metadata']['namespace']}/{pdb['metadata']['name']}": _allowed(pdb) for pdb in pdbs}
