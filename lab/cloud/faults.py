# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fault rules: which call is answered wrongly, late or not at all.

A rule: ``{"id"?, "target": "slb"|"ecs"|"vpc"|"servicemesh"|"ack"|"asm"|"*", "action": "glob of the action, or 'VERB /path-glob'",
"nth"?: int, "rate"?: 0..1, "times"?: int, "seed"?: int, "effect": {...}}``. Effects: ``{"status": 429, "code": "Throttling",
"message": "..."}``, ``{"hang": seconds}``, ``{"reset": true}``, ``{"slow": seconds}``; with ``"after": true`` a status or
reset comes after the call was carried out: the answer is lost, not the deed.
nth counts the calls that match the rule, from 1; with ``times`` that many in a row from there (1 if not given). Without
nth every matching call is hit, or each with probability ``rate`` from a generator of its own (``seed``); at most ``times``.
The first rule that fires wins, but every matching rule counts the call. Of a cloud's action, "query ACTION" is what the CCM's SDK
calls, "header ACTION" what the vendor's newer SDKs call.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

TARGETS = ("slb", "ecs", "vpc", "servicemesh", "ack", "asm", "*")
_EFFECTS = {"status", "code", "message", "hang", "reset", "slow", "after"}


class BadRule(ValueError):
    """The rule cannot be understood; the message says why."""


def _number(raw: object, name: str, low: float, high: float) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not low <= raw <= high:
        raise BadRule(f"{name} must be a number from {low:g} to {high:g}")
    return raw


@dataclass
class Rule:
    id: str
    target: str
    action: str
    effect: dict[str, Any]
    nth: int | None = None
    rate: float | None = None
    times: int | None = None
    seed: int | None = None
    seen: int = 0
    hits: int = 0
    _random: random.Random = field(default_factory=random.Random, repr=False)
    _pattern: re.Pattern[str] = field(default=re.compile(""), repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed if self.seed is not None else self.id)
        self._pattern = re.compile(translate(self.action), re.IGNORECASE)

    @classmethod
    def parse(cls, raw: object, default_id: str) -> Rule:
        if not isinstance(raw, dict):
            raise BadRule("a rule is an object")
        unknown = set(raw) - {"id", "target", "action", "effect", "nth", "rate", "times", "seed", "seen", "hits"}
        effect = raw.get("effect")
        if unknown:
            raise BadRule(f"unknown field: {', '.join(sorted(unknown))}")
        if not isinstance(effect, dict) or not set(effect) & {"status", "hang", "reset", "slow"} or set(effect) - _EFFECTS:
            raise BadRule("effect must be one of status (with code, message), hang, reset, slow")
        if "status" in effect:
            _number(effect["status"], "status", 400, 599)
        for name in ("hang", "slow"):
            if name in effect:
                _number(effect[name], name, 0, 3600)
        target = str(raw.get("target", "*"))
        if target not in TARGETS:
            raise BadRule(f"target must be one of {', '.join(TARGETS)}")
        nth, rate, times = raw.get("nth"), raw.get("rate"), raw.get("times")
        return cls(
            id=str(raw.get("id") or default_id),
            target=target,
            action=str(raw.get("action", "*")),
            effect=effect,
            nth=None if nth is None else int(_number(nth, "nth", 1, 1e9)),
            rate=None if rate is None else _number(rate, "rate", 0, 1),
            times=None if times is None else int(_number(times, "times", 1, 1e9)),
            seed=None if raw.get("seed") is None else int(raw["seed"]),
        )

    def matches(self, target: str, names: Iterable[str]) -> bool:
        return self.target in ("*", target) and any(self._pattern.match(n) for n in names)

    def fires(self) -> bool:
        """Count one matching call; True if this one is to be hit."""
        self.seen += 1
        if self.nth is not None:
            hit = self.nth <= self.seen < self.nth + (self.times or 1)
        elif self.times is not None and self.hits >= self.times:
            hit = False
        else:
            # The generator is asked for every call, so that the pattern depends on nothing but the seed.
            hit = self.rate is None or self._random.random() < self.rate
        self.hits += hit
        return hit

    def to_json(self) -> dict[str, Any]:
        names = ("id", "target", "action", "effect", "nth", "rate", "times", "seed", "seen", "hits")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}


class Rules:
    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self._next = 1

    def add(self, raw: object) -> list[str]:
        """One rule or a list of rules; all are understood before the first is taken. Returns the ids."""
        parsed = [Rule.parse(r, f"rule-{self._next + i}") for i, r in enumerate(raw if isinstance(raw, list) else [raw])]
        self._next += len(parsed)
        self.rules.update({r.id: r for r in parsed})
        return [r.id for r in parsed]

    def remove(self, rule_id: str | None = None) -> int:
        gone = [r for r in self.rules if rule_id is None or r == rule_id]
        for key in gone:
            del self.rules[key]
        return len(gone)

    def decide(self, target: str, names: Iterable[str]) -> dict[str, Any] | None:
        names = list(names)
        effect: dict[str, Any] | None = None
        for rule in self.rules.values():
            if rule.matches(target, names) and rule.fires() and effect is None:
                effect = rule.effect
        return effect
