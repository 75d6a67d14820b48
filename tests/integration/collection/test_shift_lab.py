# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""traffic_shift in the whole lab, as a user runs it: live lines, the way back under traffic, a dead controller, a runner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.demo import evidence
from lab.demo.stage import Stage
from lab.state import Lab
from tests.integration.collection.gateway_world import gateways

pytestmark = pytest.mark.timeout(600)
# A busy machine answers late; here it is the shares, the verdicts and their times that are looked at.
PATIENT = {"timeout": 8.0, "interval": 0.05, "window": 5, "min_requests": 30}


@pytest.fixture(scope="module")
def prepared(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Both gateways behind the load balancer. The lab is left as it was found."""
    folder = tmp_path_factory.mktemp("stairs")
    with gateways(lab, folder, "stairs") as world:
        one = Stage(lab, folder, "stairs", ack_to_asm_steps=[5, 25, 100], ack_to_asm_hold=4)
        (gate,) = one.variables["ack_to_asm_gates"]
        gate["probe"].update(PATIENT)
        one = Stage(lab, folder, "stairs", **one.variables)
        for module in ("reuse", "config", "asm"):
            world.call(module)
        yield one


@pytest.fixture
def stage(prepared: Stage) -> Stage:
    """No traffic on the target, and nothing told of an earlier shift."""
    if prepared.shares() != {0.0}:
        for playbook in ("ack_to_asm_rollback", "ack_to_asm_prepare"):
            played = prepared.play(playbook)
            assert played.code == 0, played.text[-3000:]
    prepared.progress.unlink(missing_ok=True)
    return prepared


def live(lines: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(at, line) for at, line in lines if line.startswith("[localhost] ")]


def test_a_bad_target_is_left_at_once_and_that_is_seen_live(stage: Stage) -> None:
    """A gate trips: the next write is the way back, the play fails, and only the bad target's answers are lost."""
    healthy = stage.asm_route()
    lines: list[tuple[float, str]] = []
    file = stage.traffic(100, 400, new_ratio=1.0)
    breaker = stage.break_at(25)
    # However slow the machine: the step is held until the route that breaks it has come to the gateways.
    steps = json.dumps({"ack_to_asm_steps": [{"share": 5, "hold": 4}, {"share": 25, "hold": 90}, {"share": 100, "hold": 4}]})
    try:
        played = stage.play("ack_to_asm_shift", "-e", steps, show=lambda line: lines.append((time.monotonic(), line)))
        breaker.join(30)
        time.sleep(2)
    finally:
        stage.asm_route(healthy)
        stage.end_traffic()
    assert played.code != 0
    result = stage.shift()
    assert (result["verdict"], result["share"], stage.shares()) == ("fail", 0, {0.0}), played.text[-4000:]
    journal = [json.loads(line) for line in stage.journal.read_text(encoding="utf-8").splitlines()]
    verdict = max(at for at, line in enumerate(journal) if line.get("what") == "verdict")
    after = [(line["event"], line.get("action"), (line.get("target") or "").split("/")[0]) for line in journal[verdict + 1 :]]
    assert after[0][:2] == ("begin", "set_weight") and ("done", "set_weight", "target") in after, after
    timings = result["timings"]
    # P5 of `make bench` judges the second that the house promises; here others may use the machine.
    assert 0 < timings["first_write_s"] <= timings["last_write_s"] <= timings["verdict_to_weights_s"]
    assert [step["verdict"] for step in result["steps"]] == ["pass", "fail"]
    # Only what the bad target answered was lost, and nothing after the weights were back.
    buckets, summary = evidence.read(file)
    from_target = evidence.count(buckets, gateway=evidence.TARGET, bad=True)
    assert 0 < summary["failed"] == from_target, (summary, from_target)
    assert evidence.count(buckets[-10:], bad=True) == 0
    # The lines came while the task ran, not with its end.
    shown = live(lines)
    end = next(at for at, line in lines if "The shift was stopped in step 2 (25 %); 0 % is back in effect" in line)
    assert end - shown[0][0] > 5
    text = "\n".join(line for _at, line in shown)
    for part in ("from 0 % by 5 %, 25 %, 100 %", "step 1/3 hold: 5 % asked", "step 2/3 verdict", "0 % is back in effect"):
        assert part in text, text


@pytest.mark.thorough
def test_ansible_playbook_dies_and_is_run_again(stage: Stage) -> None:
    """kill -9 of ansible-playbook alone: what it started notices, ends, and leaves a share of the staircase."""

    def ends() -> list[dict[str, Any]]:
        text = stage.journal.read_text(encoding="utf-8") if stage.journal.exists() else ""
        entries = [json.loads(line) for line in text.splitlines()]
        return [entry for entry in entries if entry["event"] == "shift" and entry["what"] == "end"]

    earlier = len(ends())  # of the tests before this one
    child = stage.start("ack_to_asm_shift", "-e", "ack_to_asm_hold=60")
    until = time.monotonic() + 120
    while 5 not in stage.holding() and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    died = time.monotonic()

    while len(ends()) == earlier and time.monotonic() < died + 20:
        time.sleep(0.1)
    (end,) = ends()[earlier:]
    assert (end["verdict"], end["share"]) == ("interrupted", 5)
    played = stage.play("ack_to_asm_shift")
    assert played.code == 0, played.text[-3000:]
    result = stage.shift()
    assert [(step["asked"], step["moved"]) for step in result["steps"]] == [(5, False), (25, True), (100, True)]
    assert (result["verdict"], result["share"]) == ("pass", 100)
    again = stage.play("ack_to_asm_shift")
    assert (again.code, again.changed) == (0, 0), again.text[-3000:]
    assert stage.shift() == result  # where nothing is moved, the report of what was stays


def test_live_lines_are_events_of_a_runner(stage: Stage, tmp_path: Path) -> None:
    """ansible-runner is what AWX runs jobs with: each line is an event of its own, before the result's."""
    pytest.importorskip("ansible_runner")
    folder = tmp_path / "runner"
    (folder / "project").mkdir(parents=True)
    (folder / "project" / "site.yml").write_text("- import_playbook: servicemesh.migration.ack_to_asm_shift\n", encoding="utf-8")
    (folder / "env").mkdir()
    (folder / "env" / "extravars").write_text(json.dumps({**stage.variables, "ack_to_asm_steps": [5]}), encoding="utf-8")
    done = subprocess.run(
        ["ansible-runner", "run", str(folder), "-p", "site.yml", "-i", "one", "--quiet"],
        env=stage.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    events = [json.loads(path.read_text()) for path in (folder / "artifacts" / "one" / "job_events").glob("*.json")]
    events.sort(key=lambda event: int(event["counter"]))
    assert done.returncode == 0, "\n".join(event["stdout"] for event in events)[-3000:]
    shown = [event for event in events if event["event"] == "verbose" and "[localhost] " in event["stdout"]]
    result = next(event for event in events if event["event"] == "runner_on_ok" and "verdict" in event["event_data"]["res"])
    assert len(shown) >= 4
    assert all(event["counter"] < result["counter"] for event in shown)
    assert shown[0]["created"] < shown[-1]["created"] < result["created"]
    assert len(json.dumps(result)) < 100_000
