# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_redirect as a play over ssh on a machine with systemd: nobody is locked out, whatever dies, and a reboot changes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import proc
from lab.state import LabError
from tests.integration.vm.lone import APP_PORT, STATE, Lone, name

pytestmark = pytest.mark.timeout(580)
SECONDS = 15  # revert_after: the least there is
CHAINS = "iptables-save | grep -q ISTIO_OUTPUT"
#: A moment of a run -> what is seen on the machine then.
MOMENTS = {
    "armed": f"[ -e {STATE}/pending.json ]",
    "written": CHAINS,
    "first call over": f"[ -e {STATE}/pending.json ] && {CHAINS} && ! pgrep -f 'Ansiball[Z]_vm_redirect' >/dev/null",
    "confirmed": f"[ -e {STATE}/confirmed.json ]",
    "boot script": f"[ -e {STATE}/boot.sh ]",
}


@pytest.fixture(scope="module")
def solo() -> Iterator[Lone]:
    made = Lone(name())
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture
def plain(solo: Lone) -> Iterator[Lone]:
    """Without a redirect, before and after."""
    yield solo
    proc.wait_for(solo.machine.ready, 30, what="the machine")
    solo.until_reachable(30)
    if solo.record("confirmed") or solo.record("pending") or "ISTIO_" in solo.rules():
        solo.redirect(state="absent")
    solo.inside("systemctl start proxy; systemctl stop hostile 2>/dev/null; true")


def through(solo: Lone) -> list[str]:
    """What came through the proxy: lines of its log."""
    return solo.inside("cat /tmp/proxy.log").split("\n")


def get(solo: Lone) -> str:
    """The application's status line, asked from the cloud's side."""
    argv = solo.cloud(
        "curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", f"http://{solo.machine.address}:{APP_PORT}/"
    )
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def timer(solo: Lone) -> str:
    return solo.inside("systemctl is-active servicemesh-redirect-revert.timer || true").strip()


def test_redirect_reboot_and_away(plain: Lone) -> None:
    solo = plain
    before, files = solo.rules(), solo.inside("find /etc /var/lib /opt | sort")
    found = solo.redirect(probes=[{"url": f"http://{solo.machine.address}:{APP_PORT}/", "from": "controller"}])
    assert found.get("changed") and found["confirmed"], found
    old, new = found["proof"]["before"], found["proof"]["connection"]
    assert old and new and old != new, "the proof came by the old connection"
    assert found["proof"]["timer"] == "systemd" and timer(solo) != "active"
    assert f"15006 {solo.machine.address} {APP_PORT}" in through(solo), "the inbound probe did not go through the proxy"
    solo.inside("python3 -c \"import socket; socket.create_connection(('10.10.0.1', 9), 2)\" 2>/dev/null; true")
    assert "15001 10.10.0.1 9" in through(solo), "an outbound connection did not go through the proxy"
    again = solo.redirect()
    assert not again["changed"] and again["confirmed"], again
    with_rules = solo.rules()

    wanted = "/etc/systemd/system/multi-user.target.wants/proxy.service"
    solo.inside(f"rm {wanted}")
    reboot(solo)
    assert solo.rules() == with_rules, "the reboot brought other rules, or in another order"
    assert get(solo) == "000", "without the proxy the application was reached past it"
    assert solo.ssh(), "ssh depends on the proxy"
    solo.inside(f"ln -s ../proxy.service {wanted}; systemctl start proxy")

    gone = solo.redirect(state="absent")
    assert gone["changed"], gone
    assert solo.rules() == before
    assert solo.inside("find /etc /var/lib /opt | sort") == files
    assert not solo.redirect(state="absent")["changed"]
    assert get(solo) == "200"


def test_rules_that_cut_ssh_are_taken_back_by_the_timer(plain: Lone) -> None:
    """Somebody else's rule in our chain sends ssh to a port where nobody is, in the moment after the rules were verified."""
    solo = plain
    before = solo.rules()
    cut = "iptables -t nat -I ISTIO_INBOUND 1 -p tcp --dport 22 -j REDIRECT --to-ports 9; date +%s.%N >/run/cut"
    watch = f"until {MOMENTS['first call over']}; do sleep 0.02; done; {cut}"
    solo.machine.run(["systemd-run", "--unit=hostile", "sh", "-c", watch])
    found = solo.redirect(revert_after=SECONDS)
    assert "cut this machine off and has been taken back" in found.get("msg", ""), found
    assert found["error"]["done"] == []
    again = found["error"]["details"]["reachable_again_after"]
    print(f"cut off, and reachable again {again} s after the rules were written (timer: {SECONDS} s)")
    assert again <= SECONDS + 10
    assert solo.ssh() and solo.rules() == before
    solo.inside("systemctl stop hostile 2>/dev/null; true")
    assert solo.redirect()["confirmed"], "a run after the way back does not work"


PLUG = "exec systemctl reboot -ff"  # nothing is shut down in order


def reboot(solo: Lone) -> None:
    was = solo.machine.leader()
    with contextlib.suppress(LabError):
        solo.machine.run(["sh", "-c", PLUG], check=False)
    back(solo, was)


def back(solo: Lone, was: int | None) -> None:
    proc.wait_for(lambda: solo.machine.leader() not in (None, was), 40, what="the reboot")
    solo.machine.wait(40)
    solo.until_reachable(20)


def consistent(solo: Lone, before: str, within: float) -> str:
    """After everything died: in time the machine is either as before or proven, reachable in any case. Gives which."""
    end = time.monotonic() + within
    while solo.record("pending") or solo.record("reverting"):
        assert solo.ssh(), "locked out"
        assert time.monotonic() < end, "the timer did not take it back in time"
        time.sleep(0.3)
    assert solo.ssh(), "locked out"
    state = "proven" if solo.record("confirmed") else "before"
    assert ("ISTIO_OUTPUT" in solo.rules()) == (state == "proven")
    assert state == "proven" or solo.rules() == before
    return state


def completes(solo: Lone, before: str) -> None:
    found = solo.redirect()
    assert found.get("confirmed"), found
    assert not solo.redirect()["changed"]
    assert "servicemesh-redirect" in solo.inside("ls /etc/systemd/system/multi-user.target.wants")
    solo.redirect(state="absent")
    assert solo.rules() == before


def start(solo: Lone, **options: Any) -> subprocess.Popen[bytes]:
    argv = solo.argv(**{"version": "1.31.0", "revert_after": SECONDS, **options})
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, env=solo.environment(), start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet)


def kill(play: subprocess.Popen[bytes]) -> None:
    """kill -9 of the whole controller: Ansible's workers have sessions of their own, and would go on without it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
    family = [play.pid]
    for pid in family:
        family += parents.get(pid, [])
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    play.wait()


@pytest.mark.thorough
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_of_the_controller(plain: Lone, moment: str) -> None:
    solo = plain
    before = solo.rules()
    play = start(solo)
    try:
        solo.machine.run(["sh", "-c", f"until {MOMENTS[moment]}; do sleep 0.01; done"], timeout=150)
    finally:
        kill(play)
    print(moment, "->", consistent(solo, before, SECONDS + 5))
    completes(solo, before)


@pytest.mark.thorough
@pytest.mark.parametrize("moment", MOMENTS)
def test_reboot(plain: Lone, moment: str) -> None:
    """The plug is pulled."""
    solo = plain
    before, was = solo.rules(), solo.machine.leader()
    play = start(solo)
    script = f"until {MOMENTS[moment]}; do sleep 0.01; done; {PLUG}"
    with contextlib.suppress(LabError):
        solo.machine.run(["sh", "-c", script], timeout=150, check=False)
    kill(play)
    back(solo, was)
    after = solo.rules()
    persisted = solo.inside("ls /etc/systemd/system/multi-user.target.wants; true")
    print(moment, "-> redirected" if "ISTIO_OUTPUT" in after else "-> before")
    assert after == before or "servicemesh-redirect" in persisted
    completes(solo, before)


@pytest.mark.thorough
def test_a_probe_that_fails_does_not_wait_for_the_timer(plain: Lone) -> None:
    solo = plain
    before = solo.rules()
    for place in ("vm", "controller"):
        probe = {"url": f"http://{solo.machine.address}:{APP_PORT}/nothing-here", "from": place, "timeout": 1}
        found = solo.redirect(revert_after=600, probe_timeout=1, probes=[probe])
        assert "has been taken back" in found["msg"] and "status 404" in found["msg"], found
        assert solo.rules() == before and timer(solo) != "active"


@pytest.mark.thorough
def test_two_controllers_at_once(plain: Lone) -> None:
    """One of them is told so or finds nothing to do; the machine ends redirected, or as before, never in between."""
    solo = plain
    before = solo.rules()
    first = start(solo)
    found: list[dict[str, Any]] = []
    other = threading.Thread(target=lambda: found.append(solo.redirect(proxy_uids=["1337", "1338"], revert_after=SECONDS)))
    other.start()
    first.wait(120)
    other.join(120)
    assert found and ("error" in found[0] or found[0]["confirmed"])
    consistent(solo, before, SECONDS + 5)
    completes(solo, before)


@pytest.mark.thorough
def test_two_modes_one_after_the_other(plain: Lone) -> None:
    """Both modes, both families and DNS over ssh: the connection of the play itself lives through each change."""
    solo = plain
    before = solo.rules()
    dns = {"dns_capture": True, "dns_capture_all": True}
    for given in ({"mode": "TPROXY", "ipv6": True}, {"ipv6": True, "drop_invalid": True}, {"version": "1.8.4"}):
        found = solo.redirect(probes=[], **given)
        assert found.get("confirmed") and found["changed"], found
        assert solo.ssh()
    assert "15053" in solo.redirect(**dns)["msg"], "names are captured although nobody answers them"
    solo.redirect(state="absent")
    assert solo.rules() == before
