# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""traffic_shift from its options to its answer; the load balancer and the clusters are of the test's making."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import threading
import types
import typing as t

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import GatewayPair
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _gate_kinds, _shift
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import CONTROLLER_ENV, process_token
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, PASS, Verdict
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._mover import Moved
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import Side, choose, side_of
from ansible_collections.servicemesh.migration.plugins.modules import traffic_shift

WEIGHT_CHANGE = {"source/istio-system/Service/istio-ingressgateway", "target/istio-system/IstioGateway/ingressgateway-asm"}


@dataclasses.dataclass
class World:
    """One gateway with as many pods on both sides. Weights as a load balancer would show them."""

    source_weight: int = 100
    target_weight: int = 0
    annotations: dict[str, str] = dataclasses.field(default_factory=dict)
    side: Side = dataclasses.field(default_factory=lambda: side_of("eni", 2))
    error: MigrationError | None = None
    refusal: MigrationError | None = None
    moves: list[float] = dataclasses.field(default_factory=list)
    judge: t.Callable[[World], str] = lambda _world: PASS
    calls: list[str] = dataclasses.field(default_factory=list)
    lease_held: bool = False
    lease_lost: str = ""
    lease_warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def share(self) -> float:
        left, right = self.side.capacity(self.source_weight), self.side.capacity(self.target_weight)
        return 100 * right / (left + right)


@dataclasses.dataclass
class State:
    pair: GatewayPair
    source_weight: int
    target_weight: int
    share: float
    target_absent: bool = False
    source: Side = dataclasses.field(default_factory=lambda: side_of("eni", 2))
    view: t.Any = dataclasses.field(default_factory=lambda: types.SimpleNamespace(source={"kind": "Service"}))

    @property
    def shares(self) -> dict[int, float]:
        return {80: self.share, 443: self.share}

    def as_dict(self) -> dict[str, t.Any]:
        return {**self.pair.as_dict(), "shares": {"80": self.share}}


def fake_world(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Put the world in place of clusters, cloud and mover; everything above them is the real code."""

    class FakeMover:
        def __init__(self, _source: t.Any, _target: t.Any, _clb: t.Any, pairs: list[GatewayPair], journal: t.Any) -> None:
            self.pairs, self.journal = pairs, journal

        def observe(self) -> list[State]:
            if world.error:
                raise world.error
            return [State(pair, world.source_weight, world.target_weight, world.share) for pair in self.pairs]

        def plan(self, _share: float, _states: t.Any) -> Plan:
            if world.refusal:
                raise world.refusal
            return Plan()

        def move(self, share: float, *, timeout: float, reason: str) -> list[Moved]:
            assert timeout > 0
            world.moves.append(share)
            plan = choose(world.side, world.side, share)
            self.journal.write("begin", share=share, reason=reason)
            changed = (world.source_weight, world.target_weight) != (plan.source_weight, plan.target_weight)
            world.source_weight, world.target_weight = plan.source_weight, plan.target_weight
            writes = [{"time": 0.01, "what": "w"}, {"time": 0.02, "what": "w"}] if changed else []
            weights = (plan.source_weight, plan.target_weight)
            return [Moved(pair, share, plan.planned, world.share, *weights, {80: world.share}, writes) for pair in self.pairs]

        def drifted(self, _share: float) -> bool:
            return False

    class FakeCluster:
        def __init__(self, name: str, _options: t.Any) -> None:
            self.name = name

        def guard(self) -> None:
            world.calls.append(f"guard {self.name}")

        def get(self, _kind: t.Any, _name: str, _namespace: str) -> dict[str, t.Any]:
            return {"metadata": {"annotations": world.annotations}}

    class FakeMirror:
        def __init__(self, _cluster: t.Any, _migration: str) -> None:
            pass

        def load(self) -> dict[str, t.Any]:
            return {}

        def save(self, _news: t.Any) -> None:
            world.calls.append("mirror")

    class FakeLease:
        def __init__(self, *_args: t.Any) -> None:
            self.warnings = world.lease_warnings

        @property
        def lost(self) -> str:
            return world.lease_lost

        @contextlib.contextmanager
        def held(self, *, wait: float, among: bool = False) -> t.Iterator[None]:
            if world.lease_held:
                raise MigrationError("Another run of this migration is at work elsewhere")
            world.calls.append("lease")
            yield
            world.calls.append("lease given back")

    class FakeGate:
        def __init__(self, name: str) -> None:
            self.name = name

        def start(self) -> None:
            world.calls.append("gate starts")

        def verdict(self) -> Verdict:
            state = world.judge(world)
            return Verdict(state, f"it is {state}", {"share": world.share})

        def stop(self) -> None:
            world.calls.append("gate stops")

    monkeypatch.setattr(_shift, "Mover", FakeMover)
    monkeypatch.setattr(_shift, "Cluster", FakeCluster)
    monkeypatch.setattr(_shift, "Clb", lambda _options: None)
    monkeypatch.setattr(_shift, "ConfigMapMirror", FakeMirror)
    monkeypatch.setattr(_shift, "Lease", FakeLease)
    monkeypatch.setattr(_shift, "plan_share", lambda _state, share: choose(world.side, world.side, share))
    real = dict(_gate_kinds._KINDS)
    monkeypatch.setitem(_gate_kinds._KINDS, "probe", lambda name, params: real["probe"](name, params) and FakeGate(name))


PROBE = {"probe": {"url": "http://echo.lab.test/"}}


class Runner:
    """Runs the module's main() with options; gives what it printed."""

    def __init__(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def __call__(self, *, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        given = {
            "migration": "m",
            "state_dir": str(self.folder),
            "gateways": [{"target_gateway": "ingressgateway-asm"}],
            "gates": [PROBE],
            "steps": [5, 50, 100],
            "hold": 0.05,
            **options,
        }
        given = {key: value for key, value in given.items() if value is not None}
        with patch_module_args({**given, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            traffic_shift.main()
        out = self._capsys.readouterr().out
        assert "Traceback" not in out
        return t.cast("dict[str, t.Any]", json.loads(out))

    def lines(self, name: str) -> list[dict[str, t.Any]]:
        return [json.loads(line) for line in (self.folder / "m" / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    fake_world(monkeypatch, found)
    return found


@pytest.fixture
def shift(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path / "state", capsys)


# -- bad input ---------------------------------------------------------------------------------------------------

BAD = [
    ({"steps": [-1]}, "The share -1 cannot be used"),
    ({"steps": [101]}, "The share 101 cannot be used"),
    ({"steps": ["ten"]}, "The share 'ten' cannot be used"),
    ({"steps": []}, "steps is empty"),
    ({"steps": [50, 5]}, "the shares go down"),
    ({"steps": [5, 5]}, "ask for the same share"),
    ({"steps": [{"share": 5, "hold": -1}]}, "the hold of step 1"),
    ({"hold": -1}, "the hold of step 1 is -1"),
    ({"hold": "long"}, "'hold'"),
    ({"max_hold": 0.01}, "less than its hold"),
    ({"baseline_timeout": -1}, "baseline_timeout is -1"),
    ({"soak": -1}, "soak is -1"),
    ({"max_pause": float("inf")}, "max_pause is inf"),
    ({"gates": []}, "There are no gates"),
    ({"gates": None}, "missing required arguments: gates"),
    ({"gates": [{}]}, "Gate 1 is not clear"),
    ({"gates": [{"probe": {}}]}, "missing required arguments: url"),
    ({"gates": [{"probe": {"url": "ftp://x/"}}]}, "has no scheme http or https"),
    ({"gates": [{"name": "a", "probe": {"url": "https://x/", "ca_cert": "/no"}}]}, "The gate a cannot be used: ca_cert /no"),
    ({"gates": [{"name": "a", **PROBE}, {"name": "a", **PROBE}]}, "Two gates are named a"),
    ({"gateways": []}, "No gateway is named"),
    ({"gateways": [{}]}, "missing required arguments: target_gateway"),
    ({"gateways": [{"target_gateway": "a"}, {"target_gateway": "a"}]}, "is named twice"),
    ({"on_fail": "pray"}, "value of on_fail must be one of"),
    ({"migration": "A B"}, "The migration's name 'A B' cannot be used"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[said for _options, said in BAD])
@pytest.mark.parametrize("check", [False, True])
def test_bad_input_is_a_sentence_before_anything_is_asked_or_written(
    world: World, shift: Runner, options: dict[str, t.Any], said: str, check: bool
) -> None:
    answer = shift(check=check, **options)
    assert answer["failed"] is True
    assert said in answer["msg"]
    assert (world.moves, [call for call in world.calls if not call.startswith("guard")]) == ([], [])
    assert not shift.folder.exists()


def test_a_cluster_that_is_not_said_is_not_guessed(shift: Runner) -> None:
    """The real Cluster: no kubeconfig, no host."""
    answer = shift()
    assert "It is not said which cluster source is" in answer["msg"]
    assert not shift.folder.exists()


# -- the staircase -----------------------------------------------------------------------------------------------


def test_check_mode_plans_all_and_touches_nothing(world: World, shift: Runner) -> None:
    answer = shift(check=True)
    assert (answer["changed"], world.moves, "gate starts" in world.calls) == (True, [], False), answer
    assert not shift.folder.exists()
    assert [(step["asked"], step["planned"], step["moved"]) for step in answer["steps"]] == [
        (5.0, pytest.approx(5, abs=1), True),
        (50.0, 50.0, True),
        (100.0, 100.0, True),
    ]
    weights = [(step["gateways"][0]["source_weight"], step["gateways"][0]["target_weight"]) for step in answer["steps"]]
    assert weights[1:] == [(100, 100), (0, 100)]
    assert {change["target"] for change in answer["plan"]} == WEIGHT_CHANGE
    assert '"verdict"' not in json.dumps(answer)
    # One object gives plan and diff: first before, last after.
    assert "weight: 100" in answer["diff"]["before"]
    assert "weight: 0" in answer["diff"]["after"]


def test_check_says_x_run_does_x_second_run_says_nothing(world: World, shift: Runner) -> None:
    checked = shift(check=True)
    answer = shift()
    assert (answer["changed"], answer["verdict"], answer["share"], world.share) == (True, PASS, 100, 100)
    assert [step["asked"] for step in answer["steps"]] == world.moves == [5, 50, 100]
    assert [step["planned"] for step in answer["steps"]] == [step["planned"] for step in checked["steps"]]
    assert answer["diff"] == checked["diff"]
    for again in (shift(), shift(check=True)):
        assert (again["changed"], again["steps"], again["plan"]) == (False, [], [])
        assert again["diff"] == {"before": "", "after": ""}
    assert world.moves == [5, 50, 100]


def test_journal_and_progress_tell_the_story(world: World, shift: Runner) -> None:
    answer = shift(steps=[5, 100])
    story = [(line["what"], line.get("share")) for line in shift.lines("journal.jsonl") if line["event"] == "shift"]
    assert story == [("begin", 5), ("passed", 5), ("begin", 100), ("passed", 100), ("end", 100)]
    events = [line["event"] for line in shift.lines("progress.jsonl")]
    assert events[0] == "start"
    assert events[-1] == "end"
    assert events.count("move") == events.count("verdict") == 2
    assert {line["run"] for line in shift.lines("progress.jsonl")} == {answer["run"]}
    assert answer["progress"] == str(shift.folder / "m" / "progress.jsonl")


def test_a_failing_gate_fails_the_task_and_the_traffic_is_back(world: World, shift: Runner) -> None:
    world.judge = lambda found: FAIL if found.share >= 50 else PASS
    answer = shift()
    assert (answer["failed"], answer["changed"], answer["verdict"]) == (True, True, FAIL)
    assert (world.moves, world.share) == ([5, 50, 0], 0)
    assert answer["rolled_back"]["ok"] is True
    assert answer["timings"]["verdict_to_weights_s"] < 1
    assert 0 < answer["timings"]["first_write_s"] <= answer["timings"]["last_write_s"] < 1
    assert "The shift was stopped in step 2 (50 %); 0 % is back in effect" in answer["msg"]
    assert "it is fail" in answer["msg"]
    assert answer["error"]["details"]["verdict"] == FAIL
    # What is different now: nothing.
    assert answer["plan"] == []


def test_gates_that_fail_already_refuse_the_start(world: World, shift: Runner) -> None:
    world.judge = lambda _found: FAIL
    answer = shift()
    assert (answer["failed"], answer["changed"], world.moves) == (True, False, [])
    assert "Nothing has been changed by this call" in answer["msg"]


def test_a_refusal_of_the_first_step_comes_before_gates_and_writes(world: World, shift: Runner) -> None:
    world.refusal = MigrationError("The share 5 % cannot be set", why="listener 80 has the scheduler rr")
    for check in (False, True):
        answer = shift(check=check)
        assert answer["failed"]
        assert "scheduler rr" in answer["msg"]
    assert (world.moves, "gate starts" in world.calls) == ([], False)


def test_a_run_that_was_killed_in_a_hold_is_judged_again_by_the_journal(world: World, shift: Runner) -> None:
    shift(steps=[5])
    path = shift.folder / "m" / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert [step["moved"] for step in shift(steps=[5])["steps"]] == []
    path.write_text("".join(line for line in lines if '"passed"' not in line and '"end"' not in line), encoding="utf-8")
    answer = shift(steps=[5])
    assert [(step["asked"], step["moved"]) for step in answer["steps"]] == [(5, False)]
    assert answer["changed"] is False
    # Of other gateways the journal says nothing here.
    answer = shift(steps=[5], gateways=[{"target_gateway": "other-asm"}])
    assert answer["steps"] == []


def test_a_soak_that_fails_says_what_failed(world: World, shift: Runner) -> None:
    assert shift()["verdict"] == PASS
    starts = [0]

    def judge(_found: World) -> str:
        starts[0] += 1
        return FAIL if starts[0] > 3 else PASS

    world.judge = judge
    answer = shift(soak=20)
    assert (answer["verdict"], answer["steps"], world.share) == (FAIL, [], 0)
    assert "The soak after the last step was not passed; 0 % is back in effect" in answer["msg"]
    assert answer["changed"] is True


def test_a_run_that_ended_without_a_pass_does_not_pull_the_traffic_back_later(world: World, shift: Runner) -> None:
    """An end is no kill: who stands far beyond that step was taken there by somebody, and is left there."""
    (shift.folder / "m").mkdir(parents=True)
    timer = later(0.5, lambda: (shift.folder / "m" / "control").write_text("abort"))
    assert shift(steps=[{"share": 5, "hold": 20}, 100])["verdict"] == "aborted"
    timer.join()
    (shift.folder / "m" / "control").unlink()
    world.source_weight = world.target_weight = 100
    answer = shift(steps=[5, 100])
    assert [step["asked"] for step in answer["steps"]] == [100]
    assert world.moves == [5, 100]


def test_no_gates_when_told_so(world: World, shift: Runner) -> None:
    answer = shift(gates=[], allow_without_gates=True)
    assert (answer["verdict"], world.share) == (PASS, 100)


def test_down_when_told_so(world: World, shift: Runner) -> None:
    shift()
    answer = shift(steps=[0])
    assert "More traffic is on the target already" in answer["msg"]
    answer = shift(steps=[0], allow_down=True)
    assert (answer["verdict"], answer["changed"], world.share) == (PASS, True, 0)


# -- orders and signals ------------------------------------------------------------------------------------------


@pytest.fixture
def survives() -> t.Iterator[None]:
    """A signal that comes when nobody waits for it any more is not the end of all tests."""
    before = {number: signal.signal(number, lambda *_args: None) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def later(seconds: float, call: t.Callable[[], t.Any]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


@pytest.mark.parametrize(("word", "end"), [("abort", 5), ("rollback", 0)])
def test_the_control_file(world: World, shift: Runner, word: str, end: float) -> None:
    timer = later(0.5, lambda: (shift.folder / "m" / "control").write_text(word))
    answer = shift(steps=[{"share": 5, "hold": 20}, 100])
    timer.join()
    assert (answer["verdict"], answer["share"]) == ("aborted", end)
    assert str(shift.folder / "m" / "control") in answer["msg"]
    # The order stands: the next run is refused until it is taken away.
    again = shift()
    assert (again["verdict"], again["changed"]) == ("aborted", False)
    assert "remove the order" in again["msg"]
    (shift.folder / "m" / "control").unlink()
    assert shift()["verdict"] == PASS


def test_the_annotation(world: World, shift: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shift, "_CONTROL_INTERVAL", 0.1)
    timer = later(0.4, lambda: world.annotations.update({"servicemesh.migration/control": "rollback"}))
    answer = shift(steps=[{"share": 5, "hold": 20}])
    timer.join()
    assert (answer["verdict"], world.share) == ("aborted", 0)
    assert "the annotation servicemesh.migration/control of Service istio-system/istio-ingressgateway" in answer["msg"]


@pytest.mark.parametrize(("rule", "end"), [("hold", 5), ("rollback", 0)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("survives")
def test_signals(world: World, shift: Runner, rule: str, end: float, number: int) -> None:
    timer = later(0.5, lambda: os.kill(os.getpid(), number))
    answer = shift(steps=[{"share": 5, "hold": 20}, 100], on_interrupt=rule)
    timer.join()
    assert (answer["verdict"], answer["share"], world.moves[:1]) == ("interrupted", end, [5])
    assert f"the signal {signal.Signals(number).name} came" in answer["msg"]
    assert shift.lines("journal.jsonl")[-1]["what"] == "end"


def test_it_ends_when_its_controller_is_gone(world: World, shift: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as controller:
        timer = later(0.5, controller.kill)
        monkeypatch.setenv(CONTROLLER_ENV, process_token(controller.pid))
        answer = shift(steps=[{"share": 5, "hold": 20}, 100])
        timer.join()
    assert (answer["verdict"], answer["share"]) == ("interrupted", 5)
    assert "the ansible-playbook that started this run is gone" in answer["msg"]


def test_a_second_run_at_the_same_time_is_refused(world: World, shift: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shift, "_LOCK_WAIT", 0.0)
    with _shift.only_one(shift.folder / "m" / "shift.lock", wait=0):
        answer = shift()
        assert "Another run is moving the traffic of this migration" in answer["msg"]
        assert world.moves == []
        assert shift(check=True)["changed"] is True
    assert shift()["verdict"] == PASS


@pytest.mark.parametrize("ends", ["hold", "abort"])
def test_a_move_that_ended_half_way_says_where_the_traffic_is(
    world: World, shift: Runner, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The target has its weight, the source has not lost its own yet: neither 5 % nor 100 % are in effect."""
    real = _shift.Mover.move

    def half(mover: t.Any, share: float, *, timeout: float, reason: str) -> list[Moved]:
        if share != 100:
            return real(mover, share, timeout=timeout, reason=reason)
        world.target_weight = 100
        if ends == "abort":
            (shift.folder / "m" / "control").write_text("abort", encoding="utf-8")
        raise MigrationError("the load balancer is slow", done=["weight 100 at the target"], transient=ends == "abort")

    monkeypatch.setattr(_shift.Mover, "move", half)
    answer = shift(steps=[5, 100], on_fail="hold")
    assert answer["verdict"] == ("error" if ends == "hold" else "aborted")
    assert 50 < world.share < 60 and answer["share"] == pytest.approx(world.share, abs=0.001)
    assert f"{world.share:.4g} % stays in effect" in answer["msg"]
