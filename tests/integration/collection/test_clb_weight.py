# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""clb_weight: what the load balancer shows, in which order it was written, and what happens when the world changes meanwhile."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from tests.integration.collection.scene import Scene, killed_at, newest

NODE_LAG = 0.4  # the CCM handles a new node at the latest after this time


@pytest.fixture
def pair(scene: Scene) -> Scene:
    """Both gateways behind one load balancer, all traffic at the source."""
    scene.up()
    scene.reuse()
    scene.gateway()
    return scene


def sums(scene: Scene) -> list[tuple[int, int]]:
    """(source, target) of every group."""
    found = []
    for listener in scene.world.listeners(scene.lb).values():
        total = {scene.source: 0, f"istio-{scene.target}": 0}
        for backend in scene.world.backends(listener["VServerGroupId"]):
            total[backend["Description"].split("/")[2]] += int(backend["Weight"])
        found.append((total[scene.source], total[f"istio-{scene.target}"]))
    return found


@contextlib.contextmanager
def watched(scene: Scene) -> Iterator[list[list[tuple[int, int]]]]:
    """Samples of sums(), taken all the time."""
    seen: list[list[tuple[int, int]]] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            seen.append(sums(scene))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_the_whole_way_and_back(pair: Scene) -> None:
    plans: list[int] = []
    with watched(pair) as seen:
        for share in (1, 5, 25, 50, 100, 25, 0):
            answer = pair.weight(share).result["gateways"][0]
            assert answer["asked"] == share
            assert answer["observed"] == pytest.approx(answer["planned"], abs=0.01)
            assert abs(answer["planned"] - share) < 1.1
            assert set(answer["shares"]) == {"15021", "80", "443"}
            again = pair.weight(share)
            assert not again.plan.changed
            plans.append(min(left + right for left, right in sums(pair)))
            shown = {item["port"]: item["shares"] for item in pair.info()["listeners"]}
            for port in pair.PORTS:
                assert shown[port].get(f"{pair.world.ns}/istio-{pair.target}", 0) == pytest.approx(answer["planned"], abs=0.01)
    assert len(seen) > 20
    assert all(left + right > 0 for sample in seen for left, right in sample)
    # The side that gets more is first, so together they never have less than in the plan with the least.
    assert min(left + right for sample in seen for left, right in sample) >= min(plans)


@newest
def test_check_mode_plans_and_writes_nothing(pair: Scene) -> None:
    before = pair.snapshot()
    outcome = pair.weight(25, check=True)
    assert [change.target.split("/")[-2] for change in outcome.plan.changes] == ["IstioGateway", "Service"]
    assert outcome.plan.diff()["before"] != outcome.plan.diff()["after"]
    assert outcome.result["gateways"][0]["planned"] == pytest.approx(25, abs=0.5)
    assert pair.snapshot() == before


@newest
def test_the_way_back_begins_at_once_and_with_the_source(pair: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it quick: no look but the plan's and the move's own before the first write. Its seconds are judged by P5."""
    from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _mover

    plain = _mover.Mover._write
    asked: list[str] = []

    def write(self: Any, *more: Any, **named: Any) -> None:
        if not asked:
            calls = pair.world.cloud._admin("GET", f"calls?since={before}")["calls"]
            asked.extend(sorted(f"{item['action']} {item['parameters']}" for item in calls if item["style"] == "header"))
        plain(self, *more, **named)

    pair.weight(25)
    before = pair.world.cloud.mark()
    monkeypatch.setattr(_mover.Mover, "_write", write)
    answer = pair.weight(0).result["gateways"][0]
    look = 4 + len(pair.PORTS)  # the balancer, its tags, its listeners, its groups, and each group
    assert (len(set(asked)), len(asked)) == (look, 2 * look), asked
    written = [write["what"] for write in answer["writes"] if "past the" not in write["what"]]
    assert [what.split()[3].split("/")[0] for what in written] == ["source", "target"]


def test_autoscaling_in_between_is_planned_again(pair: Scene) -> None:
    pair.weight(10)
    pair.world.node("late")
    time.sleep(NODE_LAG)
    pair.rest()
    answer = pair.weight(10).result["gateways"][0]
    assert answer["source_backends"] == 3
    assert answer["observed"] == pytest.approx(answer["planned"], abs=0.01)


def test_killed_at_every_line_is_continued_or_taken_back(pair: Scene) -> None:
    with killed_at(10_000) as lines:
        pair.weight(25)
    count = len(lines)
    assert count >= 4
    pair.weight(0)
    for number in range(1, count + 1):
        with killed_at(number):
            pair.weight(25)
        assert all(left + right > 0 for left, right in sums(pair))
        if number % 2:
            assert pair.weight(25).result["gateways"][0]["observed"] == pytest.approx(25, abs=0.5)
        pair.weight(0)
        assert {right for _, right in sums(pair)} == {0}


@newest
def test_share_zero_without_a_target_is_true_already(scene: Scene) -> None:
    scene.up()
    outcome = scene.weight(0)
    assert not outcome.plan.changed
    assert "no target gateway" in outcome.plan.notes[0]
    error = scene.refused(lambda: scene.weight(5))
    assert "is not there" in error.why


@newest
@pytest.mark.parametrize("share", [-1, 101, "ten", None])
def test_bad_shares(scene: Scene, share: Any) -> None:
    with pytest.raises(MigrationError, match="share"):
        scene.weight(share)


# -- traps -------------------------------------------------------------------------------------------------------


@newest
def test_a_node_without_provider_id_is_refused(pair: Scene) -> None:
    pair.world.node("fresh", provider=None)
    time.sleep(NODE_LAG)
    error = pair.refused(lambda: pair.weight(5))
    assert "fresh has no usable spec.providerID" in error.why


def test_backends_that_the_ccm_took_away_are_put_back(pair: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node joins between the last look and the write. v2.14 takes all backends away and says Ensured."""
    from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _mover

    pair.weight(25)
    before = sums(pair)
    plain = _mover.Mover._write
    joined: list[str] = []

    def late(self: Any, gateway: Any, side: str, *more: Any, **named: Any) -> None:
        if not joined:
            joined.append(side)
            pair.world.node("fresh", provider=None)
            time.sleep(NODE_LAG)
        plain(self, gateway, side, *more, **named)

    monkeypatch.setattr(_mover.Mover, "_write", late)
    with pytest.raises(MigrationError) as caught:
        pair.weight(50, wait_timeout=3.0)
    assert "fresh" in caught.value.message or "SyncLoadBalancerFailed" in caught.value.message
    now = sums(pair)
    assert all(left > 0 and right > 0 for left, right in now)
    if pair.world.version == "v2.14.0":
        assert now == before
        assert any("put back" in text for text in caught.value.done)
    # The way back works all the same: in the load balancer, past the CCM.
    with pytest.raises(MigrationError, match="is back at the source"):
        pair.weight(0)
    assert all(left > 0 and right == 0 for left, right in sums(pair))
    # When the node is mended everything goes on.
    pair.world.api.delete("/api/v1/nodes/fresh")
    pair.world._nodes.remove("fresh")
    time.sleep(NODE_LAG)
    pair.rest()
    pair.weight(0)
    assert all(left > 0 and right == 0 for left, right in sums(pair))
    pair.weight(50)
    assert all(left == right for left, right in sums(pair))


def taken(scene: Scene, name: str, port: int) -> str:
    """What a late look of the CCM v2.14 does when one of its calls fails: all backends of a Service leave one group. Its id."""
    group = str(scene.world.listeners(scene.lb)[port]["VServerGroupId"])
    mine = [item for item in scene.world.backends(group) if item["Description"].split("/")[2] == name]
    assert mine
    scene.world.rpc.call("slb", "RemoveVServerGroupBackendServers", VServerGroupId=group, BackendServers=json.dumps(mine))
    return group


@newest
@pytest.mark.parametrize("share", [50, 5, 0])
@pytest.mark.parametrize("side", ["source", "target"])
def test_backends_that_were_taken_away_before_come_back_with_the_next_weight(pair: Scene, side: str, share: int) -> None:
    """Nobody was looking: the CCM has said Ensured and does nothing by itself."""
    pair.weight(25)
    taken(pair, pair.source if side == "source" else f"istio-{pair.target}", 80)
    assert any(0 in sample for sample in sums(pair))
    with watched(pair) as seen:
        answer = pair.weight(share).result["gateways"][0]
    assert answer["observed"] == pytest.approx(answer["planned"], abs=0.01)
    assert all(left > 0 and (right > 0) == (share > 0) for left, right in sums(pair))
    assert all(left + right > 0 for sample in seen for left, right in sample)


@newest
def test_backends_of_the_other_side_that_go_in_the_middle_of_a_move_are_put_back(
    pair: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _mover

    pair.weight(25)
    before = sums(pair)
    plain = _mover.Mover._write
    gone: list[str] = []

    def late(self: Any, gateway: Any, side: str, *more: Any, **named: Any) -> None:
        if gone:
            plain(self, gateway, side, *more, **named)
            return
        gone.append(taken(pair, pair.source if side == "target" else f"istio-{pair.target}", 443))
        # its own CCM is asleep, so that only the look at the other side ends the wait

    monkeypatch.setattr(_mover.Mover, "_write", late)
    monkeypatch.setattr(_mover, "_NUDGE", 60.0)
    with pytest.raises(MigrationError, match="took all backends of") as caught:
        pair.weight(50, wait_timeout=8.0)
    assert any(f"put back into {gone[0]}" in text for text in caught.value.done) and caught.value.transient
    assert sums(pair) == before
    assert pair.weight(50).result["gateways"][0]["observed"] == pytest.approx(50, abs=0.5)


@newest
def test_a_ccm_that_pauses_after_a_failure_is_touched_again(pair: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pause is 5, 10, 20 ... 300 s. A touch of the annotation ends it (tests/integration/ccm/test_own.py)."""
    from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _mover

    plain = _mover.Mover._write
    touches: list[bool] = []

    def write(self: Any, *more: Any, touch: bool) -> None:
        touches.append(touch)
        plain(self, *more, touch=touch)

    monkeypatch.setattr(_mover, "_NUDGE", 0.5)
    monkeypatch.setattr(_mover.Mover, "_write", write)
    fault = {"target": "slb", "action": "SetVServerGroupAttribute", "effect": {"status": 503, "code": "ServiceUnavailable"}}
    pair.world.cloud._admin("POST", "faults", fault)
    threading.Timer(1.2, pair.world.cloud.clear_faults).start()
    answer = pair.weight(25).result["gateways"][0]
    assert answer["observed"] == pytest.approx(25, abs=0.5)
    assert not touches[0]
    assert any(touches)


def test_a_throttled_ccm_does_not_hold_up_the_way_back(pair: Scene) -> None:
    """All of the CCM's own looks fail; the weights of the way back are set past it, and it agrees later."""
    pair.weight(25)
    throttled = {"status": 429, "code": "Throttling", "message": "slow"}
    pair.world.cloud._admin("POST", "faults", {"target": "slb", "action": "query DescribeVServerGroups", "effect": throttled})
    answer = pair.weight(0).result["gateways"][0]
    assert {right for _, right in sums(pair)} == {0}
    assert any("past the cloud-controller-manager" in write["what"] for write in answer["writes"])
    pair.world.cloud.clear_faults()
    pair.world.ensured(pair.source, lambda: pair.world.touch(pair.source))
    assert {right for _, right in sums(pair)} == {0}


@newest
def test_a_control_plane_that_is_down_does_not_hold_up_the_way_back(pair: Scene) -> None:
    """Nobody carries the weight from the IstioGateway to its Service: the load balancer gets it, the error says what is open."""
    pair.weight(25)
    pair.controller.paused = True
    with pytest.raises(MigrationError, match="does not say so: ASM's controller"):
        pair.weight(0)
    assert {right for _, right in sums(pair)} == {0}
    pair.controller.paused = False
    pair.weight(0)
    assert not pair.weight(0).plan.changed


@newest
def test_pods_that_restart_are_no_backends_that_the_ccm_took_away(pair: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pods of the target end in the middle of a move: it is not raised, and nothing is put back."""
    from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _mover

    put_back: list[str] = []
    monkeypatch.setattr(_mover.Clb, "add_backends", lambda *found: put_back.append(str(found)))
    plain = _mover.Mover._write

    def restart(self: Any, gateway: Any, side: str, *more: Any, **named: Any) -> None:
        plain(self, gateway, side, *more, **named)
        pair.endpoints(f"istio-{pair.target}", 0)
        threading.Timer(0.5, lambda: pair.endpoints(f"istio-{pair.target}", 3)).start()

    monkeypatch.setattr(_mover.Mover, "_write", restart)
    with contextlib.suppress(MigrationError):
        pair.weight(25, wait_timeout=5.0)
    monkeypatch.setattr(_mover.Mover, "_write", plain)
    assert not put_back
    time.sleep(1.0)
    assert pair.weight(25).result["gateways"][0]["observed"] == pytest.approx(25, abs=1)


@newest
@pytest.mark.parametrize(
    ("side", "notes", "reason"),
    [
        ("target", {"force_override_listeners": "true"}, "force-override-listeners is true"),
        ("source", {"force_override_listeners": None}, "force-override-listeners is not set"),
        ("source", {"ignore_weight_update": "on"}, "ignore-weight-update"),
        ("source", {"id": None}, "names nothing as its load balancer"),
    ],
)
def test_annotations_that_would_break_are_refused(pair: Scene, side: str, notes: dict[str, Any], reason: str) -> None:
    pair.controller.paused = True
    name = pair.source if side == "source" else f"istio-{pair.target}"
    pair.world.annotate(name, **notes)
    pair.rest()
    error = pair.refused(lambda: pair.weight(5))
    assert reason in error.why


@newest
def test_comma_and_space_is_refused(pair: Scene) -> None:
    """F5: after ', ' the CCM finds no port. Written by hand on a live Service."""
    notes = (pair.world.get(pair.source) or {})["metadata"]["annotations"]
    text = next(value for key, value in notes.items() if key.endswith("vgroup-port"))
    pair.world.annotate(pair.source, vgroup_port=text.replace(",", ", "))
    pair.rest()
    error = pair.refused(lambda: pair.weight(5))
    assert "vgroup-port names nothing for port 80" in error.why


@newest
def test_pods_that_are_not_ready_get_nothing(pair: Scene) -> None:
    pair.endpoints(f"istio-{pair.target}", 0, ready=False)
    pair.rest()
    error = pair.refused(lambda: pair.weight(5))
    assert "no pod of" in error.why


@newest
def test_a_scheduler_that_ignores_weights_is_refused(pair: Scene) -> None:
    pair.world.rpc.call("slb", "SetLoadBalancerTCPListenerAttribute", LoadBalancerId=pair.lb, ListenerPort=80, Scheduler="rr")
    error = pair.refused(lambda: pair.weight(5))
    assert "listener 80 has the scheduler rr" in error.why
    assert any("scheduler rr" in text for text in pair.info()["warnings"])
