# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM of the lab on its way into the mesh and out of it: playbooks as a user writes them, requests, and what a VM looks like."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dev.paths import ROOT
from lab import apps, net, vm, world
from lab.cluster import Cluster
from lab.kubeapi import KubeError, path_of
from lab.load import Load
from lab.machine import Machine
from lab.mesh_source import namespace
from lab.state import Lab, state_root

NAMESPACE, ACCOUNT, NAME = "vmns", "vmsa", "vm-server1"
HOST = f"{NAME}.{NAMESPACE}.svc.cluster.local"
Object = dict[str, Any]
# What of a VM must be the same before and after. Folders of engines and of the lab change all the time by themselves.
LOOK = r"""
import hashlib, json, os, subprocess, sys
def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout
def rules(program):
    return [line.split(" [")[0] for line in run(program).splitlines() if not line.startswith("#")]
skip = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/lab-load", "/opt/lab", "/opt/containerd", "/var/lib/systemd")
# A machine's root lies over the host's, with the lab's cache, the project and what its tests write.
skip += ("/root/.ansible", "/root/.cache/servicemesh-lab", *sys.argv[1:])
tree = {}
for top in ("/etc", "/opt", "/var/lib", "/root", "/usr/local"):
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if os.path.join(folder, name) not in skip]
        for name in names + files:
            path = os.path.join(folder, name)
            found = os.lstat(path)
            text = ""
            if os.path.isfile(path) and not os.path.islink(path) and found.st_size < 10**6:
                with open(path, "rb") as stream:
                    text = hashlib.sha256(stream.read()).hexdigest()[:16] if top != "/var/lib" else str(found.st_size)
            tree[path] = [oct(found.st_mode), found.st_uid, found.st_gid, text]
processes = sorted(line for line in run("ps", "-eo", "user,args", "--no-headers").splitlines()
                   if not any(word in line for word in ("ps -eo", "sshd:", "ansible", "python3 -c", "[", "systemd-")))
print(json.dumps({
    "tree": tree, "processes": processes,
    "rules": {name: rules(name) for name in ("iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save")},
    "containers": run("docker", "ps", "-a", "--format", "{{.Names}} {{.Image}}").splitlines(),
    "images": sorted(run("docker", "images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()),
    "volumes": run("docker", "volume", "ls", "-q").splitlines(),
    "units": sorted(run("systemctl", "list-unit-files", "--state=enabled", "--no-legend", "--plain").splitlines()),
    "timers": sorted(line.split()[-1] for line in run("systemctl", "list-timers", "--all", "--no-legend").splitlines()),
    "sysctl": run("sysctl", "net.ipv4.tcp_migrate_req", "net.ipv4.conf.all.route_localnet", "net.ipv4.ip_forward"),
    "users": run("getent", "passwd"),
}))
"""


class ToVm(Load):
    """Requests from a pod to the VM's application."""

    target = (f"-target=vm=http://{HOST}:{vm.APP_PORT}/",)


class Played:
    """What a playbook did."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.text = done.returncode, done.stdout + done.stderr

    @property
    def changed(self) -> int:
        """Changed tasks of all hosts."""
        return sum(int(line.split("changed=")[1].split()[0]) for line in self.text.splitlines() if "changed=" in line)


class Way:
    """One VM, from outside the mesh."""

    def __init__(self, lab: Lab, folder: Path, count: int = 1) -> None:
        self.lab, self.folder, self.ack = lab, folder, Cluster(lab, "ack", 1)
        self.vms = [vm.machine(lab, i) for i in range(count)]
        service = self.ack.api.get(path_of("v1", "services", apps.NAMESPACE, "echo"))
        self.echo_address = service["spec"]["clusterIP"]

    @property
    def one(self) -> Machine:
        return self.vms[0]

    # -- playbooks --------------------------------------------------------------------------------------------------

    def identity(self, **more: Any) -> Object:
        cluster = {"kubeconfig": str(self.ack.kubeconfig), "cluster_uid": self.lab.data["ack_uid"]}
        words = {
            "source": cluster,
            "namespace": NAMESPACE,
            "service_account": ACCOUNT,
            "labels": {"app": NAME, "version": "v1"},
            "istiod": {"addresses": [self.ack.nodes[0].address], "port": vm.NODE_PORT},
            "hosts": [{"address": self.echo_address, "names": [f"echo.{apps.NAMESPACE}.svc"]}],
        }
        return {"name": "Identity", "servicemesh.migration.vm_identity": {**words, **more}, "register": "identity"}

    def proxy(self, **more: Any) -> Object:
        words = {"image": vm.IMAGE, "pull": "never", "args": ["proxy", "sidecar"], "user": "1337:1337"}
        words |= {"capabilities": [], "memory": "400m", "cpus": 1}
        return {"name": "Proxy", "servicemesh.migration.vm_proxy": {**words, **more}, "register": "proxy"}

    def redirect(self, **more: Any) -> Object:
        words = {"version": "1.31.0", "outbound_cidrs": [self.ack.service_cidr], "inbound_exclude_ports": [15020, 15021, 15090]}
        return {"name": "Redirect", "servicemesh.migration.vm_redirect": {**words, **more}}

    def play(self, *tasks: Object, check: bool = False, options: tuple[str, ...] = ()) -> Played:
        return Played(self._run(self.command(*tasks, check=check, options=options)))

    def command(self, *tasks: Object, check: bool = False, options: tuple[str, ...] = ()) -> list[str]:
        file = self.folder / f"play-{time.monotonic_ns()}.yml"
        file.write_text(yaml.safe_dump([{"hosts": "mesh_vms", "gather_facts": False, "tasks": list(tasks)}], sort_keys=False))
        argv = ["ansible-playbook", "-i", str(vm.inventory_file(self.lab)), str(file), *(["--check", "--diff"] if check else [])]
        return [*argv, *options]

    def environment(self) -> dict[str, str]:
        env = {**os.environ, **world.environment(self.lab), "ANSIBLE_NOCOLOR": "1"}
        return {**env, "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp")}

    def _run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        with net.inside(self.lab):
            return subprocess.run(argv, env=self.environment(), capture_output=True, text=True, timeout=300, check=False)

    # -- requests ---------------------------------------------------------------------------------------------------

    def from_pod(self, url: str = f"http://{HOST}:{vm.APP_PORT}/") -> Object:
        """What a pod with a sidecar gets: `status`, `headers`, `body`."""
        pods = self.ack.api.list(path_of("v1", "pods", apps.NAMESPACE), labelSelector="app=echo")["items"]
        address = pods[0]["status"]["podIP"]
        with net.inside(self.lab):
            done = subprocess.run(
                ["curl", "-s", "-m", "10", "-G", f"http://{address}:8080/fetch", "--data-urlencode", f"url={url}"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        found: Object = json.loads(done.stdout or "{}")
        return found

    def from_vm(self, one: Machine | None = None, url: str = f"http://echo.{apps.NAMESPACE}.svc/") -> Object:
        """What an application on the VM gets from pods; empty without an answer of JSON."""
        done = (one or self.one).run(["curl", "-s", "-m", "10", url], check=False)
        try:
            found: Object = json.loads(done.stdout)
        except ValueError:
            return {}
        return found

    def plain(self) -> int:
        """Status of a request to the VM from somebody without a certificate; 0 when he is refused."""
        with net.inside(self.lab):
            done = subprocess.run(
                ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", f"http://{self.one.address}:{vm.APP_PORT}/"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        return int(done.stdout or 0)

    @contextmanager
    def outbound(self, rate: int = 60) -> Iterator[Object]:
        """The VM's application calls pods all the time; afterwards the object has the sums."""
        out, stop, sums = f"{vm.RESULTS}/out.jsonl", "/run/lab-out.stop", Object()
        file = self.one.folder(vm.RESULTS) / "out.jsonl"
        file.unlink(missing_ok=True)
        argv = [f"{vm.PROGRAMS}/traffic", f"-rate={rate}", "-duration=900s", "-chance", "-new-ratio=0.3", "-bucket=100ms"]
        argv += ["-timeout=10s", f"-target=pods=http://echo.{apps.NAMESPACE}.svc/", f"-out={out}", f"-stop-file={stop}"]
        running = subprocess.Popen(self.one.enter(argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield sums
        finally:
            self.one.run(["touch", stop])
            running.wait(30)
            self.one.run(["rm", "-f", stop])
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            sums.update(lines[-1], failures=[line for line in lines if "failure" in line][:5])
            file.unlink()

    # -- the world around -------------------------------------------------------------------------------------------

    def register(self, versions: Mapping[int, str] | None = None) -> None:
        """The namespace, and the VMs as the vendor's manual registers them; nobody without mutual TLS is let in."""
        self.ack.apply_object("v1", "namespaces", namespace(NAMESPACE, {"istio-injection": "enabled"}))
        for api, plural, obj in self._objects(versions or {0: "v1"}):
            self.ack.apply_object(api, plural, obj)

    def _objects(self, versions: Mapping[int, str]) -> list[tuple[str, str, Object]]:
        def istio(group: str, kind: str, name: str, spec: Object) -> Object:
            meta = {"name": name, "namespace": NAMESPACE}
            return {"apiVersion": f"{group}.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}

        port = {"number": vm.APP_PORT, "name": "http", "protocol": "HTTP"}
        entry = {"hosts": [HOST], "location": "MESH_INTERNAL", "ports": [port], "resolution": "STATIC"}
        entry["workloadSelector"] = {"labels": {"app": NAME}}
        service = {"selector": {"app": NAME}, "ports": [{"name": "http", "port": vm.APP_PORT}]}
        made = [
            ("v1", "services", {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": service}),
            ("networking.istio.io/v1", "serviceentries", istio("networking", "ServiceEntry", NAME, entry)),
            ("security.istio.io/v1", "peerauthentications",
             istio("security", "PeerAuthentication", "default", {"mtls": {"mode": "STRICT"}})),
        ]  # fmt: skip
        made[0][2].update(apiVersion="v1", kind="Service")
        for i, version in versions.items():
            labels = {"app": NAME, "version": version}
            spec = {"address": self.vms[i].address, "labels": labels, "serviceAccount": ACCOUNT}
            made.append(("networking.istio.io/v1", "workloadentries", istio("networking", "WorkloadEntry", f"{NAME}-{i}", spec)))
        return made

    def wait_for(self, status: int, seconds: float = 30) -> None:
        """Until a pod gets this status from the VM: istiod tells the sidecars when it can."""
        end, found = time.monotonic() + seconds, Object()
        while found.get("status") != status:
            assert time.monotonic() < end, f"a pod gets {found} from the VM and not {status}"
            time.sleep(0.3)
            found = self.from_pod()

    def forget(self) -> None:
        """The namespace goes, with everything in it."""
        path = path_of("v1", "namespaces", None, NAMESPACE)
        try:
            self.ack.api.delete(path)
        except KubeError as error:
            if error.status != 404:
                raise
        self.ack.wait("the end of the namespace", lambda: self.ack.api.find(path) is None, 60)


def look(one: Machine) -> Object:
    """What of the VM must be the same before and after."""
    found: Object = json.loads(one.run(["python3", "-c", LOOK, str(ROOT), str(state_root())], timeout=120).stdout)
    return found


def differences(before: Object, after: Object) -> list[str]:
    """Where two looks at a VM differ."""
    found = []
    for key in before:
        if key == "tree":
            paths = sorted({*before[key], *after[key]})
            found += [f"{path}: {before[key].get(path)} -> {after[key].get(path)}" for path in paths
                      if before[key].get(path) != after[key].get(path)]  # fmt: skip
        elif before[key] != after[key]:
            found.append(f"{key}: {before[key]} -> {after[key]}")
    return found


W = TypeVar("W", bound=Way)


@contextmanager
def machines(lab: Lab, folder: Path, kind: type[W], count: int = 1) -> Iterator[W]:
    """So many VMs, up as long as the test needs them; what the test made in the cluster goes, too."""
    ack = Cluster(lab, "ack", 1)
    vm.up(lab, ack, count)
    lab.data = lab._load()
    one = kind(lab, folder, count)
    try:
        yield one
    finally:
        one.forget()
        vm.down(lab, ack)
