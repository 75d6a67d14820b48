# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of vm_redirect: what it proves, over which connection, and what it says when nothing comes through."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

from ansible_collections.servicemesh.migration.plugins.action import vm_redirect

Answer = Callable[[dict[str, Any]], dict[str, Any]]
PENDING = {"change": "abc", "revert_after": 20, "timer": "systemd", "connection": ["192.0.2.1", "40000", "192.0.2.2", "22"]}
FIRST = {"changed": True, "confirmed": False, "plan": [{"action": "redirect"}], "pending": PENDING}


class Connection:
    transport = "ssh"

    def __init__(self) -> None:
        self.options: dict[str, Any] = {"ssh_args": "-C -o ControlPersist=60s", "port": 2222}
        self.resets = 0

    def get_option(self, name: str) -> Any:
        return self.options[name]

    def set_option(self, name: str, value: Any) -> None:
        self.options[name] = value

    def reset(self) -> None:
        self.resets += 1


class Action(vm_redirect.ActionModule):  # type: ignore[misc]
    """With the machine's answers in the place of a machine."""

    def __init__(self, answers: list[Answer], **args: Any) -> None:
        self._task = types.SimpleNamespace(args=args, async_val=0, check_mode=False, action="vm_redirect")
        self._connection = Connection()
        self._answers = answers
        self.calls: list[tuple[dict[str, Any], str]] = []
        self.alive: list[bool] = []

    def _execute_module(self, *, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.calls.append((module_args, self._connection.options["ssh_args"]))
        return self._answers[min(len(self.calls), len(self._answers)) - 1](module_args)

    def _low_level_execute_command(self, command: str, sudoable: bool) -> dict[str, Any]:
        if not self.alive.pop(0):
            raise AnsibleConnectionFailure("timed out")
        return {"rc": 0}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only when somebody sleeps."""
    now = [1000.0]
    monkeypatch.setattr(vm_redirect.ActionBase, "run", lambda _self, _tmp, _vars: {})
    monkeypatch.setattr(
        vm_redirect, "time", types.SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    )
    return now


def cut(_args: dict[str, Any]) -> dict[str, Any]:
    raise AnsibleConnectionFailure("Connection refused")


def test_the_proof_comes_by_a_new_connection() -> None:
    new = {"confirmed": True, "connection": ["192.0.2.1", "40001", "192.0.2.2", "22"], "proof": []}
    action = Action([lambda _args: dict(FIRST), lambda _args: new], version="1.18.7", ssh_ports=[22])
    found = action.run()
    (first, shared), (second, alone) = action.calls
    assert first == {"version": "1.18.7", "ssh_ports": [22, 2222]}
    assert second["confirm"] == {"change": "abc", "failure": ""}
    assert "ControlPath=none" not in shared
    assert alone.startswith("-o ControlMaster=no -o ControlPath=none ")
    assert action._connection.options["ssh_args"] == shared, "what follows has the user's own options again"
    assert found["confirmed"] and found["changed"] and "pending" not in found
    assert found["proof"]["connection"] != found["proof"]["before"]


def test_without_a_change_there_is_one_call() -> None:
    action = Action([lambda _args: {"changed": False, "confirmed": True}])
    assert action.run() == {"changed": False, "confirmed": True}
    assert len(action.calls) == 1


def test_other_connections_are_opened_again() -> None:
    action = Action([lambda _args: dict(FIRST), lambda _args: {"confirmed": True}])
    action._connection.transport = "paramiko_ssh"
    assert action.run()["confirmed"]
    assert action._connection.resets == 1


def test_a_probe_from_here_that_fails_is_told_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [{"probe": "GET http://vm/ from the controller", "ok": False, "why": "refused", "tries": 3}]
    monkeypatch.setattr(vm_redirect, "prove", lambda probes, _seconds: wrong if probes else [])
    taken = {"failed": True, "msg": "taken back", "error": {"what": "taken back"}, "changed": False}
    action = Action([lambda _args: dict(FIRST), lambda _args: taken], probes=[{"url": "http://vm/", "from": "controller"}])
    found = action.run()
    assert action.calls[1][0]["confirm"]["failure"] == "GET http://vm/ from the controller: refused"
    assert found["failed"] and found["msg"] == "taken back" and not found["changed"]


def test_what_could_not_be_taken_back_is_a_change() -> None:
    taken = {"failed": True, "msg": "could not be taken back", "error": {"done": ["a part of the redirect"]}, "changed": True}
    found = Action([lambda _args: dict(FIRST), lambda _args: taken]).run()
    assert found["failed"] and found["changed"]


def cut_off(clock: list[float], afterwards: Answer) -> Action:
    """The machine answers nothing until its timer has run, and then ``afterwards``."""

    def later(args: dict[str, Any]) -> dict[str, Any]:
        return cut(args) if clock[0] < 1020 else afterwards(args)

    return Action([lambda _args: dict(FIRST), later])


def taken_back(_args: dict[str, Any]) -> dict[str, Any]:
    error = {"what": "The redirect was taken back before it was proven", "details": {"taken_back": True}}
    return {"failed": True, "msg": "taken back before it was proven", "error": error}


def test_a_machine_that_is_cut_off_is_waited_for(clock: list[float]) -> None:
    action = cut_off(clock, taken_back)
    action.alive = [False, True]
    found = action.run(task_vars={"inventory_hostname": "vm-7"})
    assert found["failed"] and not found["changed"]
    assert found["error"]["done"] == []
    assert 20 <= found["error"]["details"]["reachable_again_after"] <= 24
    assert clock[0] - 1000 <= 24
    assert "has been taken back" in found["msg"] and "Connection refused" in found["msg"] and "Where: vm-7" in found["msg"]
    assert "its record says that the timer took the redirect back" in found["msg"]
    assert "Not changed: the redirect; the rules are as they were before this task" in found["msg"]


def test_a_proof_of_which_only_the_answer_was_lost_is_no_redirect_that_was_taken_back(clock: list[float]) -> None:
    new = {"confirmed": True, "connection": ["192.0.2.1", "40001", "192.0.2.2", "22"], "proof": []}
    action = cut_off(clock, lambda _args: new)
    action.alive = [True]
    found = action.run()
    assert not found.get("failed") and found["confirmed"] and found["changed"]
    assert action.calls[-1][0]["confirm"] == action.calls[1][0]["confirm"] and "ControlPath=none" in action.calls[-1][1]


def test_what_the_machine_says_of_its_redirect_is_told(clock: list[float]) -> None:
    left = {"failed": True, "msg": "could not be taken back", "error": {"done": ["a part of the redirect"]}, "changed": True}
    action = cut_off(clock, lambda _args: left)
    action.alive = [True]
    found = action.run()
    assert found["failed"] and found["changed"] and found["msg"] == "could not be taken back"


def test_a_machine_that_is_lost_once_more_is_not_said_to_have_its_old_rules(clock: list[float]) -> None:
    action = cut_off(clock, cut)
    action.alive = [True]
    found = action.run()
    assert found["failed"] and found["changed"]
    assert "what became of the redirect is not known" in found["msg"] and "has been taken back" not in found["msg"]
    assert "Changed already: the redirect, unless its timer has taken it back" in found["msg"]


@pytest.mark.parametrize(
    ("given", "script"),
    [({}, "/var/lib/servicemesh-migration/redirect/revert.sh"), ({"state_dir": "/srv/mesh"}, "`sh /srv/mesh/revert.sh`")],
)
def test_a_machine_that_does_not_come_back_is_said_to_be_lost(clock: list[float], given: dict[str, str], script: str) -> None:
    action = Action([lambda _args: dict(FIRST), cut], **given)
    action.alive = [False] * 100
    found = action.run()
    assert found["failed"] and found["changed"]
    assert "cannot be reached any more" in found["msg"] and script in found["msg"]
    assert "Changed already: the redirect, unless its timer has taken it back" in found["msg"]
    assert clock[0] - 1000 < 60, "it waits for ever"


def test_a_second_try_while_there_is_time() -> None:
    answers: list[Answer] = [lambda _args: dict(FIRST), cut, lambda _args: {"confirmed": True}]
    assert Action(answers).run()["confirmed"]


@pytest.mark.parametrize("given", [{"confirm": {"change": "x"}}, {"async": 60}])
def test_what_would_prove_nothing_is_refused(given: dict[str, Any]) -> None:
    action = Action([lambda _args: dict(FIRST)], **{key: value for key, value in given.items() if key != "async"})
    action._task.async_val = given.get("async", 0)
    with pytest.raises(AnsibleActionFail, match="has to prove"):
        action.run()
