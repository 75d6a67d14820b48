# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preflight of a VM: each thing that is wrong gives its finding, a good machine gives none, and a real one can be read."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import socket
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.servicemesh.migration.plugins.module_utils._audit import _vm_facts
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import run_checks
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._vm_checks import VM_CHECKS
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._vm_facts import Listener, Process, VmFacts, Way
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._vm_preflight import (
    check_input,
    vm_preflight,
    vm_preflight_spec,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._token import Claims, subject

OURS = {"name": "asm-proxy", "pids": [700, 701], "made": True}
DOCKER = {"path": "/run/docker.sock", "name": "docker", "version": "20.10.24", "root": "/var/lib/docker", "driver": "overlay2"}


def options(**more: Any) -> dict[str, Any]:
    found = ArgumentSpecValidator(vm_preflight_spec()).validate(more)
    assert not found.error_messages, found.error_messages
    return dict(found.validated_parameters)


def good(**more: Any) -> VmFacts:
    given = options(proxy_version="1.18.7", app_ports=[8080], istiod_addresses=["192.0.2.15"])
    facts = VmFacts(given, arch="x86_64", kernel="6.1", backend="nft", now=1000.0, skew=0.4, memory=4000)
    facts.programs = dict.fromkeys(_vm_facts.PROGRAMS, "/usr/sbin/x")
    facts.trials = {"iptables REDIRECT": "", "iptables owner": "", "iptables conntrack": ""}
    facts.tables = {"iptables-nft": ["PREROUTING", "DOCKER"]}
    facts.listeners = [Listener(22, "0.0.0.0", 5, "sshd"), Listener(8080, "0.0.0.0", 6, "echo")]
    facts.processes = [Process(1, 0, "systemd"), Process(6, 1000, "echo")]
    facts.engine, facts.ssh, facts.space = dict(DOCKER), [22], {"/opt/asm_proxy": 9000}
    facts.ways, facts.istiod_version = [Way("192.0.2.15:15012", mtu=1500, fits=True)], "1.18.7"
    facts.names = {"istiod.istio-system.svc": []}
    return dataclasses.replace(facts, **more)


def found(facts: VmFacts) -> dict[str, str]:
    """Errors and warnings by check."""
    report = run_checks(VM_CHECKS, facts)
    assert all(item.hint for item in report.findings if item.severity != "info")
    return {item.id: item.severity for item in report.findings if item.severity != "info"}


def test_nothing_stands_against_a_good_vm() -> None:
    assert found(good()) == {}
    report = run_checks(VM_CHECKS, good())
    assert report.skipped == [] and set(report.passed) == set(VM_CHECKS)


def test_a_vm_that_has_joined_passes_again() -> None:
    facts = good(container=OURS, redirect_is_ours=True, has_token=True, token=Claims("x", ("istio-ca",), 0, 9000))
    facts.listeners = [
        *(facts.listeners or []),
        Listener(15001, "0.0.0.0", 701, "envoy"),
        Listener(15020, "::", 700, "pilot-agent"),
    ]
    facts.processes = [*(facts.processes or []), Process(700, 1337, "pilot-agent"), Process(701, 1337, "envoy")]
    facts.tables = {"iptables-nft": ["ISTIO_OUTPUT", "DOCKER"]}
    assert found(facts) == {}


def with_options(**more: Any) -> dict[str, Any]:
    return {"options": options(proxy_version="1.18.7", app_ports=[8080], istiod_addresses=["192.0.2.15"], **more)}


def old(version: str) -> dict[str, Any]:
    return {"options": options(proxy_version=version, istiod_version=version, app_ports=[8080], istiod_addresses=["192.0.2.15"])}


@pytest.mark.parametrize(
    ("changed", "check", "severity"),
    [
        ({"root": False}, "system", "error"),
        ({"python": (3, 6)}, "system", "error"),
        ({"arch": "riscv64"}, "system", "warning"),
        ({"systemd": False}, "system", "warning"),
        ({"programs": {"iptables": ""}}, "tools", "error"),
        ({"tables": {"iptables-nft": ["A"], "iptables-legacy": ["B"]}}, "packet-filter", "warning"),
        ({"trials": {"iptables owner": "No chain/target/match by that name."}}, "kernel", "error"),
        ({"tables": {"iptables-nft": ["ISTIO_OUTPUT"]}}, "leftovers", "warning"),
        ({"tables": {"iptables-nft": ["KUMA_MESH_OUTBOUND"]}}, "leftovers", "error"),
        ({"processes": [Process(9, 0, "envoy")]}, "leftovers", "error"),
        ({"listeners": [Listener(15001, "::", 9, "nginx"), Listener(8080, "::"), Listener(22, "::")]}, "ports", "error"),
        ({"listeners": [Listener(22, "::")]}, "app-ports", "warning"),
        ({"listeners": [Listener(8080, "127.0.0.1"), Listener(22, "::")]}, "app-ports", "error"),
        ({"listeners": [Listener(8080, "192.0.2.1"), Listener(22, "::")], **old("1.8.4")}, "app-ports", "error"),
        ({"engine": None, "engine_error": "no answer"}, "engine", "error"),
        ({"engine": {**DOCKER, "version": "17.03.1"}}, "engine", "error"),
        ({"engine": {**DOCKER, "name": "podman", "version": "4.3.1", "boots": False}}, "engine", "warning"),
        ({"container": {**OURS, "made": False}}, "engine", "warning"),
        ({"skew": -31.0}, "clock", "error"),
        ({"skew": 7.0}, "clock", "warning"),
        ({"names": {"istiod.istio-system.svc": ["198.51.100.1"]}}, "istiod", "warning"),
        ({"ways": [Way("192.0.2.15:15012", error="timed out")]}, "istiod", "error"),
        ({"tls": {"192.0.2.15": "certificate verify failed"}}, "istiod", "error"),
        ({"ways": [Way("192.0.2.15:15012", mtu=1500, fits=False)]}, "mtu", "warning"),
        ({"ways": [Way("192.0.2.15:15012", mtu=1200)]}, "mtu", "warning"),
        ({"reach": [Way("192.0.2.20:8080", error="No route to host")]}, "reach", "error"),
        ({"istiod_version": "1.17.0"}, "version-skew", "error"),
        ({"istiod_version": "1.22.0"}, "version-skew", "warning"),
        ({"has_token": True, "token": Claims("x", ("other",), 0, 9000)}, "token", "warning"),
        ({"has_token": True, "token": Claims("x", ("istio-ca",), 0, 999), "container": OURS}, "token", "error"),
        ({"has_token": True, "token": None}, "token", "warning"),
        (
            {
                "has_token": True,
                "token": Claims(subject("vmns", "other"), ("istio-ca",), 0, 9000),
                **with_options(namespace="vmns", service_account="vmsa"),
            },
            "token",
            "warning",
        ),
        ({"ssh": [2222]}, "ssh", "warning"),
        ({"security": {"selinux": "enforcing"}}, "security", "warning"),
        ({"space": {"/var/lib/docker": 100}}, "space", "error"),
        ({"space": {"/var/lib/docker": 1000}}, "space", "warning"),
        ({"memory": 100}, "space", "warning"),
        ({"users": {1337: "alice"}}, "user", "error"),
        ({"processes": [Process(9, 1337, "java")]}, "user", "warning"),
    ],
)
def test_each_thing_that_is_wrong_is_found_and_nothing_else(changed: dict[str, Any], check: str, severity: str) -> None:
    assert found(good(**changed)) == {check: severity}


def test_what_cannot_be_read_skips_its_checks_only() -> None:
    report = run_checks(VM_CHECKS, good(tables=None, trials=None, listeners=None, skew=None))
    assert report.skipped == ["packet-filter", "kernel", "leftovers", "ports", "clock", "ssh"]
    assert not report.of("error")


def test_without_a_name_and_an_address_of_istiod_it_is_said() -> None:
    assert found(good(options=options(proxy_version="1.18.7", app_ports=[8080]), ways=[])) == {"istiod": "warning"}


@pytest.mark.parametrize(
    "bad",
    [
        {"app_ports": [0]},
        {"ssh_ports": [70000]},
        {"istiod_port": -1},
        {"istiod_addresses": ["istiod"]},
        {"reach": ["pod"]},
        {"reach": ["pod:http"]},
        {"proxy_version": "new"},
    ],
)
def test_options_that_cannot_be_right_are_refused_before_anything_is_read(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        check_input(options(**bad))


def hang_up(server: socket.socket) -> None:
    """Take connections, and end them at once."""
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    """The real thing, whatever it finds here: sockets, processes, connections."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=hang_up, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        given = options(
            reach=[f"127.0.0.1:{port}", "127.0.0.1:1"],
            istiod_host="localhost",
            istiod_port=port,
            istiod_addresses=["127.0.0.1"],
            path=str(tmp_path),
            app_ports=[port],
            engine_socket=str(tmp_path / "no.sock"),
            fail_on="never",
            controller_time=1.0,
        )
        facts = _vm_facts.read(given)
        assert any((one.port, one.address, one.pid) == (port, "127.0.0.1", os.getpid()) for one in facts.listeners or [])
        assert [way.error for way in facts.reach] == ["", "Connection refused"]
        assert facts.ways[0].mtu > 1000 and facts.tls["127.0.0.1"] and facts.engine is None
        assert any(one.pid == os.getpid() for one in facts.processes or [])
        result = vm_preflight(given, True).result
    worst = {item["id"] for item in result["findings"] if item["severity"] == "error"}
    assert {"clock", "engine", "app-ports", "reach"} <= worst


def test_a_port_that_speaks_something_else_than_http_tells_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_args: Any, **_more: Any) -> None:
        raise http.client.BadStatusLine("\x15\x03\x01")

    monkeypatch.setattr(_vm_facts.urllib.request, "build_opener", lambda *_args: types.SimpleNamespace(open=odd))
    assert _vm_facts.version_of("192.0.2.1") == ""


def test_a_process_may_have_a_name_that_ends_in_the_middle_of_a_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "comm").write_bytes("网关服务进程".encode()[:14] + b"\n")
    (tmp_path / "7" / "fd" / "3").symlink_to("socket:[99]")
    here = types.SimpleNamespace(Path=lambda place: tmp_path if place == "/proc" else Path(place))
    monkeypatch.setattr(_vm_facts, "pathlib", here)
    assert [one.program[:4] for one in _vm_facts._processes()] == ["网关服务"]
    assert _vm_facts._owners()["99"][0] == 7


@pytest.mark.parametrize("name", ["a" * 70 + ".example", "a..b"])
def test_a_name_that_is_none_has_no_addresses(name: str) -> None:
    assert _vm_facts.resolve(name) == []
    assert _vm_facts.connect(f"{name}:80").error
