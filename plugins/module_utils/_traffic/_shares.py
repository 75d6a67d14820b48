# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""From an asked share to the two integer weights that come nearest to it. Pure, exact (no floating point inside).

An annotation weight W is not a percentage: the CCM divides it by the number of backends, cuts the fraction off and never goes
below 1 a backend. What reaches the load balancer is S(W), and the target's real share is S_target / (S_target + S_source).
"""

from __future__ import annotations

import dataclasses
import fractions
import functools
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import MODES, Member, capacity


@dataclasses.dataclass(frozen=True)
class Side:
    """All that the weight formula asks about one gateway. ``members``: see ``_ccm.Member``; their order does not matter."""

    mode: str
    members: tuple[Member, ...]

    def capacity(self, weight: int) -> int:
        return capacity(self.mode, self.members, weight)


@dataclasses.dataclass(frozen=True)
class SharePlan:
    """:arg asked: percent as asked. :arg planned: percent that the planned weights give.
    :arg source_weight: annotation weight 0..100, likewise target_weight.
    :arg source_capacity: sum of the weights that reach the load balancer, likewise target_capacity.
    """

    asked: float
    planned: float
    source_weight: int
    target_weight: int
    source_capacity: int
    target_capacity: int

    @property
    def error(self) -> float:
        """Points between planned and asked."""
        return round(self.planned - self.asked, 3)

    def as_dict(self) -> dict[str, t.Any]:
        return {**dataclasses.asdict(self), "error": self.error}


def parse_share(value: t.Any) -> fractions.Fraction:
    """A share as an exact number. Raises InputError unless it is a number in 0..100."""
    problem = ""
    share = fractions.Fraction(0)
    if isinstance(value, bool):
        problem = "true and false are no numbers"
    else:
        try:
            share = value if isinstance(value, fractions.Fraction) else fractions.Fraction(str(value).strip())
        except (ValueError, ZeroDivisionError):
            problem = "it is no number"
        else:
            if not 0 <= share <= 100:
                problem = "it is not in 0..100"
    if problem:
        raise InputError(
            f"The share {value!r} cannot be used",
            why=problem,
            todo="give the percent of the traffic that the target is to get, 0..100",
        )
    return share


def choose(source: Side, target: Side, share: t.Any) -> SharePlan:
    """The pair of weights with the smallest error; of equally good ones that with the largest sum of weights.

    Share 0 is (100, 0) and share 100 is (0, 100). A share between them never takes all traffic from one side.
    Raises MigrationError when the side that is to serve has no backends.
    """
    asked = parse_share(share)
    if asked > 0:
        _serving(target, "target")
    if asked < 100:
        _serving(source, "source")
    if asked in (0, 100):
        pair = (100, 0) if asked == 0 else (0, 100)
        return _plan(asked, source, target, *pair)
    return _plan(asked, source, target, *_nearest(_capacities(source), _capacities(target), asked))


class Sides(t.Protocol):
    """What plan_share asks of a gateway's state."""

    @property
    def source(self) -> Side: ...

    @property
    def target(self) -> Side: ...


def plan_share(state: Sides, share: t.Any) -> SharePlan:
    """The weights for the backends that a gateway has now."""
    return choose(state.source, state.target, share)


def _serving(side: Side, name: str) -> None:
    if side.capacity(100) <= 0:
        raise MigrationError(
            f"The {name} gateway has no backends that could serve",
            why="no eligible node or no ready pod is behind its Service",
            todo=f"make the pods of the {name} gateway ready first",
        )


def _capacities(side: Side) -> tuple[tuple[int, int], ...]:
    """``((weight, S(weight)), ...)``, one for each S over 0: weight 100 when it gives this S, else the weight nearest to S."""
    best: dict[int, int] = {}
    for weight in range(1, 101):
        size = side.capacity(weight)
        if size <= 0:
            continue
        kept = best.get(size)
        if kept is None or weight == 100 or abs(weight - size) < abs(kept - size):
            best[size] = weight
    return tuple((weight, size) for size, weight in sorted(best.items()))


@functools.lru_cache(maxsize=512)
def _nearest(
    source: tuple[tuple[int, int], ...], target: tuple[tuple[int, int], ...], asked: fractions.Fraction
) -> tuple[int, int]:
    """All pairs are looked at (at most 10,000); integers only, so that a tie is a tie."""
    p, q = asked.numerator, asked.denominator
    best = (1, 0, 0, 0)  # error's numerator, total, source weight, target weight; 1/0 is worse than everything
    for source_weight, source_size in source:
        for target_weight, target_size in target:
            total = source_size + target_size
            off = abs(100 * q * target_size - p * total)
            if off * best[1] < best[0] * total or (off * best[1] == best[0] * total and total > best[1]):
                best = (off, total, source_weight, target_weight)
    return best[2], best[3]


def _plan(asked: fractions.Fraction, source: Side, target: Side, source_weight: int, target_weight: int) -> SharePlan:
    left, right = source.capacity(source_weight), target.capacity(target_weight)
    planned = fractions.Fraction(100 * right, left + right)
    return SharePlan(
        asked=round(float(asked), 6),
        planned=round(float(planned), 6),
        source_weight=source_weight,
        target_weight=target_weight,
        source_capacity=left,
        target_capacity=right,
    )


def side_of(mode: str, backends: t.Any, name: str = "backends") -> Side:
    """A Side from plain numbers, for the filter: ``backends`` = how many, or (mode local) a list of pods per node."""
    mode = str(mode).lower()
    if mode not in MODES:
        raise InputError(f"The mode {mode!r} is not known", why=f"it is one of {', '.join(MODES)}")
    pods = backends if isinstance(backends, (list, tuple)) else None
    if pods is None:
        number = _count(backends, name)
        return Side(mode, tuple(Member(f"{name}-{index}", "ecs" if mode != "eni" else "eni") for index in range(number)))
    if mode != "local":
        raise InputError(f"{name} is a list", why=f"pods per node are only asked for in mode local, this is mode {mode}")
    return Side(mode, tuple(Member(f"{name}-{index}", "ecs", _count(item, name)) for index, item in enumerate(pods)))


def _count(value: t.Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 10000:
        raise InputError(f"{name} is {value!r}", why="a number of backends in 1..10000 is needed")
    return value
