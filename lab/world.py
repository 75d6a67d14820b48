# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world of one lab: network, two clusters, cloud, cloud-controller-manager, two meshes and a sample application.

`up` composes the rooms and measures each step; `down` takes everything away, whatever state it is in.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab import apps, binaries, host, images, machine, mesh_asm, mesh_ca, mesh_source, net, proc, prometheus, vm, world_cloud
from lab.cluster import REGION, Cluster
from lab.kubeapi import KubeError
from lab.state import Lab, LabError, write_atomic

PARTS = ("cluster", "cloud", "mesh", "all")  # each one holds those before it
CCM_VERSIONS = ("v2.8.0", "v2.11.2", "v2.14.0")
MODES = ("cluster", "eni", "local")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `lab up` was asked for."""

    nodes: int = 2
    ccm: str = "v2.14.0"
    mode: str = "cluster"
    parts: str = "all"
    roots: int = 1

    def has(self, part: str) -> bool:
        return PARTS.index(self.parts) >= PARTS.index(part)


class Timing:
    """Names and seconds of the steps, told as they end and written to STATE/timings.json."""

    def __init__(self, say: Say) -> None:
        self.say, self.began = say, time.monotonic()
        self.steps: list[dict[str, Any]] = []

    def done(self, name: str, seconds: float) -> None:
        self.steps.append({"name": name, "seconds": round(seconds, 2), "ended": round(time.monotonic() - self.began, 2)})
        self.say(f"{seconds:6.1f} s  {name}")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.done(name, time.monotonic() - began)

    def finish(self, lab: Lab) -> None:
        total = round(time.monotonic() - self.began, 2)
        self.say(f"\n{'step':40} {'seconds':>8} {'ended at':>9}")
        for step in self.steps:
            self.say(f"{step['name']:40} {step['seconds']:8.1f} {step['ended']:9.1f}")
        self.say(f"{'total (steps overlap)':40} {total:8.1f}")
        both = {
            key: {step["name"]: step[field] for step in self.steps} for key, field in (("steps", "seconds"), ("ended", "ended"))
        }
        write_atomic(lab.dir / "timings.json", json.dumps({"total": total, **both}, indent=2) + "\n", 0o644)


def clusters(lab: Lab) -> tuple[Cluster, Cluster]:
    """The ACK cluster and the one whose API server is ASM's control plane."""
    return Cluster(lab, "ack", 1), Cluster(lab, "asm", 2)


def up(lab: Lab, options: Options, say: Say = print) -> None:
    """Bring the world up. Leftovers of a crash are cleaned first; a lab that is up as asked is left as it is.

    :raises LabError: something did not start (what runs is left for a look; `lab down` removes it), or another lab is up.
    """
    host.check(options.has("cloud"))
    with _alone(lab):
        if _is_up(lab, options, say):
            return
        timing = Timing(say)
        if not lab.file.exists() and net.processes(lab):
            known = "a lab of that name runs with another state folder"
            raise LabError(f"{known}: choose another LAB_NAME, or remove it with `lab down`")
        if leftovers(lab):
            with timing.step("clean up what an earlier run left"):
                _down(lab)
            lab.data = {}
        lab.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lab.update(options=asdict(options), up=False)
        host.raise_limits()
        _start(lab, options, timing)
        write_environment(lab)
        lab.update(up=True)
        timing.finish(lab)


def _is_up(lab: Lab, options: Options, say: Say) -> bool:
    if not lab.data.get("up") or missing(lab):
        return False
    if {**asdict(Options()), **lab.data.get("options", {})} != asdict(options):
        raise LabError(f"lab '{lab.name}' is up with other options ({lab.data.get('options')}): run `lab down` first")
    say(f"lab '{lab.name}' is up")
    return True


def _start(lab: Lab, options: Options, timing: Timing) -> None:
    with timing.step("programs"):
        binaries.build(binaries.WORLD if options.has("mesh") else ("etcd", "kubernetes", "coredns", "lab"), timing.say)
    with timing.step("images"):
        names = ("pause", "echo", "proxyv2", "istiod") if options.has("mesh") else ("pause", "echo")
        archives = [images.archive(lab, name) for name in names]
    with timing.step("network"):
        net.up(lab)
    ack, asm = clusters(lab)
    # submitted in an order in which nothing waits for something behind it, and with a thread for each
    pool = ThreadPoolExecutor(max_workers=10)
    try:

        def after(needed: Sequence[Future[Any]], call: Callable[..., Any], *args: Any) -> Future[Any]:
            def run() -> Any:
                for one in needed:
                    one.result()
                return call(*args)

            return pool.submit(run)

        jobs = [pool.submit(ack.up, options.nodes, archives, timing.done), pool.submit(asm.up, 0, (), timing.done)]
        ack_up, asm_up = jobs
        if options.has("cloud"):
            jobs.append(cloud := pool.submit(_timed, timing, "cloud server", world_cloud.start_cloud, lab, ack, options.nodes))
            for needed, cluster in ((ack_up, ack), (asm_up, asm)):
                name = f"fault proxy of {cluster.name}"
                jobs.append(after([needed], _timed, timing, name, world_cloud.start_proxy, lab, cluster))
        if options.has("mesh"):
            source = after([ack_up], _timed, timing, "mesh source", mesh_source.install, lab, ack)
            jobs += [source, after([ack_up, asm_up], _timed, timing, "mesh asm", mesh_asm.install, lab, ack, asm)]
            jobs.append(after([source, cloud], _load_balancer, lab, ack, options, timing))
        elif options.has("cloud"):
            jobs.append(after([ack_up, cloud], _ccm, lab, ack, options, timing))
        if options.has("all"):
            jobs.append(after([source], _timed, timing, "sample application", apps.install, lab, ack))
        for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
            job.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an error nobody waits for the rest
    lab.update(ack_uid=ack.uid(), asm_uid=asm.uid())


def _ccm(lab: Lab, ack: Cluster, options: Options, timing: Timing) -> None:
    name = f"CCM {os.environ.get('LAB_CCM') or options.ccm}"
    _timed(timing, name, world_cloud.start_ccm, lab, ack, options.ccm)


def _load_balancer(lab: Lab, ack: Cluster, options: Options, timing: Timing) -> None:
    """The CCM starts when the gateway's Service says how it wants to be reached: no CLB is made twice."""
    world_cloud.gateway_mode(ack, options.mode)
    _ccm(lab, ack, options, timing)
    with timing.step("load balancer of the source gateway"):
        clb, address = world_cloud.load_balancer(ack)
    lab.update(clb_id=clb, clb_address=address, ca=str(mesh_ca.gateway_authority(lab).crt))


def _timed(timing: Timing, name: str, call: Callable[..., Any], *args: Any) -> Any:
    with timing.step(name):
        return call(*args)


# --- what users get -----------------------------------------------------------------------------------------------------------


def environment(lab: Lab) -> dict[str, str]:
    """The variables that every command of a user of the lab gets."""
    ack, asm = clusters(lab)
    data = lab.data
    return {
        "LAB_NAME": lab.name,
        "LAB_STATE": str(lab.dir),
        "LAB_STATE_DIR": str(lab.dir.parent),
        "LAB_CACHE": str(lab.cache),
        "LAB_ACK_KUBECONFIG": str(ack.kubeconfig),
        "LAB_ASM_KUBECONFIG": str(asm.kubeconfig),
        "LAB_ACK_KUBECONFIG_FAULTY": str(ack.faulty_kubeconfig),
        "LAB_ASM_KUBECONFIG_FAULTY": str(asm.faulty_kubeconfig),
        "KUBECONFIG": str(ack.kubeconfig),
        "LAB_CLOUD_ENDPOINT": world_cloud.ENDPOINT,
        **world_cloud.KEYS,
        "ALIBABA_CLOUD_REGION_ID": REGION,
        "ALIBABA_CLOUD_SLB_ENDPOINT": world_cloud.ENDPOINT,
        "ALIBABA_CLOUD_SLB_PROTOCOL": "http",
        "ALIBABA_CLOUD_ASM_ENDPOINT": world_cloud.ENDPOINT,
        "LAB_ASM_MESH_ID": mesh_asm.MESH_ID,
        "LAB_ACK_CLUSTER_ID": mesh_asm.ACK_ID,
        "LAB_HOST": mesh_ca.HOST,
        "LAB_ACK_UID": data.get("ack_uid", ""),
        "LAB_ASM_UID": data.get("asm_uid", ""),
        "LAB_CCM_VERSION": data.get("options", {}).get("ccm", ""),
        "LAB_CLB_ID": data.get("clb_id", ""),
        "LAB_CLB_ADDRESS": data.get("clb_address", ""),
        "LAB_CA": data.get("ca", ""),
        "LAB_PROMETHEUS_URL": prometheus.running(lab),
        "LAB_VM_INVENTORY": str(vm.inventory_file(lab)) if data.get("vms") else "",
        "LAB_VM_IMAGE": vm.IMAGE,
        "LAB_VM_NEXT_IMAGE": vm.NEXT_IMAGE,
    }


def full_path() -> str:
    """PATH with the lab's programs first."""
    return ":".join([*binaries.search_path(), os.environ.get("PATH", os.defpath)])


def write_environment(lab: Lab) -> None:
    """STATE/env: `export` lines for a shell."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment(lab).items()]
    lines.append(f'export PATH={shlex.quote(":".join(binaries.search_path()))}:"$PATH"')
    write_atomic(lab.dir / "env", "\n".join(lines) + "\n", 0o600)


def missing(lab: Lab) -> list[str]:
    """Names of processes that were started and do not run any more."""
    return [name for name in proc.names(lab) if not proc.alive(lab, name)]


# --- the end ------------------------------------------------------------------------------------------------------------------


def leftovers(lab: Lab) -> list[str]:
    """What there is of this lab: namespaces, cgroups, records of processes, state."""
    found = [f"namespace {name}" for name in net.namespaces(lab)]
    found += [f"cgroup {path}" for path in machine.lab_cgroups(lab) if path.is_dir()]
    found += [f"process {name}" for name in proc.names(lab)]
    return found + ([f"state {lab.file}"] if lab.file.exists() else [])


def down(lab: Lab, say: Say = print) -> None:
    """Remove the lab without a trace: also after a kill -9 of anything, also twice."""
    with _alone(lab):
        began, there = time.monotonic(), leftovers(lab)
        _down(lab)
        shutil.rmtree(lab.dir, ignore_errors=True)
        host.restore_limits()
        with contextlib.suppress(OSError):
            lab.dir.parent.rmdir()  # only when no other lab is in it
        say(f"lab '{lab.name}' is down ({time.monotonic() - began:.1f} s)" if there else f"lab '{lab.name}' was not up")


def _down(lab: Lab) -> None:
    machine.down(lab)
    proc.stop_all(lab, proc.names(lab), grace=0)
    _kill_strays(lab)
    net.down(lab)
    _unmount(lab)
    for entry in lab.dir.iterdir() if lab.dir.exists() else ():
        if entry.name != WORLD_LOCK:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)


def _kill_strays(lab: Lab, timeout: float = 10) -> None:
    """Processes that no record names are known by their namespace: shells of `lab exec`, children of what was killed."""
    spared, pid = set(), os.getpid()
    while pid > 1:  # `lab down` typed in a shell of `lab exec` must not kill itself
        spared.add(pid)
        pid = _parent(pid)
    end = time.monotonic() + timeout
    while strays := {pid for pid in net.processes(lab) if proc.start_ticks(pid) is not None} - spared:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise LabError(f"processes {sorted(strays)} of lab '{lab.name}' do not end on SIGKILL")
        time.sleep(0.02)


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def _unmount(lab: Lab) -> None:
    """Machines mount in namespaces of their own; should anything of the lab be mounted here after all, take it away."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{lab.dir}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], capture_output=True)


WORLD_LOCK = ".world.lock"


@contextmanager
def _alone(lab: Lab) -> Iterator[None]:
    with lab.lock("world", wait=False) as mine:
        if not mine:
            raise LabError(f"another `lab up` or `lab down` of lab '{lab.name}' is running")
        yield


def ready_nodes(lab: Lab) -> set[str]:
    """Names of Ready nodes of the ACK cluster; none when its API server does not answer."""
    ack, _asm = clusters(lab)
    try:
        return ack.ready_nodes(ack.client(timeout=3)) if ack.kubeconfig.exists() else set()
    except (KubeError, LabError):
        return set()
