# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a rewrite does at a place of each type (the table of types is in _rewrite_fields.py). Pure functions.

Every function gets the value as it is in the input and returns it as it is in the output; a value of another type than the
place should have is left as it is.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _rewrite_names
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_lookup import Lookup
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_names import Host, host_of
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import Rule

Object = dict[str, t.Any]
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# Labels and annotations whose values are names.
_CLASSES = {"istio.io/rev": "revision", "kubernetes.io/ingress.class": "ingress"}
_SPACES = ("kubernetes.io/metadata.name", "istio.io/use-waypoint-namespace")
_SEEN = 20_000
_SPACE_LISTS = ("networking.istio.io/exportTo",)


@dataclasses.dataclass(frozen=True)
class Hit:
    """One place that a rule changed."""

    rule: str
    path: str


@dataclasses.dataclass
class Context:
    """One object on its way.

    :arg namespace, new_namespace: of the object before and after. :arg hosts: keys of the hosts that it is about.
    :arg nested: rewrites an object that stands in this one as JSON. :arg seen: names that went by.
    :arg problems: path and why, what cannot be rewritten.
    """

    lookup: Lookup
    namespace: str
    new_namespace: str
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    nested: t.Callable[[Object, str, Context], Object] | None = None
    seen: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    hits: list[Hit] = dataclasses.field(default_factory=list)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def changed(self, rule: Rule, path: str, old: t.Any, new: t.Any) -> t.Any:
        if new != old:
            self.hits.append(Hit(rule.id, path))
        return new

    def saw(self, kind: str, name: str) -> None:
        names = self.seen.get(kind)
        if names is not None and len(names) < _SEEN:
            names.add(name)

    def space(self, text: str, path: str) -> str:
        self.saw("namespace", text)
        rule = self.lookup.namespaces.get(text)
        return str(self.changed(rule, path, text, rule.new)) if rule else text

    def host_text(self, text: str, path: str, short: bool) -> str:
        host = host_of(text, self.namespace if short else "", self.lookup.domain)
        self.saw("host", host.key)
        found = self.lookup.host(host, self.new_namespace)
        return str(self.changed(found[0], path, text, found[1])) if found else text

    def taken_apart(self, text: str) -> Host:
        return host_of(text, self.namespace, self.lookup.domain)

    def named(self, kind: str, namespace: str, text: str, path: str) -> str:
        rule = self.lookup.name(kind, namespace, text)
        return str(self.changed(rule, path, text, rule.new)) if rule else text

    def numbered(self, of: str, hosts: t.Iterable[str], value: t.Any, path: str) -> t.Any:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            return value
        rule = self.lookup.port(of, hosts, value)
        if rule is None:
            return value
        new = str(rule.new) if isinstance(value, str) else rule.new
        return self.changed(rule, path, value, new)


Handler = t.Callable[[Context, t.Any, str, str], t.Any]


def _host(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    return context.host_text(value, path, True) if isinstance(value, str) else value


def _dns(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    """``host`` or ``ns/host``; ``*``, ``~/*`` and ``./*`` name nothing."""
    if not isinstance(value, str) or "://" in value:
        return value
    place, slash, host = value.rpartition("/")
    if slash:
        return f"{context.space(place, path)}/{context.host_text(host, path, False)}"
    return context.host_text(value, path, False)


def _url(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    found = _rewrite_names.url_of(value) if isinstance(value, str) else None
    return f"{found['head']}{context.host_text(found['host'], path, False)}{found['tail']}" if found else value


def _destination(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    if not isinstance(value, dict) or not isinstance(value.get("host"), str):
        return value
    keys = (context.taken_apart(value["host"]).key,)
    value["host"] = context.host_text(value["host"], f"{path}.host", True)
    if isinstance(value.get("subset"), str):
        value["subset"] = _subset_of(context, keys, value["subset"], f"{path}.subset")
    port = value.get("port")
    if isinstance(port, dict) and "number" in port:
        port["number"] = context.numbered("service", keys, port["number"], f"{path}.port.number")
    return value


def _subset_of(context: Context, hosts: t.Iterable[str], text: str, path: str) -> str:
    context.saw("subset", text)
    rule = context.lookup.subset(hosts, text)
    return str(context.changed(rule, path, text, rule.new)) if rule else text


def _subset(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    return _subset_of(context, context.hosts, value, path) if isinstance(value, str) else value


def _gateway(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    found = _rewrite_names.gateway_of(value, context.namespace) if isinstance(value, str) else None
    if found is None:
        return value
    namespace, name, form = found
    context.saw("gateway", f"{namespace}/{name}")
    rule, new_namespace, new_name = context.lookup.gateway(namespace, name)
    if rule is None:
        return value
    new = _rewrite_names.gateway_text(new_namespace, new_name, form, context.new_namespace, value)
    return context.changed(rule, path, value, new)


def _namespace(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    return context.space(value, path) if isinstance(value, str) else value


def _principal(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    found = _rewrite_names.principal_of(value) if isinstance(value, str) else None
    if found is None:
        return _dns(context, value, path, "")
    space, name = context.space(found["ns"], path), found["name"]
    if found["sa"] and name:
        name = context.named("ServiceAccount", found["ns"], name, path)
    return f"{found['head']}{space}{found['sa'] or ''}{name}{found['tail']}"


def _account(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    if not isinstance(value, str):
        return value
    place, slash, name = value.rpartition("/")
    new = context.named("ServiceAccount", place or context.namespace, name, path)
    return f"{context.space(place, path)}/{new}" if slash else new


def _name(context: Context, value: t.Any, path: str, kind: str) -> t.Any:
    return context.named(kind, context.namespace, value, path) if isinstance(value, str) else value


def _reference(context: Context, value: t.Any, path: str, default: str) -> t.Any:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return value
    kind, name = value.get("kind") or default, value["name"]
    space = value.get("namespace") or context.namespace
    rule: Rule | None
    if isinstance(value.get("apiVersion"), str):
        value["apiVersion"] = _version(context, value["apiVersion"], f"{path}.apiVersion")
    if kind == "Service":
        rule, new, place = context.lookup.service(name, space)
        if "port" in value:
            value["port"] = context.numbered("service", (f"{name}.{space}",), value["port"], f"{path}.port")
    elif kind == "Gateway":
        rule, place, new = context.lookup.gateway(space, name)
    elif kind in ("GatewayClass", "IngressClass"):
        value["name"] = _class(context, name, f"{path}.name", kind.removesuffix("Class").lower())
        return value
    elif kind == "Namespace":
        value["name"] = context.space(name, f"{path}.name")
        return value
    else:
        rule, new, place = context.lookup.name(kind, space, name), name, space
        if rule is not None:
            new = str(rule.new)
        found = context.lookup.namespaces.get(space)
        if found is not None:
            place, rule = str(found.new), rule or found
    if rule is None:
        return value
    value["name"] = context.changed(rule, f"{path}.name", name, new)
    if "namespace" in value or place != context.new_namespace:
        value["namespace"] = context.changed(rule, f"{path}.namespace", value.get("namespace"), place)
    return value


def _backend(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return value
    name, keys = value["name"], (f"{value['name']}.{context.namespace}",)
    rule, new, place = context.lookup.service(name, context.namespace)
    if rule is not None and place != context.new_namespace:
        context.problems.append((path, f"an Ingress cannot send to a Service of another namespace ({rule.id})"))
    elif rule is not None:
        value["name"] = context.changed(rule, f"{path}.name", name, new)
    port = value.get("port")
    if isinstance(port, dict):
        for key in ("number", "name"):
            if key in port:
                port[key] = context.numbered("service", keys, port[key], f"{path}.port.{key}")
    return value


def _labels(context: Context, value: t.Any, path: str, kind: str) -> t.Any:
    if not isinstance(value, dict):
        return value
    made, rules, clash = context.lookup.labels(kind, value)
    if clash:
        context.problems.append((path, f"{rules[0].id!r} gives {clash} another value than it has"))
    elif made != value:
        context.hits.extend(Hit(rule.id, path) for rule in rules)
    for key, item in made.items():
        if key in value and value[key] == item and isinstance(item, str):
            made[key] = _valued(context, key, item, f"{path}[{key}]")
    return made


def _valued(context: Context, key: str, item: str, path: str) -> str:
    """Labels and annotations of Kubernetes and Istio whose values are names."""
    if key in _CLASSES:
        return str(_class(context, item, path, _CLASSES[key]))
    if key in _SPACES:
        return context.space(item, path)
    if key in _SPACE_LISTS:
        return ",".join(context.space(part, path) for part in item.split(","))
    if key == LAST_APPLIED and context.nested is not None:
        return _applied(context, item, path)
    return item


def _applied(context: Context, text: str, path: str) -> str:
    """What kubectl wrote about its last apply is this object once more, as JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict) or not isinstance(found.get("kind"), str):
        return text
    before = json.dumps(found, sort_keys=True)
    made = t.cast("t.Callable[[Object, str, Context], Object]", context.nested)(found, path, context)
    if json.dumps(made, sort_keys=True) == before:
        return text
    fresh = json.dumps(made, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        fresh = fresh.replace(sign, f"\\u{ord(sign):04x}")
    return fresh + ("\n" if text.endswith("\n") else "")


def _class(context: Context, value: t.Any, path: str, of: str) -> t.Any:
    rule = context.lookup.classes.get((of, value)) if isinstance(value, str) else None
    return context.changed(rule, path, value, rule.new) if rule else value


def _version(context: Context, value: str, path: str) -> str:
    rule = context.lookup.versions.get(value)
    return str(context.changed(rule, path, value, rule.new)) if rule else value


def _port(context: Context, value: t.Any, path: str, of: str) -> t.Any:
    return context.numbered(of, context.hosts, value, path)


def _port_keys(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    if not isinstance(value, dict):
        return value
    made = {context.numbered("workload", (), key, path): item for key, item in value.items()}
    if len(made) != len(value):
        context.problems.append((path, "two ports would become one"))
        return value
    return made


def _route_port(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    """In a route of a gateway it is a port of the gateway, in one of the mesh a port of the Service."""
    inside = not context.gateways or "mesh" in context.gateways
    outside = any(name != "mesh" for name in context.gateways)
    rules = [
        context.lookup.port(of, context.hosts, value) for of, bound in (("service", inside), ("gateway", outside)) if bound
    ]
    if len(rules) == 2 and any(rules) and len({rule.new if rule else value for rule in rules}) > 1:
        context.problems.append((path, "the route is for a gateway and the mesh, and their ports change differently"))
        return value
    rule = next((rule for rule in rules if rule), None)
    return context.changed(rule, path, value, rule.new) if rule else value


_CONDITIONS: dict[str, str] = {
    "source.namespace": "namespace",
    "source.principal": "principal",
    "source.serviceAccount": "account",
    "connection.sni": "dns",
    "destination.port": "workload_port",
}


def _condition(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    kind = _CONDITIONS.get(str(value.get("key"))) if isinstance(value, dict) else None
    for field in ("values", "notValues"):
        if kind and isinstance(value.get(field), list):
            value[field] = [act(context, kind, item, f"{path}.{field}[{number}]") for number, item in enumerate(value[field])]
    return value


def _cluster_name(context: Context, value: t.Any, path: str, _more: str) -> t.Any:
    found = _rewrite_names.cluster_of(value) if isinstance(value, str) else None
    if found is None:
        return value
    keys, sign = (context.taken_apart(found["host"]).key,), found["a"]
    port = str(context.numbered("service", keys, found["port"], path))
    subset = _subset_of(context, keys, found["subset"], path) if found["subset"] else ""
    return f"{found['way']}{sign}{port}{sign}{subset}{sign}{context.host_text(found['host'], path, False)}{found['tail']}"


_ACTS: dict[str, tuple[Handler, str]] = {
    "account": (_account, ""),
    "annotations": (_labels, "annotation"),
    "backend": (_backend, ""),
    "class": (_class, ""),
    "cluster_name": (_cluster_name, ""),
    "condition": (_condition, ""),
    "destination": (_destination, ""),
    "dns": (_dns, ""),
    "gateway": (_gateway, ""),
    "gateway_port": (_port, "gateway"),
    "host": (_host, ""),
    "labels": (_labels, "label"),
    "name": (_name, ""),
    "namespace": (_namespace, ""),
    "own_host": (_host, ""),
    "principal": (_principal, ""),
    "ref": (_reference, ""),
    "route_port": (_route_port, ""),
    "selector": (_labels, "selector"),
    "service_port": (_port, "service"),
    "subset": (_subset, ""),
    "url": (_url, ""),
    "workload_port": (_port, "workload"),
    "workload_port_keys": (_port_keys, ""),
}


def act(context: Context, kind: str, value: t.Any, path: str) -> t.Any:
    """The value at a place of this type, rewritten."""
    name, _colon, more = kind.partition(":")
    handler, fixed = _ACTS[name]
    return handler(context, value, path, more or fixed)


def version(context: Context, value: str, path: str) -> str:
    """An apiVersion, rewritten."""
    return _version(context, value, path)


def class_name(context: Context, value: str, path: str, of: str) -> str:
    """The name of a class, rewritten."""
    return str(_class(context, value, path, of))
