# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_redirect's logic against a real kernel, among rules of others, in a network namespace without systemd or ssh."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_options import redirect_spec
from lab import binaries
from tests.integration.vm.space import EMPTY, Space

RUNNER = """
import json, sys
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect import vm_redirect
given = json.load(sys.stdin)
try:
    found = vm_redirect(given["params"], given["check"])
    print(json.dumps({**found.result, "plan": found.plan.as_list(), "notes": found.plan.notes}))
except MigrationError as error:
    print(json.dumps({"error": error.as_dict()}))
"""
PROXY = """
import socket, threading
def serve(port):
    server = socket.create_server(("0.0.0.0", port))
    while True:
        there = server.accept()[0]
        there.recv(4096)
        there.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
        there.close()
for port in (15001, 15006, 15021):
    threading.Thread(target=serve, args=(port,)).start()
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 15053))
print("ready", flush=True)
"""
# As Docker, firewalld (with its iptables back end) and kube-proxy leave them.
OTHERS = """*nat
:DOCKER - [0:0]
:PRE_public - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals -j ISTIO_OUTPUT" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -i eth1 -j RETURN
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.9.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -j KUBE-POSTROUTING
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.9.0.2:80
-A KUBE-SERVICES -d 10.9.0.1/32 -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.9.0.3:6443
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
COMMIT
*mangle
:PRE_public - [0:0]
-A PREROUTING -j PRE_public
-A PRE_public -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x10/0xffffffff
COMMIT
*raw
-A PREROUTING -p udp -m udp --dport 69 -j CT --notrack
COMMIT
"""
BACKENDS = pytest.mark.parametrize("backend", ["nft", "legacy"])


class Vm:
    """The namespace with others' rules in it, and vm_redirect as the module and its action would call it."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.space = Space(folder, "nameserver 192.0.2.53\n")
        self.backend, self.folder = backend, folder
        self.tools = [f"iptables-{backend}", f"ip6tables-{backend}"]
        self.proxy = subprocess.Popen(
            self.space.argv(sys.executable, "-c", PROXY), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self.proxy.stdout is not None and self.proxy.stdout.readline() == "ready\n"
        for tool in self.tools:
            text = OTHERS if tool.startswith("iptables") else re.sub(r"\d+\.\d+\.\d+\.\d+(/\d+)?", "fd00:9::1", OTHERS)
            self.space.run(f"{tool}-restore", stdin=EMPTY)
            self.space.run(f"{tool}-restore", "--noflush", stdin=text.replace("fd00:9::1:", "[fd00:9::1]:"))
        self.before = self.saved()

    def close(self) -> None:
        self.proxy.kill()
        self.proxy.wait()
        self.space.close()

    def saved(self) -> dict[str, list[str]]:
        """iptables-save without times and counters."""
        return {
            tool: [re.sub(r" \[\d+:\d+\]", "", line) for line in self.space.save(tool).splitlines() if not line.startswith("#")]
            for tool in self.tools
        }

    def others(self) -> dict[str, list[str]]:
        return {
            tool: [line for line in lines if "ISTIO_" not in line or "portals" in line] for tool, lines in self.saved().items()
        }

    def call(self, *, check: bool = False, apart: bool = True, **given: Any) -> dict[str, Any]:
        defaults = {name: option.get("default") for name, option in redirect_spec().items()}
        own = {
            "version": "1.31.0",
            "backend": self.backend,
            "persist": False,
            "state_dir": str(self.folder / "state" / "redirect"),
        }
        # a pid namespace of its own: this test may itself have been started over ssh, and no process stays behind
        own_pids = ["unshare", "--pid", "--fork", "--mount-proc", "--"] if apart else []
        argv = self.space.argv(*own_pids, sys.executable, "-c", RUNNER)
        env = {**os.environ, "PYTHONPATH": os.environ["ANSIBLE_COLLECTIONS_PATH"]}
        text = json.dumps({"params": {**defaults, **own, **given}, "check": check})
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=60, env=env)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def redirect(self, **given: Any) -> dict[str, Any]:
        """Both calls, as the action plugin makes them."""
        first = self.call(**given)
        if "pending" not in first:
            return first
        second = self.call(**given, confirm={"change": first["pending"]["change"], "failure": ""})
        return {**first, **second, "plan": first["plan"], "notes": first["notes"]}


@pytest.fixture
def vm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Vm]:
    made = Vm(tmp_path, getattr(request, "param", None) or request.node.callspec.params.get("backend", "nft"))
    yield made
    made.close()


@BACKENDS
def test_others_stay_as_they_are(vm: Vm, backend: str) -> None:
    """Redirect, other options, the same again, away: others' rules are the same at each step, and at the end byte for byte."""
    for given in (
        {"ipv6": True, "exclude_interfaces": ["eth1"]},
        {"ipv6": True, "dns_capture": True, "drop_invalid": True, "proxy_port": 15001},
        {"mode": "TPROXY", "virtual_interfaces": ["virbr0"]},
        {"version": "1.8.4", "outbound_cidrs": ["10.96.0.0/12"]},
    ):
        assert "error" not in (found := vm.redirect(**given)), found
        assert found["confirmed"] and found["plan"], found
        # our own rules without Istio's name are taken out by their looks
        mine = ("-i eth1 -j RETURN", "-o eth1 -j RETURN", "INVALID", "CT --zone", "0x539", "virbr0", "0x53a")
        left = {tool: [line for line in lines if not any(one in line for one in mine)] for tool, lines in vm.others().items()}
        plain = {tool: [line for line in lines if not any(one in line for one in mine)] for tool, lines in vm.before.items()}
        assert left == plain
        again = vm.redirect(**given)
        assert again["plan"] == [] and again["confirmed"]
    assert vm.redirect(state="absent")["plan"]
    assert vm.saved() == vm.before
    assert vm.redirect(state="absent")["plan"] == []
    assert not (vm.folder / "state").exists()
    assert "0x539" not in vm.space.run("ip", "rule") and "::6" not in vm.space.run("ip", "-6", "addr", "show", "dev", "lo")


@BACKENDS
def test_a_twin_of_our_rule_stays(vm: Vm, backend: str) -> None:
    """Somebody had the very rule that an excluded interface needs: ours is a second one, and goes alone."""
    assert vm.redirect(exclude_interfaces=["eth1"])["confirmed"]
    twins = [line for line in vm.saved()[vm.tools[0]] if line == "-A PREROUTING -i eth1 -j RETURN"]
    assert len(twins) == 2
    assert vm.redirect(state="absent")["plan"]
    assert vm.saved() == vm.before


@BACKENDS
def test_check_mode_changes_nothing(vm: Vm, backend: str) -> None:
    found = vm.call(check=True, ipv6=True)
    assert [change["action"] for change in found["plan"]] == ["redirect", "redirect", "route"]
    assert vm.saved() == vm.before
    assert not (vm.folder / "state").exists()


@BACKENDS
@pytest.mark.parametrize("half", [False, True], ids=["twice", "half"])
def test_what_istio_iptables_made_goes(vm: Vm, backend: str, half: bool) -> None:
    """The real one's rules, loaded twice over, or with half of them gone, and no record of anything."""
    dry = vm.folder / "dry"
    words = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "TPROXY", "-i", "*", "-x", "", "-b", "*", "-d", "15020"]
    env = {"PATH": os.environ["PATH"], "DRY_RUN_FILE_PATH": str(dry)}
    vm.space.run(str(binaries.path("pilot-agent")), "istio-iptables", "-n", *words, "--redirect-dns", "--drop-invalid", env=env)
    program = "".join(
        f"{line}\n" for line in dry.read_text().replace("* ", "*").splitlines() if line.startswith(("*", "-", "COMMIT"))
    )
    tool = vm.tools[0]
    vm.space.run(f"{tool}-restore", "--noflush", stdin=program)
    if half:
        for line in vm.space.save(tool).splitlines()[::2]:
            if line.startswith("-A") and "ISTIO_" in line and "portals" not in line:
                table = "nat" if "REDIRECT" in line or "OUTPUT" in line else "mangle"
                vm.space.run("sh", "-c", f"{tool} -t {table} -D {line[3:]} || true", check=False)
    else:
        vm.space.run(
            f"{tool}-restore", "--noflush", stdin="".join(f"{x}\n" for x in program.splitlines() if not x.startswith("-N"))
        )
    for words in ("rule add fwmark 1337 lookup 133", "route add local default dev lo table 133", "-6 addr add ::6/128 dev lo"):
        vm.space.run("ip", *words.split())
    assert vm.saved() != vm.before
    assert vm.redirect(state="absent")["plan"]
    assert vm.saved() == vm.before
    left = [vm.space.run("ip", *words) for words in (("rule",), ("route", "show", "table", "all"), ("-6", "addr"))]
    assert not any(word in text for text in left for word in ("0x539", "table 133", "::6/128"))


def test_the_other_back_end_is_cleaned(tmp_path: Path) -> None:
    """A container with its own iptables wrote to legacy; this machine's iptables shows nothing of it."""
    vm = Vm(tmp_path, "nft")
    try:
        legacy = "*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j RETURN\nCOMMIT\n"
        vm.space.run("iptables-legacy-restore", "--noflush", stdin=legacy)
        found = vm.redirect()
        assert found["confirmed"], found
        assert "iptables (legacy)" in str([change["target"] for change in found["plan"] if change["action"] == "clean"])
        assert "ISTIO_" not in vm.space.save("iptables-legacy")
        assert "ISTIO_OUTPUT" in vm.space.save("iptables-nft")
        assert vm.redirect(state="absent")["plan"] and vm.saved() == vm.before
    finally:
        vm.close()


@BACKENDS
def test_a_proof_that_fails_takes_it_back_at_once(vm: Vm, backend: str) -> None:
    """From nothing, and from an older redirect, which comes back in its old place among others' rules."""
    bad = {
        "probes": [{"url": "http://127.0.0.1:15021/", "tcp": None, "status": [204], "from": "vm", "timeout": 1}],
        "probe_timeout": 0,
    }
    found = vm.redirect(**bad)
    assert "status 200 instead of 204" in found["error"]["why"] and found["error"]["done"] == []
    assert vm.saved() == vm.before
    assert vm.redirect(ipv6=True)["confirmed"]
    vm.space.run(vm.tools[0], "-t", "nat", "-A", "OUTPUT", "-p", "icmp", "-j", "ACCEPT")  # somebody's rule after ours
    older = vm.saved()
    found = vm.redirect(**bad, version="1.8.4", outbound_cidrs=["10.0.0.0/8"])
    assert "taken back" in found["error"]["what"], found
    assert vm.saved() == older
    again = vm.redirect(ipv6=True)
    assert again["plan"] == [] and again["confirmed"]


@BACKENDS
def test_the_way_back_from_everywhere(vm: Vm, backend: str) -> None:
    """revert.sh after the arming, after the first family, after all: always what was before. A run after it is a run like any."""
    found = vm.call(ipv6=True, revert_after=3600)
    script = str(vm.folder / "state/redirect/revert.sh")
    written = vm.saved()
    assert "pending" in found and written != vm.before
    pending = (vm.folder / "state/redirect/pending.json").read_text()
    for reached in ("all", "first", "none"):
        (vm.folder / "state/redirect/pending.json").write_text(pending)
        for tool in vm.tools:
            there = "\n".join(written[tool] if reached == "all" or (reached, tool) == ("first", vm.tools[0]) else vm.before[tool])
            vm.space.run(f"{tool}-restore", stdin=EMPTY)
            vm.space.run(f"{tool}-restore", stdin=re.sub(r"^(:\S+ \S+)$", r"\1 [0:0]", there, flags=re.M) + "\n")
        vm.space.run("sh", script)
        assert vm.saved() == vm.before, reached
        assert "::6" not in vm.space.run("ip", "-6", "addr", "show", "dev", "lo")
    late = vm.call(ipv6=True, confirm={"change": found["pending"]["change"], "failure": ""})
    assert "taken back before it was proven" in late["error"]["what"]
    again = vm.redirect(ipv6=True)
    assert again["confirmed"] and any("never proven" in note for note in again["notes"])
    assert vm.redirect(ipv6=True)["notes"] == []


@pytest.mark.thorough
def test_the_timer_without_systemd(tmp_path: Path) -> None:
    """A process of its own session outlives the module, takes the rules back, and ends."""
    vm = Vm(tmp_path, "nft")
    try:
        assert vm.call(apart=False, revert_after=15)["pending"]["timer"] == "process"
        written = vm.saved()
        assert written != vm.before
        pid = json.loads((vm.folder / "state/redirect/waiting.json").read_text())["pid"]
        time.sleep(12)
        assert vm.saved() == written, "too early"
        time.sleep(6)
        assert vm.saved() == vm.before
        assert not Path(f"/proc/{pid}").exists()
        assert vm.redirect()["confirmed"]
    finally:
        vm.close()


@BACKENDS
def test_a_boot_brings_the_same(vm: Vm, backend: str) -> None:
    given = {"ipv6": True, "mode": "TPROXY", "virtual_interfaces": ["virbr0"]}
    assert vm.redirect(**given)["confirmed"]
    proven = vm.saved()
    script = vm.folder / "boot.sh"
    script.write_text(json.loads((vm.folder / "state/redirect/confirmed.json").read_text())["boot_script"])
    for started in ("after a boot", "once more"):
        if started == "after a boot":
            for tool in vm.tools:
                vm.space.run(f"{tool}-restore", stdin=EMPTY)
                text = "\n".join(vm.before[tool])
                vm.space.run(f"{tool}-restore", stdin=re.sub(r"^(:\S+ \S+)$", r"\1 [0:0]", text, flags=re.M) + "\n")
            vm.space.run("ip", "rule", "del", "fwmark", "1337", "lookup", "133")
        vm.space.run("sh", str(script))
        assert vm.saved() == proven, started
    assert vm.redirect(**given)["plan"] == []


def test_errors_say_what_and_change_nothing(tmp_path: Path) -> None:
    vm = Vm(tmp_path, "nft")
    try:
        unknown = vm.redirect(exclude_groups=["no-such-group"])["error"]
        assert "does not take the rules" in unknown["what"] and "no-such-group" in unknown["where"], unknown
        vm.proxy.kill()
        vm.proxy.wait()
        missing = vm.redirect()["error"]
        assert "No proxy listens on port 15001, 15006" in missing["what"]
        assert any("nothing listens" in note for note in vm.call(check=True)["notes"])
        vm.space.run("iptables-nft", "-t", "nat", "-N", "ISTIO_OUTPUT")
        vm.space.run("iptables-nft", "-t", "nat", "-A", "ISTIO_OUTPUT", "-p", "tcp", "-j", "LOG")
        for state in ("present", "absent"):
            found = vm.redirect(state=state)["error"]
            assert "not only Istio's" in found["what"] and "LOG" in found["where"]
        vm.space.run("sh", "-c", "iptables-nft -t nat -F ISTIO_OUTPUT; iptables-nft -t nat -X ISTIO_OUTPUT")
        assert vm.saved() == vm.before
    finally:
        vm.close()
