# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Old names that a rewrite left: every text and every key of every output object is searched, typed place or not.

A name counts where it stands as a word: letters, digits, ``_`` and ``-`` beside it make it another name; a dot does not, so
``web.shop`` is found in ``web.shop.svc.cluster.local``. Pure functions.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_lookup import ANY
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_names import host_of
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import MAPS, Rule, RuleSet

Object = dict[str, t.Any]
_BEFORE, _BEHIND = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_-])"
_CLASS_KEYS = {
    "gateway": ("gatewayClassName",),
    "ingress": ("ingressClassName", "kubernetes.io/ingress.class"),
    "revision": ("istio.io/rev",),
}
# The last key on the way to a mapping that a rule of this kind is about.
_MAP_KEYS = {
    "selector": ("selector", "matchLabels", "workloadSelector", "sourceLabels"),
    "label": ("labels",),
    "annotation": ("annotations",),
}


def _word(text: str) -> str:
    return f"{_BEFORE}{re.escape(text)}{_BEHIND}"


def _patterns(rule: Rule) -> list[str]:
    """What is searched in texts and keys for the old name of a rule."""
    old = rule.old
    if rule.residue == "none":
        return []
    if rule.residue == "word" and rule.kind in ("namespace", "name", "subset", "class", "apiVersion"):
        return [_word(old)]
    if rule.kind == "namespace":
        return [rf"\.{re.escape(old)}\.svc{_BEHIND}", rf"(?:^|/)ns/{re.escape(old)}(?=/|$)"]
    if rule.kind == "host":
        if old.startswith("*."):
            return [rf"(?<=[A-Za-z0-9_*-]){re.escape(old[1:])}{_BEHIND}"]
        return [_word(host_of(old).key if host_of(old).service else old)]
    if rule.kind == "gateway":
        place, _slash, name = old.partition("/")
        return [_word(old), _word(f"{name}.{place}")]
    if rule.kind == "subset":
        host = re.escape(host_of(rule.host).key) if rule.host else ""
        return [rf"\|\d*\|{re.escape(old)}\|{host}"]
    if rule.kind in MAPS:
        pairs = [f"{re.escape(key)}={re.escape(item)}" for key, item in rule.old_labels.items() if item != ANY]
        return [rf"{_BEFORE}{pair}{_BEHIND}" for pair in pairs[:1] if len(rule.old) == 1]
    return []


class Residue:
    """Searches output objects for what the rules should have replaced."""

    def __init__(self, rules: RuleSet) -> None:
        news: dict[str, set[str]] = {}
        for rule in rules.rules:
            if isinstance(rule.new, str):
                news.setdefault(rule.kind, set()).add(rule.new)
        # A name that is also a new name (a swap, a chain) is there by right.
        self._rules = [rule for rule in rules.rules if not (isinstance(rule.old, str) and rule.old in news.get(rule.kind, ()))]
        self.unsearched = [rule.id for rule in rules.rules if rule not in self._rules]
        parts, self._of = [], {}
        for number, rule in enumerate(self._rules):
            for at, pattern in enumerate(_patterns(rule)):
                group = f"r{number}_{at}"
                self._of[group] = rule
                parts.append(f"(?P<{group}>{pattern})")
        for number, word in enumerate(rules.forbidden):
            group = f"f{number}"
            self._of[group] = Rule(f"forbidden {word}", "forbidden", word, "")
            parts.append(f"(?P<{group}>{_word(word)})")
        self._search = re.compile("|".join(parts)) if parts else None
        olds = [str(rule.old) for rule in self._rules if not isinstance(rule.old, dict)]
        hiding = {new for group in news.values() for new in group if any(re.search(_word(old), new) for old in olds)}
        self._hiding = re.compile("|".join(_word(new) for new in sorted(hiding, key=len, reverse=True))) if hiding else None
        self._allowed = [(entry, _glob(entry.path)) for entry in rules.allowed]
        self._classes = [rule for rule in self._rules if rule.kind == "class" and rule.residue != "none"]
        self._maps = [rule for rule in self._rules if rule.kind in MAPS and rule.residue != "none"]
        self._subsets = {rule.old: rule for rule in self._rules if rule.kind == "subset" and not rule.host}

    def search(self, obj: t.Mapping[str, t.Any], before: tuple[str, str, str, str]) -> list[tuple[str, str]]:
        """``(path, rule)`` of every old name in an output object. ``before``: group, kind, namespace and name in the input."""
        found: list[tuple[str, str]] = []

        def tell(rule: Rule, path: str) -> None:
            meant = rule.where is None or rule.where.takes(*before)
            if meant and (path, rule.id) not in found and not self._may_stay(rule, path, before[0], before[1]):
                found.append((path, rule.id))

        secret = obj.get("kind") == "Secret"
        for key, item in obj.items():
            if not (secret and key == "data"):  # base64: nothing can be read there
                self._look(item, str(key), str(key), tell)
        return found

    def _look(self, value: t.Any, path: str, last: str, tell: t.Callable[[Rule, str], None]) -> None:
        if isinstance(value, dict):
            self._mapping(value, path, last, tell)
            for key, item in value.items():
                place = f"{path}[{key}]" if "." in key or "/" in key else f"{path}.{key}"
                self._text(key, place, tell)
                self._look(item, place, key, tell)
        elif isinstance(value, list):
            for number, item in enumerate(value):
                self._look(item, f"{path}[{number}]", last, tell)
        elif isinstance(value, str):
            self._text(value, path, tell)
            for rule in self._classes:
                if value == rule.old and last in _CLASS_KEYS[rule.of]:
                    tell(rule, path)
            if last == "subset" and value in self._subsets:
                tell(self._subsets[value], path)

    def _mapping(self, value: Object, path: str, last: str, tell: t.Callable[[Rule, str], None]) -> None:
        for rule in self._maps:
            if last in _MAP_KEYS[rule.kind] and all(
                key in value and item in (ANY, value[key]) for key, item in rule.old_labels.items()
            ):
                tell(rule, path)

    def _text(self, text: str, path: str, tell: t.Callable[[Rule, str], None]) -> None:
        if self._search is None or self._search.search(text) is None:
            return
        if self._hiding is not None:
            text = self._hiding.sub("\0", text)
        for match in self._search.finditer(text):
            tell(self._of[str(match.lastgroup)], path)

    def _may_stay(self, rule: Rule, path: str, group: str, kind: str) -> bool:
        plain = re.sub(r"\[\d+\]", "[]", path)
        return any(
            (not entry.kinds or kind in entry.kinds or f"{group}/{kind}" in entry.kinds)
            and pattern.fullmatch(plain)
            and (not entry.words or rule.id in entry.words or (isinstance(rule.old, str) and rule.old in entry.words))
            for entry, pattern in self._allowed
        )


def _glob(path: str) -> re.Pattern[str]:
    """A path in which ``*`` stands for anything and ``[]`` for any number."""
    return re.compile(".*".join(re.escape(part) for part in path.split("*")), re.S)
