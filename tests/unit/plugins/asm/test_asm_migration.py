# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""asm_migration: one step forward at a time, ASM's own words when a check fails, and nothing asked for twice."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _asm_migration
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_steering import (
    KIND,
    STATES,
    Observed,
    Steering,
    Wanted,
    behind,
    plan,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import proxy_of

from .conftest import MESH, Bench, Memory, pod

INIT, SETUP, MOVING, DONE = STATES
SERVED = {"version": "v1beta1", "kind": KIND, "plural": "asmmigratefromistios", "namespaced": False}


def steering(state: str, desired: str = "", **more: Any) -> Steering:
    fresh = Steering("7", desired or state, 0, None, state, 0, "")
    return dataclasses.replace(fresh, **more)


@pytest.mark.parametrize(
    ("now", "wanted", "after", "refused"),
    [
        (steering(INIT), Wanted(INIT), None, ""),
        (steering("", INIT), Wanted(INIT), None, ""),  # ASM has not looked at it yet: the run waits
        (steering(INIT), Wanted(SETUP), {"desiredState": SETUP}, ""),
        (steering(SETUP), Wanted(MOVING), {"desiredState": MOVING}, ""),
        (steering(MOVING), Wanted(DONE), {"desiredState": DONE}, ""),
        (steering(DONE), Wanted(DONE), None, ""),
        (steering(INIT, SETUP), Wanted(SETUP), None, ""),  # killed while it waited
        (steering(INIT), Wanted(MOVING), ..., "cannot jump to Migrating"),
        (steering(INIT), Wanted(DONE), ..., "reach SetupIstioForMigrate first"),
        (steering("", INIT), Wanted(SETUP), ..., "reach Init first"),
        (steering(INIT, SETUP), Wanted(MOVING), ..., "ASM is at it"),
        (steering(INIT, SETUP, message="no istiod"), Wanted(MOVING), ..., "no istiod"),
        (steering(MOVING), Wanted(SETUP), ..., "cannot go back"),
        (steering(MOVING), Wanted(SETUP, passed=True), None, ""),
        (steering(SETUP, MOVING), Wanted(SETUP), ..., "cannot go back"),
        (steering(SETUP, MOVING), Wanted(SETUP, passed=True), None, ""),
        (steering(INIT, MOVING), Wanted(SETUP), ..., "cannot go back"),
        (steering(INIT, MOVING, message="not in order"), Wanted(SETUP), {"desiredState": SETUP}, ""),
        (steering("Rollback", MOVING), Wanted(MOVING), ..., "not known"),
        (steering(INIT, SETUP, message="no istiod"), Wanted(SETUP), {"retryCounter": 1}, ""),
        (steering(INIT, SETUP, message="no istiod", counter=4), Wanted(SETUP), {"retryCounter": 5}, ""),
        (steering(INIT, SETUP, message="no istiod"), Wanted(SETUP, retry=False), None, "no istiod"),
        (steering(INIT, SETUP, message="x", counter=2**31 - 1), Wanted(SETUP), None, "largest number"),
        (steering(INIT, keep=False), Wanted(INIT, keep=True), {"advancedOptions": True}, ""),
        (steering(INIT, keep=True), Wanted(INIT, keep=True), None, ""),
        (steering(INIT), Wanted(INIT, keep=False), None, ""),
        (steering(INIT), Wanted(SETUP, keep=True), {"advancedOptions": True, "desiredState": SETUP}, ""),
    ],
)
def test_plan(now: Steering, wanted: Wanted, after: Any, refused: str) -> None:
    made, refusals = plan(Observed(True, now), wanted)
    told = [f"{item.what} {item.why} {item.todo}" for item in refusals]
    assert (len(told) == 1 and refused in told[0]) if refused else not told
    if after is None:
        assert made.changes == []
    elif after is not ...:
        (change,) = made.changes
        flat = {key: next(iter(value.values())) if isinstance(value, dict) else value for key, value in change.after.items()}
        assert {key: value for key, value in flat.items() if change.before.get(key) != change.after[key]} == after
        assert change.reason


def test_before_the_cluster_was_added_check_mode_shows_what_comes(bench: Bench, asm: Asm) -> None:
    bench.target.objects.clear()
    told = step(bench, SETUP, check=True, keep_istio_system_injection=True)
    assert not told.get("failed") and "does not exist" in str(told["warnings"])
    (change,) = told["plan"]
    assert change["after"] == {
        "desiredState": SETUP,
        "retryCounter": 0,
        "advancedOptions": {"stopIstioSystemInjectionDisabling": True},
    }
    assert step(bench, INIT, check=True)["plan"] == []
    assert step(bench, SETUP)["failed"] is True


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("desired", STATES)
@pytest.mark.parametrize("goal", STATES)
@pytest.mark.parametrize("message", ["", "a check failed"])
def test_whatever_is_found_only_the_next_state_is_ever_asked_for(state: str, desired: str, goal: str, message: str) -> None:
    now = steering(state, desired, message=message)
    for wanted in (Wanted(goal), Wanted(goal, passed=True)):
        made, refusals = plan(Observed(True, now), wanted)
        if refusals or not made.changes:
            assert refusals or behind(now, wanted) or desired == goal
            continue
        asked = made.changes[0].after["desiredState"]
        assert asked == goal
        assert STATES.index(asked) - STATES.index(state) in (0, 1)


@pytest.mark.parametrize(
    ("state", "pods", "kubernetes", "istio", "refused"),
    [
        (SETUP, [], "v1.30.1-aliyun.1", "1.18.2", ""),
        (SETUP, [], "v1.20.11-aliyun.1", "1.18.2", "version of the cluster is too old"),
        (SETUP, [], "v1.30.1", "1.9.9", "version of Istio is too old"),
        (SETUP, [], "v1.30.1", "my-own-build", ""),
        (MOVING, [pod("a", agent=True), pod("b", MESH)], "", "", ""),
        (MOVING, [pod("a", agent=True), pod("b")], "", "", "1 pods have a sidecar that knows one trust only: shop/b"),
        (MOVING, [pod(f"p{n}", native=True) for n in range(9)], "", "", "and 4 more"),
        (MOVING, [pod("job", phase="Succeeded")], "", "", ""),
        (DONE, [pod("a", MESH)], "", "", ""),
        (DONE, [pod("a", MESH), pod("b", agent=True)], "", "", "Istio is in use still"),
    ],
)
def test_what_the_procedure_asks_for(state: str, pods: list[Any], kubernetes: str, istio: str, refused: str) -> None:
    found = [proxy for one in pods if (proxy := proxy_of(one))]
    seen = Observed(True, steering(STATES[STATES.index(state) - 1]), found, kubernetes, istio)
    _made, refusals = plan(seen, Wanted(state))
    told = [f"{item.what} {item.why}" for item in refusals]
    assert (len(told) == 1 and refused in told[0]) if refused else not told


def test_what_is_ending_or_a_gateway_does_not_hold_up_the_migration() -> None:
    ending, gateway = pod("old"), pod("gateway")
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    gateway["spec"]["containers"][0]["args"] = ["proxy", "router"]
    found = [proxy for one in (ending, gateway) if (proxy := proxy_of(one))]
    made, refusals = plan(Observed(True, steering(SETUP), found), Wanted(MOVING))
    assert not refusals and made.changes
    assert [note for note in made.notes if "1 pods of Istio's gateways" in note and "shop/gateway" in note]
    _made, refusals = plan(Observed(True, steering(MOVING), found), Wanted(DONE))
    assert "2 pods have a proxy of Istio" in refusals[0].why


# --- the module -----------------------------------------------------------------------------------------------------------


class Asm:
    """What ASM does to its resource after each write; `judge` gives the message of a check."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.message = memory, ""
        memory.kinds = [{**SERVED, "version": "v1"}, SERVED]
        memory.put({"kind": KIND, "metadata": {"name": "default", "resourceVersion": "1"}, "spec": {}})
        memory.after = self.work
        self.work(memory)

    @property
    def object(self) -> dict[str, Any]:
        return self.memory.objects[KIND, "", "default"]

    def work(self, memory: Memory) -> None:
        spec = {"desiredState": INIT, "retryCounter": 0, **self.object["spec"]}
        status = self.object.get("status") or {"state": INIT}
        moved = {} if self.message else {"state": spec["desiredState"], "retryCounter": spec["retryCounter"]}
        self.object.update(spec=spec, status={"retryCounter": 0, **status, **moved, "message": self.message})

    def work_at(self, number: int) -> None:
        """ASM takes its time: what it does is there with that read, counted from 0."""
        reads = itertools.count()
        self.memory.reads = lambda memory: self.work(memory) if next(reads) == number else None


@pytest.fixture
def asm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Asm:
    monkeypatch.setattr(_asm_migration, "_PATIENCE", 0.3)
    return Asm(bench.target)


SOURCE = {"host": "https://memory"}


def step(bench: Bench, state: str, **options: Any) -> dict[str, Any]:
    return bench.run("asm_migration", state=state, source=SOURCE, **options)


def test_the_whole_way(bench: Bench, asm: Asm) -> None:
    for state in STATES:
        checked = step(bench, state, check=True)
        done = step(bench, state)
        assert not done.get("failed"), done["msg"]
        assert done["plan"] == checked["plan"] and done["migration_state"]["state"] == state
        assert step(bench, state)["changed"] is False
    patches = [body["spec"] for verb, _where, body in bench.target.writes if verb == "patch"]
    assert patches == [{"desiredState": state} for state in STATES[1:]]
    assert all(body["metadata"] == {"resourceVersion": "1"} for _verb, _where, body in bench.target.writes)
    assert '"original"' in bench.journal and "the migration is in Finished" in bench.journal


def test_a_check_that_fails_is_told_and_asked_for_again(bench: Bench, asm: Asm) -> None:
    asm.message = "istiod 1.9.1 is older than 1.10"
    first = step(bench, SETUP)
    assert first["failed"] and "istiod 1.9.1 is older than 1.10" in first["msg"] and first["changed"] is True
    assert first["error"]["done"] == [f"steer target/{KIND}/default"]
    looked = step(bench, SETUP, retry=False)
    assert looked["failed"] and "istiod 1.9.1" in looked["msg"] and len(bench.target.writes) == 1
    again = step(bench, SETUP)  # the same words: believed to be the new answer after a while
    assert again["failed"] and asm.object["spec"]["retryCounter"] == 1
    asm.message = ""
    done = step(bench, SETUP)
    assert not done.get("failed") and done["migration_state"]["counter"] == 2
    assert step(bench, SETUP)["changed"] is False


def test_a_run_that_was_killed_after_its_write_is_continued(bench: Bench, asm: Asm) -> None:
    asm.object["spec"]["desiredState"] = SETUP
    asm.work_at(3)
    done = step(bench, SETUP)
    assert done["changed"] is False and done["migration_state"]["state"] == SETUP and bench.target.writes == []


def test_a_resource_that_asm_has_just_made_is_waited_for(bench: Bench, asm: Asm) -> None:
    """The cluster joined a moment ago: there is a resource, and nothing in it says yet where it is."""
    del asm.object["status"]
    checked = step(bench, SETUP, check=True)
    assert "no state yet" in str(checked)  # a check waits for nothing
    asm.work_at(2)
    done = step(bench, SETUP)
    assert done["changed"] is True and done["migration_state"]["state"] == SETUP


def test_a_field_that_the_type_does_not_know_is_not_reported_as_set(bench: Bench, asm: Asm) -> None:
    bench.target.prune = lambda body: {**body, "spec": {k: v for k, v in body["spec"].items() if k != "advancedOptions"}}
    answer = step(bench, INIT, keep_istio_system_injection=True)
    assert answer["failed"] and "does not know stopIstioSystemInjectionDisabling" in answer["msg"]


def test_the_advanced_option_is_the_one_of_the_type(bench: Bench, asm: Asm) -> None:
    answer = step(bench, INIT, keep_istio_system_injection=True)
    assert answer["changed"] and asm.object["spec"]["advancedOptions"] == {"stopIstioSystemInjectionDisabling": True}
    assert step(bench, INIT, keep_istio_system_injection=True)["changed"] is False
    assert step(bench, INIT)["changed"] is False


def test_a_lost_answer_and_a_foreign_write(bench: Bench, asm: Asm, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.target.patch

    def lost(*args: Any, **more: Any) -> Any:
        real(*args, **more)
        raise MigrationError("conflict", details={"status": 409})

    monkeypatch.setattr(bench.target, "patch", lost)
    assert not step(bench, SETUP).get("failed")

    def foreign(*args: Any, **more: Any) -> Any:
        raise MigrationError("somebody else was first", details={"status": 409})

    monkeypatch.setattr(bench.target, "patch", foreign)
    answer = step(bench, MOVING)
    assert answer["failed"] and "somebody else was first" in answer["msg"] and answer["changed"] is False


@pytest.mark.parametrize(
    ("prepare", "state", "words"),
    [
        (lambda bench: bench.target.kinds.clear(), SETUP, ["1.24", "target is the instance"]),
        (lambda bench: bench.target.objects.clear(), SETUP, ["asm_cluster", "ignore_namespace_check"]),
        (lambda bench: None, MOVING, ["cannot jump", "SetupIstioForMigrate"]),
        (lambda bench: setattr(bench.source, "git_version", "v1.19.3"), SETUP, ["cluster is too old", "1.21"]),
    ],
)
def test_bad_input_is_refused_before_the_first_write(bench: Bench, asm: Asm, prepare: Any, state: str, words: Any) -> None:
    prepare(bench)
    answer = step(bench, state)
    assert answer["failed"] and [word for word in words if word not in answer["msg"]] == []
    assert "Nothing has been changed" in answer["msg"] and bench.target.writes == [] and bench.journal == ""


def test_an_expired_kubeconfig_is_named(bench: Bench, asm: Asm, monkeypatch: pytest.MonkeyPatch) -> None:
    def expired(*args: Any, **more: Any) -> Any:
        raise MigrationError(
            "The API server of target answered GET with 401", todo="the credentials of target are expired or wrong"
        )

    monkeypatch.setattr(bench.target, "get", expired)
    answer = step(bench, SETUP)
    assert "the credentials of target are expired" in answer["msg"] and bench.target.writes == []


def test_workloads_are_looked_at_only_when_they_matter(bench: Bench, asm: Asm) -> None:
    step(bench, SETUP)
    bench.source.put(pod("old"))
    refused = step(bench, MOVING)
    assert refused["failed"] and "shop/old" in refused["msg"] and "restart the workloads" in refused["msg"]
    told = step(bench, MOVING, check=True)
    assert not told.get("failed") and "shop/old" in str(told["warnings"])
    assert step(bench, SETUP)["changed"] is False
    assert step(bench, MOVING, check_workloads=False)["changed"] is True
    assert step(bench, SETUP, passed=True)["changed"] is False
