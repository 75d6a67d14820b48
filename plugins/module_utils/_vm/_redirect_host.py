# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""This machine's packet filter, routes, sockets and way in: read, rehearsed and written."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_shape import Wanted
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_tables import (
    Ours,
    Place,
    Tables,
    parse,
    restore,
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOCK_SECONDS = "30"
_NAMES = {4: "iptables", 6: "ip6tables"}
_LISTENS = "0A"


@dataclasses.dataclass(frozen=True)
class Tool:
    """iptables of one family and one back end."""

    backend: str
    family: int
    name: str

    @property
    def key(self) -> str:
        return f"{self.backend}{self.family}"

    def __str__(self) -> str:
        return f"{_NAMES[self.family]} ({self.backend})"


def command(*argv: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program; its messages are in English so that they can be told apart. Comments of others' rules may be in any code."""
    env = {"PATH": PATH, "LC_ALL": "C"}
    path = shutil.which(argv[0], path=PATH)
    try:
        return subprocess.run(
            [path or argv[0], *argv[1:]],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
            timeout=timeout,
            env=env,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]}: no such program")
    except OSError as error:
        return subprocess.CompletedProcess(argv, 126, "", f"{argv[0]} cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"{argv[0]} did not end within {timeout:.0f} s")


def need_root() -> None:
    if os.geteuid() != 0:
        raise MigrationError(
            "The packet filter can only be read and written by root",
            why=f"this task runs as uid {os.geteuid()}",
            todo="add `become: true` to the task, or connect as root",
        )


def backend_in_use(asked: str) -> str:
    """`nft` or `legacy`: what is asked for, else what this machine's `iptables` is.

    :raises MigrationError: there is no iptables of that kind.
    """
    todo = "install the package iptables; `vm_preflight` lists what else is missing"
    if asked != "auto":
        if _name(asked, 4) is None:
            raise MigrationError(f"There is no iptables with the back end {asked}", why=f"no iptables-{asked}-restore", todo=todo)
        return asked
    done = command("iptables", "--version")
    if done.returncode != 0:
        raise MigrationError("There is no iptables on this machine", why=done.stderr.strip(), todo=todo)
    return "nft" if "nf_tables" in done.stdout else "legacy"


def _name(backend: str, family: int) -> str | None:
    """The program's name for a back end; the one without a suffix when it is of this back end (old packages have no other)."""
    name = _NAMES[family]
    if shutil.which(f"{name}-{backend}-restore", path=PATH):
        return f"{name}-{backend}"
    if shutil.which(f"{name}-restore", path=PATH) is None:
        return None
    version = command(name, "--version").stdout
    return name if ("nf_tables" in version) == (backend == "nft") else None


def tools(backend: str) -> list[Tool]:
    """All iptables of this machine, those of the back end in use first."""
    found = []
    for kind in (backend, "legacy" if backend == "nft" else "nft"):
        for family in (4, 6):
            name = _name(kind, family)
            if name is not None:
                found.append(Tool(kind, family, name))
    return found


def read(tool: Tool) -> Tables | None:
    """All tables as they are; None when the kernel has no such packet filter. Reading loads no table into the kernel."""
    if tool.backend == "legacy":
        names = pathlib.Path(f"/proc/net/ip{'6' if tool.family == 6 else ''}_tables_names")
        if not names.exists() or not names.read_text().strip():
            return {}
    done = command(f"{tool.name}-save")
    return parse(done.stdout) if done.returncode == 0 else None


def rehearse(tool: Tool, lines: t.Mapping[str, t.Sequence[str]]) -> Ours:
    """The program run in an empty network namespace: what iptables of this machine makes of it, in its own words.

    What this kernel or this iptables cannot do is found here, before anything is written.
    """
    program = restore(lines)
    script = f"{tool.name}-restore --noflush && exec {tool.name}-save"
    done = command("unshare", "--net", "--", "sh", "-c", script, stdin=program)
    if done.returncode != 0:
        raise _refused(tool, program, done, "Nothing of it was loaded: it was tried in an empty network namespace")
    found = Ours()
    for table, chains in parse(done.stdout).items():
        own = {name: specs for name, specs in chains.items() if name.startswith("ISTIO_")}
        if own:
            found.chains[table] = own
        for chain, specs in chains.items():
            if chain not in own:
                found.places += [Place(table, chain, number, spec) for number, spec in enumerate(specs, start=1)]
    return found


def load(tool: Tool, lines: t.Mapping[str, t.Sequence[str]], done_before: t.Sequence[str] = ()) -> None:
    """One iptables-restore. Each table changes at once or not at all."""
    program = restore(lines)
    wait = ["-w", _LOCK_SECONDS] if tool.backend == "legacy" else []
    done = command(f"{tool.name}-restore", "--noflush", *wait, stdin=program)
    if done.returncode != 0:
        raise _refused(tool, program, done, "", done_before)


def _refused(
    tool: Tool, program: str, done: subprocess.CompletedProcess[str], note: str, before: t.Sequence[str] = ()
) -> MigrationError:
    message = " ".join(done.stderr.split()) or f"status {done.returncode}"
    number = re.search(r"line:? (\d+)", message)
    lines = program.splitlines()
    where = lines[int(number.group(1)) - 1] if number and int(number.group(1)) <= len(lines) else ""
    todo = "look whether the kernel has what the rule needs (modprobe xt_owner xt_REDIRECT iptable_nat or nft_compat; see dmesg)"
    if "unshare" in message:
        todo = "the rules are first tried in a network namespace of their own: util-linux's unshare and CONFIG_NET_NS are needed"
    elif "lock" in message:
        todo = "another program holds the lock of iptables; run the task again"
    elif "incompatible" in message:
        todo = "nft itself has a table of this name that iptables cannot read; rename it, or use the other back end"
    return MigrationError(
        f"{tool} does not take the rules",
        where=where,
        why=f"{message}{'. ' + note if note else ''}",
        todo=todo,
        done=before,
        transient="lock" in message,
    )


# --- routes --------------------------------------------------------------------------------------------------------------------


def routes(wanted: Wanted) -> dict[str, tuple[list[str], list[str]]]:
    """What the kernel's routing needs for these rules: {name: (ip's words that make it, ip's words that remove it)}."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for family in wanted.families:
        if wanted.tproxy and wanted.inbound_ports:
            rule = ["fwmark", str(wanted.tproxy_mark), "lookup", str(wanted.tproxy_table)]
            route = ["local", "default", "dev", "lo", "table", str(wanted.tproxy_table)]
            for kind, words in (("rule", rule), ("route", route)):
                found[f"ipv{family} {kind} {' '.join(words)}"] = (
                    [f"-{family}", kind, "add", *words],
                    [f"-{family}", kind, "del", *words],
                )
    if wanted.ipv6:
        words = ["::6/128", "dev", "lo"]
        found[f"ipv6 address {' '.join(words)}"] = (["-6", "addr", "add", *words], ["-6", "addr", "del", *words])
    return found


def routes_there(names: t.Iterable[str]) -> set[str]:
    """Those of the routes, by name, that the kernel has."""
    there = set()
    for name in names:
        family, kind, *words = name.split()
        flag = f"-{family[-1]}"
        if kind == "rule":
            shown = command("ip", flag, "rule", "show").stdout
            found = re.search(rf"fwmark 0x{int(words[1]):x} lookup {words[3]}\b", shown)
        elif kind == "route":
            shown = command("ip", flag, "route", "show", "table", words[5], "type", "local").stdout
            found = re.search(r"\bdefault dev lo\b", shown)
        else:
            found = re.search(r"inet6 ::6/128", command("ip", "-6", "addr", "show", "dev", "lo").stdout)
        if found:
            there.add(name)
    return there


def change_routes(words: t.Sequence[t.Sequence[str]], done_before: t.Sequence[str]) -> None:
    for one in words:
        done = command("ip", *one)
        if done.returncode != 0 and "File exists" not in done.stderr:
            raise MigrationError(
                f"`ip {' '.join(one)}` failed",
                why=done.stderr.strip(),
                todo="look whether iproute2 is installed",
                done=done_before,
            )


# --- sockets and the way in ----------------------------------------------------------------------------------------------------


def listening(protocol: str = "tcp") -> set[int]:
    """Ports on which something listens (TCP) or is bound (UDP)."""
    ports = set()
    for name in (protocol, f"{protocol}6"):
        try:
            lines = pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if protocol == "udp" or fields[3] == _LISTENS:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


def ssh_connection() -> list[str]:
    """Client's address and port, server's address and port of the ssh connection that this process came in by, or [].

    sudo drops SSH_CONNECTION, so that processes further up are asked, too: root can read their environment.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            break
        for entry in environment:
            if entry.startswith(b"SSH_CONNECTION="):
                fields = entry.decode(errors="replace").partition("=")[2].split()
                return fields if len(fields) == 4 else []
        pid = int(stat.rsplit(")", 1)[1].split()[1])
    return []


def name_servers() -> list[str]:
    """The name servers of /etc/resolv.conf."""
    try:
        lines = pathlib.Path("/etc/resolv.conf").read_text(errors="replace").splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return [words[1].split("%")[0] for words in fields if len(words) > 1 and words[0] == "nameserver"]


def boot_id() -> str:
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
