# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab needs of the host: root, programs, and room for file watchers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.state import LabError, state_root, write_atomic

PROGRAMS = (
    "bash",
    "conntrack",
    "containerd",
    "containerd-shim-runc-v2",
    "cp",
    "ctr",
    "ip",
    "iptables",
    "mount",
    "nsenter",
    "runc",
    "sysctl",
    "systemd-nspawn",
    "umount",
    "unshare",
)
PLUGINS = Path("/usr/lib/cni")
# systemd, kubelet, containerd and istiod all watch files; a lab uses about 70 of the 128 instances that root may have
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH = 1024


def check(cloud: bool = True) -> None:
    """Say at once what is missing.

    :raises LabError: not root, or programs that are not there.
    """
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and machines: it must be run as root")
    missing = [name for name in (*PROGRAMS, *(["haproxy"] if cloud else [])) if shutil.which(name) is None]
    missing += [str(PLUGINS / name) for name in ("ptp", "host-local", "portmap", "loopback") if not (PLUGINS / name).exists()]
    if missing:
        raise LabError(f"missing on this host: {', '.join(missing)}; `make setup` installs the packages of lab/apt.txt")


def raise_limits() -> None:
    """Raise the limit of inotify instances for as long as there is a lab; what it was is kept beside the labs."""
    with _locked() as kept:
        now = int(INOTIFY.read_text())
        if now < ENOUGH:
            with contextlib.suppress(OSError):  # a container may not: one lab fits into the usual limit
                write_atomic(kept, f"{now}\n")
                INOTIFY.write_text(f"{ENOUGH}\n")


def restore_limits() -> None:
    """Give the limit back when the last lab is gone, unless somebody else has changed it meanwhile."""
    with _locked() as kept:
        labs = [path for path in kept.parent.iterdir() if path.is_dir()]
        if kept.exists() and not labs:
            if int(INOTIFY.read_text()) == ENOUGH:
                with contextlib.suppress(OSError):
                    INOTIFY.write_text(kept.read_text())
            kept.unlink()
        if not labs:
            (kept.parent / ".limits.lock").unlink(missing_ok=True)


@contextmanager
def _locked() -> Iterator[Path]:
    root = state_root()
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".limits.lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield root / ".inotify"
