# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Waves: which workloads move together, in which order, and which of them may roll at the same moment. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._selector import Selector, parse_selector, selects

_KEYS = ("name", "namespaces", "label_selector", "kinds", "names", "number", "percent", "hold", "max_hold")
_ORDER = ("Deployment", "StatefulSet", "DaemonSet")
# What a hold may be longer than asked, when nothing is said: time for slow gates to make up their mind. Seconds.
_GRACE = 60.0


class Member(t.Protocol):
    """What a wave is made of."""

    @property
    def kind(self) -> str: ...

    @property
    def namespace(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> t.Mapping[str, str]: ...

    @property
    def cost(self) -> int: ...

    @property
    def pdbs(self) -> tuple[str, ...]: ...


M = t.TypeVar("M", bound=Member)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A wave as it was asked for. Without ``number`` and ``percent`` it takes all that match."""

    name: str
    hold: float
    max_hold: float
    namespaces: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    selector: Selector = ()
    number: int | None = None
    percent: float | None = None

    def takes(self, member: Member) -> bool:
        return (
            (not self.namespaces or member.namespace in self.namespaces)
            and (not self.kinds or member.kind in self.kinds)
            and (not self.names or member.name in self.names)
            and selects(self.selector, member.labels)
        )

    def size(self, matching: int) -> int:
        if self.number is not None:
            return self.number
        return matching if self.percent is None else max(1, math.ceil(matching * self.percent / 100 - 1e-9))


@dataclasses.dataclass(frozen=True)
class Wave(t.Generic[M]):
    """:arg number: its place, from 1."""

    number: int
    rule: Rule
    members: tuple[M, ...]

    @property
    def name(self) -> str:
        return self.rule.name


def read_waves(given: t.Sequence[t.Any], *, hold: float, max_hold: float | None) -> list[Rule]:
    """Check and complete the option ``waves``: numbers, percentages, or dictionaries. Raises InputError."""
    if not given:
        raise _wrong("waves is empty", 'at least one wave, like [1, "10%", "100%"]')
    found: list[Rule] = []
    for number, item in enumerate(given, 1):
        where = f"wave {number}"
        one = dict(item) if isinstance(item, t.Mapping) else _short(item, where)
        unknown = sorted(set(one) - set(_KEYS))
        if unknown:
            raise _wrong(f"{where} has unknown keys: {', '.join(map(str, unknown))}", ", ".join(_KEYS))
        if one.get("number") is not None and one.get("percent") is not None:
            raise _wrong(f"{where} has number and percent", "one of them")
        name = str(one.get("name") or number)
        if name in [rule.name for rule in found]:
            raise _wrong(f"two waves are named {name}", "each a name of its own")
        held = _number(one.get("hold"), hold, f"the hold of {where}")
        most = _number(one.get("max_hold"), held + _GRACE if max_hold is None else max_hold, f"the max_hold of {where}")
        if most < held:
            raise _wrong(f"the max_hold of {where} ({most:g} s) is less than its hold ({held:g} s)", "max_hold >= hold")
        found.append(
            Rule(
                name,
                held,
                most,
                tuple(one.get("namespaces") or ()),
                tuple(one.get("kinds") or ()),
                tuple(one.get("names") or ()),
                parse_selector(one.get("label_selector")),
                _count(one.get("number"), where),
                _percent(one.get("percent"), where),
            )
        )
    return found


def split(members: t.Sequence[M], rules: t.Sequence[Rule]) -> tuple[list[Wave[M]], list[M]]:
    """The waves in order, each with what it takes of what those before it left; and what no wave takes.

    The order inside a wave, and so what a number takes, is by namespace, kind (Deployments first) and name: always the same.
    """
    left = sorted(members, key=lambda member: (member.namespace, _rank(member.kind), member.name))
    everything = list(left)
    waves: list[Wave[M]] = []
    for number, rule in enumerate(rules, 1):
        size = rule.size(sum(1 for member in everything if rule.takes(member)))
        taken: list[M] = []
        rest: list[M] = []
        for member in left:
            (taken if len(taken) < size and rule.takes(member) else rest).append(member)
        waves.append(Wave(number, rule, tuple(taken)))
        left = rest
    return waves, left


def startable(queue: t.Sequence[M], flying: t.Sequence[M], budgets: t.Mapping[str, int], concurrency: int) -> list[M]:
    """What may begin now, in order.

    :arg flying: what rolls now. :arg budgets: pods that each disruption budget lets go *now*; those that are away already are
        taken out of it by the API server, and those that may still go are taken out here. So it is never exceeded.
    """
    left = dict(budgets)
    for member in flying:
        for pdb in member.pdbs:
            left[pdb] = left.get(pdb, 0) - member.cost
    found: list[M] = []
    for member in queue:
        if len(flying) + len(found) >= concurrency:
            break
        if member.cost and any(left.get(pdb, 0) < member.cost for pdb in member.pdbs):
            continue
        for pdb in member.pdbs:
            left[pdb] = left.get(pdb, 0) - member.cost
        found.append(member)
    return found


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _short(item: t.Any, where: str) -> dict[str, t.Any]:
    text = str(item).strip()
    if isinstance(item, bool) or not re.fullmatch(r"\d+(\.\d+)?\s*%|\d+", text):
        raise _wrong(f"{where} is {item!r}", "a number of workloads, a percentage like 10%, or a dictionary")
    return {"percent": text.rstrip("% ")} if text.endswith("%") else {"number": text}


def _count(value: t.Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < 1:
        raise _wrong(f"the number of {where} is {value!r}", "a whole number, 1 or more")
    return int(value)


def _percent(value: t.Any, where: str) -> float | None:
    if value is None:
        return None
    number = _number(str(value).rstrip("% "), 0.0, f"the percent of {where}")
    if not 0 < number <= 100:
        raise _wrong(f"the percent of {where} is {value!r}", "more than 0, at most 100")
    return number


def _number(value: t.Any, otherwise: float, what: str) -> float:
    if value is None:
        return otherwise
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise _wrong(f"{what} is {value!r}", "a number, 0 or more")
    return number


def _wrong(what: str, wanted: str) -> InputError:
    return InputError(f"The waves cannot be used: {what}", todo=f"give {wanted}")
