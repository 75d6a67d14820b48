# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine: a systemd-nspawn host with a real systemd and sshd, an overlay of the host's own root, and an address on the cloud.

All its mounts are made in a mount namespace of its own, so that they vanish with its last process, however it ends.
Its processes sit in cgroups <hierarchy>/servicemesh-lab/<lab>/<machine>, which is where `stop` finds what is left of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import net, pki, proc
from lab.state import Lab, LabError, write_atomic

CGROUPS = Path("/sys/fs/cgroup")
CGROUP = "servicemesh-lab"
# The guest's enabled services are ours alone: what the host has enabled in /etc/systemd/system is hidden, and so are
# its users' folders. 133 is nspawn's status for "rebooted": then the machine starts again with the same root.
BOOT = r"""
set -eu
dir=$1 name=$2 netns=$3; shift 3
for group in $LAB_CGROUPS; do
    mkdir -p "$group"
    case $group in /sys/fs/cgroup/cpuset/*)
        # a v1 cpuset takes processes only when it has cpus and memory nodes; give them from the root down
        path=/sys/fs/cgroup/cpuset
        for part in $(echo "${group#/sys/fs/cgroup/cpuset/}" | tr / ' '); do
            path=$path/$part
            cat /sys/fs/cgroup/cpuset/cpuset.cpus > $path/cpuset.cpus
            cat /sys/fs/cgroup/cpuset/cpuset.mems > $path/cpuset.mems
            echo 1 > $path/cgroup.clone_children
        done ;;
    esac
    echo $$ > "$group/cgroup.procs"
done
mount -t tmpfs -o mode=755 lab "$dir/rw"
mkdir -p "$dir/rw/upper" "$dir/rw/work" "$dir/rw/root" "$dir/rw/home"
chmod 700 "$dir/rw/root"
mount -t overlay -o "lowerdir=/,upperdir=$dir/rw/upper,workdir=$dir/rw/work" lab "$dir/root"
rm -rf "$dir"/root/etc/systemd/system/* "$dir"/root/etc/cni/net.d "$dir"/root/etc/kubernetes
rm -f "$dir"/root/etc/ssh/ssh_host_* "$dir"/root/etc/resolv.conf "$dir"/root/etc/crypttab
cp -a "$dir"/files/. "$dir/root/"
cp -a "$dir"/home/. "$dir/rw/root/"
mkdir -p /run/systemd
mount -t tmpfs lab /run/systemd
while :; do
    status=0
    systemd-nspawn --quiet --register=no --keep-unit "--directory=$dir/root" "--network-namespace-path=$netns" \
        "--machine=$name" --link-journal=no --resolv-conf=off --timezone=off --capability=all \
        --system-call-filter="add_key keyctl bpf perf_event_open @mount" \
        "--bind=$dir/rw/root:/root" "--bind=$dir/rw/home:/home" "$@" --console=pipe --boot \
        systemd.unit=multi-user.target systemd.mask=systemd-firstboot.service </dev/null || status=$?
    [ "$status" = 133 ] || exit "$status"
    # a machine that starts has no cgroups of old containers (kubelet would look after each one for seconds)
    for group in $LAB_CGROUPS; do find "$group" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true; done
done
"""
PREPARE = """[Unit]
Description=What a node needs of a container: cgroups that can be written, /dev/kmsg
DefaultDependencies=no
After=systemd-remount-fs.service
Before=basic.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for c in memory cpu cpuacct cpuset devices freezer blkio pids; do \\
    [ ! -d /sys/fs/cgroup/$c ] || mount -o remount,bind,rw /sys/fs/cgroup/$c; done; \\
    [ -e /dev/kmsg ] || mknod /dev/kmsg c 1 11'

[Install]
WantedBy=basic.target
"""
SSHD = """PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
Subsystem sftp /usr/lib/openssh/sftp-server
"""
SSH_UNIT = """[Unit]
Description=OpenSSH server
After=network.target

[Service]
ExecStartPre=/bin/mkdir -p /run/sshd
ExecStart=/usr/sbin/sshd -D -e
Restart=always
RestartSec=1
"""


@dataclass
class Machine:
    """A machine with a name (13 characters at most) and an address on 10.10.0.0/16.

    `files` (path -> text, or text and mode) are put over its root before it boots, `units` (name -> text) are systemd
    units that start with it, `binds` are (host path, path inside, read-only), `folders` real folders of the host's
    file system by their path inside: container stores must not lie on an overlay; they survive a stop and start.
    """

    lab: Lab
    name: str
    address: str
    files: dict[str, str | tuple[str, int]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    binds: list[tuple[Path, str, bool]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hosts: dict[str, str] = field(default_factory=dict)
    nameserver: str = net.CLOUD_ADDRESS

    @property
    def dir(self) -> Path:
        return self.lab.dir / "machines" / self.name

    @property
    def full(self) -> str:
        return f"sml-{self.lab.name}-{self.name}"

    @property
    def netns(self) -> str:
        return f"m-{self.name}"

    @property
    def proc_name(self) -> str:
        return f"machine-{self.name}"

    def folder(self, inside: str) -> Path:
        """The host's folder that stands for a path of `folders`."""
        return self.dir / "folders" / inside.strip("/").replace("/", "-")

    def start(self) -> None:
        """Boot; returns at once, see `ready` and `wait`. A machine that was killed gets a fresh root; `folders` stay."""
        if proc.alive(self.lab, self.proc_name):
            raise LabError(f"machine {self.name} runs already")
        self.stop()
        if not net.exists(self.lab, self.netns):
            net.add_port(self.lab, self.name, self.address)
        self._write()
        binds = [f"--bind{'-ro' if ro else ''}={source}:{inside}" for source, inside, ro in self.binds]
        for inside in self.folders:
            self.folder(inside).mkdir(parents=True, exist_ok=True)
            binds.append(f"--bind={self.folder(inside)}:{inside}")
        netns = str(net.path(self.lab, self.netns))
        argv = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "bash",
            "-c",
            BOOT,
            "lab-machine",
            str(self.dir),
            self.full,
            netns,
            *binds,
        ]
        delegate(self.lab)
        env = {"LAB_CGROUPS": " ".join(map(str, cgroups(self.lab, self.name))), "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"}
        proc.spawn(self.lab, self.proc_name, argv, netns=None, env=env)

    def _write(self) -> None:
        for part in ("files", "home"):
            shutil.rmtree(self.dir / part, ignore_errors=True)
        for part in ("files", "home/.ssh", "rw", "root"):
            (self.dir / part).mkdir(parents=True, exist_ok=True)
        self.dir.chmod(0o700)
        _key, public = pki.ssh_key(self.lab.dir / "ssh" / "id_ed25519")
        host_key, host_public = pki.ssh_key(self.dir / "ssh_host_ed25519_key")
        hosts = {"127.0.0.1": "localhost", self.address: self.name, **self.hosts}
        files: Mapping[str, str | tuple[str, int]] = {
            "/etc/hostname": f"{self.name}\n",
            # without an id systemd takes it for its first boot and enables every service that the host has installed
            "/etc/machine-id": f"{uuid.uuid4().hex}\n",
            "/etc/systemd/system-preset/00-lab.preset": "disable *\n",
            "/etc/hosts": "".join(f"{address} {names}\n" for address, names in hosts.items()),
            "/etc/resolv.conf": f"nameserver {self.nameserver}\n",
            "/etc/fstab": "",
            "/etc/ssh/sshd_config": SSHD,
            "/etc/ssh/ssh_host_ed25519_key": (host_key.read_text(), 0o600),
            "/etc/ssh/ssh_host_ed25519_key.pub": host_public,
            **self.files,
        }
        for inside, content in files.items():
            text, mode = content if isinstance(content, tuple) else (content, 0o644)
            write_atomic(self.dir / "files" / inside.lstrip("/"), text, mode)
        units = {"lab-prepare.service": PREPARE, "ssh.service": SSH_UNIT, **self.units}
        system = self.dir / "files/etc/systemd/system"
        for name, text in units.items():
            write_atomic(system / name, text, 0o644)
            target = "basic.target" if "WantedBy=basic.target" in text else "multi-user.target"
            wants = system / f"{target}.wants"
            wants.mkdir(exist_ok=True)
            (wants / name).symlink_to(f"../{name}")
        for path in (self.dir / "files").rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
        write_atomic(self.dir / "home/.ssh/authorized_keys", public)

    def leader(self) -> int | None:
        """Host's pid of the machine's systemd, None while there is none."""
        return next(iter(_leaders(self.lab, self.name)), None)

    def enter(self, argv: Sequence[str]) -> list[str]:
        """argv as run inside. The pid is looked up now: a reboot changes it."""
        leader = self.leader()
        if leader is None:
            raise LabError(f"machine {self.name} is not running (see {self.lab.logs}/{self.proc_name}.log)")
        return ["nsenter", "-t", str(leader), "-m", "-p", "-u", "-i", "-n", "-C", "--", *argv]

    def run(
        self, argv: Sequence[str], *, timeout: float = 60, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and give its output."""
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        return proc.run(self.lab, self.enter(argv), netns=None, timeout=timeout, check=check, stdin=stdin, env=env)

    def ready(self) -> bool:
        """Whether its systemd has reached multi-user.target."""
        if self.leader() is None:
            return False
        return self.run(["systemctl", "is-active", "multi-user.target"], check=False).stdout.strip() == "active"

    def wait(self, timeout: float = 30) -> None:
        """Wait until `ready`."""
        log = self.lab.logs / f"{self.proc_name}.log"
        proc.wait_for(self.ready, timeout, what=f"machine {self.name}", gone=lambda: not self.alive(), log=log, pause=0.2)

    def alive(self) -> bool:
        return proc.alive(self.lab, self.proc_name)

    def stop(self) -> None:
        """Pull the plug. Its folders and its place in the network stay."""
        proc.stop(self.lab, self.proc_name, grace=0)
        kill_cgroup(self.lab, self.name)

    def poweroff(self, timeout: float = 20) -> None:
        """Shut down in order (SIGRTMIN+4 is what systemd takes for it), then make sure."""
        leader = self.leader()
        if leader is not None:
            os.kill(leader, signal.SIGRTMIN + 4)
            with contextlib.suppress(LabError):
                proc.wait_for(lambda: not self.alive(), timeout, what=f"machine {self.name}")
        self.stop()


def hierarchies() -> list[Path]:
    """Roots of the cgroup hierarchies: several on cgroup v1, /sys/fs/cgroup itself on v2 alone."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return sorted({path.resolve() for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists()})


def cgroups(lab: Lab, machine: str) -> list[Path]:
    """The machine's cgroup in every hierarchy."""
    return [root / CGROUP / lab.name / machine for root in hierarchies()]


def delegate(lab: Lab) -> None:
    """On cgroup v2 alone: let the lab's cgroups have the controllers that this host has (on v1 there is nothing to do)."""
    if hierarchies() != [CGROUPS]:
        return
    for folder in (CGROUPS, CGROUPS / CGROUP, CGROUPS / CGROUP / lab.name):
        folder.mkdir(exist_ok=True)
        for controller in ("cpuset", "cpu", "io", "memory", "pids"):
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def lab_cgroups(lab: Lab) -> list[Path]:
    """The folder of all the lab's machines in every hierarchy."""
    return [root / CGROUP / lab.name for root in hierarchies()]


def _members(top: Path) -> set[int]:
    pids: set[int] = set()
    for folder, _subs, _files in os.walk(top):
        with contextlib.suppress(OSError):
            pids |= {int(word) for word in Path(folder, "cgroup.procs").read_text().split()}
    return pids - {0}


def _leaders(lab: Lab, machine: str) -> Iterable[int]:
    """Processes of the machine that are pid 1 of a pid namespace one level down, eldest first (a pod has such too, deeper)."""
    pids = set().union(*(_members(group) for group in cgroups(lab, machine)))
    found = []
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            levels = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
            if len(levels) == _own_level() + 1 and levels[-1] == "1":
                found.append((proc.start_ticks(pid) or 0, pid))
    return [pid for _start, pid in sorted(found)]


def _own_level() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return len(next(line for line in lines if line.startswith("NSpid:")).split()) - 1


def kill_cgroup(lab: Lab, machine: str) -> None:
    """Kill whatever is left in the machine's cgroups and remove them."""
    tops = cgroups(lab, machine)
    end = time.monotonic() + 10
    while any(top.exists() for top in tops):
        for pid in set().union(*(_members(top) for top in tops)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for top in tops:
            _remove(top)
        if time.monotonic() > end:
            raise LabError(f"cgroups of machine {machine} cannot be emptied: {[str(top) for top in tops if top.exists()]}")
        time.sleep(0.02)


def _remove(top: Path) -> None:
    for folder, _subs, _files in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def down(lab: Lab) -> list[str]:
    """Stop every machine that has left a cgroup or a record, then remove the lab's own cgroups. Gives their names."""
    found = {path.name for top in lab_cgroups(lab) if top.is_dir() for path in top.iterdir() if path.is_dir()}
    found |= {name.removeprefix("machine-") for name in proc.names(lab) if name.startswith("machine-")}
    proc.stop_all(lab, [f"machine-{name}" for name in found], grace=0)
    for name in found:
        kill_cgroup(lab, name)
    for top in lab_cgroups(lab):
        for folder in (top, top.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()  # the last one only when no other lab uses it
    return sorted(found)
