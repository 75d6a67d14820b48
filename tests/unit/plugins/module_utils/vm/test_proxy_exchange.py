# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exchange of a proxy, cut at each of its steps: somebody serves at every moment, and the next run completes it.

The order is what is tested here, on an engine and Envoys in memory; what real ones do is tested in the lab.
"""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _alone, _proxy, _proxy_run
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._proxy_spec import proxy_spec

Object = dict[str, Any]
OLD, NEW = "test/asm-proxy:1", "test/asm-proxy:2"
ENV = "TRUST_DOMAIN=cluster.local\nPOD_NAMESPACE=vmns\nSERVICE_ACCOUNT=vmsa\n"
REDIRECTS = _proxy_run.redirects
SPIFFE = "spiffe://cluster.local/ns/vmns/sa/vmsa"


class Killed(BaseException):
    """SIGKILL: nothing that would clean up does anything any more."""


class World:
    """A VM: containers, the Envoys in them, one setting of the kernel; and whether somebody serves, after each step."""

    def __init__(self) -> None:
        self.containers: dict[str, Object] = {}
        self.setting = "0"
        self.steps, self.kill_at, self.dead, self.pids = 0, 0, False, 0
        self.must_serve, self.broken = False, set[str]()
        self.tags: dict[str, str] = {}  # what a name means here, and what it means at the registry
        self.moved: dict[str, str] = {}

    def step(self) -> None:
        if self.dead:
            raise Killed
        self.steps += 1
        if self.steps == self.kill_at:
            self.dead = True
            raise Killed

    def after(self) -> None:
        assert not self.must_serve or self.serving(), f"nobody serves after step {self.steps}"

    def serving(self) -> list[str]:
        up = [name for name, one in self.containers.items() if one["running"] and not one["drained"] and not one["warming"]]
        return [name for name in up if self.works(name)]

    def works(self, name: str) -> bool:
        return self.containers[name]["body"]["Image"] not in self.broken

    def by_port(self, usual: int, helper: int, port: int) -> str:
        return {usual: "asm-proxy", helper: "asm-proxy-next"}.get(port, "")

    # the engine

    def name(self) -> str:
        return "docker"

    def boots(self) -> bool:
        return True

    def image(self, reference: str) -> Object | None:
        return {"Id": f"sha256:id-of-{self.tags.get(reference, reference)}"}

    def pull(self, reference: str, _login: Any) -> None:
        self.step()
        self.tags.update({reference: self.moved[reference]} if reference in self.moved else {})

    def container(self, name: str) -> Object | None:
        one = self.containers.get(name)
        if one is None:
            return None
        body = one["body"]
        config = {key: body.get(key) for key in ("Image", "Env", "Cmd", "Labels")}
        state = {"Running": one["running"], "Pid": one["pid"] if one["running"] else 0}
        shown = {"Image": one["id"], "Config": config, "HostConfig": body["HostConfig"], "State": state}
        return {**shown, "RestartCount": 3 if name in self.containers and not self.works(name) else 0}

    def create(self, name: str, body: Object) -> None:
        self.step()
        assert name not in self.containers
        self.pids += 1
        pid = 100 + self.pids
        self.containers[name] = {"body": body, "running": False, "drained": False, "warming": 0, "pid": pid}
        self.containers[name]["id"] = (self.image(body["Image"]) or {})["Id"]
        self.after()

    def start(self, name: str) -> None:
        self.step()
        self.containers[name].update(running=True, drained=False, warming=3)  # ready comes first, the ports later
        self.after()

    def stop(self, name: str, _seconds: int) -> None:
        self.step()
        self.containers[name]["running"] = False
        self.after()

    def remove(self, name: str) -> None:
        self.step()
        self.containers.pop(name, None)
        self.after()

    def logs(self, _name: str, _lines: int = 20) -> str:
        return "error: this Envoy does not work"

    # its Envoys

    def ask(self, port: int, path: str, method: str = "GET", timeout: float = 5) -> tuple[int, bytes]:
        self.step()
        name = self.by_port(15000, 15100, port)
        if name in self.containers and path == "/drain_listeners":
            self.containers[name]["drained"] = True
        self.after()
        return 200, b""

    def ready(self, port: int) -> bool:
        name = self.by_port(15020, 15120, port)
        return name in self.containers and bool(self.containers[name]["running"]) and self.works(name)

    def holds(self, _ports: Any, pids: list[int]) -> bool:
        for one in self.containers.values():
            one["warming"] = max(0, one["warming"] - 1)
        return any(self.containers[name]["pid"] in pids for name in self.serving())

    # the setting

    def read_text(self, **_more: Any) -> str:
        return f"{self.setting}\n"

    def write_text(self, text: str, **_more: Any) -> None:
        self.step()
        self.setting = text.strip()


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> World:
    world = World()
    monkeypatch.setattr(_proxy_run, "Engine", lambda path: world)
    for name, call in {
        "ask": world.ask, "ready": world.ready, "holds": world.holds, "connections": lambda *args: 0,
        "connected": lambda *args: True, "descendants": lambda pid: [pid], "listeners": lambda ports: {},
        "proof": lambda admin: {"rejected": 0, "spiffe": SPIFFE},
    }.items():  # fmt: skip
        monkeypatch.setattr(_proxy_run._envoy, name, call)
    monkeypatch.setattr(_proxy_run, "_SYSCTL", world)
    monkeypatch.setattr(_proxy_run, "redirects", list)
    monkeypatch.setattr(_alone, "FOLDER", tmp_path)
    monkeypatch.setattr(_proxy_run.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(_proxy_run.os, "geteuid", lambda: 0)
    (tmp_path / "cluster.env").write_text(ENV)
    world.folder = str(tmp_path)  # type: ignore[attr-defined]
    return world


def run(world: World, image: str = OLD, **more: Any) -> bool:
    """One run of the module; whether it changed something."""
    words = {"image": image, "path": world.folder, "wait_timeout": 0.3, **more}  # type: ignore[attr-defined]
    checked = ArgumentSpecValidator(proxy_spec()).validate(words)
    assert checked.error_messages == []
    return _proxy_run.run_module(checked.validated_parameters, False).plan.changed


def test_an_exchange_ends_with_the_new_proxy_alone_and_the_setting_as_it_was(vm: World) -> None:
    assert run(vm)
    assert not run(vm)
    vm.must_serve = True
    assert run(vm, NEW)
    assert (list(vm.containers), vm.containers["asm-proxy"]["body"]["Image"], vm.setting) == (["asm-proxy"], NEW, "0")
    assert not run(vm, NEW)


def count(vm: World) -> int:
    """Steps of one whole exchange."""
    run(vm)
    before = vm.steps
    run(vm, NEW)
    return vm.steps - before


@pytest.mark.parametrize("then", [NEW, OLD])
def test_a_kill_at_each_step_leaves_somebody_serving_and_the_next_run_completes(
    vm: World, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """`then`: what the next run wants; an operator may want the old one back by now."""
    whole = count(vm)
    assert whole > 8
    for at in range(1, whole + 1):
        vm.containers, vm.setting, vm.must_serve, vm.dead, vm.kill_at = {}, "0", False, False, 0
        run(vm)
        vm.must_serve, vm.steps, vm.kill_at = True, 0, at
        with pytest.raises(Killed):
            run(vm, NEW)
        vm.dead, vm.kill_at = False, 0
        assert vm.serving()
        run(vm, then)
        assert vm.serving() == list(vm.containers) == ["asm-proxy"], f"killed at step {at}"
        assert vm.containers["asm-proxy"]["body"]["Image"] == then
        assert vm.setting == "0", f"killed at step {at}"
        assert not run(vm, then)


def test_a_new_proxy_that_does_not_work_leaves_the_old_one_as_it_was(vm: World) -> None:
    run(vm)
    old = dict(vm.containers["asm-proxy"])
    vm.must_serve, vm.broken = True, {NEW}
    with pytest.raises(MigrationError, match="the old proxy is as it was") as error:
        run(vm, NEW)
    assert vm.containers == {"asm-proxy": old} and vm.setting == "0"
    assert error.value.done == []


def test_a_helper_is_not_removed_when_nobody_else_would_serve(vm: World) -> None:
    run(vm)
    vm.must_serve, vm.steps = True, 0
    run(vm, NEW)
    helper = {**vm.containers["asm-proxy"], "pid": 7}
    vm.containers["asm-proxy-next"] = helper
    vm.containers["asm-proxy"]["drained"] = True
    run(vm, NEW)
    assert vm.serving() == list(vm.containers) == ["asm-proxy"]


def test_somebody_elses_container_is_left_alone_unless_it_is_adopted(vm: World) -> None:
    run(vm)
    vm.containers["asm-proxy"]["body"]["Labels"].clear()
    with pytest.raises(MigrationError, match="somebody else's"):
        run(vm, NEW)
    with pytest.raises(MigrationError, match="somebody else's"):
        run(vm, NEW, state="absent")
    vm.must_serve = True
    assert run(vm, NEW, adopt=True)
    assert vm.serving() == ["asm-proxy"]


def test_leaving_after_a_kill_takes_everything(vm: World) -> None:
    run(vm)
    vm.steps, vm.kill_at = 0, 5
    with pytest.raises(Killed):
        run(vm, NEW)
    vm.dead, vm.kill_at = False, 0
    run(vm, NEW, state="absent")
    assert (vm.containers, vm.setting) == ({}, "0")
    assert not run(vm, NEW, state="absent")


def test_a_name_that_means_another_image_now_exchanges_the_proxy_in_the_run_that_pulls_it(vm: World) -> None:
    run(vm, pull="always")
    vm.must_serve, vm.moved = True, {OLD: "the newer one"}
    run(vm, pull="always")
    assert vm.containers["asm-proxy"]["id"] == "sha256:id-of-the newer one" and list(vm.containers) == ["asm-proxy"]
    steps = vm.steps
    run(vm, pull="always")
    assert vm.steps == steps + 1, "nothing but the pull"


@pytest.mark.parametrize("at", [0, 5])
def test_a_proxy_to_which_traffic_is_led_is_not_removed(vm: World, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    run(vm)
    vm.kill_at, vm.steps = at, 0
    if at:  # a helper serves beside it
        with pytest.raises(Killed):
            run(vm, NEW)
    vm.dead, vm.kill_at, vm.must_serve = False, 0, True
    monkeypatch.setattr(_proxy_run, "redirects", lambda: ["iptables (nft)"])
    before = dict(vm.containers)
    with pytest.raises(MigrationError, match="lift the redirect first"):
        run(vm, state="absent")
    assert vm.containers == before
    vm.must_serve = False
    for one in vm.containers.values():
        one["running"] = False  # it is of no use to anybody
    run(vm, state="absent")
    assert vm.containers == {}


def test_check_mode_says_that_a_proxy_would_not_be_removed(vm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run(vm)
    monkeypatch.setattr(_proxy_run, "redirects", lambda: ["iptables (nft)"])
    words = ArgumentSpecValidator(proxy_spec()).validate({"state": "absent", "path": vm.folder})  # type: ignore[attr-defined]
    made = _proxy_run.run_module(words.validated_parameters, True).plan
    assert "would not be removed" in made.notes[0]


def test_rules_that_lead_to_the_proxy_are_seen_in_both_back_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {
        "nft": {"nat": {"OUTPUT": ["-d 10.0.0.0/8 -j DOCKER"], "ISTIO_OUTPUT": ["-j ISTIO_REDIRECT"]}},
        "legacy": {"mangle": {"PREROUTING": ["-p tcp -j ISTIO_INBOUND"]}},
    }
    tools = [_proxy_run.host.Tool(backend, 4, "x") for backend in ("nft", "legacy")]
    monkeypatch.setattr(_proxy_run.host, "backend_in_use", lambda _asked: "nft")
    monkeypatch.setattr(_proxy_run.host, "tools", lambda _backend: tools)
    monkeypatch.setattr(_proxy_run.host, "read", lambda tool: saved[tool.backend])
    assert REDIRECTS() == ["iptables (legacy)"], "a chain that nobody jumps to leads nowhere"


def test_two_runs_at_once_on_one_vm(vm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_alone, "PATIENCE", 0.0)
    with _alone.alone("proxy", "x"), pytest.raises(MigrationError, match="Another run"):
        run(vm)
    assert vm.containers == {}


def test_a_vm_without_an_identity_gets_no_proxy(vm: World, tmp_path: Any) -> None:
    (tmp_path / "cluster.env").unlink()
    with pytest.raises(MigrationError, match="no identity"):
        run(vm)


def test_ports_that_somebody_has_are_told_before_anything_is_made(vm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_proxy_run._envoy, "listeners", lambda ports: {15021: {"1"}})
    with pytest.raises(MigrationError, match="15021"):
        run(vm)
    assert vm.containers == {}
    assert _proxy.helper_name("x") == "x-next"
