# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gates that ask a real Prometheus of real proxies, as docs/gates.md shows them, in traffic_shift as a user runs it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import net
from lab.demo.stage import Stage, differences, sequence
from lab.state import Lab
from tests.integration.collection.test_prometheus_real import documented
from tests.integration.conftest import call

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
# The lab's proxies are scraped every two seconds.
QUICK = {"interval": 1, "window": 20, "min_window": 6}
Object = dict[str, Any]


class Shift:
    """traffic_shift in a playbook of its own, with gates of the test's choice."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.gates = []
        for name, options in documented().items():
            if "value" in options:  # a busy machine is slow now and then, on either side
                options["value"].update(max=60_000, max_ratio=50)
            options.update(QUICK, url=stage.env["LAB_PROMETHEUS_URL"], token=None)
            self.gates.append({"name": name, "prometheus": options})

    def start(self, **options: Any) -> subprocess.Popen[str]:
        given = self.stage.variables
        task = {
            "migration": self.stage.name,
            "state_dir": given["ack_to_asm_state_dir"],
            "source": given["ack_to_asm_source"],
            "target": given["ack_to_asm_target"],
            "alibaba": given["ack_to_asm_alibaba"],
            "gateways": given["ack_to_asm_gateways"],
            "hold": 8,
            "max_hold": 60,
            "gates": self.gates,
            **options,
        }
        tasks = [
            {"servicemesh.migration.traffic_shift": task, "register": "done", "failed_when": False},
            {"ansible.builtin.copy": {"content": "{{ done | to_json }}", "dest": str(self.file), "mode": "0600"}},
        ]
        play = self.stage.folder / "shift.yml"
        whole = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        play.write_text(yaml.safe_dump([whole], sort_keys=False, width=1000), encoding="utf-8")
        self.file.unlink(missing_ok=True)
        return subprocess.Popen(
            ["ansible-playbook", str(play)],
            cwd=self.stage.folder,
            env={**self.stage.env, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def file(self) -> Path:
        return self.stage.folder / "shift-result.json"

    def end(self, child: subprocess.Popen[str]) -> Object:
        text = child.communicate(timeout=300)[0]
        assert self.file.exists(), text[-3000:]
        found: Object = json.loads(self.file.read_text(encoding="utf-8"))
        assert "verdict" in found, found
        return found

    def run(self, **options: Any) -> Object:
        return self.end(self.start(**options))


@pytest.fixture
def shift(lab: Lab, tmp_path: Path) -> Iterator[Shift]:
    """Both gateways behind the load balancer, and a Prometheus. The lab is left as it was found."""
    with net.inside(lab):
        stage = Stage(lab, tmp_path, "metrics")
        before = stage.world()
        played = stage.play("ack_to_asm_prepare")
        assert played.code == 0, played.text[-3000:]
        try:
            assert call("prometheus", "up").returncode == 0
            yield Shift(Stage(lab, tmp_path, "metrics"))
        finally:
            assert call("prometheus", "down").returncode == 0
            played = stage.play("ack_to_asm_rollback")
            left = differences(before, stage.world())
            assert not left, f"the rollback left:\n{sequence(left)}\n{played.text[-3000:]}"


def break_part(stage: Stage, percent: float) -> Object:
    """ASM's gateway answers a part of the requests with 503. Gives the healthy route."""
    healthy = stage.asm_route()
    fault = {"fault": {"abort": {"httpStatus": 503, "percentage": {"value": percent}}}}
    stage.asm_route({"http": [{**route, **fault} for route in healthy["http"]]})
    return healthy


def numbers(judged: Object) -> Object:
    """By gate, the numbers that a step (or the soak) ended with."""
    return {name: gate["numbers"] for name, gate in judged["numbers"].items()}


def test_documented_gates_pass_hold_and_fail_with_what_the_proxies_count(shift: Shift) -> None:
    stage = shift.stage
    compared, quantile = documented()
    # Nobody sends anything: the old side has no figures, and nothing may be moved.
    ended = shift.run(
        steps=[5],
        baseline_timeout=12,
        gates=[{**gate, "prometheus": {**gate["prometheus"], "skip_baseline": False}} for gate in shift.gates],
    )
    assert (ended["verdict"], ended["share"], ended["steps"]) == ("inconclusive", 0, [])
    assert "there is no such series" in ended["reason"]

    stage.traffic(100, 600, new_ratio=1.0)
    try:
        # Few requests on the target: it is held, and goes back undecided.
        few = [{**gate, "prometheus": many(gate["prometheus"])} for gate in shift.gates]
        ended = shift.run(steps=[5], max_hold=14, gates=few)
        assert (ended["verdict"], ended["share"]) == ("inconclusive", 0)
        assert "requests, 100000 are needed" in ended["reason"]
        assert ended["rolled_back"]["ok"]

        # Healthy: up to the top, where the old side has no requests any more, and through the soak.
        ended = shift.run(steps=[50, 100], soak=8)
        assert (ended["verdict"], ended["share"], ended["soak"]["verdict"]) == ("pass", 100, "pass"), ended["reason"]
        first, last, soak = *map(numbers, ended["steps"]), numbers(ended["soak"])
        assert first[compared]["success"] == last[compared]["success"] == 100
        assert "baseline_age_s" not in first[compared]
        assert soak[compared]["baseline_age_s"] > last[compared].get("baseline_age_s", 0)
        assert first[quantile]["query"] > 0

        # A part of the answers is bad in the soak of a run that finds the last step reached: min judges alone, and it goes back.
        child = shift.start(steps=[50, 100], soak=120)
        until = time.monotonic() + 90
        while not soaking(stage) and time.monotonic() < until:
            time.sleep(0.2)
        broken = time.time()
        healthy = break_part(stage, 20)
        try:
            ended = shift.end(child)
        finally:
            stage.asm_route(healthy)
        assert (ended["verdict"], ended["share"], ended["steps"]) == ("fail", 0, [])
        assert ended["soak"]["verdict"] == "fail"
        failed = numbers(ended["soak"])[compared]
        assert 50 < failed["low"] < failed["success"] < failed["high"] < 99.5
        assert ended["rolled_back"]["ok"]
        assert stage.shares() == {0.0}
        # Scraped every 2 s, asked every second, and no figures before min_window.
        noticed = datetime.fromisoformat(ended["timings"]["verdict_at"]).timestamp() - broken
        print(f"{noticed:.1f} s from the fault to the verdict, {ended['timings']['verdict_to_weights_s']} s to the weights")
        assert 0 < noticed < 30
    finally:
        stage.end_traffic()


def many(options: Object) -> Object:
    """The same gate, which asks for more requests than there are."""
    return {**options, **{rule: {**options[rule], "min_requests": 100_000} for rule in ("success", "value") if options.get(rule)}}


def soaking(stage: Stage) -> bool:
    """Whether the last run holds with no step under way."""
    try:
        lines = [json.loads(text) for text in stage.progress.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, ValueError):
        return False
    return bool(lines) and lines[-1]["event"] == "hold" and lines[-1].get("step") is None
