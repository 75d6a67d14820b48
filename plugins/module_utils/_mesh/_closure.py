# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What configuration a gateway needs: from its pods' labels to Gateways, routes, hosts and policies. Pure functions."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import (
    key_of,
    selector_of,
    with_selector,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._order import rank_of

Object = dict[str, t.Any]
ROOT_NAMESPACE = "istio-system"


@dataclasses.dataclass(frozen=True)
class Workload:
    """The pods of a source gateway, and the labels that choose the target's pods in their place.

    :arg labels: labels of the source's pod template.
    """

    namespace: str
    labels: t.Mapping[str, str]
    target_selector: t.Mapping[str, str]

    def chosen_by(self, selector: t.Mapping[str, str]) -> bool:
        """Whether a selector with at least one label chooses these pods."""
        return bool(selector) and all(self.labels.get(key) == value for key, value in selector.items())


@dataclasses.dataclass
class Selected:
    """An object that goes to the target.

    :arg obj: as the source has it; ``rewritten`` as the target shall have it.
    :arg why: what made it part of the selection.
    :arg problem: why it cannot be rewritten, or empty.
    """

    obj: Object
    rewritten: Object
    why: str
    problem: str = ""

    @property
    def key(self) -> str:
        return key_of(self.obj)


def fqdn(host: str, namespace: str, domain: str = "cluster.local") -> str:
    """The full name of a host in a rule of a namespace: short names are Services of that namespace."""
    if "." in host or host.startswith("*") or not host:
        parts = host.split(".")
        if len(parts) >= 3 and parts[2] == "svc":
            return ".".join(parts[:3]) + "." + domain
        return host
    return f"{host}.{namespace}.svc.{domain}"


def covers(pattern: str, host: str) -> bool:
    """Whether a host pattern (``*`` or ``*.suffix`` or a name) covers a host, or the other way round for wildcards."""
    if pattern == host or "*" in (pattern, host):
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    if host.startswith("*."):
        return pattern.endswith(host[1:])
    return False


def _covered(pattern: str, hosts: t.Collection[str], wild: t.Sequence[str]) -> list[str]:
    """Those of the hosts that a pattern covers; ``wild``: the hosts that are patterns. There may be thousands of hosts."""
    if "*" in pattern:
        return [host for host in hosts if covers(pattern, host)]
    return [host for host in wild if covers(pattern, host)] + ([pattern] if pattern in hosts else [])


def _name(obj: Object) -> str:
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"


def gateways_of(route: Object) -> set[str]:
    """``namespace/name`` of the Gateways that a VirtualService is bound to (without ``mesh``)."""
    own = route["metadata"].get("namespace", "")
    names = [str(name) for name in (route.get("spec") or {}).get("gateways") or [] if name != "mesh"]
    return {_gateway_name(name, own) for name in names}


def _gateway_name(name: str, own: str) -> str:
    namespace, _slash, rest = name.rpartition("/")
    return f"{own if namespace in ('', '.') else namespace}/{rest}"


def delegates_of(route: Object) -> set[str]:
    """``namespace/name`` of the VirtualServices that this one hands requests to."""
    own = route["metadata"].get("namespace", "")
    found = set()
    for rule in (route.get("spec") or {}).get("http") or []:
        delegate = rule.get("delegate")
        if delegate and delegate.get("name"):
            found.add(f"{delegate.get('namespace') or own}/{delegate['name']}")
    return found


def hosts_of(route: Object) -> set[str]:
    """All hosts that a VirtualService sends to: routes of http, tcp and tls, and mirrors."""
    own, spec, found = route["metadata"].get("namespace", ""), route.get("spec") or {}, set()
    for protocol in ("http", "tcp", "tls"):
        for rule in spec.get(protocol) or []:
            targets = [item.get("destination") for item in rule.get("route") or []]
            targets += [item.get("destination") for item in rule.get("mirrors") or []]
            targets.append(rule.get("mirror"))
            found |= {fqdn(str(target["host"]), own) for target in targets if target and target.get("host")}
    return found


def credentials_of(gateway: Object) -> set[str]:
    """Names of the Secrets that a Gateway serves TLS with (also the ``-cacert`` ones of mutual TLS are meant by them)."""
    found: set[str] = set()
    for server in (gateway.get("spec") or {}).get("servers") or []:
        tls = server.get("tls") or {}
        found |= {str(name) for name in (tls.get("credentialName"), *(tls.get("credentialNames") or [])) if name}
    return found


def closure(objects: t.Sequence[Object], workloads: t.Sequence[Workload]) -> list[Selected]:
    """All that these gateways need, in the order in which it is to be written. Stable under permutation of ``objects``."""
    by_kind: dict[str, list[Object]] = {}
    for obj in sorted(objects, key=key_of):
        by_kind.setdefault(obj["kind"], []).append(obj)
    found: dict[str, Selected] = {}

    def take(obj: Object, why: str) -> None:
        found.setdefault(key_of(obj), rewrite(obj, workloads, why))

    gateways = set()
    for obj in by_kind.get("Gateway", []):
        selector = selector_of(obj) or {}
        if not selector or any(workload.chosen_by(selector) for workload in workloads):
            take(obj, "it selects the source gateway's pods")
            gateways.add(_name(obj))
    routes = {_name(obj): obj for obj in by_kind.get("VirtualService", [])}
    waiting = [(name, "it is bound to the gateway's Gateways") for name, obj in routes.items() if gateways & gateways_of(obj)]
    hosts: set[str] = set()
    while waiting:
        name, why = waiting.pop(0)
        route = routes.get(name)
        if route is None or key_of(route) in found:
            continue
        take(route, why)
        hosts |= hosts_of(route)
        waiting += [(other, f"VirtualService {name} delegates to it") for other in sorted(delegates_of(route))]
    wild = [host for host in hosts if "*" in host]
    for kind, field in (("DestinationRule", "host"), ("ServiceEntry", "hosts")):
        for obj in by_kind.get(kind, []):
            value = (obj.get("spec") or {}).get(field) or []
            own = obj["metadata"].get("namespace", "")
            names = [fqdn(str(item), own) for item in ([value] if isinstance(value, str) else value)]
            hit = sorted({host for name in names for host in _covered(name, hosts, wild)})
            if hit:
                take(obj, f"the gateway's routes send to {hit[0]}")
    for kind in ("EnvoyFilter", "AuthorizationPolicy", "RequestAuthentication", "Telemetry", "WasmPlugin", "TrafficExtension"):
        for obj in by_kind.get(kind, []):
            why = _reaches(obj, workloads)
            if why:
                take(obj, why)
    return ordered(list(found.values()))


def _reaches(obj: Object, workloads: t.Sequence[Workload]) -> str:
    """Why a policy or filter acts on one of the gateways, or nothing. In the root namespace it reaches every namespace."""
    selector, namespace = selector_of(obj) or {}, obj["metadata"].get("namespace", "")
    for workload in workloads:
        if namespace not in (workload.namespace, ROOT_NAMESPACE):
            continue
        if selector and workload.chosen_by(selector):
            return "it selects the source gateway's pods"
        if not selector and not (obj.get("spec") or {}).get("targetRefs"):
            return f"it acts on all workloads of {'the mesh' if namespace == ROOT_NAMESPACE else namespace}"
    return ""


def rewrite(obj: Object, workloads: t.Sequence[Workload], why: str) -> Selected:
    """The object with the target's labels in its selector, when the selector chooses a source gateway."""
    selector = selector_of(obj)
    chosen = [workload for workload in workloads if selector and workload.chosen_by(selector)]
    if not selector or not chosen:
        return Selected(obj, obj, why)
    targets = {tuple(sorted(workload.target_selector.items())) for workload in chosen}
    if len(targets) > 1:
        problem = f"its selector {selector} chooses {len(chosen)} of the gateways, and no single selector chooses their targets"
        return Selected(obj, obj, why, problem)
    return Selected(obj, with_selector(obj, chosen[0].target_selector), why)


def ordered(items: t.Sequence[Selected]) -> list[Selected]:
    """In the order of writing."""
    return sorted(items, key=lambda item: (rank_of(item.obj), item.key))
