# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Rule sets of a rewrite: data, checked before anything is read. docs/rewrite.md describes the format.

All rules act at the same moment on the names of the input, so a chain (a to b, b to c) and a swap are what they say. Two old
names that become one new name are refused, unless the rule says ``merge``: then the way back is kept with the output.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import hashlib
import json
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _rewrite_fields, _rewrite_names
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_yaml import load_text
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError

# Counts up when the same rules would rewrite otherwise: archives of before are then written anew.
ENGINE = 1
Labels = dict[str, str]

# kind -> what ``of`` may say, the first one when it says nothing; None: ``of`` is the kind of an object.
_OF: dict[str, tuple[str, ...] | None] = {
    "annotation": (),
    "apiVersion": (),
    "class": ("gateway", "ingress", "revision"),
    "gateway": (),
    "host": (),
    "label": (),
    "name": None,
    "namespace": (),
    "port": ("service", "gateway", "workload"),
    "selector": (),
    "subset": (),
}
MAPS = ("annotation", "label", "selector")
_RULE_KEYS = ("id", "kind", "of", "from", "to", "host", "namespace", "where", "optional", "merge", "residue", "reason")
_WHERE_KEYS = ("kinds", "namespaces", "names", "not_kinds")
_SET_KEYS = ("name", "description", "cluster_domain", "variables", "rules", "fields", "allowed", "forbidden")
_RESIDUE = {"namespace": "word", "host": "word", "gateway": "word", "apiVersion": "word"}
_DNS = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Where:
    """Which objects a rule may touch; patterns as in a shell. Names are those before the rewrite."""

    kinds: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    not_kinds: tuple[str, ...] = ()

    def takes(self, group: str, kind: str, namespace: str, name: str) -> bool:
        full = f"{group}/{kind}"
        return (
            (not self.kinds or kind in self.kinds or full in self.kinds)
            and kind not in self.not_kinds
            and full not in self.not_kinds
            and (not self.namespaces or any(fnmatch.fnmatchcase(namespace, pattern) for pattern in self.namespaces))
            and (not self.names or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names))
        )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule. ``old`` and ``new`` are texts or numbers; for annotation, label and selector mappings.

    :arg of: which kind of class or port; the kind of the object for ``name``.
    :arg host: the host that a subset or port belongs to, any when empty. :arg namespace: of a ``name``, any when empty.
    :arg optional: it may have no hit. :arg merge: its new name may be one that is there already.
    :arg residue: ``word`` searches the old name everywhere, ``typed`` where such names stand, ``none`` nowhere.
    """

    id: str
    kind: str
    old: t.Any
    new: t.Any
    of: str = ""
    host: str = ""
    namespace: str = ""
    where: Where | None = None
    optional: bool = False
    merge: bool = False
    residue: str = "typed"

    @property
    def old_labels(self) -> Labels:
        return t.cast(Labels, self.old)

    @property
    def new_labels(self) -> Labels:
        return t.cast(Labels, self.new)

    def claim(self, new: bool) -> tuple[t.Any, ...]:
        """The name that the rule takes (or gives), in a form that can be compared."""
        value = self.new if new else self.old
        if self.kind in MAPS:
            return (self.kind, frozenset(value.items()))
        if self.kind == "host":
            return (self.kind, _rewrite_names.host_of(value).key)
        if self.kind in ("subset", "port"):
            return (self.kind, self.of, _rewrite_names.host_of(self.host).key if self.host else "", str(value))
        return (self.kind, self.of, self.namespace, str(value))


@dataclasses.dataclass(frozen=True)
class Allowed:
    """A place where old names may stay."""

    kinds: tuple[str, ...]
    path: str
    words: tuple[str, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class RuleSet:
    """Checked rules.

    :arg fields: more places of names: (group, kind) -> path -> type. :arg forbidden: words that may be nowhere in the output.
    """

    name: str
    rules: tuple[Rule, ...]
    domain: str = _rewrite_names.DOMAIN
    fields: t.Mapping[tuple[str, str], t.Mapping[str, str]] = dataclasses.field(default_factory=dict)
    allowed: tuple[Allowed, ...] = ()
    forbidden: tuple[str, ...] = ()
    source: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The same for the same rules and the same engine."""
        text = json.dumps([ENGINE, self.source], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def inverse(self) -> RuleSet:
        """The rules that lead back. Of rules that give the same name the first one decides; what cannot be told from the output
        alone is kept by who rewrites (see _rewrite.Originals)."""
        made: list[Rule] = []
        taken: set[tuple[t.Any, ...]] = set()
        spaces = {rule.old: rule.new for rule in self.rules if rule.kind == "namespace"}
        hosts = {rule.claim(False)[1]: rule.new for rule in self.rules if rule.kind == "host"}

        def host_after(host: str) -> str:
            found = _rewrite_names.host_of(host)
            if found.key in hosts:
                return str(hosts[found.key])
            return found.renamed(found.name, spaces.get(found.namespace, found.namespace), "") if found.service else host

        for rule in self.rules:
            where = rule.where
            if where is not None:
                places = tuple(spaces.get(name, name) for name in where.namespaces)
                # an object's version and name may be other ones now: the kind and the namespace still say enough
                names = () if rule.kind in ("name", "host", "gateway") else where.names
                where = Where(where.kinds, places, names, where.not_kinds)
            back = dataclasses.replace(
                rule,
                old=rule.new,
                new=rule.old,
                host=host_after(rule.host) if rule.host else "",
                namespace=spaces.get(rule.namespace, rule.namespace),
                where=where,
                optional=True,
            )
            if rule.kind in MAPS and not rule.new:
                continue  # nothing is left that could lead back
            if back.claim(False) in taken:
                continue
            taken.add(back.claim(False))
            made.append(back)
        fields = {}
        for (group, kind), paths in self.fields.items():
            fields[(group, kind)] = paths
        return dataclasses.replace(self, rules=tuple(made), fields=fields, allowed=(), forbidden=())


def near(word: str, words: t.Iterable[str]) -> str:
    """``; did you mean x?`` or nothing."""
    found = difflib.get_close_matches(word, list(words), 1, 0.6)
    return f"; did you mean {found[0]}?" if found else ""


class _Check:
    """Reads a rule set, with the place of everything that is wrong."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wrong(self, place: str, why: str) -> InputError:
        return InputError("A rule set cannot be right", where=f"{self.name}: {place}", why=why, todo="see docs/rewrite.md")

    def mapping(self, value: t.Any, place: str, keys: t.Sequence[str] = ()) -> dict[str, t.Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.wrong(place, "a mapping is needed")
        for key in value:
            if keys and key not in keys:
                raise self.wrong(place, f"there is no {key!r} here{near(key, keys)}")
        return value

    def texts(self, value: t.Any, place: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(place, "a list of texts is needed")
        return tuple(value)

    def flag(self, value: t.Any, place: str) -> bool:
        if not isinstance(value, bool):
            raise self.wrong(place, "true or false is needed")
        return value

    def word(self, value: t.Any, place: str) -> str:
        if not isinstance(value, str) or not value or value != value.strip():
            raise self.wrong(place, "a text is needed")
        return value

    def labels(self, value: t.Any, place: str) -> Labels:
        found = self.mapping(value, place)
        for key, item in found.items():
            if not isinstance(item, str):
                raise self.wrong(f"{place}.{key}", "a text is needed: put it in quotes")
        if list(found.values()).count("*") > 1:
            raise self.wrong(place, "only one value can be '*'")
        return dict(found)

    def rule(self, value: t.Any, place: str) -> Rule:
        given = self.mapping(value, place, _RULE_KEYS)
        kind = given.get("kind")
        if kind not in _OF:
            raise self.wrong(place, f"{kind!r} is no kind of rule{near(str(kind), _OF)} (there are {', '.join(_OF)})")
        for key in ("from", "to"):
            if key not in given:
                raise self.wrong(place, f"it has no {key!r}")
        of, choices = given.get("of", ""), _OF[kind]
        if choices is None:
            of = self.word(of, f"{place}.of")
        elif choices:
            of = of or choices[0]
            if of not in choices:
                raise self.wrong(f"{place}.of", f"it is one of {', '.join(choices)}{near(str(of), choices)}")
        elif of:
            raise self.wrong(f"{place}.of", f"a rule of the kind {kind} has none")
        old, new = self.ends(kind, given, place)
        where = self.where(given["where"], f"{place}.where") if "where" in given else None
        if where and kind == "namespace":
            raise self.wrong(f"{place}.where", "a namespace is renamed everywhere")
        host = given.get("host", "")
        if host and (kind not in ("subset", "port") or of == "gateway"):
            raise self.wrong(f"{place}.host", f"a rule of the kind {kind} {of} has none".replace("  ", " "))
        if host and not _rewrite_names.host_of(self.word(host, f"{place}.host")).key.count("."):
            raise self.wrong(f"{place}.host", "write it with its namespace, like web.shop")
        if given.get("namespace") and kind != "name":
            raise self.wrong(f"{place}.namespace", "only a rule of the kind name has one")
        residue = given.get("residue", _RESIDUE.get(kind, "typed"))
        if residue not in ("word", "typed", "none"):
            raise self.wrong(f"{place}.residue", "it is one of word, typed, none")
        about = f"{kind}{' of ' + of if of else ''} {host or given.get('namespace', '')}".rstrip()
        name = given.get("id") or f"{about} {_short(old)} -> {_short(new)}"
        return Rule(
            self.word(name, f"{place}.id"),
            kind,
            old,
            new,
            of,
            host,
            given.get("namespace", ""),
            where,
            self.flag(given.get("optional", False), f"{place}.optional"),
            self.flag(given.get("merge", False), f"{place}.merge"),
            residue,
        )

    def ends(self, kind: str, given: dict[str, t.Any], place: str) -> tuple[t.Any, t.Any]:
        """``from`` and ``to``, as the kind wants them."""
        old, new = given["from"], given["to"]
        if kind in MAPS:
            old, new = self.labels(old, f"{place}.from"), self.labels(new, f"{place}.to")
            if not old:
                raise self.wrong(f"{place}.from", "it chooses nothing")
            if "*" in new.values() and "*" not in old.values():
                raise self.wrong(f"{place}.to", "there is no '*' in from that could give this value")
        elif kind == "port":
            for key, item in (("from", old), ("to", new)):
                if isinstance(item, bool) or not isinstance(item, (int, str)) or item == "":
                    raise self.wrong(f"{place}.{key}", "the number or the name of a port is needed")
        else:
            old, new = self.word(old, f"{place}.from"), self.word(new, f"{place}.to")
            if kind == "gateway" and not (old.count("/") == new.count("/") == 1):
                raise self.wrong(place, "write Gateways as namespace/name")
            if kind == "namespace" and not (_DNS.fullmatch(old) and _DNS.fullmatch(new)):
                raise self.wrong(place, "this is no name of a namespace")
            if kind == "host":
                self.hosts(old, new, place)
        if old == new:
            raise self.wrong(place, "from and to are the same")
        return old, new

    def hosts(self, old: str, new: str, place: str) -> None:
        if ("*" in old) != ("*" in new) or ("*" in old and not (old.startswith("*.") and new.startswith("*."))):
            raise self.wrong(place, "a pattern is *.suffix, in from and in to")
        for key, text in (("from", old), ("to", new)):
            host = _rewrite_names.host_of(text)
            if host.port or host.lead or "/" in text:
                raise self.wrong(f"{place}.{key}", "write the host alone")
            if "." not in text:
                raise self.wrong(f"{place}.{key}", "write it with its namespace, like web.shop")

    def where(self, value: t.Any, place: str) -> Where:
        given = self.mapping(value, place, _WHERE_KEYS)
        return Where(**{key: self.texts(item, f"{place}.{key}") for key, item in given.items()})


def _short(value: t.Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in sorted(value.items())) or "nothing"
    return str(value)


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _filled(value: t.Any, variables: t.Mapping[str, t.Any], check: _Check, place: str) -> t.Any:
    """The value with ``${x}`` replaced; a text that is nothing but one variable gets its type too."""
    if isinstance(value, dict):
        made = {}
        for key, item in value.items():
            made[_filled(key, variables, check, place)] = _filled(item, variables, check, f"{place}.{key}")
        return made
    if isinstance(value, list):
        return [_filled(item, variables, check, f"{place}[{number}]") for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if variables.get(name) is None:
            raise check.wrong(place, f"the variable {name} has no value{near(name, variables)}; give it in the option variables")
    whole = _VARIABLE.fullmatch(value)
    if whole:
        return variables[whole[1]]
    return _VARIABLE.sub(lambda found: str(variables[found[1]]), value)


def rule_set(given: str | t.Mapping[str, t.Any], variables: t.Mapping[str, t.Any] | None = None, name: str = "rules") -> RuleSet:
    """A rule set from its YAML text or from plain data. Raises InputError with the place."""
    check = _Check(name)
    data = load_text(given, name)[0] if isinstance(given, str) else dict(given)
    top = check.mapping(data, "the rule set", _SET_KEYS)
    known = check.mapping(top.get("variables") or {}, "variables")
    for key in variables or {}:
        if key not in known:
            raise check.wrong("variables", f"the rule set has no variable {key!r}{near(key, known)}")
    merged = {**known, **(variables or {})}
    filled = {key: _filled(top[key], merged, check, key) for key in ("rules", "fields", "allowed", "forbidden") if top.get(key)}
    rules = filled.get("rules")
    if not isinstance(rules, list) or not rules:
        raise check.wrong("rules", "there are none")
    # A rule whose variables make both ends the same has nothing to do in this migration.
    left = [
        (number, rule)
        for number, rule in enumerate(rules)
        if not (isinstance(rule, dict) and "${" in json.dumps(top["rules"][number]) and rule.get("from") == rule.get("to", ""))
    ]
    made = tuple(check.rule(rule, f"rules[{number}]") for number, rule in left)
    filled["rules"] = [rule for _number, rule in left]
    _injective(check, made)
    fields: dict[tuple[str, str], dict[str, str]] = {}
    for number, entry in enumerate(filled.get("fields") or ()):
        place = f"fields[{number}]"
        entry = check.mapping(entry, place, ("group", "kind", "paths"))
        paths = check.mapping(entry.get("paths") or {}, f"{place}.paths")
        for path, kind in paths.items():
            if not isinstance(kind, str) or not _rewrite_fields.check_type(kind):
                types = sorted(_rewrite_fields.TYPES)
                raise check.wrong(f"{place}.paths.{path}", f"{kind!r} is no type of a field{near(str(kind), types)}")
        fields[(str(entry.get("group", "")), check.word(entry.get("kind"), f"{place}.kind"))] = paths
    allowed = []
    for number, entry in enumerate(filled.get("allowed") or ()):
        place = f"allowed[{number}]"
        entry = check.mapping(entry, place, ("kinds", "path", "words", "reason"))
        allowed.append(
            Allowed(
                check.texts(entry.get("kinds", []), f"{place}.kinds"),
                check.word(entry.get("path", "*"), f"{place}.path"),
                check.texts(entry.get("words", []), f"{place}.words"),
                check.word(entry.get("reason"), f"{place}.reason"),
            )
        )
    domain = check.word(top.get("cluster_domain", _rewrite_names.DOMAIN), "cluster_domain")
    source = {"name": str(top.get("name", name)), "cluster_domain": domain, **filled}
    forbidden = check.texts(filled.get("forbidden", []), "forbidden")
    return RuleSet(str(top.get("name", name)), made, domain, fields, tuple(allowed), forbidden, source)


def _injective(check: _Check, rules: t.Sequence[Rule]) -> None:
    """No two rules for one old name; no two old names with one new name, unless they say so."""
    olds: dict[tuple[t.Any, ...], Rule] = {}
    news: dict[tuple[t.Any, ...], Rule] = {}
    ids: set[str] = set()
    for number, rule in enumerate(rules):
        if rule.id in ids:
            raise check.wrong(f"rules[{number}]", f"the id {rule.id!r} is there twice")
        ids.add(rule.id)
        scope = (rule.where,)
        if (rule.claim(False), scope) in olds:
            other = olds[(rule.claim(False), scope)]
            raise check.wrong(f"rules[{number}]", f"{other.id!r} has another new name for the same old one")
        olds[(rule.claim(False), scope)] = rule
        if rule.kind in MAPS and not rule.new:
            continue
        before = news.setdefault(rule.claim(True), rule)
        if before is not rule and before.old != rule.old and not rule.merge:
            raise check.wrong(
                f"rules[{number}]",
                f"{before.id!r} and {rule.id!r} give two old names one new name, and nobody could tell them apart afterwards; "
                "say merge: true when this is meant, and the way back is kept with the output",
            )
