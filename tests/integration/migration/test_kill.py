# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of ansible-playbook after the n-th line of the journal, then a rollback, or a re-run and a rollback; under traffic.

A few points spread over the whole run; LAB_KILL_POINTS=all takes every line, LAB_KILL_POINTS=3,9 those, and =x20 twenty.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from lab.demo import evidence
from lab.demo.stage import Stage, differences, sequence

SHIFT = ("--skip-tags", "finish")
FEW, SPREAD = 4, 3


def lines(stage: Stage) -> int:
    try:
        return stage.journal.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def run_and_kill(stage: Stage, playbook: str, at: int, *arguments: str, timeout: float = 180, later: float = 0.0) -> bool:
    """Start a playbook and kill it as soon as the journal has `at` lines, or a moment later. False: it ended well before."""
    child = stage.start(playbook, *arguments)
    until = time.monotonic() + timeout
    while child.poll() is None:
        if lines(stage) >= at:
            time.sleep(later)
            stage.kill(child)
            child.communicate(timeout=10)
            return True
        assert time.monotonic() < until, "neither the end nor the line came"
        time.sleep(0.002)
    text, _nothing = child.communicate(timeout=10)
    assert child.returncode == 0, f"{playbook} after {lines(stage)} lines of the journal:\n{text[-4000:]}"
    return False


def points(whole: int) -> list[int]:
    asked = os.environ.get("LAB_KILL_POINTS", "")
    if asked == "all":
        return list(range(1, whole + 1))
    few = FEW
    if asked.startswith("x"):
        few = int(asked[1:])
    elif asked:
        return [int(word) for word in asked.split(",")]
    return [max(1, round((i + 0.5) * whole / few)) for i in range(few)]


def end(stage: Stage, playbook: str, *arguments: str) -> None:
    """Run to the end, which must come."""
    played = stage.play(playbook, *arguments)
    assert played.code == 0, f"{playbook} after {lines(stage)} lines of the journal:\n{played.text[-4000:]}"


def same(one: Any, other: Any, what: str) -> None:
    assert not (left := differences(one, other)), f"{what}:\n{sequence(left)}"


@pytest.mark.thorough
@pytest.mark.timeout(7200)
def test_killed_anywhere_it_goes_on_and_goes_back(stage: Stage) -> None:
    """At each point twice: killed and taken back; killed, run again to its end, and taken back with a kill in that as well."""
    origin = stage.world()
    report: list[str] = []
    lost: list[str] = []
    sent = failed = 0

    def count() -> None:
        nonlocal sent, failed
        stage.end_traffic()
        buckets, summary = evidence.read(file)
        sent, failed = sent + summary["sent"], failed + summary["failed"]
        for line in buckets:
            if line["failed"]:
                when = time.strftime("%H:%M:%S", time.localtime(line["t"]))
                bad = [one for one in line["served"] if one["status"] >= 400]
                lost.append(f"after {report[-1] if report else 'nothing'}, {when}: {line['failed']}: {line['errors']} {bad}")

    file = stage.traffic(200, 900)
    try:
        end(stage, "ack_to_asm", *SHIFT)
        there, whole = stage.world(), lines(stage)
        end(stage, "ack_to_asm_rollback")
        back = lines(stage) - whole
        same(origin, stage.world(), "an undisturbed migration and its rollback")
        for at in points(whole):
            place = f"killed at line {at} of {whole}"
            for again in (False, True):
                count()
                file = stage.traffic(200, 900)
                stage.journal.unlink()
                stage.forget_mirror()
                reached = run_and_kill(stage, "ack_to_asm", at, *SHIFT)
                killed = lines(stage)
                # a run may write a line or two less than the undisturbed one, so the last points may not come
                assert reached or killed >= whole - SPREAD, f"{place}: never reached, it ended with {killed} lines"
                if again:
                    end(stage, "ack_to_asm", *SHIFT)
                    left = stage.comparable(there, stage.world())
                    assert not left, f"{place} and run again:\n{sequence(left)}"
                    run_and_kill(stage, "ack_to_asm_rollback", lines(stage) + 1 + at % back)
                end(stage, "ack_to_asm_rollback")
                same(origin, stage.world(), f"{place} and taken back")
                report.append(f"{at}{' again' if again else ''} ({'died' if reached else 'ended'} at {killed})")
    finally:
        count()
        print(f"{len(report)} kills of {', '.join(report)}; {sent} requests, {failed} failed")
    assert failed == 0, "\n".join(lost)
