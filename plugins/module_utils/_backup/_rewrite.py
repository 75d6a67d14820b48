# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The engine of a rewrite: rules and the table of fields make a new object out of an old one, and prove the way back.

::

    rewriter = Rewriter(rule_set(text))
    done = rewriter.apply(obj)              # done.obj, done.hits, done.problems, done.originals
    rewriter.back(done.obj, done.originals) == obj

The inverse rules are run on every output at once. Where they do not give the input back (a short host that became a long one, two
names that became one), the original value is kept in ``originals``, so that the way back is exact by construction. When that
is so because the new name was there already, and the rule does not say ``merge``, it is a problem. Pure.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _rewrite_fields, _rewrite_types
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_lookup import Lookups
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import RuleSet
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_types import Context, Hit

Object = dict[str, t.Any]
# (path of keys and numbers, original value); the value is left out where the key itself was not there
Original = list[t.Any]


@dataclasses.dataclass
class Done:
    """One object, rewritten.

    :arg understood: whether the table of fields knows its kind. :arg originals: what the inverse rules cannot give back.
    """

    obj: Object
    hits: list[Hit] = dataclasses.field(default_factory=list)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    originals: list[Original] = dataclasses.field(default_factory=list)
    understood: bool = True


def clone(value: t.Any) -> t.Any:
    """A deep copy of JSON data."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clone(item) for item in value]
    return value


def group_of(obj: t.Mapping[str, t.Any]) -> str:
    return str(obj["apiVersion"]).rpartition("/")[0]


class _OneWay:
    """Applies one set of rules, in one direction."""

    def __init__(self, rules: RuleSet) -> None:
        self._lookups = Lookups(rules)
        table: dict[tuple[str, str], dict[str, str]] = {key: dict(fields) for key, fields in _rewrite_fields.FIELDS.items()}
        for key, fields in rules.fields.items():
            table[key] = {**table.get(key, {}), **fields}
        self._fields = {key: _rewrite_fields.compiled(fields) for key, fields in table.items()}
        self._common = _rewrite_fields.compiled({})
        self.seen: dict[str, set[str]] = {kind: set() for kind in ("namespace", "host", "gateway", "subset")}

    def apply(self, obj: t.Mapping[str, t.Any]) -> Done:
        done = Done(clone(obj), understood=(group_of(obj), str(obj["kind"])) in self._fields)
        context = self._run(done.obj, "")
        done.hits, done.problems = context.hits, context.problems
        return done

    def _nested(self, obj: Object, path: str, outer: Context) -> Object:
        if not isinstance(obj.get("apiVersion"), str) or not isinstance(obj["metadata"].get("name"), str):
            return obj
        inner = self._run(obj, f"{path}:")
        outer.hits += inner.hits
        outer.problems += inner.problems
        return obj

    def _run(self, obj: Object, lead: str) -> Context:
        """Rewrite in place."""
        group, kind, meta = group_of(obj), str(obj["kind"]), obj["metadata"]
        namespace, name = meta.get("namespace") or "", meta["name"]
        lookup = self._lookups.of(group, kind, namespace, name)
        nested = None if lead else self._nested
        context = Context(lookup, namespace, namespace, nested=nested, seen=self.seen)
        self._identity(context, obj, group, kind, lead)
        fields = self._fields.get((group, kind), self._common)
        spec = obj.get("spec") if isinstance(obj.get("spec"), dict) else {}
        context.hosts = _own_hosts(context, kind, name, t.cast(Object, spec))
        gateways = t.cast(Object, spec).get("gateways")
        if kind == "VirtualService" and isinstance(gateways, list):
            context.gateways = tuple(str(item) for item in gateways)
        for way, type_name in fields:
            _walk(context, obj, way, 0, lead, type_name)
        return context

    @staticmethod
    def _identity(context: Context, obj: Object, group: str, kind: str, lead: str) -> None:
        """apiVersion, name and namespace of the object itself."""
        meta, lookup = obj["metadata"], context.lookup
        namespace, name, place = context.namespace, meta["name"], f"{lead}metadata.name"
        obj["apiVersion"] = _rewrite_types.version(context, obj["apiVersion"], f"{lead}apiVersion")
        found = lookup.namespaces.get(namespace)
        new_name, new_namespace, rule = name, str(found.new) if found else namespace, found
        if (group, kind) == ("", "Service"):
            rule, new_name, new_namespace = lookup.service(name, namespace)
        elif kind == "Gateway":
            rule, new_namespace, new_name = lookup.gateway(namespace, name)
        elif (group, kind) == ("", "Namespace"):
            meta["name"] = context.space(name, place)
            return
        elif kind in ("GatewayClass", "IngressClass"):
            meta["name"] = _rewrite_types.class_name(context, name, place, kind.removesuffix("Class").lower())
            return
        renamed = lookup.name(kind, namespace, name)
        if renamed is not None and new_name == name:
            meta["name"] = context.changed(renamed, place, name, renamed.new)
        elif rule is not None:
            meta["name"] = context.changed(rule, place, name, new_name)
        context.new_namespace = new_namespace
        if "namespace" in meta and rule is not None:
            meta["namespace"] = context.changed(rule, f"{lead}metadata.namespace", meta["namespace"], new_namespace)


def _own_hosts(context: Context, kind: str, name: str, spec: Object) -> tuple[str, ...]:
    """Keys of the hosts that an object is about: its subsets and ports are theirs."""
    if kind == "Service":
        return (f"{name}.{context.namespace}",)
    found = spec.get("host") if kind == "DestinationRule" else spec.get("hosts")
    texts = found if isinstance(found, list) else [found]
    return tuple(context.taken_apart(text).key for text in texts if isinstance(text, str))


def _walk(context: Context, node: t.Any, way: tuple[str, ...], at: int, path: str, type_name: str) -> None:
    """Go down to the places of one field, and rewrite what is there."""
    step, last = way[at], at == len(way) - 1
    if step == "**":
        _walk(context, node, way, at + 1, path, type_name)
        for key, item in list(_children(node)):
            _walk(context, item, way, at, _join(path, key), type_name)
        return
    if step == "[]":
        children: t.Iterable[tuple[t.Any, t.Any]] = enumerate(node) if isinstance(node, list) else ()
    elif step == "{}":
        children = list(node.items()) if isinstance(node, dict) else ()
    else:
        children = ((step, node[step]),) if isinstance(node, dict) and step in node else ()
    for key, item in children:
        place = _join(path, key)
        if last:
            node[key] = _rewrite_types.act(context, type_name, item, place)
        else:
            _walk(context, item, way, at + 1, place, type_name)


def _children(node: t.Any) -> t.Iterable[tuple[t.Any, t.Any]]:
    if isinstance(node, dict):
        return node.items()
    return enumerate(node) if isinstance(node, list) else ()


def _join(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    if "." in key or "/" in key:
        return f"{path}[{key}]"
    return f"{path}.{key}" if path and not path.endswith(":") else f"{path}{key}"


# -- the way back --------------------------------------------------------------------------------------------------------


def originals_of(wanted: t.Any, found: t.Any, path: tuple[t.Any, ...] = ()) -> list[Original]:
    """What is to be put into ``found`` to make it ``wanted``: ``[path, value]``, or ``[path]`` for a key that goes."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        made: list[Original] = []
        for key in sorted({*wanted, *found}):
            if key not in wanted:
                made.append([[*path, key]])
            elif key not in found:
                made.append([[*path, key], wanted[key]])
            else:
                made += originals_of(wanted[key], found[key], (*path, key))
        return made
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [one for number, item in enumerate(wanted) for one in originals_of(item, found[number], (*path, number))]
    return [] if _same(wanted, found) else [[list(path), wanted]]


def _same(one: t.Any, other: t.Any) -> bool:
    """1, 1.0 and true are three values."""
    return type(one) is type(other) and bool(one == other)


def put_back(obj: Object, originals: t.Iterable[Original]) -> Object:
    """The object with its originals, in place."""
    for original in originals:
        way = original[0]
        node: t.Any = obj
        for key in way[:-1]:
            node = node[key]
        if len(original) == 1:
            del node[way[-1]]
        else:
            node[way[-1]] = clone(original[1])
    return obj


class Rewriter:
    """Rewrites objects by a rule set, and back."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self._there = _OneWay(rules)
        self._back = _OneWay(rules.inverse())
        merged = {rule.claim(True) for rule in rules.rules if rule.merge}
        self._merging = {rule.id for rule in rules.rules if rule.claim(True) in merged}

    @property
    def seen(self) -> t.Mapping[str, t.Collection[str]]:
        """Names that went by, by kind of rule: what a rule without a hit may have meant."""
        return self._there.seen

    def apply(self, obj: t.Mapping[str, t.Any]) -> Done:
        """There, and the proof of the way back."""
        done = self._there.apply(obj)
        back = self._back.apply(done.obj)
        touched = {hit.path for hit in done.hits}
        for hit in back.hits:
            if hit.path not in touched and hit.rule not in self._merging:
                why = f"the new name of {hit.rule!r} is in use there already; merge: true allows it"
                done.problems.append((hit.path, why))
        done.originals = originals_of(obj, back.obj)
        return done

    def back(self, obj: t.Mapping[str, t.Any], originals: t.Iterable[Original] = ()) -> Object:
        """The object as it was before."""
        return put_back(self._back.apply(obj).obj, originals)
