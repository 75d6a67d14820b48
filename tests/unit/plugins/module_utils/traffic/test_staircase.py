# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The staircase as a state machine: time, mover, gates, orders and signals are all of the test's making."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import Order
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import (
    FAIL,
    INCONCLUSIVE,
    PASS,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Move
from tests.unit.plugins.module_utils.traffic.stairs_world import (
    World,
)


def test_all_steps_pass() -> None:
    world = World()
    report = world.run()
    assert (report.verdict, report.share, report.rolled_back) == (PASS, 100, None)
    assert world.shares == [1, 5, 25, 50, 100]
    assert [step["asked"] for step in report.steps] == [1, 5, 25, 50, 100]
    assert all(step["verdict"] == PASS and 10 <= step["held_s"] < 10.2 for step in report.steps)
    assert all(step["planned"] == step["asked"] + 0.1 and step["observed"] == step["asked"] + 0.2 for step in report.steps)
    assert all(step["started"] < step["ended"] for step in report.steps)
    assert [(note["what"], note["share"]) for note in world.notes if note["what"] in ("begin", "passed")] == [
        (what, share) for share in (1, 5, 25, 50, 100) for what in ("begin", "passed")
    ]
    # A fresh observation for the baseline and for each hold; verdicts at least every 100 ms.
    assert len(world.gate.started) == 6
    assert 0 < report.timings["longest_verdict_gap_s"] <= 0.1
    assert world.gate.stopped == 1


def test_a_gate_of_the_target_alone_is_asked_once_it_has_traffic() -> None:
    world = World(judge=lambda _seconds, share: PASS if share > 0 else INCONCLUSIVE)
    assert world.run().verdict == INCONCLUSIVE
    world = World(judge=lambda _seconds, share: PASS if share > 0 else INCONCLUSIVE)
    world.gate.only_with_traffic = True
    assert world.run().verdict == PASS
    assert len(world.gate.started) == 6
    bad = World(judge=lambda _seconds, share: FAIL if share > 0 else INCONCLUSIVE)
    bad.gate.only_with_traffic = True
    report = bad.run()
    assert (report.verdict, report.share, bad.shares) == (FAIL, 0, [1, 0])


def test_a_gate_of_the_target_alone_is_asked_at_once_where_traffic_is_left() -> None:
    world = World(share=5, judge=lambda _seconds, _share: INCONCLUSIVE)
    world.gate.only_with_traffic = True
    assert (world.run().verdict, world.shares) == (INCONCLUSIVE, [])


@pytest.mark.parametrize(
    ("on_fail", "back", "end"), [("zero", [0], 0), ("previous", [5], 5), ("hold", [], 25)], ids=["zero", "previous", "hold"]
)
def test_fail_in_the_third_step(on_fail: str, back: list[float], end: float) -> None:
    world = World()
    # The third hold is the fourth observation; the first is the baseline.
    world.gate._judge = lambda seconds, _share: FAIL if len(world.gate.started) == 4 and seconds > 3 else PASS
    report = world.run(on_fail=on_fail)
    assert world.shares == [1, 5, 25, *back]
    assert (report.verdict, report.share, world.shifter.share) == (FAIL, end, end)
    assert "it is fail" in report.reason
    assert report.steps[-1]["verdict"] == FAIL
    assert report.steps[-1]["numbers"]["gate"]["state"] == FAIL
    assert 3 <= report.steps[-1]["held_s"] < 3.2
    if on_fail == "hold":
        assert report.rolled_back is None
    else:
        assert report.rolled_back is not None
        assert report.rolled_back["ok"] is True
        assert report.rolled_back["to"] == end
        # The mover of this test takes 0.3 s: the first write after half of it, the effect seen at its end.
        assert report.timings["first_write_s"] == pytest.approx(0.15)
        assert report.timings["last_write_s"] == pytest.approx(0.3)
        assert report.timings["verdict_to_weights_s"] == pytest.approx(0.3)


def test_previous_of_the_first_step_is_where_it_began() -> None:
    world = World(judge=lambda _seconds, share: FAIL if share > 0 else PASS)
    report = world.run(on_fail="previous")
    assert world.shares == [1, 0]
    assert report.rolled_back is not None
    assert report.rolled_back["to"] == 0


def test_a_gate_that_fails_while_the_weights_change_is_seen_at_once() -> None:
    """The verdict right after the move comes before a fresh observation begins."""
    world = World()
    world.gate._judge = lambda _seconds, share: FAIL if share == 5 and len(world.gate.started) == 2 else PASS
    report = world.run()
    assert world.shares == [1, 5, 0]
    assert report.verdict == FAIL
    assert report.steps[-1]["held_s"] == 0


def test_undecided_holds_longer_and_then_passes() -> None:
    world = World(judge=lambda seconds, share: PASS if share == 0 or seconds > 15 else INCONCLUSIVE)
    report = world.run([5, 100], hold=10)
    assert report.verdict == PASS
    assert all(15 < step["held_s"] < 15.2 for step in report.steps)


@pytest.mark.parametrize(("on_fail", "end"), [("zero", 0), ("previous", 5), ("hold", 25)])
def test_undecided_at_max_hold_never_passes(on_fail: str, end: float) -> None:
    world = World(judge=lambda _seconds, share: INCONCLUSIVE if share == 25 else PASS)
    report = world.run([5, {"share": 25, "hold": 10, "max_hold": 12}, 100], on_fail=on_fail)
    assert (report.verdict, world.shifter.share) == (INCONCLUSIVE, end)
    assert 12 <= report.steps[-1]["held_s"] < 12.2
    assert "undecided after 12 s" in report.reason


def test_a_broken_gate_holds_and_never_passes() -> None:
    world = World()

    def judge(_seconds: float, share: float) -> str:
        if share == 5:
            raise RuntimeError("the metrics server is away")
        return PASS

    world.gate._judge = judge
    report = world.run([5, 100], hold=1)
    assert (report.verdict, world.shifter.share) == (INCONCLUSIVE, 0)
    assert "the metrics server is away" in report.reason
    assert report.steps[-1]["held_s"] >= 61


@pytest.mark.parametrize(("state", "verdict"), [(FAIL, FAIL), (INCONCLUSIVE, INCONCLUSIVE)])
def test_baseline_refuses_to_start(state: str, verdict: str) -> None:
    world = World(judge=lambda _seconds, _share: state)
    report = world.run(baseline=20)
    assert (report.verdict, report.steps, report.rolled_back, report.done) == (verdict, [], None, [])
    assert world.shares == []
    assert "before the first step" in report.reason
    if state == INCONCLUSIVE:
        assert 1020 <= world.clock.now < 1020.2


def test_baseline_fails_with_traffic_on_the_target_already() -> None:
    """After a kill at 25 % the target may be what is broken: the rule of on_fail holds here too."""
    world = World(25, judge=lambda _seconds, share: FAIL if share >= 25 else PASS)
    report = world.run()
    assert (report.verdict, world.shares) == (FAIL, [0])


def test_baseline_undecided_with_traffic_on_the_target_changes_nothing() -> None:
    world = World(25, judge=lambda _seconds, _share: INCONCLUSIVE)
    report = world.run()
    assert (report.verdict, world.shares, report.rolled_back) == (INCONCLUSIVE, [], None)


# -- orders ------------------------------------------------------------------------------------------------------


def order_between(world: World, word: str, start: float, end: float = 1e9) -> None:
    """The word stands while the fake clock (from 1000) is between the two times."""
    world.control.script = lambda: Order(word if start <= world.clock.now - 1000 < end else "resume", "the file")


def test_pause_stops_the_clock_of_the_hold_and_goes_on() -> None:
    plain, world = World(), World()
    plain.run([5, 100])
    order_between(world, "pause", 5, 105)
    report = world.run([5, 100])
    assert report.verdict == PASS
    assert world.clock.now - plain.clock.now == pytest.approx(100, abs=0.3)
    assert all(10 <= step["held_s"] < 10.2 for step in report.steps)
    assert [line["event"] for line in world.lines.lines if line["event"] in ("pause", "resume")] == ["pause", "resume"]
    assert [note["what"] for note in world.notes if note["what"] in ("pause", "resume")] == ["pause", "resume"]


def test_pause_before_the_first_step_writes_nothing_until_resume() -> None:
    world = World()
    order_between(world, "pause", 0, 50)
    moved_at: list[float] = []
    original = world.shifter.move
    world.shifter.move = lambda share, **more: (moved_at.append(world.clock.now), original(share, **more))[1]  # type: ignore[method-assign]
    assert world.run([5]).verdict == PASS
    assert moved_at[0] >= 1050


def test_pause_that_comes_between_hold_and_move_is_waited_out() -> None:
    world = World()
    # Just as the first hold ends: 0.3 s of move and 10 s of hold.
    order_between(world, "pause", 10.3, 30)
    world.run([5, 100])
    begun = [line for line in world.lines.lines if line["event"] == "move"]
    assert len(begun) == 2
    assert world.clock.now > 1030


def test_no_move_begins_in_a_pause_however_late_it_comes() -> None:
    """The order comes after the last look of the hold, before the next move."""
    world = World()
    paused_from: list[float] = []

    def order() -> Order:
        if any(note["what"] == "passed" for note in world.notes) and not paused_from:
            paused_from.append(world.clock.now)
        return Order("pause" if paused_from and world.clock.now < paused_from[0] + 20 else "resume", "the file")

    world.control.script = order
    begun: list[float] = []
    plain = world.shifter.move

    def move(share: float, *, timeout: float, reason: str) -> Move:
        begun.append(world.clock.now)
        return plain(share, timeout=timeout, reason=reason)

    world.shifter.move = move  # type: ignore[method-assign]
    assert world.run([5, 100]).verdict == PASS
    assert begun[1] >= paused_from[0] + 20


def test_pause_does_not_blind_the_gate() -> None:
    world = World()
    world.gate._judge = lambda _seconds, _share: FAIL if world.clock.now > 1040 else PASS
    order_between(world, "pause", 5)
    report = world.run([5, 100])
    assert (report.verdict, world.shares) == (FAIL, [5, 0])


def test_pause_is_bounded() -> None:
    world = World()
    order_between(world, "pause", 5)
    report = world.run([5, 100], max_pause=120)
    assert (report.verdict, world.shares, world.shifter.share) == ("aborted", [5], 5)
    assert "paused for more than 120 s by the file" in report.reason
    assert world.clock.now < 1130


def test_a_typing_error_in_an_order_pauses_and_is_told() -> None:
    world = World()
    world.control.script = lambda: Order("pause", "the file", "'puase' is no order") if 1003 < world.clock.now < 1020 else Order()
    report = world.run([5])
    assert report.verdict == PASS
    assert any("puase" in warning for warning in report.warnings)


@pytest.mark.parametrize(("word", "moves", "end"), [("abort", [5], 5), ("rollback", [5, 0], 0)])
@pytest.mark.parametrize("on_fail", ["zero", "previous", "hold"])
def test_abort_stays_and_rollback_goes_to_zero(word: str, moves: list[float], end: float, on_fail: str) -> None:
    world = World()
    order_between(world, word, 6)
    report = world.run([5, 100], on_fail=on_fail)
    assert (report.verdict, world.shares, world.shifter.share) == ("aborted", moves, end)
    assert f"{word} was ordered by the file" in report.reason
    assert (report.rolled_back is not None) is (word == "rollback")


@pytest.mark.parametrize("word", ["abort", "rollback"])
def test_an_order_that_stands_before_the_run_refuses_it(word: str) -> None:
    world = World()
    order_between(world, word, 0)
    report = world.run()
    assert (report.verdict, world.shares) == ("aborted", [])


def test_rollback_is_obeyed_during_a_pause() -> None:
    world = World()
    words = [(1005, "resume"), (1030, "pause"), (1e9, "rollback")]
    world.control.script = lambda: Order(next(word for until, word in words if world.clock.now < until), "x")
    assert world.run([5, 100]).verdict == "aborted"
    assert world.shifter.share == 0


# -- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["hold", "rollback"])
@given(at=st.floats(0, 70))
def test_interrupt_at_any_point(rule: str, at: float) -> None:
    """Whenever the signal comes: a share of the list or where it began, never one between, and the report says which."""
    world = World()
    world.interrupt = lambda: "SIGTERM came" if world.clock.now - 1000 >= at else ""
    report = world.run(on_interrupt=rule)
    assert world.shifter.share == report.share
    if report.verdict == PASS:
        assert at > 50
        return
    assert (report.verdict, report.reason) == ("interrupted", "SIGTERM came")
    assert report.share in ((0, 1, 5, 25, 50, 100) if rule == "hold" else (0,))
    assert world.notes[-1]["what"] == "end"
    assert world.notes[-1]["share"] == report.share
    assert world.gate.stopped == 1
    # No step is begun after the signal, and the run ends within one move and one tick of it.
    assert world.clock.now - 1000 <= max(at, 0) + 2 * world.shifter.seconds + 0.11


# -- errors of the mover -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_fail", "end"), [("zero", 0), ("previous", 5), ("hold", 15)])
def test_mover_raises_in_the_middle(on_fail: str, end: float) -> None:
    world = World()
    world.shifter.half = True
    world.shifter.errors[2] = MigrationError("The weight was not taken", done=["weight of the target set"], why="timeout")
    report = world.run([5, 25, 100], on_fail=on_fail)
    assert (report.verdict, world.shifter.share) == ("error", end)
    assert "The weight was not taken" in report.reason
    assert "weight of the target set" in report.done
    assert (report.rolled_back is None) is (on_fail == "hold")


def test_mover_raises_half_way_in_the_very_first_step() -> None:
    """The share in the books is still 0, but something may have been written: it is put back all the same."""
    world = World()
    world.shifter.half = True
    world.shifter.errors[1] = MigrationError("Waited in vain")
    report = world.run([10])
    assert world.shares == [10, 0]
    assert world.shifter.share == 0
    assert report.rolled_back is not None
    assert report.rolled_back["ok"]


def test_wrong_input_before_the_first_write_needs_no_way_back() -> None:
    world = World()
    world.shifter.errors[1] = InputError("This load balancer is not yours")
    report = world.run([10])
    assert (world.shares, report.rolled_back, report.done) == ([10], None, [])


def test_a_mistake_of_ours_is_rolled_back_too() -> None:
    world = World()
    world.shifter.half = True
    world.shifter.errors[2] = ZeroDivisionError("oops")
    report = world.run([5, 25])
    assert (report.verdict, world.shifter.share) == ("error", 0)
    assert "ZeroDivisionError: oops" in report.reason


def test_rollback_is_tried_again_when_that_may_help() -> None:
    world = World(judge=lambda _seconds, share: FAIL if share == 5 else PASS)
    world.shifter.errors[2] = MigrationError("429", transient=True)
    report = world.run([5])
    assert world.shares == [5, 0, 0]
    assert report.rolled_back is not None
    assert report.rolled_back["ok"] is True
    # Half a move that failed, a breath, a whole one.
    assert report.timings["verdict_to_weights_s"] == pytest.approx(0.15 + 0.1 + 0.3)


def test_a_move_that_may_help_again_is_tried_again_under_the_eyes_of_the_gates() -> None:
    """The load balancer is slow: pieces of the move, and between them gates, signals and orders are heard."""
    world = World()
    world.shifter.errors.update({number: MigrationError("not shown yet", transient=True, done=["w"]) for number in (2, 3)})
    report = world.run([5, 25])
    assert (report.verdict, world.shares) == (PASS, [5, 25, 25, 25])
    assert report.done.count("w") == 1

    world = World()
    world.shifter.errors.update({number: MigrationError("not shown yet", transient=True) for number in range(2, 100)})
    world.gate._judge = lambda _seconds, _share: FAIL if len(world.shares) == 4 else PASS
    report = world.run([5, 25])
    assert world.shares[:4] == [5, 25, 25, 25]
    assert set(world.shares[4:]) == {0}
    assert report.verdict == FAIL


def test_a_move_that_never_succeeds_is_bounded_and_taken_back() -> None:
    world = World()
    world.shifter.errors.update({number: MigrationError("not shown yet", transient=True) for number in range(2, 1000)})
    plain = world.shifter.move

    def move(share: float, *, timeout: float, reason: str) -> Move:
        assert 0 <= timeout <= 10
        if share == 0:
            world.shifter.errors.clear()
        return plain(share, timeout=timeout, reason=reason)

    world.shifter.move = move  # type: ignore[method-assign]
    report = world.run([5, 25], move_timeout=30)
    assert (report.verdict, world.shifter.share) == ("error", 0)
    assert "not shown yet" in report.reason
    assert 1000 + 10 + 29 < world.clock.now < 1000 + 10 + 33


@pytest.mark.parametrize("transient", [True, False])
def test_a_rollback_that_fails_says_so(transient: bool) -> None:
    world = World(judge=lambda _seconds, share: FAIL if share == 5 else PASS)
    world.shifter.errors.update({number: MigrationError("No answer", transient=transient) for number in range(2, 1000)})
    report = world.run([5], move_timeout=30)
    assert report.rolled_back is not None
    assert report.rolled_back["ok"] is False
    assert "No answer" in report.rolled_back["error"]
    assert len(world.shares) > 50 if transient else len(world.shares) == 2
    assert world.clock.now < 1000 + 35
    assert (report.share, world.shifter.share) == (5, 5)


def test_a_full_disk_ends_the_way_up_and_not_the_way_back() -> None:
    world = World()
    error = MigrationError("The journal cannot be written", why="No space left on device")

    def judge(_seconds: float, share: float) -> str:
        world.note_error = error if share == 5 else None
        return PASS

    world.gate._judge = judge
    report = world.run([5, 25])
    assert (report.verdict, world.shares, world.shifter.share) == ("error", [5, 0], 0)
    assert "The journal cannot be written" in report.reason
    assert any("No space left" in warning for warning in report.warnings)


# -- drift -------------------------------------------------------------------------------------------------------


def test_drift_in_a_hold_is_planned_anew() -> None:
    world = World()
    world.shifter.drift = [False, True, False]
    report = world.run([5, 100], hold=20)
    assert world.shares == [5, 5, 100]
    assert report.steps[0]["replans"] == 1
    assert report.steps[1]["replans"] == 0
    assert "the backends changed while 5 % was held" in report.warnings[0]
    assert {"what": "replan", "share": 5} in world.notes


def test_drift_that_cannot_be_adapted_is_told_and_the_gates_go_on_judging() -> None:
    world = World()
    world.shifter.drift = [True]
    world.shifter.errors[2] = MigrationError("Throttled")
    report = world.run([5], hold=20)
    assert report.verdict == PASS
    assert any("Throttled" in warning for warning in report.warnings)


def test_drift_waits_until_the_gates_pass() -> None:
    """What is perhaps taken back in a moment needs no better weights, and no move that the verdict would wait for."""
    world = World()
    world.shifter.drift = [True] * 3
    world.gate._judge = lambda seconds, share: INCONCLUSIVE if share and seconds < 18 else PASS
    at: list[float] = []
    plain = world.shifter.move

    def move(share: float, *, timeout: float, reason: str) -> Move:
        at.append(world.clock.now)
        return plain(share, timeout=timeout, reason=reason)

    world.shifter.move = move  # type: ignore[method-assign]
    assert world.run([5], hold=20).verdict == PASS
    assert at[1] - at[0] >= 18


def test_a_verdict_while_the_weights_are_planned_anew_counts() -> None:
    world = World()
    world.shifter.drift = [True]
    world.shifter.errors[2] = MigrationError("not shown yet", transient=True)
    failed: list[float] = []

    def judge(_seconds: float, _share: float) -> str:
        if len(world.shares) == 2 and not failed:
            failed.append(world.clock.now)
            return FAIL
        return PASS

    world.gate._judge = judge
    report = world.run([5], hold=20)
    assert (report.verdict, world.shares) == (FAIL, [5, 5, 0])


def test_drift_that_cannot_be_seen_is_told() -> None:
    world = World()
    world.shifter.drift_error = "API away"
    report = world.run([5], hold=20)
    assert report.verdict == PASS
    assert report.warnings == ["whether the backends changed could not be seen: API away"]


@given(
    share=st.sampled_from([0, 1, 5, 25, 50]),
    on_fail=st.sampled_from(["zero", "previous", "hold"]),
    judged=st.lists(st.sampled_from([PASS, PASS, PASS, PASS, INCONCLUSIVE, FAIL]), min_size=1, max_size=400),
)
def test_whatever_the_gates_say_the_report_tells_the_share_in_effect(share: float, on_fail: str, judged: list[str]) -> None:
    """And the run ends in bounded time, goes only to shares of the list, and never up after a verdict that is not pass."""
    world = World(share)
    said = iter(judged)
    world.gate._judge = lambda _seconds, _share: next(said, PASS)
    report = world.run([5, 25, 50], on_fail=on_fail, hold=2)
    assert report.share == world.shifter.share
    assert set(world.shares) <= {0, 5, 25, 50, share}
    assert world.clock.now - 1000 < 3 * (62 + 1) + 30 + 5
    if report.verdict == PASS:
        assert world.shifter.share == 50
    elif on_fail != "hold" and FAIL in judged[:1] and share == 0:
        assert world.shares == []
