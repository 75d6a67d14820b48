# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin: live lines of this run only, no effect on the result, async refused, the controller named."""

from __future__ import annotations

import json
import os
import pathlib
import time
import types
import typing as t

import pytest
from ansible.errors import AnsibleActionFail

from ansible_collections.servicemesh.migration.plugins.action import traffic_shift
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import CONTROLLER_ENV, process_lives
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._progress import Progress


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is displayed."""
    found: list[str] = []
    monkeypatch.setattr(traffic_shift.display, "display", lambda text, *_more, **_options: found.append(text))
    return found


def action(
    folder: pathlib.Path, module: t.Callable[[dict[str, t.Any]], dict[str, t.Any]], **more: t.Any
) -> traffic_shift.ActionModule:
    """The action with a task, a connection, and ``module`` in place of the module's run; it gets the task's environment."""
    given = {"migration": "m", "state_dir": str(folder)}
    task = types.SimpleNamespace(
        action="servicemesh.migration.traffic_shift",
        args=given,
        async_val=0,
        check_mode=False,
        no_log=False,
        diff=False,
        environment=None,
    )
    connection = types.SimpleNamespace(transport=more.pop("transport", "local"), _shell=types.SimpleNamespace(tmpdir=None))
    args = more.pop("args", None)
    for key, value in more.items():
        setattr(task, key, value)
    if args is not None:
        task.args = args
    plugin = traffic_shift.ActionModule.__new__(traffic_shift.ActionModule)
    plugin._task, plugin._connection, plugin._cleanup_remote_tmp = task, connection, False
    plugin._execute_module = lambda task_vars: module(dict(item for part in task.environment or [] for item in part.items()))
    return plugin


def writes(folder: pathlib.Path, count: int = 3) -> t.Callable[[dict[str, t.Any]], dict[str, t.Any]]:
    """A module that writes progress lines while it runs."""

    def module(_args: dict[str, t.Any]) -> dict[str, t.Any]:
        progress = Progress(folder / "m", "abc")
        for number in range(count):
            progress.event("move", step=number + 1, of=count, asked=5)
            time.sleep(0.25)
        progress.event("end", text="pass: all steps passed")
        return {"changed": True, "verdict": "pass"}

    return module


def run(plugin: traffic_shift.ActionModule) -> dict[str, t.Any]:
    return plugin.run(None, {"inventory_hostname": "bastion"})


def test_lines_are_shown_while_the_module_runs(tmp_path: pathlib.Path, shown: list[str]) -> None:
    seen: list[int] = []

    def module(_args: dict[str, t.Any]) -> dict[str, t.Any]:
        progress = Progress(tmp_path / "m", "abc")
        progress.event("move", step=1, of=2)
        until = time.monotonic() + 5
        while not shown and time.monotonic() < until:
            time.sleep(0.01)
        seen.append(len(shown))
        progress.event("move", step=2, of=2, asked=5)
        progress.event("end", text="pass: all steps passed")
        return {"changed": True, "verdict": "pass"}

    result = run(action(tmp_path, module))
    assert seen == [1]
    assert result == {"changed": True, "verdict": "pass"}
    assert [line.split(" ", 2)[0] for line in shown] == ["[bastion]"] * len(shown)
    assert "step 2/2 move: 5 % asked" in shown[-2]
    assert shown[-1].endswith("end: pass: all steps passed")


def test_lines_with_newer_numbers_only_are_shown_now_and_then(tmp_path: pathlib.Path, shown: list[str]) -> None:
    def module(_args: dict[str, t.Any]) -> dict[str, t.Any]:
        progress = Progress(tmp_path / "m", "abc", every=0)
        for number, state in enumerate(["inconclusive"] * 20 + ["pass"] * 20):
            progress.event("hold", step=1, gates={"web": {"state": state, "reason": f"line {number}"}})
        progress.event("verdict", step=1)
        return {}

    run(action(tmp_path, module))
    assert [line.rsplit(" ", 1)[-1] for line in shown] == ["0", "20", "verdict"]


def test_an_older_run_is_not_shown(tmp_path: pathlib.Path, shown: list[str]) -> None:
    Progress(tmp_path / "m", "old").event("start", text="old news")
    run(action(tmp_path, lambda _args: {"changed": False}))
    assert shown == []
    run(action(tmp_path, writes(tmp_path)))
    assert len(shown) == 4
    assert not any("old news" in line for line in shown)


def test_half_lines_and_rubbish_are_no_reason_to_fail(tmp_path: pathlib.Path, shown: list[str]) -> None:
    def module(_args: dict[str, t.Any]) -> dict[str, t.Any]:
        path = tmp_path / "m" / "progress.jsonl"
        path.parent.mkdir()
        line = json.dumps({"event": "start", "text": "網關"}).encode()
        with open(path, "ab", buffering=0) as file:
            file.write(b"rubbish\n[1]\n7\n\xff\n" + line[:-8])
            time.sleep(0.5)
            file.write(line[-8:] + b"\n" + b'{"event": "never ended')
        return {"changed": False}

    assert run(action(tmp_path, module)) == {"changed": False}
    assert len(shown) == 1
    assert "start: 網關" in shown[0]


@pytest.mark.parametrize("more", [{"check_mode": True}, {"no_log": True}, {"transport": "ssh"}])
def test_when_nothing_is_shown(tmp_path: pathlib.Path, shown: list[str], more: dict[str, t.Any]) -> None:
    assert run(action(tmp_path, writes(tmp_path), **more))["changed"] is True
    assert shown == []


def test_a_failed_module_stays_failed(tmp_path: pathlib.Path, shown: list[str]) -> None:
    result = run(action(tmp_path, lambda _args: {"failed": True, "msg": "No"}))
    assert result == {"failed": True, "msg": "No"}

    def breaks(_args: dict[str, t.Any]) -> dict[str, t.Any]:
        raise RuntimeError("connection lost")

    with pytest.raises(RuntimeError, match="connection lost"):
        run(action(tmp_path, breaks))


def test_the_controller_is_named_for_local_runs_only(tmp_path: pathlib.Path) -> None:
    given: list[dict[str, t.Any]] = []

    def module(environment: dict[str, t.Any]) -> dict[str, t.Any]:
        given.append(environment)
        return {}

    run(action(tmp_path, module, environment=[{"X": "1"}]))
    run(action(tmp_path, module, transport="ssh"))
    token = given[0].pop(CONTROLLER_ENV)
    assert token.startswith(f"{os.getppid()}:")
    assert process_lives(token)
    assert given == [{"X": "1"}, {}]


def test_async_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AnsibleActionFail, match=r"migration\.traffic_shift does not run with async"):
        run(action(tmp_path, lambda _args: {}, async_val=60))


@pytest.mark.parametrize("args", [{}, {"migration": None}, {"migration": "../../etc"}, {"migration": 7}])
def test_a_bad_name_is_left_to_the_module(tmp_path: pathlib.Path, args: dict[str, t.Any]) -> None:
    answer = {"failed": True, "msg": "The migration's name"}
    assert run(action(tmp_path, lambda _args: answer, args=args)) == answer


def test_the_state_dir_as_the_module_sees_it(
    tmp_path: pathlib.Path, shown: list[str], monkeypatch: pytest.MonkeyPatch, clean_environment: pathlib.Path
) -> None:
    default = clean_environment / ".ansible" / "servicemesh-migration"
    run(action(tmp_path, writes(default, 1), args={"migration": "m"}))
    assert len(shown) == 2
    monkeypatch.setenv("SERVICEMESH_MIGRATION_STATE_DIR", str(tmp_path / "env"))
    run(action(tmp_path, writes(tmp_path / "env", 1), args={"migration": "m"}))
    assert len(shown) == 4
