# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The routes of a VM's service: from nothing, or into a VirtualService that is there already. Pure.

One way for both: a VirtualService is taken (the user's, or a plain one), gets matches for gateways, weights, canaries and faults,
in this order. So a canary goes through the same faults as everything else, and taking a wish away is rendering without it.
"""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import fqdn
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import HTTP, VmService

Object = dict[str, t.Any]
_TABLES = ("headers", "withoutHeaders", "queryParams", "sourceLabels")


class Unfit(Exception):
    """Why a VirtualService or a DestinationRule that is there cannot take what is wished."""


def plain(service: VmService) -> Object:
    """The spec of a VirtualService that sends every port to the service; from the first subset where there are some."""
    subset = service.subsets[0]["name"] if service.subsets else ""
    http, tcp, hosts = [], [], [service.host]
    for port in service.ports:
        match = {"gateways": ["mesh"], "port": port["port"]}
        route = [{"destination": _destination(service, port["port"], subset)}]
        if port["protocol"] in HTTP:
            http.append({"name": f"{service.name}-{port['port']}", "match": [match], "route": route})
        else:
            tcp.append({"match": [match], "route": route})
    return {"hosts": hosts, **({"http": http} if http else {}), **({"tcp": tcp} if tcp else {})}


def _destination(service: VmService, port: int, subset: str) -> Object:
    return {"host": service.host, "port": {"number": port}, **({"subset": subset} if subset else {})}


def render(spec: t.Mapping[str, t.Any], service: VmService) -> Object:
    """The spec with everything that is wished. Raises Unfit."""
    made = copy.deepcopy(dict(spec))
    if service.given["gateways"]:
        _expose(made, service)
    mine = [entry for protocol in ("http", "tcp", "tls") for entry in made.get(protocol) or [] if _sends(entry, service)]
    if not mine:
        raise Unfit(f"none of its routes sends to {service.host}")
    if service.weights:
        for entry in mine:
            _weigh(entry, service)
    if made.get("http"):
        made["http"] = list(_with_faults(_with_canaries(made["http"], service), service))
    return made


def _sends(entry: t.Mapping[str, t.Any], service: VmService) -> bool:
    return service.host in _hosts(entry, service)


def _hosts(entry: t.Mapping[str, t.Any], service: VmService) -> set[str]:
    return {fqdn(str((one.get("destination") or {}).get("host", "")), service.namespace) for one in entry.get("route") or []}


def _tell(entry: t.Mapping[str, t.Any]) -> str:
    return f"route {entry['name']}" if entry.get("name") else "a route without a name"


def _whole(entry: t.Mapping[str, t.Any], service: VmService) -> Object:
    """The first destination of a route that sends to this service alone."""
    if _hosts(entry, service) != {service.host}:
        raise Unfit(f"{_tell(entry)} sends to other hosts too, so that its weights cannot be set for {service.host} alone")
    return t.cast(Object, entry["route"][0])


def _weigh(entry: Object, service: VmService) -> None:
    first, route = _whole(entry, service), []
    some = [(name, weight) for name, weight in service.weights.items() if weight]
    for name, weight in some:
        one = {**copy.deepcopy(first), "destination": {**copy.deepcopy(first["destination"]), "subset": name}}
        one.pop("weight", None)
        route.append({**one, "weight": weight} if len(some) > 1 else one)
    entry["route"] = route


def _with_canaries(entries: t.Iterable[Object], service: VmService) -> t.Iterator[Object]:
    for entry in entries:
        if _sends(entry, service):
            for canary in service.given["canaries"]:
                one = _narrowed(entry, canary["match"], f"canary-{canary['subset']}")
                if one is not None:
                    first = copy.deepcopy(_whole(entry, service))
                    first["destination"]["subset"] = canary["subset"]
                    first.pop("weight", None)
                    one["route"] = [first]
                    yield one
        yield entry


def _with_faults(entries: t.Iterable[Object], service: VmService) -> t.Iterator[Object]:
    always = [fault for fault in service.given["faults"] if not fault["match"]]
    for entry in entries:
        if not _sends(entry, service):
            yield entry
            continue
        if service.given["faults"] and entry.get("fault"):
            raise Unfit(f"{_tell(entry)} has a fault of its own")
        for number, fault in enumerate((fault for fault in service.given["faults"] if fault["match"]), 1):
            one = _narrowed(entry, fault["match"], f"fault-{number}")
            if one is not None:
                yield {**one, "fault": fault_of(fault)}
        yield {**entry, "fault": fault_of(always[0])} if always else entry


def fault_of(given: t.Mapping[str, t.Any]) -> Object:
    """As Istio spells it."""
    made: Object = {}
    if given["delay"]:
        seconds = f"{given['delay']['seconds']:.3f}".rstrip("0").rstrip(".")
        made["delay"] = {"fixedDelay": f"{seconds}s", "percentage": {"value": _number(given["delay"]["percent"])}}
    if given["abort"]:
        status, percent = given["abort"]["http_status"], _number(given["abort"]["percent"])
        made["abort"] = {"httpStatus": status, "percentage": {"value": percent}}
    return made


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _narrowed(entry: t.Mapping[str, t.Any], given: t.Mapping[str, t.Any], word: str) -> Object | None:
    """A copy for the requests of this route that match ``given`` too; None when no request can match both."""
    found = [_both(match, given, entry) for match in entry.get("match") or [{}]]
    matches = [match for match in found if match is not None]
    if not matches:
        return None
    made = copy.deepcopy(dict(entry))
    if made.get("name"):
        made["name"] = f"{made['name']}-{word}"
    return {**made, "match": matches}


def _both(match: t.Mapping[str, t.Any], given: t.Mapping[str, t.Any], entry: t.Mapping[str, t.Any]) -> Object | None:
    made = copy.deepcopy(dict(match))
    for field, value in given.items():
        there = made.get(field)
        if field in _TABLES and there:
            clash = sorted(key for key, item in value.items() if key in there and there[key] != item)
            if clash:
                raise Unfit(f"{_tell(entry)} matches {field} {', '.join(clash)} in another way than is wished")
            made[field] = {**there, **value}
        elif field == "gateways" and there:
            made[field] = [name for name in there if name in value]
            if not made[field]:
                return None
        elif field == "port" and there and there != value:
            return None
        elif field == "uri" and there and there != value and there != {"prefix": "/"}:
            raise Unfit(f"{_tell(entry)} matches the uri {there}, which cannot be narrowed to {value}")
        elif there and there != value and field not in ("uri", *_TABLES):
            raise Unfit(f"{_tell(entry)} matches {field} {there} and not {value}")
        else:
            made[field] = copy.deepcopy(value)
    return made


# -- gateways ----------------------------------------------------------------------------------------------------


def _expose(spec: Object, service: VmService) -> None:
    """Make it one that others delegate to, with a match for what comes through the gateways."""
    if [name for name in spec.get("gateways") or ["mesh"] if name != "mesh"]:
        raise Unfit("it is bound to gateways already, and one that others delegate to has none")
    if not spec.get("hosts"):
        raise Unfit("it has no hosts: others delegate to it already")
    if spec.get("tcp") or spec.get("tls"):
        raise Unfit("it has routes of TCP or TLS, and one that others delegate to has HTTP routes only")
    spec.pop("gateways", None)
    del spec["hosts"]
    for entry in spec.get("http") or []:
        if "delegate" in entry:
            raise Unfit(f"{_tell(entry)} delegates, and there is one level of it only")
        if _sends(entry, service) and entry.get("match"):
            entry["match"] += list(_outside(entry["match"], service))


def _outside(matches: t.Sequence[Object], service: VmService) -> t.Iterator[Object]:
    ports = [port["port"] for port in service.ports if port["protocol"] in HTTP]
    for gateway in service.given["gateways"]:
        port = gateway["service_port"] or ports[0]
        for match in matches:
            if match.get("port") in (None, port) and match.get("gateways") in (None, ["mesh"]):
                yield {**copy.deepcopy(match), "gateways": [gateway_name(gateway)], "port": gateway["port"]}


def gateway_name(gateway: t.Mapping[str, t.Any]) -> str:
    return f"{gateway['namespace']}/{gateway['name']}"


def roots(service: VmService, hosts: t.Sequence[str]) -> list[tuple[str, str, Object]]:
    """Namespace, name and spec of the VirtualServices that delegate: one for the mesh, one for each gateway."""
    target = {"name": service.route_name, "namespace": service.namespace}
    made: list[tuple[str, str, Object]] = []
    for gateway in service.given["gateways"]:
        paths = sorted(gateway["paths"], key=len, reverse=True)
        http = [{"match": [{"uri": {"prefix": path}}], "delegate": dict(target)} for path in paths]
        spec = {"gateways": [gateway_name(gateway)], "hosts": list(gateway["hosts"]), "http": http}
        made.append((gateway["namespace"], f"{service.name}-{service.namespace}-{gateway['name']}", spec))
    if made:
        full = [fqdn(host, service.namespace) for host in hosts]
        http = [{"match": [{"uri": {"prefix": "/"}}], "delegate": dict(target)}]
        made.append((service.namespace, f"{service.name}-mesh-root", {"hosts": full, "http": http}))
    return made
