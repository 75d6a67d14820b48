# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network namespace with a name server's file of its own, for tests that load packet filter rules. It ends with its holder."""

from __future__ import annotations

import subprocess
from pathlib import Path

TABLES = {
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
}
#: Empties the tables that istio-iptables writes to, for an iptables-restore without --noflush.
EMPTY = "".join(
    f"*{table}\n" + "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains) + "COMMIT\n" for table, chains in TABLES.items()
)


class Space:
    """Commands run inside by `run`; files of the host are seen, but for /etc/resolv.conf."""

    def __init__(self, folder: Path, resolv: str = "") -> None:
        (folder / "resolv.conf").write_text(resolv)
        script = (
            # what runs in here must not reach the systemd of this host, and finds none
            "[ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd; "
            f"mount --bind {folder}/resolv.conf /etc/resolv.conf && ip link set lo up && ip link add d0 type bridge && "
            "ip addr add 10.1.0.2/24 dev d0 && ip -6 addr add fd00:1::2/64 dev d0 nodad && ip link set d0 up && "
            "echo ready && exec cat"
        )
        argv = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script]
        self.holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None and self.holder.stdout.readline() == "ready\n"

    def argv(self, *argv: str) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "-n", "-m", "--", *argv]

    def run(self, *argv: str, stdin: str = "", check: bool = True, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(self.argv(*argv), input=stdin, capture_output=True, text=True, check=False, timeout=280, env=env)
        assert done.returncode == 0 or not check, f"{' '.join(argv)}: {done.stderr}\n{stdin}"
        return done.stdout

    def save(self, tool: str = "iptables-nft") -> str:
        return self.run(f"{tool}-save")

    def close(self) -> None:
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait(10)
