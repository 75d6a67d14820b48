# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Whether anything still uses Istio: proxies, its gateways' clients, istiod's clients, webhooks, what refers to istiod. Pure.

A proxy is whoever's by what it is (ASM_ID, control plane, image), not by labels. What cannot be seen is not proven.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import few
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._selector import selector_of, selects
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_objects as istio
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_objects import (
    host_of,
    labels_of,
    notes_of,
    place,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies, Sidecar, live, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import chooses
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall import Inventory, Sorted

Object = dict[str, t.Any]
_OVER = ("Succeeded", "Failed")
_AMBIENT = "ambient.istio.io/redirection"
_INJECT = "sidecar.istio.io/inject"
_WHERE = "source"


@dataclasses.dataclass(frozen=True)
class Look:
    """What a gateway's proxy says at one look.

    :arg clients: connections on its listeners; None where it does not count them (a proxy does so with
        EXIT_ON_ZERO_ACTIVE_CONNECTIONS). :arg connections: all, with those of probes and metrics.
    :arg active, total: requests (or streams) that it has passed on, now and since it started.
    """

    active: int
    total: int
    clients: int | None = None
    connections: int = 0


@dataclasses.dataclass
class Census:
    """Who has which proxy.

    :arg sidecars: pods that use Istio. :arg strangers: gateways of Istio that are not of its installation. :arg gateways: pods of
        gateways that would be removed. :arg ending: pods with a proxy of Istio that are on their way out. :arg target: pods with
        a proxy of the target.
    """

    sidecars: list[str] = dataclasses.field(default_factory=list)
    ambient: list[str] = dataclasses.field(default_factory=list)
    strangers: list[str] = dataclasses.field(default_factory=list)
    gateways: list[Object] = dataclasses.field(default_factory=list)
    ending: list[Object] = dataclasses.field(default_factory=list)
    target: list[Object] = dataclasses.field(default_factory=list)


def pod_name(pod: Object) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def some(names: t.Iterable[str], most: int = 5) -> str:
    """The first few, and how many more."""
    return few(sorted(names), most, joint=", ")


def census(seen: Inventory, found: Sorted) -> Census:
    """All pods, by whose proxy they have."""
    made = Census()
    for pod in seen.pods:
        if (pod.get("status") or {}).get("phase") in _OVER:
            continue
        if notes_of(pod).get(_AMBIENT) == "enabled":
            made.ambient.append(pod_name(pod))
        proxy = sidecar_of(pod)
        if proxy is None or _is_ztunnel(pod):
            continue
        if not seen.proxies.differs(proxy):
            made.target += [pod] if live(pod) else []
        elif not _of_these(seen, proxy, found.services):
            continue
        elif not live(pod):
            made.ending.append(pod)
        elif any(istio.has_pod(item, pod) for item in found.workloads):
            made.gateways.append(pod)
        elif proxy.router:
            made.strangers.append(pod_name(pod))
        else:
            made.sidecars.append(pod_name(pod))
    return made


def _of_these(seen: Inventory, proxy: Sidecar, services: t.Collection[str]) -> bool:
    """With all revisions going, every proxy that is not the target's counts; else those of the control planes that go."""
    host = host_of(proxy.discovery)
    return not seen.revisions or not host or host in services


def _is_ztunnel(pod: Object) -> bool:
    """The node proxy of the ambient mode: its clients are the pods with the annotation."""
    return any("ztunnel" in (one.get("args") or [])[:2] for one in (pod.get("spec") or {}).get("containers") or [])


def use_refusals(counted: Census) -> list[Refusal]:
    """Pods with a proxy that needs istiod."""
    found = []
    if counted.sidecars:
        why = f"{len(counted.sidecars)} pods: {some(counted.sidecars)}"
        todo = "move their workloads (sidecar_inject), or replace the pods that no controller replaces"
        found.append(Refusal("Pods still have a sidecar of Istio", _WHERE, why, todo, order=True))
    if counted.ambient:
        why = f"{len(counted.ambient)} pods: {some(counted.ambient)}"
        todo = "take the label istio.io/dataplane-mode from their namespaces and pods"
        found.append(Refusal("Pods are in Istio's ambient mode", _WHERE, why, todo, order=True))
    if counted.strangers:
        why = f"{len(counted.strangers)} pods: {some(counted.strangers)}"
        todo = "move their traffic, then remove them by what made them (a Gateway of the Gateway API, a chart)"
        found.append(Refusal("Gateways of Istio run that are not of its installation", _WHERE, why, todo, order=True))
    return found


def gateway_refusals(seen: Inventory, counted: Census, looks: t.Mapping[str, t.Sequence[Look | str]]) -> list[Refusal]:
    """A gateway has nothing in front of it from outside, has no client, and got none while it was looked at.

    ``looks``: by pod; a text is why it could not be asked.
    """
    found = []
    for service in seen.objects:
        if service["kind"] != "Service" or (service.get("spec") or {}).get("type") not in ("LoadBalancer", "NodePort"):
            continue
        namespace, selector = service["metadata"]["namespace"], service["spec"].get("selector")
        behind = [
            pod for pod in counted.gateways if pod["metadata"]["namespace"] == namespace and chooses(selector, labels_of(pod))
        ]
        if behind:
            why = f"this Service of type {service['spec']['type']} sends to {len(behind)} pods of it"
            todo = "retire it (gateway_retire), or scale it to 0 when nobody comes to it any more"
            found.append(Refusal("A gateway of Istio can still be reached from outside", place(service), why, todo, order=True))
    working, unasked = [], []
    for name, several in sorted(looks.items()):
        said = [look for look in several if isinstance(look, Look)]
        silent = [look for look in several if isinstance(look, str)]
        if silent or not said:
            unasked.append(f"{name} ({silent[0] if silent else 'no answer'})")
        elif does := busy(said):
            working.append(f"{name} {does}")
    if working:
        what, todo = "A gateway of Istio has clients", "move their traffic, or wait until it has ended"
        found.append(Refusal(what, _WHERE, some(working), todo, order=True))
    if unasked:
        todo = "mend that, or scale the gateway to 0 when nobody comes to it any more"
        found.append(Refusal("A gateway of Istio cannot be asked for its connections", _WHERE, some(unasked), todo))
    return found


def busy(looks: t.Sequence[Look]) -> str:
    """What a gateway does for somebody, or nothing. An open connection without a request is none where it cannot be told from
    those of probes."""
    open_now = max(look.clients or 0 for look in looks)
    if open_now:
        return f"has {open_now} connections of clients"
    if active := max(look.active for look in looks):
        return f"has {active} requests or streams"
    passed = looks[-1].total - looks[0].total
    return f"passed on {passed} requests while it was watched" if passed > 0 else ""


def client_refusals(counted: Census, clients: t.Mapping[str, t.Sequence[str] | str]) -> list[Refusal]:
    """Who is connected to istiod: nobody but the gateways that go with it, and pods that are ending.

    ``clients``: by pod of istiod the names (``pod.namespace``) of the connected proxies, or why it could not be asked.
    """
    gone = {f"{pod['metadata']['name']}.{pod['metadata']['namespace']}" for pod in [*counted.gateways, *counted.ending]}
    others = sorted({name for names in clients.values() if not isinstance(names, str) for name in names} - gone)
    unasked = [f"{pod} ({why})" for pod, why in sorted(clients.items()) if isinstance(why, str)]
    found = []
    if others:
        why = f"{len(others)} proxies: {some(others)}"
        todo = "look for them also outside of this cluster: virtual machines, other clusters of the mesh"
        found.append(Refusal("Proxies are connected to istiod", _WHERE, why, todo, order=True))
    if unasked:
        todo = "grant get and create of pods/portforward (docs/rbac.md), or say proof: pods"
        found.append(Refusal("istiod cannot be asked who is connected to it", _WHERE, some(unasked), todo))
    return found


# -- webhooks and references --------------------------------------------------------------------------------------


def injectors(found: Sorted, hooks: t.Sequence[Object]) -> tuple[list[Object], list[Object]]:
    """The injection webhooks that go, and those of others. ``hooks``: all MutatingWebhookConfigurations."""
    going = {istio.key_of(item) for item in found.of(istio.MUTATING.kind)}
    mine = [hook for item in hooks if istio.key_of(item) in going for hook in item.get("webhooks") or []]
    others = [(item, hook) for item in hooks if istio.key_of(item) not in going for hook in item.get("webhooks") or []]
    return mine, [hook for item, hook in others if _injects(item, hook)]


def dormant(found: Sorted, hooks: t.Sequence[Object], namespaces: t.Sequence[Object], workloads: t.Sequence[Object]) -> list[str]:
    """Workloads without a pod now whose next pod Istio's webhooks would inject, and no other injector.

    ``workloads``: all that make pods.
    """
    mine, others = injectors(found, hooks)
    labels = {item["metadata"]["name"]: labels_of(item) for item in namespaces}
    names = []
    for item in workloads:
        pod = istio.template(item)
        off = {notes_of(pod).get(_INJECT), labels_of(pod).get(_INJECT)} & {"false", "disabled", "off", "no"}
        where = labels.get(item["metadata"]["namespace"], {})
        if off or not asleep(item) or not any(selected(hook, where, labels_of(pod)) for hook in mine):
            continue
        if not any(selected(hook, where, labels_of(pod)) for hook in others):
            names.append(f"{item['metadata']['namespace']}/{item['kind']}/{item['metadata']['name']}")
    return sorted(names)


def orphaned(found: Sorted, hooks: t.Sequence[Object], namespaces: t.Sequence[Object]) -> list[str]:
    """A line on namespaces whose new pods Istio injects by their labels, and nobody else would; or none."""
    mine, others = injectors(found, hooks)
    names = [
        item["metadata"]["name"]
        for item in namespaces
        if any(selected(hook, labels_of(item), {}) for hook in mine)
        and not any(selected(hook, labels_of(item), {}) for hook in others)
    ]
    return [f"new pods without labels of their own get no sidecar any more in the namespaces {some(names)}"] if names else []


def asleep(workload: Object) -> bool:
    """It has no pod now, and may make some later."""
    spec = workload.get("spec") or {}
    return workload["kind"] == "CronJob" or int(spec.get("replicas", 1)) == 0


def _injects(config: Object, hook: Object) -> bool:
    """A webhook for new pods that calls itself an injector."""
    rules = hook.get("rules") or []
    pods = any("pods" in (rule.get("resources") or []) and "CREATE" in (rule.get("operations") or []) for rule in rules)
    return pods and "inject" in f"{config['metadata']['name']} {hook.get('name')}"


def selected(hook: Object, namespace: t.Mapping[str, str], labels: t.Mapping[str, str]) -> bool:
    """Whether a webhook is called for a pod with these labels. Its matchConditions are taken as met."""
    empty: Object = {}
    chosen = selects(selector_of(hook.get("namespaceSelector") or empty), namespace)
    return chosen and selects(selector_of(hook.get("objectSelector") or empty), labels)


def dormant_refusals(names: t.Sequence[str], how: str) -> list[Refusal]:
    if not names or how == "ignore":
        return []
    why = f"their next pods would get its sidecar, and none without it: {some(names)}"
    todo = "give their pod templates the label of the target's injection, or set dormant to ignore"
    return [Refusal("Workloads without pods count on Istio's injection", _WHERE, why, todo, order=True)]


def reference_refusals(seen: Inventory, found: Sorted, services: t.Sequence[Object]) -> list[Refusal]:
    """What would break without istiod's Service and is not of Istio's installation. ``services``: of all namespaces."""
    going = {istio.key_of(item) for item, _why in found.removed}
    made = []
    for item in seen.objects:
        if item["kind"] not in istio.WEBHOOKS or istio.key_of(item) in going:
            continue
        hooks = [str(hook.get("name")) for hook in item.get("webhooks") or [] if istio.called(hook) in found.services]
        if hooks:
            why = f"its webhooks {some(hooks)} call istiod's Service, which would be gone"
            todo = "remove this configuration, or let it call what stays"
            made.append(Refusal("A webhook that is not of Istio's installation calls istiod", place(item), why, todo))
    for item in services:
        host = str((item.get("spec") or {}).get("externalName") or "")
        if host_of(host) in found.services:
            why, todo = f"it is another name of {host}", "find out who uses it, and remove it"
            made.append(Refusal("A Service is another name of istiod", place({**item, "kind": "Service"}), why, todo))
    return made


def route_refusals(found: Sorted, routes: t.Sequence[Object]) -> list[Refusal]:
    """The target's routes (its VirtualServices) must not lead to a Service that goes, like the old egress gateway's."""
    going = {f"{item['metadata']['name']}.{item['metadata']['namespace']}" for item in found.of("Service")}
    names = []
    for route in routes:
        meta, spec = route["metadata"], route.get("spec") or {}
        entries = [entry for part in ("http", "tls", "tcp") for entry in spec.get(part) or []]
        goals = [goal for entry in entries for goal in entry.get("route") or [] if goal.get("weight", 1) != 0]
        hosts = {str((goal.get("destination") or {}).get("host") or "") for goal in goals}
        places = {host_of(host if "." in host else f"{host}.{meta.get('namespace', '')}") for host in hosts}
        names += [f"{meta.get('namespace', '')}/{meta['name']} to {goal}" for goal in sorted(places & going)]
    if not names:
        return []
    todo = "give these routes other destinations, or weight 0 for this one"
    why = f"{len(names)} VirtualServices: {some(names)}"
    return [Refusal("Routes of the target lead to what would be removed", "target", why, todo, order=True)]


def steering_refusals(seen: Inventory, found: Sorted) -> list[Refusal]:
    """The control plane that goes must not be the target's own: then target_proxy, or the cluster, is the wrong one."""
    proxies = [(pod, sidecar_of(pod)) for pod in seen.pods if live(pod)]
    wrong = [
        pod_name(pod)
        for pod, proxy in proxies
        if proxy and not seen.proxies.differs(proxy) and host_of(proxy.discovery) in found.services
    ]
    if not wrong:
        return []
    why = f"{len(wrong)} of them get their configuration from it: {some(wrong)}"
    return [Refusal("What would be removed steers proxies of the target", _WHERE, why, "check the option target_proxy")]


def mentions(seen: Inventory, found: Sorted) -> list[str]:
    """ConfigMaps of the mesh's namespace that stay and name istiod's Service."""
    going = {istio.key_of(item) for item, _why in found.removed}
    names = []
    for item in seen.objects:
        if item["kind"] != "ConfigMap" or istio.key_of(item) in going or istio.is_automatic(item):
            continue
        text = "\n".join(str(value) for value in (item.get("data") or {}).values())
        names += [f"{place(item)} names {host}" for host in sorted(found.services) if f"{host}.svc" in text]
    return names


def target_trouble(before: t.Mapping[str, str], pods: t.Sequence[Object], is_ready: t.Callable[[Object], bool]) -> list[str]:
    """Pods that were ready (uid -> name), are still there, and are not ready now."""
    return [before[uid] for pod in pods if (uid := pod["metadata"].get("uid", "")) in before and live(pod) and not is_ready(pod)]


def proxies_of(census_: Census, proxies: Proxies) -> dict[str, t.Any]:
    """The census as result: counts, and whose proxies count as the target's."""
    return {
        "sidecars": len(census_.sidecars),
        "ambient": len(census_.ambient),
        "gateways": [pod_name(pod) for pod in census_.gateways],
        "other_gateways": census_.strangers,
        "target": len(census_.target),
        "target_asm_id": proxies.asm_id,
    }
