# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Labs that end in every way: killed anywhere, twice, half up; `down` leaves nothing and `up` cleans up first."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab import binaries, machine, net, proc, world
from lab.cluster import Cluster
from lab.state import Lab, LabError, state_root
from tests.integration.lab.helpers import LAB, MARKS, a_lab, call, traces, until

pytestmark = [*MARKS, pytest.mark.thorough]


@pytest.mark.thorough
def test_two_labs_side_by_side(tmp_path: Path) -> None:
    with a_lab("fnd1", "--nodes", "1") as one:
        with a_lab("fnd2", "--nodes", "1") as other:
            assert Cluster(other, "ack", 1).uid() != Cluster(one, "ack", 1).uid()
            assert call(one.name, "status").returncode == 0
        assert call(one.name, "status").returncode == 0
        assert Cluster(one, "ack", 1).ready_nodes() == {"ack-0"}
        # the same LAB_NAME with another state folder: its namespaces belong to somebody else
        env = {**os.environ, "LAB_NAME": one.name, "LAB_STATE_DIR": str(tmp_path)}
        done = subprocess.run([LAB, "up", "--parts", "cluster"], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "another state folder" in done.stderr
        assert call(one.name, "status").returncode == 0


def test_down_twice_and_without_up() -> None:
    assert call("fnd3", "down").returncode == 0
    assert traces("fnd3") == []
    assert call("fnd3", "status").returncode == 1
    assert call("fnd3", "exec", "--", "true").returncode == 1
    assert traces("fnd3") == []


def all_pids(one: Lab) -> list[int]:
    """Every process of a lab: those in its namespaces, and those in its machines' cgroups."""
    pids = set(net.processes(one))
    for top in machine.lab_cgroups(one):
        pids |= machine._members(top)
    return sorted(pids)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
def test_down_after_kill_9_of_anything(seed: int) -> None:
    """A random part of all processes, whatever they are, is killed; then `down` leaves nothing, and `up` works."""
    name, chance = "fnd4", random.Random(seed)
    with a_lab(name) as one:
        everything = all_pids(one)
        assert len(everything) > 20
        for pid in chance.sample(everything, len(everything) // (seed + 1)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        assert call(name, "status").returncode == 1 or seed > 0
        assert call(name, "down").returncode == 0
        assert traces(name) == []
        assert call(name, "down").returncode == 0


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["machine-ack-0", "ack-apiserver", "ack-etcd"])
def test_up_after_a_crash_cleans_first(victim: str) -> None:
    with a_lab("fnd5", "--nodes", "1") as one:
        found = proc.load(one, victim)
        assert found is not None
        os.kill(found.pid, signal.SIGKILL)
        until("the end", lambda: not proc.alive(one, victim))
        status = call(one.name, "status")
        assert status.returncode == 1
        assert "GONE" in status.stdout
        again = call(one.name, "up", "--parts", "cluster", "--nodes", "1")
        assert again.returncode == 0, again.stderr
        assert "clean up" in again.stdout
        assert call(one.name, "status").returncode == 0


@pytest.mark.thorough
@pytest.mark.parametrize("after", [0.3, 0.8, 1.5, 2.5])
def test_up_killed_on_its_way(after: float) -> None:
    name = "fnd6"
    argv = [LAB, "up", "--parts", "cluster", "--nodes", "1"]
    running = subprocess.Popen(argv, env={**os.environ, "LAB_NAME": name}, stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(after)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert call(name, "down").returncode == 0
    assert traces(name) == []
    with a_lab(name, "--nodes", "1"):
        pass


def test_one_up_at_a_time() -> None:
    name = "fnd7"
    argv = [LAB, "up", "--parts", "cluster", "--nodes", "1"]
    with subprocess.Popen(argv, env={**os.environ, "LAB_NAME": name}, stdout=subprocess.DEVNULL) as first:
        try:
            until("the first", lambda: net.exists(Lab(name), "cloud"))
            second = call(name, "down")
            assert second.returncode == 1
            assert "another `lab up` or `lab down`" in second.stderr
        finally:
            first.wait(60)
            assert call(name, "down").returncode == 0
    assert traces(name) == []


def test_a_shell_of_exec_does_not_hinder_down() -> None:
    name = "fnd8"
    with a_lab(name, "--nodes", "1"):
        env = {**os.environ, "LAB_NAME": name}
        with subprocess.Popen([LAB, "exec", "--", "sleep", "300"], env=env) as shell:
            until("the shell", lambda: shell.pid in net.processes(Lab(name)), 10)
            assert call(name, "exec", "--", LAB, "down").returncode == 0
            assert shell.wait(10) == -signal.SIGKILL


def test_a_lab_that_cannot_come_up_says_why(tmp_path: Path) -> None:
    """A kubelet that is none: the error is in plain words, ends with the log, and what runs can be removed."""
    name, programs = "fnd9", tmp_path / "bin"
    programs.mkdir()
    for program in (
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubectl",
        "kube-proxy",
        "coredns",
        "pause",
        "echo",
    ):
        (programs / program).symlink_to(binaries.path(program))
    (programs / "kubelet").write_text("#!/bin/sh\necho no cheese today\nexit 1\n")
    (programs / "kubelet").chmod(0o755)
    argv = [LAB, "up", "--parts", "cluster", "--nodes", "1"]
    env = {**os.environ, "LAB_NAME": name, "LAB_BIN": str(programs), "LAB_NODE_TIMEOUT": "5"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    try:
        assert done.returncode == 1
        assert "nodes Ready" in done.stderr
        assert "no cheese today" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        assert call(name, "down").returncode == 0
    assert traces(name) == []


def test_bad_command_lines() -> None:
    assert call("A b", "status").returncode == 1
    assert call("fnd3", "up", "--ccm", "v9").returncode == 2
    assert call("fnd3", "up", "--nodes", "0").returncode == 2
    assert call("fnd3", "cheese").returncode == 2
    assert traces("fnd3") == []


def test_limits_are_given_back() -> None:
    assert not (state_root() / ".inotify").exists() or any(path.is_dir() for path in state_root().iterdir())


@pytest.mark.thorough
def test_world_options() -> None:
    assert world.Options(parts="cloud").has("cluster")
    assert not world.Options(parts="cloud").has("mesh")
    with pytest.raises(LabError, match="0 to 9 nodes"):
        Cluster(Lab("fnd3"), "ack", 1).up(10)
