# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The options of vm_service, and everything that can be wrong in them without asking anybody. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import fqdn

Object = dict[str, t.Any]
PARTS = ("workloads", "service", "routes")
HTTP = ("HTTP", "HTTP2", "GRPC")
PROTOCOLS = (*HTTP, "HTTPS", "TCP", "TLS", "MONGO")
TLS_MODES = ("ISTIO_MUTUAL", "DISABLE", "SIMPLE", "MUTUAL")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _names(**kinds: str) -> Object:
    return {name: {"type": kind} for name, kind in kinds.items()}


def vm_service_spec() -> Object:
    """Options of vm_service, beside those of every module."""
    port = {
        "port": {"type": "int", "required": True},
        "name": {"type": "str"},
        "protocol": {"type": "str", "choices": list(PROTOCOLS), "default": "HTTP"},
        "target_port": {"type": "int"},
    }
    workload = {
        "address": {"type": "str", "required": True},
        **_names(name="str", labels="dict", service_account="str", network="str", locality="str", weight="int", ports="dict"),
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    health = {
        "http": {"type": "dict", "options": {"path": {"type": "str", "default": "/"}, "port": {"type": "int", "required": True}}},
        "tcp": {"type": "dict", "options": {"port": {"type": "int", "required": True}}},
        "command": {"type": "list", "elements": "str"},
        **_names(initial_delay="int", timeout="int", period="int", success="int", failure="int"),
    }
    subset = {
        "name": {"type": "str", "required": True},
        "labels": {"type": "dict", "required": True},
        "tls": {"type": "str", "choices": list(TLS_MODES)},
    }
    canary = {"subset": {"type": "str", "required": True}, "match": {"type": "dict", "required": True}}
    percent = {"type": "float", "default": 100}
    fault = {
        "match": {"type": "dict", "default": {}},
        "delay": {"type": "dict", "options": {"seconds": {"type": "float", "required": True}, "percent": percent}},
        "abort": {"type": "dict", "options": {"http_status": {"type": "int", "required": True}, "percent": percent}},
    }
    make = {
        "selector": {"type": "dict", "default": {"istio": "ingressgateway"}},
        "protocol": {"type": "str", "choices": ["HTTP", "HTTPS"], "default": "HTTP"},
        "credential_name": {"type": "str", "no_log": False},
        "annotations": {"type": "dict", "default": {}},
    }
    balancer = {
        "name": {"type": "str"},
        "port": {"type": "int", "required": True},
        "selector": {"type": "dict", "default": {"istio": "ingressgateway"}},
        "annotations": {"type": "dict", "default": {}},
        "ip": {"type": "str"},
        "type": {"type": "str", "choices": ["LoadBalancer", "NodePort", "ClusterIP"], "default": "LoadBalancer"},
    }
    gateway = {
        "name": {"type": "str", "required": True},
        "namespace": {"type": "str", "default": "istio-system"},
        "port": {"type": "int", "required": True},
        "service_port": {"type": "int"},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "paths": {"type": "list", "elements": "str", "default": ["/"]},
        "make": {"type": "dict", "options": make},
        "load_balancer": {"type": "dict", "options": balancer},
    }
    service = {
        "name": {"type": "str", "required": True},
        "namespace": {"type": "str", "required": True},
        "registration": {"type": "str", "choices": ["made", "auto"], "default": "made"},
        "registry": {"type": "str", "choices": ["service", "service_entry", "both"], "default": "service"},
        "service_account": {"type": "str", "default": "default"},
        "network": {"type": "str"},
        "selector": {"type": "dict"},
        "ports": {"type": "list", "elements": "dict", "default": [], "options": port},
        "workloads": {"type": "list", "elements": "dict", "default": [], "options": workload},
        "group": {"type": "str"},
        "group_labels": {"type": "dict", "default": {}},
        "health_check": {
            "type": "dict",
            "options": health,
            "mutually_exclusive": [["http", "tcp", "command"]],
            "required_one_of": [["http", "tcp", "command"]],
        },
        "subsets": {"type": "list", "elements": "dict", "default": [], "options": subset},
        "tls": {"type": "str", "choices": list(TLS_MODES)},
        "destination_rule": {"type": "str"},
        "virtual_service": {"type": "str"},
        "weights": {"type": "dict", "default": {}},
        "canaries": {"type": "list", "elements": "dict", "default": [], "options": canary},
        "faults": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": fault,
            "required_one_of": [["delay", "abort"]],
        },
        "gateways": {"type": "list", "elements": "dict", "default": [], "options": gateway},
    }
    return {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "parts": {"type": "list", "elements": "str", "choices": list(PARTS), "default": list(PARTS)},
        "services": {"type": "list", "elements": "dict", "required": True, "options": service},
        "on_conflict": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
        "allow_unserved": {"type": "bool", "default": False},
        "settle_seconds": {"type": "float", "default": 2},
    }


@dataclasses.dataclass(frozen=True)
class Workload:
    """One VM of a service. ``labels``: with those that the Service chooses by."""

    name: str
    address: str
    labels: t.Mapping[str, str]
    present: bool
    spec: t.Mapping[str, t.Any]


@dataclasses.dataclass(frozen=True)
class VmService:
    """One entry of the option ``services``, checked. Rendered in _service_objects.py and _service_routes.py."""

    given: t.Mapping[str, t.Any]
    workloads: tuple[Workload, ...]
    weights: t.Mapping[str, int]

    @property
    def name(self) -> str:
        return str(self.given["name"])

    @property
    def namespace(self) -> str:
        return str(self.given["namespace"])

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def host(self) -> str:
        return fqdn(self.name, self.namespace)

    @property
    def auto(self) -> bool:
        return bool(self.given["registration"] == "auto")

    @property
    def group(self) -> str:
        return str(self.given["group"] or self.name)

    @property
    def selector(self) -> dict[str, str]:
        return texts(self.given["selector"] or {"app": self.name})

    @property
    def ports(self) -> list[Object]:
        """With a name and a target port each."""
        return [
            {
                **one,
                "name": one["name"] or f"{one['protocol'].lower()}-{one['port']}",
                "target": one["target_port"] or one["port"],
            }
            for one in self.given["ports"]
        ]

    @property
    def subsets(self) -> list[Object]:
        return [{**one, "labels": texts(one["labels"])} for one in self.given["subsets"]]

    @property
    def rule_name(self) -> str:
        return str(self.given["destination_rule"] or self.name)

    @property
    def route_name(self) -> str:
        return str(self.given["virtual_service"] or self.name)

    @property
    def wants_rule(self) -> bool:
        return bool(self.given["subsets"] or self.given["tls"])

    @property
    def wants_routes(self) -> bool:
        given = self.given
        return bool(given["subsets"] or given["canaries"] or given["faults"] or given["gateways"])

    def namespaces(self) -> set[str]:
        return {self.namespace, *(one["namespace"] for one in self.given["gateways"])}


def texts(given: t.Mapping[str, t.Any]) -> dict[str, str]:
    """Labels are texts also when YAML read ``v: 1`` as a number."""
    return {str(key): str(value) for key, value in given.items()}


def read_services(given: t.Sequence[t.Mapping[str, t.Any]], *, present: bool, parts: t.Collection[str]) -> list[VmService]:
    """The option ``services``. Raises InputError that names every mistake of a service at once."""
    if not given:
        raise InputError("No service is named", why="the option services is empty", todo="name at least one service")
    if not parts:
        raise InputError("Nothing is asked for", why="the option parts is empty", todo=f"name some of {', '.join(PARTS)}")
    found: dict[str, VmService] = {}
    for number, item in enumerate(given, 1):
        where = f"services[{number - 1}]"
        one = _read(item, where)
        wrong = list(_mistakes(one, present, parts))
        if wrong:
            why = "; ".join(wrong)
            raise InputError(f"Service {one.key} cannot be as it is described", where=where, why=why, todo="correct the options")
        if one.key in found:
            raise InputError(f"Service {one.key} is there twice", where=where, todo="name each service once")
        found[one.key] = one
    return list(found.values())


def _read(item: t.Mapping[str, t.Any], where: str) -> VmService:
    selector = texts(item["selector"] or {"app": item["name"]})
    workloads = []
    for one in item["workloads"]:
        name = one["name"] or f"{item['name']}-{re.sub(r'[^0-9a-z]+', '-', str(one['address']).lower())}".strip("-")
        labels = {**selector, **texts(one["labels"] or {})}
        workloads.append(Workload(name, str(one["address"]), labels, one["state"] == "present", one))
    try:
        weights = {str(key): int(str(value)) for key, value in item["weights"].items()}
    except ValueError as error:
        raise InputError(
            "Weights are whole numbers", where=f"{where}.weights", why=str(error), todo="give whole numbers"
        ) from error
    return VmService(item, tuple(workloads), weights)


def _mistakes(one: VmService, present: bool, parts: t.Collection[str]) -> t.Iterator[str]:
    given = one.given
    if not _SERVICE.fullmatch(one.name):
        yield f"name {one.name!r} is no name of a Service (small letters, digits and '-', a letter first, at most 63)"
    if not _LABEL.fullmatch(one.namespace):
        yield f"namespace {one.namespace!r} is no name of a namespace"
    for option in ("destination_rule", "virtual_service", "group"):
        if given[option] and not _NAME.fullmatch(given[option]):
            yield f"{option} {given[option]!r} is no name of an object"
    yield from _of_workloads(one)
    if not present:
        return
    if {"service", "routes"} & set(parts) and not one.ports:
        yield "it has no ports"
    yield from _of_ports(one)
    if given["health_check"] and not one.auto:
        yield "health_check needs registration: auto, as istiod keeps the health of entries that it made itself"
    yield from _of_routes(one)


def _of_workloads(one: VmService) -> t.Iterator[str]:
    names, addresses = set(), set()
    for work in one.workloads:
        try:
            ipaddress.ip_address(work.address)
        except ValueError:
            yield f"workload {work.name} has the address {work.address!r}, which is no IP address"
        if not _NAME.fullmatch(work.name):
            yield f"workload {work.name!r} has a name that no object can have"
        if work.name in names:
            yield f"workload {work.name} is there twice"
        if work.address in addresses:
            yield f"address {work.address} is there twice"
        names.add(work.name)
        addresses.add(work.address)
        wrong = {key for key, value in one.selector.items() if work.labels[key] != value}
        if wrong:
            yield f"workload {work.name} has other labels ({', '.join(sorted(wrong))}) than the service chooses by (selector)"


def _of_ports(one: VmService) -> t.Iterator[str]:
    ports = one.ports
    for field in ("port", "name"):
        values = [port[field] for port in ports]
        yield from (f"{field} {value} is there twice in ports" for value in sorted(set(values)) if values.count(value) > 1)
    numbers = [*(port["port"] for port in ports), *(port["target"] for port in ports)]
    numbers += [gateway["port"] for gateway in one.given["gateways"]]
    for balancer in (gateway["load_balancer"] for gateway in one.given["gateways"]):
        numbers += [balancer["port"]] if balancer else []
    yield from (f"{number} is no port (1 to 65535)" for number in sorted(set(numbers)) if not 0 < number < 65536)


def _of_routes(one: VmService) -> t.Iterator[str]:
    given = one.given
    names = [subset["name"] for subset in one.subsets]
    yield from (f"subset {name} is there twice" for name in sorted(set(names)) if names.count(name) > 1)
    yield from (f"subset {subset['name']} has no labels" for subset in one.subsets if not subset["labels"])
    used = [*one.weights, *(canary["subset"] for canary in given["canaries"])]
    yield from (f"subset {name} is used, and is not in subsets" for name in sorted(set(used) - set(names)))
    if one.weights and (sum(one.weights.values()) != 100 or min(one.weights.values()) < 0):
        yield f"the weights are {dict(one.weights)}; they must be 0 or more, and 100 together"
    yield from (f"canary of {canary['subset']} has no match" for canary in given["canaries"] if not canary["match"])
    http = [port["port"] for port in one.ports if port["protocol"] in HTTP]
    if (given["canaries"] or given["faults"] or given["gateways"]) and not http:
        yield "canaries, faults and gateways need a port of HTTP, HTTP2 or GRPC"
    if given["gateways"] and len(http) != len(one.ports):
        yield "with gateways all ports must be HTTP, HTTP2 or GRPC, as a VirtualService that is delegated to has HTTP routes only"
    if sum(not fault["match"] for fault in given["faults"]) > 1:
        yield "more than one of faults has no match"
    for fault in given["faults"]:
        delay, abort = fault["delay"], fault["abort"]
        if delay and not 0 < delay["seconds"] < 3600:
            yield f"a delay of {delay['seconds']} s is none (more than 0, less than 3600)"
        if abort and not 200 <= abort["http_status"] <= 599:
            yield f"{abort['http_status']} is no HTTP status that can be sent (200 to 599)"
        for part in (delay, abort):
            if part and not 0 < part["percent"] <= 100:
                yield f"{part['percent']} is no percentage of requests (more than 0, at most 100)"
    for gateway in given["gateways"]:
        place = f"gateway {gateway['namespace']}/{gateway['name']}"
        if not gateway["hosts"]:
            yield f"{place} has no hosts"
        yield from (f"{place}: path {path!r} does not begin with /" for path in gateway["paths"] if not path.startswith("/"))
        if gateway["service_port"] and gateway["service_port"] not in http:
            yield f"{place}: {gateway['service_port']} is no HTTP port of the service"
