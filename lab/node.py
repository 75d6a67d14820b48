# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Kubernetes node: a machine with containerd, kubelet and kube-proxy as its systemd services.

Pods get their addresses by the CNI plugins ptp and host-local: every pod hangs on a cable of its own and all its packets are
routed, so that Service addresses work between pods of one node whether or not the kernel filters bridged packets.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lab import binaries
from lab.images import PAUSE
from lab.machine import Machine
from lab.state import Lab, LabError, write_atomic

STORE = "/var/lib/containerd"
RESULTS = "/var/lib/lab-load"  # what load generators in pods write; a folder of the host, so that it can be read from outside
CONTAINERD = """version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{state}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
UNIT = """[Unit]
Description={what}
After={after}

[Service]
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
{before}ExecStart={command}
Restart=always
RestartSec=1
LimitNOFILE=1048576
TasksMax=infinity
Delegate=yes
KillMode=process
"""
# kubelet asks again only after seconds when the API server is not there yet: let it begin when the port is open
WAIT_API = "ExecStartPre=/bin/bash -c 'until (exec 3<>/dev/tcp/{host}/{port}) 2>/dev/null; do sleep 0.1; done'\n"


@dataclass(frozen=True)
class Node:
    """One node; all values come from `Cluster.node`."""

    lab: Lab
    name: str
    address: str
    pod_cidr: str
    cluster_cidr: str
    provider_id: str
    server: str
    dns_service: str
    nameserver: str

    @cached_property
    def machine(self) -> Machine:
        folder = binaries.path("kubelet").parent
        return Machine(
            self.lab,
            self.name,
            self.address,
            binds=[(folder, "/opt/lab/kubernetes", True)],
            folders=[STORE, RESULTS],
            nameserver=self.nameserver,
        )

    @property
    def instance_id(self) -> str:
        """The cloud's id of the machine: the part of the provider id behind the region."""
        return self.provider_id.split(".", 1)[1]

    def manifest(self) -> dict[str, Any]:
        """The Node object as the cloud registers it."""
        region = self.provider_id.split(".", 1)[0]
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _arch(),
            "topology.kubernetes.io/region": region,
            "topology.kubernetes.io/zone": f"{region}-h",
            "node.kubernetes.io/instance-type": "ecs.lab",
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"podCIDR": self.pod_cidr, "podCIDRs": [self.pod_cidr], "providerID": self.provider_id},
        }

    def start(self, files: Mapping[str, str | tuple[str, int]], images: Sequence[Path] = ()) -> None:
        """Boot the machine with the images in its store; `files` are its certificates and kubeconfigs (Cluster)."""
        store = self.machine.folder(STORE)
        if not store.exists():
            clone(prepared_store(self.lab, images), store)
        self.machine.files = {**files, **self._files()}
        self.machine.units = self._units()
        self.machine.start()

    def log(self, unit: str, lines: int = 15) -> str:
        """Last lines of a service's journal."""
        try:
            done = self.machine.run(
                ["journalctl", "-u", unit, "-n", str(lines), "--no-pager", "-o", "cat"], check=False, timeout=10
            )
            return done.stdout.strip() or "(no log)"
        except LabError as error:
            return str(error)

    def kill_container(self, container: str) -> None:
        """SIGKILL the processes of a container; `container` is its id as in a pod's status (with or without containerd://)."""
        name = container.removeprefix("containerd://")
        self.machine.run(["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", name])

    def _files(self) -> dict[str, str | tuple[str, int]]:
        network = {
            "cniVersion": "0.4.0",
            "name": "lab",
            "plugins": [
                {
                    "type": "ptp",
                    "mtu": 1500,
                    "ipMasq": False,
                    "ipam": {"type": "host-local", "ranges": [[{"subnet": self.pod_cidr}]], "routes": [{"dst": "0.0.0.0/0"}]},
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        return {
            "/etc/containerd/config.toml": CONTAINERD.format(root=STORE, state="/run/containerd", pause=PAUSE),
            "/etc/cni/net.d/10-lab.conflist": json.dumps(network, indent=1),
            "/etc/kubernetes/kubelet.json": json.dumps(self._kubelet(), indent=1),
            "/etc/kubernetes/kube-proxy.json": json.dumps(self._kube_proxy(), indent=1),
        }

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": "/etc/kubernetes/kubelet.crt",
            "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
            "address": self.address,
            "providerID": self.provider_id,
            "clusterDNS": [self.dns_service],
            "clusterDomain": "cluster.local",
            "resolvConf": "/etc/resolv.conf",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            # a container in a container: no cgroups per quality of service, no eviction by a disk that is the host's
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False,
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "imageMaximumGCAge": "0s",
            "serializeImagePulls": False,
            "nodeStatusUpdateFrequency": "5s",
            "nodeLeaseDurationSeconds": 20,
            "volumeStatsAggPeriod": "0s",
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "logging": {"verbosity": 1},
        }

    def _kube_proxy(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig"},
            "mode": "iptables",
            "clusterCIDR": self.cluster_cidr,
            "hostnameOverride": self.name,
            # limits of the connection table are the host's, not a namespace's
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def _units(self) -> dict[str, str]:
        host, port = self.server.removeprefix("https://").split(":")
        wait = WAIT_API.format(host=host, port=port)
        flags = f"--config=/etc/kubernetes/kubelet.json --kubeconfig=/etc/kubernetes/kubelet.kubeconfig --node-ip={self.address}"
        kubelet = f"/opt/lab/kubernetes/kubelet {flags} --hostname-override={self.name}"
        proxy = "/opt/lab/kubernetes/kube-proxy --config=/etc/kubernetes/kube-proxy.json"
        return {
            "containerd.service": UNIT.format(
                what="containerd", after="lab-prepare.service", before="", command="/usr/bin/containerd"
            ),
            "kubelet.service": UNIT.format(what="kubelet", after="containerd.service", before=wait, command=kubelet),
            "kube-proxy.service": UNIT.format(what="kube-proxy", after="network.target", before=wait, command=proxy),
        }


def _arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


# --- images: unpacked once into a store in the cache, given to every node as hard links ----------------------------------------


def prepared_store(
    lab: Lab, images: Sequence[Path], engine: tuple[str, Callable[[Path, Sequence[Path]], None]] | None = None
) -> Path:
    """A containerd root that holds these archives, unpacked; made once per set of archives (name, size and time of change).

    `engine`: another one that is to unpack them, by a name for its way to do it, and the call.

    :raises LabError: the engine or an import failed, with what it said.
    """
    name, fill = engine or ("", _fill)
    stamps: list[Any] = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in images)
    digest = hashlib.sha256(json.dumps([*stamps, *([name] if name else [])]).encode()).hexdigest()[:12]
    stores = lab.cache / "stores"
    stores.mkdir(parents=True, exist_ok=True)
    target = stores / digest
    with open(stores / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            temp = Path(tempfile.mkdtemp(dir=stores, prefix=".new-"))
            try:
                fill(temp, images)
                (temp / "root").rename(target)
                _prune(stores, target)
            finally:
                shutil.rmtree(temp, ignore_errors=True)
    return target


def _prune(stores: Path, newest: Path, keep: int = 4) -> None:
    """Remove old stores; what nodes took from them are links of their own."""
    others = [path for path in stores.iterdir() if path.is_dir() and path != newest and not path.name.startswith(".")]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[keep - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _fill(temp: Path, images: Sequence[Path]) -> None:
    """Run containerd for a moment, in a mount and network namespace of its own, and import the archives."""
    config = temp / "config.toml"
    write_atomic(config, CONTAINERD.format(root=temp / "root", state=temp / "state", pause=PAUSE))
    script = """
containerd --config "$1/config.toml" --log-level warn & pid=$!
trap 'kill $pid; wait $pid' EXIT
address=$1/state/containerd.sock; shift
for i in $(seq 100); do ctr -a "$address" version >/dev/null 2>&1 && break; sleep 0.1; done
for image in "$@"; do ctr -a "$address" -n k8s.io images import "$image" || exit 1; done
"""
    argv = ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-c", script, "lab-images", temp, *images]
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise LabError(f"images cannot be loaded into containerd: {(done.stdout + done.stderr)[-2000:]}")


def clone(source: Path, target: Path) -> None:
    """Copy a store: hard links for layers and contents, which nobody changes, real copies of the databases, which change."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = target.with_name(f".{target.name}.new")
    shutil.rmtree(temp, ignore_errors=True)
    done = subprocess.run(["cp", "-al", str(source), str(temp)], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(temp, ignore_errors=True)  # another file system: a real copy then
        subprocess.run(["cp", "-a", str(source), str(temp)], check=True)
    else:
        for database in [
            *temp.glob("io.containerd.*/*.db"),
            *temp.glob("*/*.db"),
            *temp.glob("*/files/*.db"),
            *temp.glob("containerd/daemon/*/*.db"),
        ]:
            database.unlink()
            shutil.copy2(source / database.relative_to(temp), database)
    temp.rename(target)


def pod_containers(pod: Mapping[str, Any], only: str | None = None) -> list[str]:
    """Ids of a pod's running containers (or of the one named `only`), as its status tells them; sidecars too."""
    status = pod.get("status", {})
    return [
        str(container["containerID"])
        for container in [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        if "running" in container.get("state", {}) and only in (None, container["name"])
    ]
