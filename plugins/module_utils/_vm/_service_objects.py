# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The objects that a VM's service is made of, but for its routes (_service_routes.py). Pure."""

from __future__ import annotations

import copy
import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import fqdn
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _service_routes
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_routes import Unfit
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import VmService, Workload, texts

Object = dict[str, t.Any]
NETWORKING = "networking.istio.io"
#: Istio's own mark of entries that istiod made for a proxy that connected.
AUTO_GROUP, DISCONNECTED = "istio.io/autoRegistrationGroup", "istio.io/disconnectedAt"


@dataclasses.dataclass(frozen=True)
class Wish:
    """An object as it shall be. :arg part: of the option ``parts``. :arg edits: an original of the user's, into which the rest of
    the spec was put; None for an object that is ours alone."""

    part: str
    group: str
    kind: str
    namespace: str
    name: str
    spec: Object
    annotations: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    edits: Object | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


def _istio(part: str, kind: str, namespace: str, name: str, spec: Object, **more: t.Any) -> Wish:
    return Wish(part, NETWORKING, kind, namespace, name, spec, **more)


def workloads(service: VmService, registered: t.Collection[str]) -> list[Wish]:
    """Entries of VMs that are present. :arg registered: addresses that istiod has entries for."""
    if service.auto:
        return []
    found = []
    for work in service.workloads:
        if work.present and work.address not in registered:
            found.append(_istio("workloads", "WorkloadEntry", service.namespace, work.name, entry(service, work)))
    return found


def entry(service: VmService, work: Workload) -> Object:
    given = work.spec
    account = given["service_account"] or service.given["service_account"]
    spec: Object = {"address": work.address, "labels": dict(work.labels), "serviceAccount": account}
    network = given["network"] or service.given["network"]
    if network:
        spec["network"] = network
    for field in ("locality", "weight"):
        if given[field] is not None:
            spec[field] = given[field]
    if given["ports"]:
        spec["ports"] = {str(name): int(str(port)) for name, port in given["ports"].items()}
    return spec


def registry(service: VmService) -> list[Wish]:
    """WorkloadGroup, Service, ServiceEntry."""
    found = [_istio("service", "WorkloadGroup", service.namespace, service.group, group(service))] if service.auto else []
    given = service.given["registry"]
    if given in ("service", "both"):
        ports = [
            {"name": _port_name(port), "port": port["port"], "protocol": "TCP", "targetPort": port["target"]}
            for port in service.ports
        ]
        spec = {"selector": service.selector, "ports": ports}
        found.append(Wish("service", "", "Service", service.namespace, service.name, spec, labels={"app": service.name}))
    if given in ("service_entry", "both"):
        ports = [
            {"name": port["name"], "number": port["port"], "protocol": port["protocol"], "targetPort": port["target"]}
            for port in service.ports
        ]
        for port in ports:
            if port["targetPort"] == port["number"]:
                del port["targetPort"]
        spec = {"hosts": [service.host], "location": "MESH_INTERNAL", "ports": ports, "resolution": "STATIC"}
        spec["workloadSelector"] = {"labels": service.selector}
        found.append(_istio("service", "ServiceEntry", service.namespace, service.name, spec))
    return found


def _port_name(port: t.Mapping[str, t.Any]) -> str:
    """A Service tells the protocol by the name of the port."""
    name, protocol = str(port["name"]), str(port["protocol"]).lower()
    return name if name == protocol or name.startswith(f"{protocol}-") else f"{protocol}-{name}"


def group(service: VmService) -> Object:
    labels = {**service.selector, **texts(service.given["group_labels"])}
    template: Object = {"serviceAccount": service.given["service_account"]}
    if service.given["network"]:
        template["network"] = service.given["network"]
    spec: Object = {"metadata": {"labels": labels}, "template": template}
    health = service.given["health_check"]
    if health:
        names = {"initial_delay": "initialDelaySeconds", "timeout": "timeoutSeconds", "period": "periodSeconds"}
        names |= {"success": "successThreshold", "failure": "failureThreshold"}
        probe: Object = {there: health[here] for here, there in names.items() if health[here] is not None}
        if health["http"]:
            probe["httpGet"] = {"path": health["http"]["path"], "port": health["http"]["port"]}
        elif health["tcp"]:
            probe["tcpSocket"] = {"port": health["tcp"]["port"]}
        else:
            probe["exec"] = {"command": list(health["command"])}
        spec["probe"] = probe
    return spec


# -- routes ------------------------------------------------------------------------------------------------------


def rule(service: VmService, original: Object | None) -> Wish:
    """The DestinationRule with the subsets, ours or the user's with ours in it. Raises Unfit."""
    spec: Object = copy.deepcopy(original["spec"]) if original else {"host": service.host}
    if fqdn(str(spec.get("host", "")), service.namespace) != service.host:
        raise Unfit(f"it is for the host {spec.get('host')}, not for {service.host}")
    _set_tls(spec, service.given["tls"], "it")
    there = {one["name"]: one for one in spec.get("subsets") or []}
    for subset in service.subsets:
        fresh = there.get(subset["name"])
        if fresh is None:
            fresh = {"name": subset["name"], "labels": subset["labels"]}
            spec.setdefault("subsets", []).append(fresh)
        elif texts(fresh.get("labels") or {}) != subset["labels"]:
            raise Unfit(f"its subset {subset['name']} has the labels {fresh.get('labels')}, not {subset['labels']}")
        _set_tls(fresh, subset["tls"], f"its subset {subset['name']}")
    return _istio("routes", "DestinationRule", service.namespace, service.rule_name, spec, edits=original)


def _set_tls(place: Object, mode: str | None, name: str) -> None:
    if not mode:
        return
    there = ((place.get("trafficPolicy") or {}).get("tls") or {}).get("mode")
    if there not in (None, mode):
        raise Unfit(f"{name} has the TLS mode {there}, not {mode}")
    place.setdefault("trafficPolicy", {}).setdefault("tls", {})["mode"] = mode


def routes(service: VmService, original: Object | None) -> list[Wish]:
    """VirtualServices, and the Gateways and Services in front of them. Raises Unfit."""
    base = original["spec"] if original else _service_routes.plain(service)
    spec = _service_routes.render(base, service)
    found = [_istio("routes", "VirtualService", service.namespace, service.route_name, spec, edits=original)]
    for namespace, name, root in _service_routes.roots(service, base.get("hosts") or []):
        found.append(_istio("routes", "VirtualService", namespace, name, root))
    for gateway in service.given["gateways"]:
        if gateway["make"]:
            found.append(_gateway(gateway))
        if gateway["load_balancer"]:
            found.append(_balancer(service, gateway))
    return found


def _gateway(gateway: t.Mapping[str, t.Any]) -> Wish:
    make = gateway["make"]
    server: Object = {
        "hosts": list(gateway["hosts"]),
        "port": {
            "name": f"{make['protocol'].lower()}-{gateway['port']}",
            "number": gateway["port"],
            "protocol": make["protocol"],
        },
    }
    if make["credential_name"]:
        server["tls"] = {"mode": "SIMPLE", "credentialName": make["credential_name"]}
    spec = {"selector": texts(make["selector"]), "servers": [server]}
    return _istio("routes", "Gateway", gateway["namespace"], gateway["name"], spec, annotations=texts(make["annotations"]))


def _balancer(service: VmService, gateway: t.Mapping[str, t.Any]) -> Wish:
    given = gateway["load_balancer"]
    port = {"name": "http", "port": given["port"], "protocol": "TCP", "targetPort": gateway["port"]}
    spec: Object = {"type": given["type"], "selector": texts(given["selector"]), "ports": [port]}
    if given["ip"]:
        spec["loadBalancerIP"] = given["ip"]
    name = given["name"] or f"{service.name}-gw-svc"
    return Wish("routes", "", "Service", gateway["namespace"], name, spec, annotations=texts(given["annotations"]))


# -- what a service has ------------------------------------------------------------------------------------------


def is_auto(obj: t.Mapping[str, t.Any]) -> str:
    """The WorkloadGroup for which istiod made this entry, or nothing."""
    return str((obj["metadata"].get("annotations") or {}).get(AUTO_GROUP) or "")


def healthy(obj: t.Mapping[str, t.Any]) -> bool | None:
    """What istiod says of an entry that it checks; None for one that nobody checks."""
    for one in (obj.get("status") or {}).get("conditions") or []:
        if one.get("type") == "Healthy":
            return bool(one.get("status") == "True")
    return None


def sent_to(spec: t.Mapping[str, t.Any], host: str, namespace: str) -> set[str]:
    """The subsets of a host (empty: all of it) that the routes of a VirtualService send something to."""
    found = set()
    for protocol in ("http", "tcp", "tls"):
        for one in spec.get(protocol) or []:
            several = len(one.get("route") or []) > 1
            for way in one.get("route") or []:
                place = way.get("destination") or {}
                if fqdn(str(place.get("host", "")), namespace) == host and (way.get("weight") or not several):
                    found.add(str(place.get("subset") or ""))
    return found


def names_host(spec: t.Mapping[str, t.Any], host: str, namespace: str) -> bool:
    """Whether a VirtualService or a DestinationRule is for this host, inside of the mesh."""
    if "host" in spec:
        return fqdn(str(spec["host"]), namespace) == host
    inside = "mesh" in (spec.get("gateways") or ["mesh"])
    return inside and host in {fqdn(str(name), namespace) for name in spec.get("hosts") or []}
