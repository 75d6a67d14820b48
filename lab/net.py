# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces of a lab: the cloud (a router with a bridge), the internet, and one per machine.

Nothing is made in the root namespace, not even for a moment: veth pairs are born inside.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.state import Lab, LabError

CLOUD_ADDRESS = "10.10.0.1"
ASM_ADDRESS = "10.10.0.3"  # ASM's istiod listens here
CLOUD_BRIDGE = f"{CLOUD_ADDRESS}/16"
INTERNET_HERE, INTERNET_THERE = "192.0.2.1", "192.0.2.2"  # cloud's side, load generator's side
NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000
# No ICMP redirects: pods of other nodes are reached through the router, as in a VPC. No reverse-path filter: CLB
# answers may take another way than the question.
# tw_reuse: hundreds of new connections a second for minutes must not run out of ports.
SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.tcp_tw_reuse=1",
)


def _ip(lines: list[str], netns: str | None = None) -> None:
    """Run `ip -batch` inside a namespace (full name)."""
    argv = ["ip", *(["-n", netns] if netns else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


def path(lab: Lab, part: str) -> Path:
    """File that names a namespace."""
    return NETNS_DIR / lab.netns(part)


def exists(lab: Lab, part: str) -> bool:
    return path(lab, part).exists()


def namespaces(lab: Lab) -> list[str]:
    """Full names of all namespaces of this lab. `sml-a-` must not match lab `a-b`: parts are cloud, net, m-*."""
    prefix = lab.netns("")
    if not NETNS_DIR.is_dir():
        return []
    found = [entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(prefix)]
    return sorted(name for name in found if _is_part(name[len(prefix) :]))


def _is_part(rest: str) -> bool:
    return rest in ("cloud", "net") or rest.startswith("m-")


def add_netns(lab: Lab, part: str) -> None:
    """Make a namespace with its loopback up; nothing happens when it is there."""
    name = lab.netns(part)
    if not exists(lab, part):
        done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"network namespace {name} cannot be made: {done.stderr.strip()} (the lab needs root)")
        subprocess.run(["nsenter", f"--net={path(lab, part)}", "sysctl", "-qw", *SYSCTLS], check=True)
        _ip(["link set lo up"], name)


def up(lab: Lab) -> None:
    """Make the cloud and the internet."""
    add_netns(lab, "cloud")
    add_netns(lab, "net")
    cloud, internet = lab.netns("cloud"), lab.netns("net")
    _ip(
        [
            "link add br0 type bridge forward_delay 0",
            f"address add {CLOUD_BRIDGE} dev br0",
            f"address add {ASM_ADDRESS}/16 dev br0",
            "link set br0 up",
            "link add clb0 type bridge",  # a dummy would do, but not every kernel has it
            "link set clb0 up",
            f"link add inet0 type veth peer name eth0 netns {internet}",
            f"address add {INTERNET_HERE}/24 dev inet0",
            "link set inet0 up",
        ],
        cloud,
    )
    _ip([f"address add {INTERNET_THERE}/24 dev eth0", "link set eth0 up", f"route add default via {INTERNET_HERE}"], internet)


def add_port(lab: Lab, machine: str, address: str) -> None:
    """Give a machine its namespace `m-<machine>` and an address on the cloud's bridge (/16, default route by the cloud)."""
    part = f"m-{machine}"
    if len(part) > 15:
        raise LabError(f"machine name '{machine}' is too long: 13 characters at most (it names an interface)")
    add_netns(lab, part)
    cloud, there = lab.netns("cloud"), lab.netns(part)
    # A machine that is made again is found at once: its neighbours go on with the hardware address that they know.
    hardware = "02:00:" + ":".join(f"{int(byte):02x}" for byte in address.split("."))
    made = f"link add {part} type veth peer name eth0 address {hardware} netns {there}"
    _ip([made, f"link set {part} master br0", f"link set {part} up"], cloud)
    _ip([f"address add {address}/16 dev eth0", "link set eth0 up", f"route add default via {CLOUD_ADDRESS}"], there)


def remove_port(lab: Lab, machine: str) -> None:
    """Take a machine's namespace away, and with it its place on the bridge. Its processes must be gone."""
    name = lab.netns(f"m-{machine}")
    done = subprocess.run(["ip", "netns", "delete", name], capture_output=True, text=True)
    if done.returncode and (NETNS_DIR / name).exists():
        raise LabError(f"network namespace {name} cannot be removed: {done.stderr.strip()}")


def add_address(lab: Lab, address: str, device: str = "br0") -> None:
    """One more address of the cloud itself (a control plane, a DNS server, a CLB)."""
    _ip([f"address replace {address} dev {device}"], lab.netns("cloud"))


def route(lab: Lab, cidr: str, via: str) -> None:
    """Route a pod CIDR in the cloud, as a VPC's route table does."""
    _ip([f"route replace {cidr} via {via}"], lab.netns("cloud"))


def remove_address(lab: Lab, address: str, device: str = "br0") -> None:
    """Take an address of the cloud itself away again, if it is there."""
    subprocess.run(["ip", "-n", lab.netns("cloud"), "address", "delete", address, "dev", device], capture_output=True)


def unroute(lab: Lab, cidr: str) -> None:
    """Take a pod CIDR out of the cloud's routes, if it is there: its pods can be reached from nowhere else any more."""
    subprocess.run(["ip", "-n", lab.netns("cloud"), "route", "delete", cidr], capture_output=True)


def down(lab: Lab) -> list[str]:
    """Remove all namespaces of the lab; their interfaces vanish with them. Processes must be gone. Gives their names."""
    gone = namespaces(lab)
    for name in gone:
        done = subprocess.run(["ip", "netns", "delete", name], capture_output=True, text=True)
        if done.returncode and (NETNS_DIR / name).exists():
            (NETNS_DIR / name).unlink(missing_ok=True)  # a name whose mount is gone already
    if NETNS_DIR.is_dir() and not any(NETNS_DIR.iterdir()):
        # iproute2 binds the folder on itself when the first namespace is made: take that away too
        subprocess.run(["umount", str(NETNS_DIR)], capture_output=True)
        try:
            NETNS_DIR.rmdir()
        except OSError:
            pass  # another lab came up in this moment
    return gone


@contextmanager
def inside(lab: Lab, part: str = "cloud") -> Iterator[None]:
    """Let this thread make its sockets in a namespace of the lab; other threads stay where they are."""
    with open("/proc/thread-self/ns/net") as here:
        _setns(path(lab, part))
        try:
            yield
        finally:
            _setns(here.fileno())


def _setns(target: Path | int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = target if isinstance(target, int) else os.open(target, os.O_RDONLY)
    try:
        if libc.setns(fd, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise LabError(f"cannot enter a network namespace: {os.strerror(number)}")
    finally:
        if not isinstance(target, int):
            os.close(fd)


def processes(lab: Lab) -> dict[int, str]:
    """All processes that live in a namespace of the lab: pid -> full name of the namespace. Finds what no record names."""
    inodes = {}
    for name in namespaces(lab):
        try:
            inodes[(NETNS_DIR / name).stat().st_ino] = name
        except FileNotFoundError:
            continue
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inode = (entry / "ns/net").stat().st_ino
            except OSError:
                continue
            if inode in inodes:
                found[int(entry.name)] = inodes[inode]
    return found
