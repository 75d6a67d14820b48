# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Which objects the end of Istio removes, in which order, and which it leaves with what reason; and their return. Pure.

Nothing goes because of its name. It is of Istio's installation (or istioctl says so), and nothing that stays has a use for it.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_objects as istio
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_objects import (
    Key,
    host_of,
    key_of,
    labels_of,
    place,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies, live, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._snapshot import creatable
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import chooses

Object = dict[str, t.Any]
_ORDER = {kind.kind: number for number, kind in enumerate(istio.KINDS)}
_SHARED = "shared by all control planes of the cluster"


@dataclasses.dataclass
class Inventory:
    """What was read.

    :arg objects: of the kinds of _istio_objects: all that are cluster-wide or in the mesh's namespace, elsewhere by label.
    :arg gateways: names of the IstioGateways. :arg named: what istioctl names; None: go by labels. :arg kept: copies of what this
        migration removed, or was about to. :arg readers: (namespace, ServiceAccount) with a token Secret: somebody outside reads
        the cluster with it.
    """

    namespace: str
    objects: list[Object]
    pods: list[Object]
    proxies: Proxies
    gateways: t.Collection[str] = ()
    revisions: t.Collection[str] = ()
    named: t.Collection[Key] | None = None
    kept: list[Object] = dataclasses.field(default_factory=list)
    readers: t.Collection[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Left:
    """What stays, and why."""

    object: str
    reason: str


@dataclasses.dataclass
class Sorted:
    """:arg removed: (object, by what it is known), in the order of removal. :arg services: ``name.namespace`` of istiod's
    Services that go. :arg workloads: what runs and goes, or went in an earlier run: its pods may still be ending."""

    removed: list[tuple[Object, str]] = dataclasses.field(default_factory=list)
    left: list[Left] = dataclasses.field(default_factory=list)
    services: set[str] = dataclasses.field(default_factory=set)
    workloads: list[Object] = dataclasses.field(default_factory=list)

    def of(self, *kinds: str) -> list[Object]:
        return [item for item, _why in self.removed if item["kind"] in kinds]


def sort(seen: Inventory) -> Sorted:
    """Every object that is Istio's is removed unless something that stays speaks against it."""
    known = _known(seen)
    found = Sorted()
    found.services = _services(seen, known)
    judge = _Judge(seen, known, found.services)
    gone: list[tuple[Object, str]] = []
    for obj in seen.objects:
        why = known.get(key_of(obj), "")
        against = judge.against(obj) if why else _not_ours(seen, obj)
        if against:
            found.left.append(Left(place(obj), against))
        elif why and not obj["metadata"].get("deletionTimestamp"):
            gone.append((obj, why))
    found.removed = sorted(gone, key=lambda pair: (_ORDER[pair[0]["kind"]], key_of(pair[0])))
    found.workloads = judge.workloads
    found.left.sort(key=lambda item: item.object)
    return found


def _known(seen: Inventory) -> dict[Key, str]:
    """All that is Istio's, by key, with the sign that says so."""
    of_helm = istio.releases([*seen.objects, *seen.kept])
    begun = {(key_of(item), item["metadata"].get("uid")) for item in seen.kept}
    found: dict[Key, str] = {}
    for obj in seen.objects:
        key = key_of(obj)
        if obj["kind"] not in _ORDER or istio.of_target(obj, seen.gateways):
            continue
        if (key, obj["metadata"].get("uid")) in begun:
            found[key] = "an earlier run was about to remove it"
        elif seen.named is not None:
            if key in seen.named:
                found[key] = "istioctl names it"
        elif why := istio.origin(obj, seen.namespace, of_helm):
            found[key] = why
    return found


def _services(seen: Inventory, known: t.Collection[Key]) -> set[str]:
    """istiod's Services that go, also those that an earlier run has removed already."""
    objects = [item for item in seen.objects if key_of(item) in known and _in_revisions(seen, item)]
    found = [item for item in [*objects, *seen.kept] if item["kind"] == "Service"]
    return {
        f"{item['metadata']['name']}.{item['metadata']['namespace']}"
        for item in found
        if ((item.get("spec") or {}).get("selector") or {}).get("app") == "istiod"
    }


def _in_revisions(seen: Inventory, obj: Object) -> bool:
    return not seen.revisions or labels_of(obj).get(istio.REVISION, "") in seen.revisions


def _not_ours(seen: Inventory, obj: Object) -> str:
    """Why an object that is not known as Istio's is worth a line: it is in the mesh's namespace, or looks like Istio's."""
    theirs = istio.of_target(obj, seen.gateways)
    if istio.is_automatic(obj):
        return ""
    if obj["metadata"].get("namespace") == seen.namespace:
        if obj["metadata"]["name"].startswith("istio-ca-"):
            return "the pods of both meshes mount it"
        return theirs or "it is not known as Istio's"
    if seen.named is not None and not theirs and istio.origin(obj, seen.namespace, ()):
        return "istioctl does not name it"
    return theirs if istio.origin(obj, seen.namespace, ()) else ""


class _Judge:
    """What speaks against the removal of an object of Istio's. Made of what stays."""

    def __init__(self, seen: Inventory, known: t.Mapping[Key, str], services: t.Collection[str]) -> None:
        self._seen, self._services = seen, services
        pods = [pod for pod in seen.pods if live(pod)]
        proxied = [pod for pod in pods if (proxy := sidecar_of(pod)) and not seen.proxies.differs(proxy)]
        self._steering = {host_of(proxy.discovery) for pod in proxied if (proxy := sidecar_of(pod))}
        # A pod of the target without an own redirection needs a CNI plugin, and whose that is cannot be seen.
        self._cni = next((pod for pod in proxied if _needs_cni(pod)), None)
        candidates = [item for item in seen.objects if key_of(item) in known and item["kind"] in istio.WORKLOADS]
        self.workloads = [item for item in candidates if _in_revisions(seen, item) and not self._workload(item)]
        self.workloads += [item for item in seen.kept if item["kind"] in istio.WORKLOADS]
        self._staying = [pod for pod in pods if not any(istio.has_pod(item, pod) for item in self.workloads)]
        self._accounts = {(pod["metadata"]["namespace"], istio.account_of(pod)) for pod in self._staying}
        self._accounts |= {
            (item["metadata"]["namespace"], istio.account_of(istio.template(item)))
            for item in seen.objects
            if item["kind"] in (*istio.WORKLOADS, "StatefulSet") and key_of(item) not in known
        }
        self._accounts |= set(seen.readers)
        self._bindings = [
            item
            for item in seen.objects
            if item["kind"] in ("RoleBinding", "ClusterRoleBinding") and (key_of(item) not in known or self.against(item))
        ]

    def against(self, obj: Object) -> str:
        """A reason to leave this object, or nothing."""
        if not _in_revisions(self._seen, obj):
            revision = labels_of(obj).get(istio.REVISION)
            return f"it is of the revision {revision}" if revision else "it may be of another revision, too"
        component = labels_of(obj).get(istio.COMPONENT)
        if component == istio.BASE:
            return _SHARED
        if component == istio.CNI and self._cni is not None:
            meta = self._cni["metadata"]
            return f"pods of the target need a CNI plugin for their redirection ({meta['namespace']}/{meta['name']})"
        check = {
            **dict.fromkeys(istio.WEBHOOKS, self._webhook),
            **dict.fromkeys(istio.WORKLOADS, self._workload),
            "HorizontalPodAutoscaler": self._autoscaler,
            "PodDisruptionBudget": self._budget,
            "Service": self._service,
            "ConfigMap": self._config_map,
            "ServiceAccount": self._account,
            **dict.fromkeys(("RoleBinding", "ClusterRoleBinding"), self._binding),
            **dict.fromkeys(("Role", "ClusterRole"), self._role),
        }.get(obj["kind"])
        return check(obj) if check else ""

    def _webhook(self, obj: Object) -> str:
        others = sorted({istio.called(hook) for hook in obj.get("webhooks") or []} - set(self._services))
        return f"it calls {', '.join(others)}, which stays" if others else ""

    def _workload(self, obj: Object) -> str:
        proxy = sidecar_of(istio.template(obj))
        if proxy is not None and proxy.router and not self._seen.proxies.differs(proxy):
            return "it is a gateway of the target"
        if labels_of(obj).get(istio.COMPONENT) == istio.CNI and self._cni is not None:
            return "pods of the target need it"
        return ""

    def _autoscaler(self, obj: Object) -> str:
        goal = (obj.get("spec") or {}).get("scaleTargetRef") or {}
        key = (goal.get("kind"), obj["metadata"]["namespace"], goal.get("name"))
        stays = key in {key_of(item) for item in self._seen.objects} - {key_of(item) for item in self.workloads}
        return f"it scales {goal.get('kind')} {goal.get('name')}, which stays" if stays else ""

    def _chosen(self, obj: Object, selector: t.Mapping[str, str] | None) -> str:
        """A pod that stays and is chosen by a selector."""
        for pod in self._staying:
            if pod["metadata"]["namespace"] == obj["metadata"]["namespace"] and chooses(selector, labels_of(pod)):
                return str(pod["metadata"]["name"])
        return ""

    def _budget(self, obj: Object) -> str:
        pod = self._chosen(obj, ((obj.get("spec") or {}).get("selector") or {}).get("matchLabels"))
        return f"it protects the pod {pod}, which stays" if pod else ""

    def _service(self, obj: Object) -> str:
        spec = obj.get("spec") or {}
        if spec.get("type") == "LoadBalancer":
            return "it holds a load balancer: gateway_retire removes it, with proof that the listeners stay"
        if f"{obj['metadata']['name']}.{obj['metadata']['namespace']}" in self._steering:
            return "proxies of the target get their configuration from it"
        pod = self._chosen(obj, spec.get("selector"))
        return f"it also sends to the pod {pod}, which stays" if pod else ""

    def _config_map(self, obj: Object) -> str:
        meta = obj["metadata"]
        for pod in self._staying:
            if pod["metadata"]["namespace"] == meta["namespace"] and meta["name"] in istio.used_config_maps(pod):
                return f"the pod {pod['metadata']['name']} uses it, which stays"
        return ""

    def _account(self, obj: Object) -> str:
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        if key in self._seen.readers:
            return "it has a token Secret: another control plane may read this cluster with it"
        return "pods that stay run under it" if key in self._accounts else ""

    def _binding(self, obj: Object) -> str:
        for subject in obj.get("subjects") or []:
            if (subject.get("namespace"), subject.get("name")) in self._accounts:
                return f"it gives rights to the ServiceAccount {subject['name']}, which is in use"
        return ""

    def _role(self, obj: Object) -> str:
        kind, namespace, name = key_of(obj)
        for binding in self._bindings:
            ref = binding.get("roleRef") or {}
            same = not namespace or binding["metadata"].get("namespace") == namespace
            if same and ref.get("kind") == kind and ref.get("name") == name:
                return f"{binding['kind']} {binding['metadata']['name']} refers to it, which stays"
        return ""


def _needs_cni(pod: Object) -> bool:
    """Istio's injector adds this container instead of istio-init where a CNI plugin does the redirection."""
    return any(one.get("name") == "istio-validation" for one in (pod.get("spec") or {}).get("initContainers") or [])


# -- plans -------------------------------------------------------------------------------------------------------


def plan_absent(found: Sorted) -> Plan:
    """Every deletion by name and UID."""
    made = Plan()
    for obj, why in found.removed:
        made.add("delete", place(obj), {"uid": obj["metadata"].get("uid")}, None, why)
    if not made.changes:
        made.notes.append("nothing of Istio's installation is left that may be removed")
    return made


def plan_restored(kept: t.Sequence[Object], present: t.Mapping[Key, Object]) -> tuple[Plan, list[Object]]:
    """Create what is missing of the kept objects, last removed first: the webhooks come when istiod answers again."""
    made, bodies = Plan(), []
    for obj in sorted(kept, key=lambda item: (-_ORDER[item["kind"]], key_of(item))):
        there = present.get(key_of(obj))
        if there is not None and not there["metadata"].get("deletionTimestamp"):
            if there["metadata"].get("uid") != obj["metadata"].get("uid"):
                made.notes.append(f"{place(obj)} is there again already, and is left as it is")
            continue
        body = creatable(obj)
        if owners := obj["metadata"].get("ownerReferences"):
            made.notes.append(f"{place(obj)} comes back without its owner {owners[0].get('kind')} {owners[0].get('name')}")
        made.add("create", place(obj), None, concealed(body), "it was removed by this migration")
        bodies.append(body)
    if not kept:
        made.notes.append("this migration has not removed Istio")
    return made, bodies
