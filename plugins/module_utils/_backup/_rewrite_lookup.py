# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Which rule is for a name: the rules of a set in tables, by the kind of name. Pure functions."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_names import Host, host_of
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import Labels, Rule, RuleSet

ANY = "*"


class Lookup:
    """The rules that may touch an object, in tables."""

    def __init__(self, rules: t.Sequence[Rule], domain: str) -> None:
        self.domain = domain
        self.namespaces: dict[str, Rule] = {}
        self.hosts: dict[str, Rule] = {}
        self.suffixes: list[tuple[str, str, Rule]] = []
        self.gateways: dict[tuple[str, str], Rule] = {}
        self.names: dict[tuple[str, str, str], Rule] = {}
        self.classes: dict[tuple[str, str], Rule] = {}
        self.versions: dict[str, Rule] = {}
        self.subsets: dict[tuple[str, str], Rule] = {}
        self.ports: dict[tuple[str, str, str], Rule] = {}
        self.maps: dict[str, list[Rule]] = {"label": [], "selector": [], "annotation": []}
        for rule in rules:
            self._take(rule)
        for found in self.maps.values():
            found.sort(key=lambda rule: -len(rule.old))  # what asks for more labels comes first
        self.suffixes.sort(key=lambda found: -len(found[0]))

    def _take(self, rule: Rule) -> None:
        kind, old = rule.kind, rule.old
        host = host_of(rule.host, domain=self.domain).key if rule.host else ""
        if kind == "namespace":
            self.namespaces.setdefault(old, rule)
        elif kind == "host" and old.startswith("*."):
            self.suffixes.append((old[1:].lower(), rule.new[1:], rule))
        elif kind == "host":
            self.hosts.setdefault(host_of(old, domain=self.domain).key, rule)
        elif kind == "gateway":
            place, _slash, name = old.partition("/")
            self.gateways.setdefault((place, name), rule)
        elif kind == "name":
            self.names.setdefault((rule.of, rule.namespace, old), rule)
        elif kind == "class":
            self.classes.setdefault((rule.of, old), rule)
        elif kind == "apiVersion":
            self.versions.setdefault(old, rule)
        elif kind == "subset":
            self.subsets.setdefault((host, old), rule)
        elif kind == "port":
            self.ports.setdefault((rule.of, host, str(old)), rule)
        else:
            self.maps[kind].append(rule)

    def name(self, kind: str, namespace: str, name: str) -> Rule | None:
        return self.names.get((kind, namespace, name)) or self.names.get((kind, "", name))

    def subset(self, hosts: t.Iterable[str], name: str) -> Rule | None:
        for host in hosts:
            if (host, name) in self.subsets:
                return self.subsets[(host, name)]
        return self.subsets.get(("", name))

    def port(self, of: str, hosts: t.Iterable[str], value: t.Any) -> Rule | None:
        for host in hosts:
            if (of, host, str(value)) in self.ports:
                return self.ports[(of, host, str(value))]
        return self.ports.get((of, "", str(value)))

    def host(self, host: Host, own: str) -> tuple[Rule, str] | None:
        """The rule for a host, and the new text. ``own``: the namespace that the object will have."""
        rule = self.hosts.get(host.key)
        if rule is not None:
            new = host_of(rule.new, domain=self.domain)
            old = host_of(rule.old, domain=self.domain)
            # example.com may be the Service example of the namespace com: a rule that writes it so may mean a name outside
            outside = host.form == "two" and old.form == "two" and new.form != "two"
            if host.service and new.service and not outside:
                return rule, host.renamed(new.name, new.namespace, own, self.domain)
            return rule, host.lead + rule.new + host.port
        if host.service:
            found = self.namespaces.get(host.namespace)
            if found is not None:
                # a Service moves with its namespace, and so does the object that names it without one
                return found, host.renamed(host.name, str(found.new), own, self.domain)
        if host.form != "short":
            low = host.text.lower()
            for suffix, new_suffix, rule in self.suffixes:
                if low.endswith(suffix) and len(low) > len(suffix):
                    return rule, host.text[: len(host.text) - len(suffix)] + new_suffix + host.port
        return None

    def service(self, name: str, namespace: str) -> tuple[Rule | None, str, str]:
        """The rule for a Service, and its new name and namespace."""
        rule = self.hosts.get(f"{name}.{namespace}")
        if rule is not None:
            new = host_of(rule.new, domain=self.domain)
            if new.service:
                return rule, new.name, new.namespace
        found = self.namespaces.get(namespace)
        return found, name, str(found.new) if found else namespace

    def gateway(self, namespace: str, name: str) -> tuple[Rule | None, str, str]:
        """The rule for a Gateway, and its new namespace and name."""
        rule = self.gateways.get((namespace, name))
        if rule is not None:
            place, _slash, new = str(rule.new).partition("/")
            return rule, place, new
        found = self.namespaces.get(namespace)
        return found, str(found.new) if found else namespace, name

    def labels(self, kind: str, value: t.Mapping[str, t.Any]) -> tuple[dict[str, t.Any], list[Rule], str]:
        """Labels, a selector or annotations rewritten: the new ones, the rules, and a key that is there otherwise already."""
        rules: list[Rule] = []
        left: dict[str, t.Any] = dict(value)
        made: Labels = {}
        for rule in self.maps[kind]:
            old = rule.old_labels
            if any(key not in left or (item not in (ANY, left[key])) for key, item in old.items()):
                continue
            star = next((str(left[key]) for key, item in old.items() if item == ANY), "")
            for key in old:
                del left[key]
            fresh = {key: star if item == ANY else item for key, item in rule.new_labels.items()}
            clash = next((key for key, item in fresh.items() if made.get(key, item) != item), "")
            if clash:
                return dict(value), [rule], clash
            made.update(fresh)
            rules.append(rule)
        clash = next((key for key, item in made.items() if left.get(key, item) != item), "")
        if clash:
            return dict(value), rules, clash
        return {**left, **made}, rules, ""


class Lookups:
    """A Lookup for each object: one for all, unless rules say where they bite."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules.rules
        self._domain = rules.domain
        self._bound = any(rule.where for rule in rules.rules)
        self._made: dict[tuple[int, ...], Lookup] = {}

    def of(self, group: str, kind: str, namespace: str, name: str) -> Lookup:
        if self._bound:
            chosen = [
                number
                for number, rule in enumerate(self._rules)
                if rule.where is None or rule.where.takes(group, kind, namespace, name)
            ]
            chosen.sort(key=lambda number: self._rules[number].where is None)  # a rule for few comes before one for all
        else:
            chosen = list(range(len(self._rules)))
        key = tuple(chosen)
        if key not in self._made:
            self._made[key] = Lookup([self._rules[number] for number in chosen], self._domain)
        return self._made[key]
