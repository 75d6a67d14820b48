# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps as tables: what is accepted, what is refused, and what is left to do from where the traffic is."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import (
    CUT,
    ENDED,
    NEAR,
    PASSED,
    SAME,
    read_steps,
    remaining,
)


@pytest.mark.parametrize(
    ("steps", "more", "said"),
    [
        ([], {}, "steps is empty"),
        ([-1], {}, "The share -1 cannot be used"),
        ([101], {}, "The share 101 cannot be used"),
        ([100.001], {}, "it is not in 0..100"),
        (["ten"], {}, "it is no number"),
        ([True], {}, "true and false are no numbers"),
        ([None], {}, "step 1 has no share"),
        ([[5]], {}, "it is no number"),
        ([float("nan")], {}, "cannot be used"),
        (["inf"], {}, "cannot be used"),
        ([{"hold": 5}], {}, "step 1 has no share"),
        ([{"share": 5, "wait": 5}], {}, "unknown keys: wait"),
        ([{"share": 5, "hold": -1}], {}, "the hold of step 1 is -1"),
        ([{"share": 5, "hold": "long"}], {}, "the hold of step 1 is 'long'"),
        ([{"share": 5, "hold": float("inf")}], {}, "the hold of step 1 is inf"),
        ([{"share": 5, "max_hold": -1}], {}, "the max_hold of step 1 is -1"),
        ([{"share": 5, "hold": 20, "max_hold": 10}], {}, "less than its hold"),
        ([5], {"hold": -3}, "the hold of step 1 is -3"),
        ([5], {"hold": 20, "max_hold": 10}, "less than its hold"),
        ([5, 5], {}, "steps 1 and 2 ask for the same share"),
        ([1, 5, 5.0], {}, "steps 2 and 3 ask for the same share"),
        ([50, 25], {}, "the shares go down"),
        ([1, 50, 25], {}, "go up and down"),
        ([1, 50, 25], {"allow_down": True}, "go up and down"),
        ([50, 50], {"allow_down": True}, "ask for the same share"),
    ],
)
def test_refused(steps: list[t.Any], more: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_steps(steps, **{"hold": 10, **more})
    assert said in caught.value.message
    assert caught.value.todo


def test_accepted() -> None:
    steps = read_steps([1, "5", {"share": 12.5, "hold": 0, "max_hold": 3}, {"share": 100, "hold": 99}], hold=10)
    assert [(step.number, step.share, step.hold, step.max_hold) for step in steps] == [
        (1, 1, 10, 70),
        (2, 5, 10, 70),
        (3, 12.5, 0, 3),
        (4, 100, 99, 159),
    ]
    assert [step.max_hold for step in read_steps([1, 2], hold=10, max_hold=20)] == [20, 20]
    assert [step.share for step in read_steps([100, 10, 0], hold=1, allow_down=True)] == [100, 10, 0]
    assert [step.share for step in read_steps([0], hold=1)] == [0]


def at(present: float) -> t.Callable[[float], tuple[float, float]]:
    return lambda share: (present - share, present - share)


def test_gateways_that_stand_apart_are_brought_together() -> None:
    """Killed in the middle of a move: one gateway at 25 %, the other still at 5 %."""

    def compare(share: float) -> tuple[float, float]:
        return 5 - share, 25 - share

    todo = remaining(read_steps([1, 5, 25, 50], hold=1), compare, present=5, known=lambda _share: PASSED)
    assert [(item.step.share, item.move, item.previous) for item in todo] == [(25, True, 5), (50, True, 25)]


@pytest.mark.parametrize(
    ("present", "known", "left"),
    [
        (50, "", []),
        (50.25, "", [50]),  # killed between two writes: the side that gets more is written first
        (50.25, PASSED, [50]),
        (50.25, CUT, [50]),
        (60, CUT, [50]),  # the journal says that 50 was on its way
        (49.9, PASSED, [50]),
    ],
)
def test_a_little_beyond_the_last_step_is_settled(present: float, known: str, left: list[float]) -> None:
    steps = read_steps([25, 50], hold=1)
    todo = remaining(steps, at(present), present=present, known=lambda share: known if share == 50 else PASSED)
    assert [item.step.share for item in todo] == left
    assert all(item.move for item in todo)


def test_shares_that_cannot_be_told_apart_are_one_step_on_the_ground() -> None:
    """30 nodes: 1 %, 5 % and 25 % all give 25 %. None of them is done twice."""

    def compare(share: float) -> tuple[float, float]:
        return 25 - max(25, share), 25 - max(25, share)

    todo = remaining(read_steps([1, 5, 25, 50], hold=1), compare, present=25, known=lambda _share: PASSED)
    assert [(item.step.share, item.move) for item in todo] == [(50, True)]


@given(
    shares=st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True).map(sorted),
    present=st.floats(0, 100),
    known=st.sampled_from([PASSED, CUT, ENDED, ""]),
    down=st.booleans(),
)
def test_what_is_left_leads_to_the_last_share_and_never_back(shares: list[int], present: float, known: str, down: bool) -> None:
    if down:
        shares = shares[::-1]
    goes_down = len(shares) > 1 and down
    steps = read_steps(shares, hold=1, allow_down=down)
    try:
        todo = remaining(steps, at(present), present=present, known=lambda _share: known, allow_down=down)
    except InputError:
        assert not down
        assert known != CUT
        assert present > shares[-1] + NEAR
        return
    moves = [item.step.share for item in todo if item.move]
    if (present <= shares[-1] and not goes_down) or (present >= shares[-1] and goes_down):
        assert abs((moves or [present])[-1] - shares[-1]) <= SAME
    assert moves in (sorted(moves), sorted(moves, reverse=True))
    # Where it stands beyond a step it goes back to it only when it stands close by, or when the journal says that it was meant.
    if moves and known != CUT and not down:
        assert moves[0] >= present - NEAR
    assert all(abs(item.step.share - present) <= SAME for item in todo if not item.move)
    assert len([item for item in todo if not item.move]) <= 1
