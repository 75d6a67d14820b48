# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P5: how near the traffic comes to the planned share, and how soon it is back after a gate's verdict."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab import net
from lab.bench import Figure, at_least, at_most
from lab.demo import evidence
from lab.demo.stage import Stage
from lab.state import Lab, LabError

REQUESTS = 20_000  # on new connections, for each step
RATE = 500.0
STEPS = [1, 5, 25, 50]


def p5(lab: Lab, say: Callable[[str], None]) -> list[Figure]:
    """In a lab that is up and not yet migrated. Leaves it as it was."""
    hold = REQUESTS / RATE * 1.1 + evidence.SETTLE_S
    with net.inside(lab):
        stage = Stage(lab, lab.dir / "bench", "bench", ack_to_asm_hold=hold, ack_to_asm_steps=STEPS)
        say(f"P5: {len(STEPS)} steps of {hold:.0f} s at {RATE:g} new connections a second")
        file = stage.traffic(RATE, hold * len(STEPS) + 240, new_ratio=1.0, tag="bench-traffic")
        try:
            for playbook in ("ack_to_asm_prepare", "ack_to_asm_shift"):
                _play(stage, playbook)
        finally:
            stage.end_traffic("bench-traffic")
        buckets, summary = evidence.read(file)
        steps = evidence.gather(buckets, summary, stage.shift(), [])["steps"]
        figures = [at_most("P5", f"share error at {s['planned']} % planned", abs(s["error"]), "points", 1.0) for s in steps]
        figures.append(
            at_least("P5", "new connections in the smallest step", min(s["requests"] for s in steps), "requests", REQUESTS)
        )
        figures.append(at_most("P5", "failed requests", summary["failed"], "requests", 0))
        _play(stage, "ack_to_asm_rollback")
        figures += _way_back(stage, say)
    return figures


def _play(stage: Stage, playbook: str) -> None:
    played = stage.play(playbook)
    if played.code != 0:
        raise LabError(f"{playbook} failed:\n{played.text[-3000:]}")


def _way_back(stage: Stage, say: Callable[[str], None], times: int = 3) -> list[Figure]:
    """A target that goes bad at 25 %: from the verdict to the moment when the load balancer shows the last weight."""
    seconds: list[float] = []
    turn = Stage(stage.lab, stage.folder, "bench", ack_to_asm_hold=20, ack_to_asm_steps=[25, 50])
    _play(turn, "ack_to_asm_prepare")
    for i in range(times):
        say(f"P5: way back {i + 1} of {times}")
        # The lines of the shift before name the same step.
        turn.progress.unlink(missing_ok=True)
        breaker = turn.break_at(25)
        try:
            ended = turn.play("ack_to_asm_shift")
            breaker.join(timeout=30)
        finally:
            turn.mend()
        found = (turn.shift().get("timings") or {}).get("verdict_to_weights_s")
        if ended.code == 0 or found is None:
            raise LabError(f"the gate did not trip:\n{ended.text[-3000:]}")
        seconds.append(found)
        time.sleep(1)
    _play(turn, "ack_to_asm_rollback")
    return [at_most("P5", f"verdict to last weight, worst of {times}", max(seconds), "s", 1.0)]
