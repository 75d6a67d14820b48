# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P6: virtual machines join the mesh in waves. A wave may not take much longer than its slowest machine does."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import net, vm, world
from lab.bench import Figure, at_least, at_most
from lab.bench.backup import Say
from lab.cluster import Cluster
from lab.demo.stage import ROOT
from lab.images import ISTIO_TAG
from lab.kubeapi import path_of
from lab.machine import Machine
from lab.mesh_source import namespace
from lab.state import Lab, LabError

COUNT, WAVE = 30, 2  # full machines; a VM that joins takes a core, so a wave is what two cores carry at once
NAMESPACE = "bench-vms"
#: Of `nft monitor`: who changed the rules.
_GENERATION = re.compile(r"new generation \d+ by process (\d+) \((ip6?tables)")


@dataclass
class Run:
    """One run of a playbook: seconds, CPU of the whole machine, and what each task took on each host."""

    seconds: float = 0.0
    cpu: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)

    def slowest(self, wave: int) -> float:
        """Seconds of the slowest machine of each wave in each task, in all: what no order of work can be faster than."""
        longest: dict[tuple[str, int], float] = {}
        for step in self.steps:
            key = (step["id"], int(step["host"].rpartition("-")[2]) // wave)
            longest[key] = max(longest.get(key, 0.0), step["seconds"])
        return sum(longest.values())

    def by_task(self) -> list[tuple[float, str]]:
        """The tasks that take longest, by their slowest host."""
        found: dict[str, float] = {}
        for step in self.steps:
            found[step["task"]] = max(found.get(step["task"], 0.0), step["seconds"])
        return sorted(((round(seconds, 1), name) for name, seconds in found.items()), reverse=True)


class Fleet:
    """A lab that is up and its VMs; playbooks of the collection as a user runs them."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self.lab, self.say, self.ack = lab, say, Cluster(lab, "ack", 1)
        self.folder = lab.dir / "bench-vms"
        self.folder.mkdir(exist_ok=True)

    def up(self, count: int) -> None:
        began = time.monotonic()
        vm.up(self.lab, self.ack, count)
        self.lab.data = self.lab._load()
        self.ack.apply_object("v1", "namespaces", namespace(NAMESPACE, {"istio-injection": "enabled"}))
        self.say(f"P6: {count} machines are up after {time.monotonic() - began:.0f} s")

    def down(self) -> None:
        vm.down(self.lab, self.ack)
        path = path_of("v1", "namespaces", None, NAMESPACE)
        if self.ack.api.find(path) is not None:
            self.ack.api.delete(path)

    def variables(self, wave: int) -> dict[str, Any]:
        return {
            "vm_asm_proxy_name": "bench-vms",
            "vm_asm_proxy_state_dir": str(self.folder / "state"),
            "vm_asm_proxy_source": {"kubeconfig": str(self.ack.kubeconfig), "cluster_uid": self.lab.data["ack_uid"]},
            "vm_asm_proxy_namespace": NAMESPACE,
            "vm_asm_proxy_service_account": "vms",
            "vm_asm_proxy_version": ISTIO_TAG,
            "vm_asm_proxy_image": vm.IMAGE,
            "vm_asm_proxy_pull": "never",
            "vm_asm_proxy_args": ["proxy", "sidecar"],
            "vm_asm_proxy_user": "1337:1337",
            "vm_asm_proxy_capabilities": [],
            "vm_asm_proxy_istiod": {"addresses": [self.ack.nodes[0].address], "port": vm.NODE_PORT},
            "vm_asm_proxy_outbound_cidrs": [self.ack.service_cidr],
            "vm_asm_proxy_ipv6": True,
            "vm_asm_proxy_services": [{"name": "forecast", "ports": [{"port": vm.APP_PORT, "name": "http"}]}],
            "vm_asm_proxy_serial": wave,
        }

    def play(self, book: str, wave: int, *options: str) -> Run:
        file, steps = self.folder / "vars.json", self.folder / "steps.jsonl"
        file.write_text(json.dumps(self.variables(wave)), encoding="utf-8")
        steps.unlink(missing_ok=True)
        argv = ["ansible-playbook", "-i", str(vm.inventory_file(self.lab)), str(ROOT / "playbooks" / f"{book}.yml")]
        env = {**os.environ, **world.environment(self.lab), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": str(max(5, wave))}
        env |= {"ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"), "ANSIBLE_CALLBACKS_ENABLED": "steps"}
        env |= {"LAB_BENCH_STEPS": str(steps), "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp")}
        cpu, began = busy(), time.monotonic()
        with net.inside(self.lab):
            done = subprocess.run(
                [*argv, "-e", f"@{file}", *options],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        run = Run(time.monotonic() - began, busy() - cpu)
        if done.returncode:
            raise LabError(f"P6: {book} failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        run.steps = [json.loads(line) for line in steps.read_text(encoding="utf-8").splitlines()]
        return run

    @contextmanager
    def watched(self) -> Iterator[dict[str, int]]:
        """Counts, in each machine's own network, the programs that change its rules; the counts are there afterwards."""
        counts: dict[str, int] = {}
        watchers = []
        for one in vm.machines(self.lab):
            file = self.folder / f"{one.name}.rules"
            with file.open("w") as stream:
                argv = one.enter(["nft", "monitor"])
                watchers.append(
                    (one, file, subprocess.Popen(argv, stdout=stream, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL))
                )
        try:
            yield counts
        finally:
            for _one, _file, process in watchers:
                process.terminate()
                process.wait(10)
        for one, file, _process in watchers:
            counts.update({f"{one.name} {family}": count for family, count in writers(file.read_text(encoding="utf-8")).items()})


def writers(monitored: str) -> dict[str, int]:
    """How many programs of each family changed rules, by what `nft monitor` said. One restore may change several tables."""
    seen = set(_GENERATION.findall(monitored))
    return {family: sum(1 for _pid, name in seen if name == family) for family in ("iptables", "ip6tables")}


def busy() -> float:
    """CPU seconds that this machine has spent, on anything."""
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    idle = int(words[3]) + int(words[4])
    return (sum(map(int, words[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def memory(one: Machine) -> float:
    """MiB that the machine's processes hold for themselves alone."""
    script = "awk '/^Pss:/ {sum += $2} END {print sum / 1024}' /proc/[0-9]*/smaps_rollup 2>/dev/null"
    return float(one.run(["sh", "-c", script], check=False).stdout or 0)


def p6(lab: Lab, say: Say) -> list[Figure]:
    """In a lab that is up. All VMs join, wave by wave; then they are thrown away."""
    count, wave = int(os.environ.get("BENCH_VMS") or COUNT), int(os.environ.get("BENCH_WAVE") or WAVE)
    fleet = Fleet(lab, say)
    try:
        fleet.up(count)
        fleet.play("vm_join", 1, "--limit", "vm-0")  # the first one finds cold files
        fleet.play("vm_leave", 1, "--limit", "vm-0")
        alone = fleet.play("vm_join", 1, "--limit", "vm-0")
        say(f"P6: one VM: {alone.seconds:.1f} s, {alone.cpu:.1f} s of CPU; the longest tasks: {alone.by_task()[:5]}")
        fleet.play("vm_leave", 1, "--limit", "vm-0")
        with fleet.watched() as restores:
            whole = fleet.play("vm_join", wave)
        say(f"P6: {count} VMs: {whole.seconds:.1f} s, {whole.cpu:.1f} s of CPU; the longest tasks: {whole.by_task()[:5]}")
        mib = memory(vm.machines(lab)[0])
    finally:
        fleet.down()
    waves = math.ceil(count / wave)
    what = f"{count} VMs join in {waves} waves of {wave}"
    return [
        at_most("P6", f"{what}, against one VM alone x {waves}", whole.seconds / (alone.seconds * waves), "times", 1.2),
        at_most("P6", f"{what}, against the slowest VM of each task", whole.seconds / whole.slowest(wave), "times", 1.2),
        at_most("P6", "iptables-restore in each VM, most", float(max(restores.values())), "a family", 1.0),
        at_least("P6", "iptables-restore in each VM, least", float(min(restores.values())), "a family", 1.0),
        Figure("P6", "one VM joins", round(alone.seconds, 2), "s", "-", True),
        Figure("P6", "one VM joins: CPU of everything on this machine", round(alone.cpu, 2), "s", "-", True),
        Figure("P6", what, round(whole.seconds, 2), "s", "-", True),
        Figure("P6", f"{what}: CPU for each VM", round(whole.cpu / count, 2), "s", "-", True),
        Figure("P6", "memory of a VM in the mesh", round(mib, 0), "MiB", "-", True),
    ]
