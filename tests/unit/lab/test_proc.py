# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import proc
from lab.state import Lab, LabError

SLEEP = ["sleep", "60"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]

# The first thread ends (the system call `exit`, of x86-64 and of others), the second one keeps a port.
HEADLESS = [
    sys.executable,
    "-c",
    "import ctypes, platform, socket, threading, time\n"
    "server = socket.create_server(('127.0.0.1', 0))\n"
    "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    "print('port', server.getsockname()[1], flush=True)\n"
    "ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)",
]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    one = Lab("one")
    yield one
    proc.stop_all(one, proc.names(one), grace=0)


def test_start_and_stop(lab: Lab) -> None:
    started = proc.spawn(lab, "sleeper", SLEEP, netns=None)
    assert proc.alive(lab, "sleeper")
    assert proc.names(lab) == ["sleeper"]
    assert proc.load(lab, "sleeper") == started
    assert os.getsid(started.pid) == started.pid  # a session of its own: Ctrl-C of the caller does not reach it
    assert proc.stop(lab, "sleeper")
    assert not proc.alive(lab, "sleeper")
    assert proc.names(lab) == []
    assert not proc.stop(lab, "sleeper")


def test_not_twice(lab: Lab) -> None:
    proc.spawn(lab, "sleeper", SLEEP, netns=None)
    with pytest.raises(LabError, match="runs already"):
        proc.spawn(lab, "sleeper", SLEEP, netns=None)


def test_a_pid_that_became_another_process_is_left_alone(lab: Lab) -> None:
    bystander = subprocess.Popen(SLEEP)
    try:
        time.sleep(0.05)  # start times are told in clock ticks of 10 ms
        started = proc.spawn(lab, "sleeper", SLEEP, netns=None)
        file = proc.record(lab, "sleeper")
        file.write_text(file.read_text().replace(f'"pid": {started.pid}', f'"pid": {bystander.pid}'))
        assert not proc.alive(lab, "sleeper")
        assert not proc.stop(lab, "sleeper")
        assert bystander.poll() is None
        assert proc.kill_ticks(started.pid, started.start)
        assert not proc.kill_ticks(bystander.pid, started.start - 1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_one_that_ignores_sigterm_is_killed_after_the_grace(lab: Lab) -> None:
    log = lab.logs / "stubborn.log"
    proc.spawn(lab, "stubborn", STUBBORN, netns=None, ready=lambda: "ready" in log.read_text())
    began = time.monotonic()
    assert proc.stop(lab, "stubborn", grace=0.3)
    assert time.monotonic() - began >= 0.3
    assert not proc.alive(lab, "stubborn")


def test_one_whose_first_thread_is_a_zombie_lives_until_its_ports_are_free(lab: Lab) -> None:
    log = lab.logs / "headless.log"
    started = proc.spawn(lab, "headless", HEADLESS, netns=None, ready=lambda: "port" in log.read_text())
    proc.wait_for(lambda: ") Z " in Path(f"/proc/{started.pid}/stat").read_text(), 10, what="the zombie")
    assert proc.alive(lab, "headless")
    port = int(log.read_text().split()[1])
    with pytest.raises(OSError):
        socket.create_server(("127.0.0.1", port))
    assert proc.stop(lab, "headless", grace=0.1)
    socket.create_server(("127.0.0.1", port)).close()


def test_several_share_one_grace(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"s{i}" for i in range(3)}
    for name in names:
        log = lab.logs / f"{name}.log"
        proc.spawn(lab, name, STUBBORN, netns=None, ready=lambda log=log: "ready" in log.read_text())  # type: ignore[misc]
    numbers: list[int] = []
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, number: (numbers.append(number), kill(pid, number)))
    assert proc.stop_all(lab, names, grace=0.5) == names
    assert numbers == [signal.SIGTERM] * 3 + [signal.SIGKILL] * 3


def test_killed_from_outside_counts_as_gone(lab: Lab) -> None:
    started = proc.spawn(lab, "sleeper", SLEEP, netns=None)
    os.kill(started.pid, signal.SIGKILL)
    proc.wait_for(lambda: not proc.alive(lab, "sleeper"), 3, what="the end")
    assert proc.names(lab) == ["sleeper"]  # `lab status` shows it as gone


def test_one_that_ends_at_once_shows_its_log(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"ended before it was ready.*\n.*no such cheese"):
        proc.spawn(lab, "bad", ["sh", "-c", "echo no such cheese >&2; exit 3"], netns=None, ready=lambda: False)
    assert proc.names(lab) == []


def test_one_that_never_gets_ready_is_stopped(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"not ready after 0\.2 s"):
        proc.spawn(lab, "slow", SLEEP, netns=None, ready=lambda: False, timeout=0.2)
    assert not proc.alive(lab, "slow")


def test_refused_connection_is_not_yet(lab: Lab) -> None:
    answers = iter([ConnectionRefusedError(), TimeoutError(), None])

    def ready() -> bool:
        answer = next(answers)
        if answer:
            raise answer
        return True

    proc.wait_for(ready, 3, what="it")


def test_no_such_program(lab: Lab) -> None:
    with pytest.raises(LabError, match="cannot be started"):
        proc.spawn(lab, "none", ["/no/such/program"], netns=None)
    with pytest.raises(LabError, match="cannot be run"):
        proc.run(lab, ["/no/such/program"], netns=None)


def test_a_record_cut_short_by_a_crash(lab: Lab) -> None:
    file = proc.record(lab, "torn")
    file.parent.mkdir(parents=True)
    file.write_text('{"name": "torn", "pi')
    assert proc.load(lab, "torn") is None
    assert not proc.alive(lab, "torn")
    assert proc.stop_all(lab, ["torn"]) == set()


def test_run(lab: Lab) -> None:
    done = proc.run(lab, ["sh", "-c", "cat; echo $X"], netns=None, stdin="in\n", env={"X": "env"})
    assert done.stdout == "in\nenv\n"
    assert proc.run(lab, ["false"], netns=None, check=False).returncode == 1
    with pytest.raises(LabError, match="status 3: oh"):
        proc.run(lab, ["sh", "-c", "echo oh >&2; exit 3"], netns=None)
    with pytest.raises(LabError, match=r"longer than 0\.2 s"):
        proc.run(lab, SLEEP, netns=None, timeout=0.2)


def test_start_time_of_a_command_with_brackets(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    child = subprocess.Popen([str(program), "60"])
    try:
        ticks = proc.start_ticks(child.pid)
        assert ticks is not None
        assert abs(ticks / os.sysconf("SC_CLK_TCK") - time.clock_gettime(time.CLOCK_BOOTTIME)) < 10
    finally:
        child.kill()
        while proc.start_ticks(child.pid) is not None:
            time.sleep(0.01)
        assert Path(f"/proc/{child.pid}").exists()  # a zombie: gone as far as the lab goes
        child.wait()


def test_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{i}\n" for i in range(5000)))
    assert proc.tail(log, 2) == "4998\n4999"
    assert proc.tail(tmp_path / "none") == "(no log)"
