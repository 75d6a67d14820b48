# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Whether a rewrite may be written: hits of every rule, old names left, objects not understood, schemas, istioctl.

Collected object by object; nothing of an object is kept but names and paths.
"""

from __future__ import annotations

import collections
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite import Done, Rewriter, group_of
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_residue import Residue
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import RuleSet, near
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_schema import Schemas, analyze
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import MASK

Object = dict[str, t.Any]
_PLACES, _SHOWN = 20, 200
# Values that may be told: names. Annotations are whatever somebody wrote.
_TOLD = frozenset(("apiVersion", "class", "gateway", "host", "label", "name", "namespace", "port", "selector", "subset"))


class Judge:
    """What is found in one rewrite."""

    def __init__(
        self,
        rules: RuleSet | None = None,
        rewriter: Rewriter | None = None,
        schemas: Schemas | None = None,
        keep_texts: bool = False,
    ) -> None:
        self._rules = rules.rules if rules else ()
        self._kinds = {rule.id: rule.kind for rule in self._rules}
        self._rewriter, self._schemas = rewriter, schemas
        self._residue = Residue(rules) if rules else None
        self._texts: list[str] | None = [] if keep_texts else None
        self._keys: dict[str, str] = {}
        self._quiet: set[str] = set()  # objects of which istioctl's messages could tell a secret
        self.objects = self.changed = 0
        self.hits: collections.Counter[str] = collections.Counter()
        self.places: dict[str, list[str]] = collections.defaultdict(list)
        self.problems: list[Object] = []
        self.residue: list[Object] = []
        self.invalid: list[Object] = []
        self.not_understood: list[str] = []
        self.not_validated: collections.Counter[str] = collections.Counter()
        self.analysis: list[Object] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self._changes: list[tuple[str, str, str, dict[str, t.Any], dict[str, t.Any]]] = []
        self.warnings: list[str] = []

    def counted(self, changed: bool) -> None:
        self.objects += 1
        self.changed += changed

    def _add(self, what: str, found: list[Object], entry: Object) -> None:
        self.counts[what] += 1
        if len(found) < _SHOWN:
            found.append(entry)

    def see(self, before: Object, done: Done, text: str, *, sealed: bool) -> None:
        """One object, rewritten."""
        old, new = key_of(before), key_of(done.obj)
        self.counted(bool(done.hits))
        for hit in done.hits:
            self.hits[hit.rule] += 1
            if len(self.places[hit.rule]) < _PLACES:
                self.places[hit.rule].append(f"{old} {hit.path}")
        for path, why in done.problems:
            self._add("problems", self.problems, {"key": old, "path": path, "why": why})
        if new in self._keys:
            why = f"{self._keys[new]} and {old} would have the same name, {new}"
            self._add("problems", self.problems, {"key": old, "path": "metadata", "why": why})
        self._keys[new] = old
        if not done.understood:
            self.counts["not_understood"] += 1
            if len(self.not_understood) < _SHOWN:
                self.not_understood.append(old)
        meta = before["metadata"]
        # It describes fields, in many words, and names nothing of the mesh.
        definition = before["kind"] == "CustomResourceDefinition"
        if self._residue is not None and not definition:
            names = (group_of(before), str(before["kind"]), meta.get("namespace") or "", str(meta["name"]))
            for path, rule in self._residue.search(done.obj, names):
                self._add("residue", self.residue, {"key": new, "path": path, "rule": rule})
        if self._schemas is not None:
            errors = self._schemas.check(done.obj)
            if errors is None:
                self.not_validated[f"{group_of(done.obj)}/{done.obj['kind']}"] += 1
            for error in errors or ():
                path, _colon, why = error.partition(": ")
                self._add("invalid", self.invalid, {"key": new, "path": path, "why": why})
        secret = sealed or _scope.may_hold_secret(str(before["kind"]), text)
        if self._texts is not None and before["kind"] not in ("Secret", "ConfigMap") and not definition:
            self._texts.append(text)
            if secret:
                place = done.obj["metadata"].get("namespace")
                self._quiet.add(f"{done.obj['kind']} {place + '/' if place else ''}{done.obj['metadata']['name']}")
        if done.hits and len(self._changes) < _SHOWN:
            self._remember(before, done, old, new, secret)

    def _remember(self, before: Object, done: Done, old: str, new: str, secret: bool) -> None:
        was: dict[str, t.Any] = {}
        now: dict[str, t.Any] = {}
        for hit in done.hits:
            told = not secret and self._kinds.get(hit.rule) in _TOLD and ":" not in hit.path
            was[hit.path] = _at(before, hit.path) if told else MASK
            now[hit.path] = _at(done.obj, hit.path) if told else MASK
        self._changes.append((old, new, ", ".join(sorted({hit.rule for hit in done.hits})), was, now))

    def analyze(self, program: str | None, ignore: t.Sequence[str]) -> None:
        """Ask istioctl about everything at once."""
        if program and self._texts:
            found = analyze(program, self._texts, ignore)
            found.sort(key=lambda message: message["level"] != "Error")
            self.analysis = [
                {**message, "message": MASK} if " ".join(message["object"].split()[:2]) in self._quiet else message
                for message in found[:_SHOWN]
            ]
            self._texts = []

    @property
    def unused(self) -> list[str]:
        return [rule.id for rule in self._rules if not self.hits[rule.id] and not rule.optional]

    def _hint(self, rule_id: str) -> str:
        """What a rule without a hit may have meant."""
        rule = next(rule for rule in self._rules if rule.id == rule_id)
        seen = self._rewriter.seen.get(rule.kind, ()) if self._rewriter else ()
        return near(str(rule.old), seen)

    def verdict(self, strict: bool) -> MigrationError | None:
        """Why the output may not be written, all reasons at once; None when it may."""
        errors = [message for message in self.analysis if message["level"] == "Error"]
        reasons = []
        if self.unused:
            reasons.append("rules without a hit: " + ", ".join(f"{name!r}{self._hint(name)}" for name in self.unused[:10]))
        if self.counts["problems"]:
            reasons.append(f"{self.counts['problems']} places cannot be rewritten: {_first(self.problems, 'why')}")
        if self.counts["residue"]:
            reasons.append(f"{self.counts['residue']} old names are left: {_first(self.residue, 'rule')}")
        if strict and self.counts["not_understood"]:
            kinds = sorted({key.rsplit("/", 2)[0] for key in self.not_understood})
            reasons.append(f"{self.counts['not_understood']} objects are not understood: {', '.join(kinds[:10])}")
        if self.counts["invalid"]:
            reasons.append(f"{self.counts['invalid']} fields do not fit the target's schemas: {_first(self.invalid, 'why')}")
        if errors:
            told = "; ".join(f"{item['code']} {item['object']}" for item in errors[:5])
            reasons.append(f"istioctl finds {len(errors)} errors: {told}")
        if not strict and self.counts["not_understood"]:
            self.warnings.append(f"{self.counts['not_understood']} objects are of kinds that no rule understands")
        if not reasons:
            return None
        return MigrationError(
            "The rewrite is not written",
            why="; ".join(reasons),
            todo="say optional: true for a rule that may have no hit, name places in allowed where an old name may stay, add "
            "fields for more kinds (docs/rewrite.md)",
            details={"unused": self.unused, **self.counts},
        )

    def result(self) -> Object:
        """For the answer of the module."""
        return {
            "rules": [
                {"id": rule.id, "kind": rule.kind, "hits": self.hits[rule.id], "places": list(self.places.get(rule.id, ()))}
                for rule in self._rules
            ],
            "unused": self.unused,
            "problems": self.problems,
            "residue": self.residue,
            "unsearched": self._residue.unsearched if self._residue else [],
            "not_understood": self.not_understood,
            "invalid": self.invalid,
            "not_validated": dict(sorted(self.not_validated.items())),
            "analysis": self.analysis,
            "counts": {
                "objects": self.objects,
                "rewritten": self.changed,
                **{name: self.counts[name] for name in ("problems", "residue", "not_understood", "invalid")},
            },
        }

    def tell(self, plan: Plan) -> None:
        """The changes, object by object; of objects that may hold a secret only the paths."""
        for old, new, rules, was, now in self._changes:
            plan.add("rewrite", old, was, {"key": new, **now} if new != old else now, rules)
        if self.changed > len(self._changes) and self._changes:
            plan.notes.append(f"{self.changed - len(self._changes)} more objects are rewritten")


def key_of(obj: t.Mapping[str, t.Any]) -> str:
    """``group/kind/namespace/name``."""
    meta = obj["metadata"]
    return f"{group_of(obj)}/{obj['kind']}/{meta.get('namespace') or ''}/{meta['name']}"


def _first(found: t.Sequence[Object], field: str) -> str:
    return "; ".join(f"{entry['key']} {entry['path']} ({entry[field]})" for entry in found[:3])


def _at(obj: t.Any, path: str) -> t.Any:
    """The value at a path of a hit; None when it is not there."""
    at = 0
    while at < len(path) and obj is not None:
        if path[at] == "[":
            end = path.index("]", at)
            part = path[at + 1 : end]
            if isinstance(obj, list):
                obj = obj[int(part)] if part.isdigit() and int(part) < len(obj) else None
            else:
                obj = obj.get(part) if isinstance(obj, dict) else None
            at = end + 1
        else:
            at += path[at] == "."
            ends = [place for place in (path.find(".", at), path.find("[", at)) if place >= 0]
            end = min(ends, default=len(path))
            obj = obj.get(path[at:end]) if isinstance(obj, dict) else None
            at = end
    return obj
