# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The steps of a staircase: read from the options, and what is left of them from where the traffic is now. Pure."""

from __future__ import annotations

import dataclasses
import math
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import parse_share

# What a hold may be longer than asked, when nothing is said: time for slow gates to make up their mind.
GRACE = 60.0
# Percent points. Shares come from whole weights: less than this is no difference.
SAME = 0.01
# A move that was killed between its two writes may stand a little beyond its goal, because the side that gets more comes first.
NEAR = 3.0
# What the journal knows of a share's hold: seen through; cut short by a kill; ended without a pass. Nothing: an empty text.
PASSED, CUT, ENDED = "passed", "cut", "ended"


@dataclasses.dataclass(frozen=True)
class Step:
    """A share (percent), the seconds it is held and judged, and the most seconds that an undecided gate may hold it."""

    number: int
    share: float
    hold: float
    max_hold: float


@dataclasses.dataclass(frozen=True)
class Todo:
    """A step that is still to be done.

    :arg move: False when the traffic is there already and only the judgement is missing (the run was killed in the hold).
    :arg previous: the share that O(on_fail=previous) goes back to.
    """

    step: Step
    move: bool
    previous: float


def read_steps(
    steps: t.Sequence[t.Any], *, hold: float, max_hold: float | None = None, allow_down: bool = False
) -> list[Step]:
    """Check and complete the option ``steps``: shares, or ``{share, hold, max_hold}``. Raises InputError."""
    if not steps:
        raise _wrong("steps is empty", "at least one share, like [1, 5, 25, 50, 100]")
    found: list[Step] = []
    for number, item in enumerate(steps, 1):
        where = f"step {number}"
        given = dict(item) if isinstance(item, t.Mapping) else {"share": item}
        unknown = sorted(set(given) - {"share", "hold", "max_hold"})
        if unknown:
            raise _wrong(f"{where} has unknown keys: {', '.join(map(str, unknown))}", "share, hold and max_hold")
        if given.get("share") is None:
            raise _wrong(f"{where} has no share", "share: percent of the traffic, 0 to 100")
        share = _share(given["share"], where)
        own_hold = hold if given.get("hold") is None else given["hold"]
        seconds = _seconds(own_hold, f"the hold of {where}")
        own_most = given.get("max_hold") if given.get("max_hold") is not None else max_hold
        most = seconds + GRACE if own_most is None else _seconds(own_most, f"the max_hold of {where}")
        if most < seconds:
            raise _wrong(f"the max_hold of {where} ({most:g} s) is less than its hold ({seconds:g} s)", "max_hold >= hold")
        found.append(Step(number, share, seconds, most))
    _check_order(found, allow_down)
    return found


def _check_order(steps: t.Sequence[Step], allow_down: bool) -> None:
    pairs = [(steps[index - 1], steps[index]) for index in range(1, len(steps))]
    for one, two in pairs:
        if one.share == two.share:
            raise _wrong(f"steps {one.number} and {two.number} ask for the same share, {one.share:g}", "each share once")
    ups = [one.share < two.share for one, two in pairs]
    if not any(ups) and ups and not allow_down:
        raise _wrong("the shares go down", "rising shares, or allow_down: true when traffic is meant to go back to the source")
    if any(ups) and not all(ups):
        raise _wrong("the shares go up and down", "shares that only rise, or (with allow_down: true) only fall")


def _share(value: t.Any, where: str) -> float:
    try:
        return float(parse_share(value))
    except InputError as error:
        raise InputError(error.what, where=where, why=error.why, todo=error.todo) from error


def _seconds(value: t.Any, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise _wrong(f"{what} is {value!r}", "seconds, 0 or more")
    return number


def _wrong(what: str, wanted: str) -> InputError:
    return InputError(f"The staircase cannot be used: {what}", todo=f"give {wanted}")


def remaining(
    steps: t.Sequence[Step],
    compare: t.Callable[[float], tuple[float, float]],
    *,
    present: float,
    known: t.Callable[[float], str],
    allow_down: bool = False,
) -> list[Todo]:
    """What is left to do.

    :arg compare: share -> how far (percent points) the lowest and the highest gateway are from what is planned for this share.
    :arg present: the lowest share that any gateway has now.
    :arg known: share -> PASSED, CUT, ENDED or an empty text.
    """
    down = _goes_down(steps, compare, known, allow_down)
    if down and not _falls(steps):
        # Rising shares, all of them below the present one: only the last is meant as a goal on the way down.
        return [Todo(steps[-1], True, present)]

    def ahead(step: Step) -> tuple[float, float]:
        """Points that the gateway which is least far, and the one which is farthest, have gone beyond this step."""
        low, high = compare(step.share)
        return (-high, -low) if down else (low, high)

    left: list[Todo] = []
    for index, step in enumerate(steps):
        if left or ahead(step)[0] < -SAME:
            left.append(Todo(step, True, steps[index - 1].share if index else present))
    reached = steps[: len(steps) - len(left)]
    if reached:
        last = reached[-1]
        beyond, state = ahead(last)[1], known(last.share)
        # In the middle it is judged again unless it is known to have passed. At the end only when it is known that it has not, or
        # when the weights are not quite those of a plan. Far beyond it somebody else took the traffic there, except after a kill.
        unsure = state == ENDED or (state == "" and bool(left)) or (not left and beyond > SAME)
        if state == CUT or (unsure and beyond <= NEAR):
            before = reached[-2].share if len(reached) > 1 else (present if down else 0.0)
            left.insert(0, Todo(last, beyond > SAME, before))
    return left


def _falls(steps: t.Sequence[Step]) -> bool:
    return len(steps) > 1 and steps[0].share > steps[-1].share


def _goes_down(
    steps: t.Sequence[Step],
    compare: t.Callable[[float], tuple[float, float]],
    known: t.Callable[[float], str],
    allow_down: bool,
) -> bool:
    if _falls(steps):
        return True
    low, high = compare(steps[-1].share)
    if low < -SAME or high <= NEAR or known(steps[-1].share) == CUT:
        return False
    if not allow_down:
        raise InputError(
            f"More traffic is on the target already than the last step asks for ({steps[-1].share:g} %)",
            why="a staircase only goes up unless it is told otherwise",
            todo="add the higher shares to steps, or set allow_down: true to take traffic back to the source",
        )
    return True
