# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of ansible-playbook after the n-th line of the journal, then a plain re-run, then a rollback; traffic all the while.

`make test` takes a few points spread over the whole run; LAB_KILL_POINTS=all takes every line, LAB_KILL_POINTS=3,9 those.
"""

from __future__ import annotations

import os
import time

import pytest

from lab.demo import evidence
from lab.demo.stage import Stage, differences, sequence

SHIFT = ("--skip-tags", "finish")
FEW = 4


def lines(stage: Stage) -> int:
    try:
        return stage.journal.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def run_and_kill(stage: Stage, playbook: str, at: int, *arguments: str, timeout: float = 180) -> bool:
    """Start a playbook and kill it as soon as the journal has `at` lines. False: it came to its end before."""
    child = stage.start(playbook, *arguments)
    until = time.monotonic() + timeout
    while child.poll() is None:
        if lines(stage) >= at:
            stage.kill(child)
            child.communicate(timeout=10)
            return True
        assert time.monotonic() < until, "neither the end nor the line came"
        time.sleep(0.002)
    child.communicate(timeout=10)
    return False


def points(whole: int) -> list[int]:
    asked = os.environ.get("LAB_KILL_POINTS", "")
    if asked == "all":
        return list(range(1, whole + 1))
    if asked:
        return [int(word) for word in asked.split(",")]
    return [max(1, round((i + 0.5) * whole / FEW)) for i in range(FEW)]


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_killed_anywhere_and_run_again(stage: Stage) -> None:
    origin = stage.world()
    file = stage.traffic(200, 3500)
    report: list[str] = []
    try:
        assert stage.play("ack_to_asm", *SHIFT).code == 0
        there = stage.world()
        whole = lines(stage)
        assert stage.play("ack_to_asm_rollback").code == 0
        for at in points(whole):
            stage.journal.unlink()
            stage.forget_mirror()
            assert run_and_kill(stage, "ack_to_asm", at, *SHIFT), f"point {at} of {whole} was never reached"
            if at % 2:
                again = stage.play("ack_to_asm", *SHIFT)
                assert again.code == 0, f"re-run after a kill at {at} of {whole}:\n{again.text[-4000:]}"
                left = stage.comparable(there, stage.world())
                assert not left, f"after a kill at {at} of {whole} and a re-run:\n{sequence(left)}"
            back = stage.play("ack_to_asm_rollback")
            assert back.code == 0, f"rollback after a kill at {at} of {whole}:\n{back.text[-4000:]}"
            left = differences(origin, stage.world())
            assert not left, f"after a kill at {at} of {whole} and the rollback:\n{sequence(left)}"
            report.append(f"{at}")
    finally:
        stage.end_traffic()
        _, summary = evidence.read(file)
    print(f"killed at {', '.join(report)} of {whole} journal lines; {summary['sent']} requests, {summary['failed']} failed")
    assert summary["failed"] == 0
