# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the lab's foundation share: the command, the traces of a lab, patience."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import binaries, machine, net, proc
from lab.cluster import Cluster
from lab.kubeapi import Object
from lab.state import Lab

ROOT = Path(__file__).resolve().parents[3]
LAB = str(ROOT / "bin/lab")
MARKS = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("systemd-nspawn") is None, reason="the lab needs root and systemd-nspawn"
    ),
]


def call(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LAB_NAME": name}
    done = subprocess.run([LAB, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240)
    print(f"lab {' '.join(words)}", done.stdout, done.stderr, sep="\n")
    return done


def traces(name: str) -> list[str]:
    """Everything on this host that shows a lab of that name: it must be empty when the lab is down."""
    one = Lab(name)
    found = [f"namespace {entry}" for entry in net.namespaces(one)]
    found += [f"process {pid}" for pid in net.processes(one)]
    found += [f"cgroup {path}" for path in machine.lab_cgroups(one) if path.exists()]
    found += [
        f"mount {line}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f"sml-{name}" in line or str(one.dir) in line
    ]
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found += [f"link {line}" for line in links.splitlines() if "br0" in line or "clb0" in line or "m-ack" in line]
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if f"sml-{name}-".encode() in words or f"{one.dir}/".encode() in words:
                found.append(f"process {entry.name}: {words!r}")
    for folder in ("/run/systemd/nspawn", "/run/systemd/machines", "/var/lib/machines", "/tmp"):
        if Path(folder).is_dir():
            found += [f"file {path}" for path in Path(folder).iterdir() if f"sml-{name}" in path.name]
    return found + ([f"state {one.dir}"] if one.dir.exists() else [])


@contextlib.contextmanager
def a_lab(name: str, *words: str) -> Iterator[Lab]:
    done = call(name, "up", "--parts", "cluster", *words)
    try:
        assert done.returncode == 0, done.stderr
        yield Lab(name)
    finally:
        assert call(name, "down").returncode == 0
        assert traces(name) == []


def pods(ack: Cluster) -> list[Object]:
    found: list[Object] = ack.api.list("/api/v1/namespaces/default/pods", labelSelector="app=web")["items"]
    return found


def ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def until(what: str, test: Callable[[], bool], seconds: float = 60) -> None:
    proc.wait_for(test, seconds, what=what, pause=0.2)


def answers(lab: Lab, url: str, tries: int) -> set[str]:
    """Which pods answered; "failed" is among them when a request did."""
    script = f'for i in $(seq {tries}); do curl -s -m 3 -o /dev/null -w "%header{{x-lab-pod}}\\n" {url} || echo failed; done'
    return set(proc.run(lab, ["bash", "-c", script]).stdout.split())


def kubectl(ack: Cluster) -> list[str]:
    """kubectl as one runs it in the cloud."""
    return [str(binaries.path("kubectl")), f"--kubeconfig={ack.kubeconfig}"]
