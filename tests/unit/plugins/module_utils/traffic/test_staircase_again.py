# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The staircase run again: after a kill, a second time, and downwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import (
    FAIL,
    INCONCLUSIVE,
    PASS,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import (
    CUT,
    ENDED,
    PASSED,
)
from tests.unit.plugins.module_utils.traffic.stairs_world import (
    World,
)

# -- again after a kill ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "known", "moves"),
    [
        (0, {}, [1, 5, 25, 50, 100]),
        (0.4, {}, [1, 5, 25, 50, 100]),
        (25, {25: PASSED}, [50, 100]),  # killed after the hold
        (25, {25: CUT}, [25, 50, 100]),  # killed in the hold: judged, not written
        (25, {}, [25, 50, 100]),  # nothing is known of it: judged
        (30, {}, [50, 100]),  # killed in the middle of a move
        (25.3, {25: CUT}, [25, 50, 100]),  # killed between its two writes, a little beyond its goal
        (25.3, {}, [25, 50, 100]),
        (31, {25: CUT}, [25, 50, 100]),  # far beyond, but the journal says what was meant
        (100, {}, []),
        (100, {100: PASSED}, []),
        (100, {100: CUT}, [100]),
        (100, {100: ENDED}, [100]),
        (31, {25: ENDED}, [50, 100]),  # somebody moved it since  # killed in the last hold
    ],
)
def test_a_run_goes_on_where_the_traffic_is(share: float, known: dict[float, str], moves: list[float]) -> None:
    world = World(share)
    world.known = known
    report = world.run()
    assert world.shares == moves
    assert (report.verdict, world.shifter.share) == (PASS, 100)
    written = [step["moved"] for step in report.steps]
    assert written == [move != share for move in moves]


@given(at=st.floats(0, 60), start=st.sampled_from([0, 1, 25]))
def test_kill_anywhere_and_resume_gives_the_same_end(at: float, start: float) -> None:
    class Killed(BaseException):
        pass

    world = World(start)

    def die() -> str:
        if world.clock.now - 1000 >= at:
            raise Killed
        return ""

    world.interrupt = die
    try:
        world.run()
    except Killed:
        pass
    world.interrupt = str
    done = {note["share"] for note in world.notes if note["what"] == "passed"}
    begun = {note["share"] for note in world.notes if note["what"] == "begin"}
    world.known = {share: PASSED if share in done else CUT for share in begun}
    before = list(world.shares)
    report = world.run()
    assert (report.verdict, world.shifter.share) == (PASS, 100)
    # Never down again, and every share was held to its end once.
    assert world.shares == sorted(world.shares)
    held = [note["share"] for note in world.notes if note["what"] == "passed"]
    assert sorted(set(held)) == held == [share for share in (1, 5, 25, 50, 100) if share >= start]
    assert len(world.shares) - len(before) <= 5


def test_second_run_does_nothing() -> None:
    world = World(100)
    report = world.run()
    assert (report.verdict, report.steps, report.done, world.shares) == (PASS, [], [], [])
    assert world.gate.started == []


def test_second_run_with_soak_judges_once() -> None:
    world = World(100)
    report = world.run(soak=30)
    assert (report.verdict, report.steps, world.shares) == (PASS, [], [])
    assert report.soak is not None
    assert report.soak["held_s"] >= 30
    bad = World(100, judge=lambda seconds, _share: FAIL if seconds > 5 else PASS)
    report = bad.run([50, 100], soak=30, on_fail="previous")
    assert (report.verdict, bad.shares) == (FAIL, [50])


def test_soak_after_the_last_step_goes_back_by_the_same_rule() -> None:
    world = World()
    world.gate._judge = lambda seconds, share: FAIL if share == 100 and seconds > 15 else PASS
    report = world.run([50, 100], soak=30, on_fail="previous")
    assert report.verdict == FAIL
    assert report.soak is not None
    assert 15 <= report.soak["held_s"] < 15.2
    assert world.shares == [50, 100, 50]


# -- down --------------------------------------------------------------------------------------------------------


def test_down_when_told_so() -> None:
    world = World(100)
    report = world.run([50, 10, 0], down=True)
    assert (report.verdict, world.shares) == (PASS, [50, 10, 0])


def test_down_goes_on_after_a_kill() -> None:
    world = World(10)
    world.known = {10: PASSED}
    assert world.run([50, 10, 0], down=True).verdict == PASS
    assert world.shares == [0]


def test_down_with_rising_steps_goes_to_the_last_one() -> None:
    world = World(100)
    assert world.run([1, 5], down=True).verdict == PASS
    assert world.shares == [5]


def test_down_is_refused_unless_told() -> None:
    with pytest.raises(InputError, match="More traffic is on the target already"):
        World(50).run([1, 5])


def test_down_to_nothing_does_not_ask_for_figures_of_a_target_that_has_none() -> None:
    world = World(share=50, judge=lambda _seconds, share: PASS if share > 0 else INCONCLUSIVE)
    world.gate.only_with_traffic = True
    report = world.run((25, 0), down=True)
    assert (report.verdict, report.share) == (PASS, 0) and world.shares == [25, 0]
    # A gate that needs no traffic of the target's is asked there too.
    other = World(share=50, judge=lambda _seconds, share: PASS if share > 0 else INCONCLUSIVE)
    assert other.run((25, 0), down=True).verdict == INCONCLUSIVE
