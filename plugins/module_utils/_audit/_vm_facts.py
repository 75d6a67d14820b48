# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What the preflight of a VM knows. It runs on the VM, reads once, and what cannot be read is None, not an error."""

from __future__ import annotations

import dataclasses
import errno
import http.client
import os
import pathlib
import platform
import re
import shutil
import socket
import ssl
import sys
import time
import typing as t
import urllib.request

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import FactMissing
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _token
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._engine import Engine
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._envoy import descendants
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_host import (
    PATH,
    command,
    ssh_connection,
    tools,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_host import read as read_tables

Object = dict[str, t.Any]
PROGRAMS = ("iptables", "ip6tables", "iptables-restore", "iptables-save", "ip", "unshare", "systemd-run")
#: What the rules of a redirect are made of, each tried in a network namespace of its own.
TRIALS = {
    "REDIRECT": "-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001",
    "owner": "-t nat -A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN",
    "conntrack": "-t mangle -A PREROUTING -m conntrack --ctstate INVALID -j DROP",
    "TPROXY": "-t mangle -A PREROUTING -p tcp -j TPROXY --on-port 15006 --tproxy-mark 1337",
}
_IP_MTU, _IP_MTU_DISCOVER, _DO = 14, 10, 2


@dataclasses.dataclass(frozen=True)
class Listener:
    """A listening socket. :arg program: empty when it could not be seen whose it is."""

    port: int
    address: str
    pid: int = 0
    program: str = ""


@dataclasses.dataclass(frozen=True)
class Process:
    pid: int
    uid: int
    program: str


@dataclasses.dataclass
class Way:
    """A way to another machine. :arg error: why no connection came about. :arg mtu: the largest packet that this machine would
    send. :arg fits: whether such a packet gets through; None when nobody answers pings."""

    target: str
    error: str = ""
    mtu: int = 0
    fits: bool | None = None


@dataclasses.dataclass
class VmFacts:
    """Each part is None when it could not be read."""

    options: t.Mapping[str, t.Any]
    root: bool = True
    python: tuple[int, int] = (3, 11)
    arch: str = ""
    kernel: str = ""
    systemd: bool = True
    programs: dict[str, str] = dataclasses.field(default_factory=dict)
    backend: str = ""
    trials: dict[str, str] | None = None
    tables: dict[str, list[str]] | None = None
    listeners: list[Listener] | None = None
    processes: list[Process] | None = None
    engine: Object | None = None
    engine_error: str = ""
    container: Object | None = None
    skew: float | None = None
    ways: list[Way] = dataclasses.field(default_factory=list)
    reach: list[Way] = dataclasses.field(default_factory=list)
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    tls: dict[str, str] = dataclasses.field(default_factory=dict)
    istiod_version: str = ""
    ssh: list[int] = dataclasses.field(default_factory=list)
    security: dict[str, str] = dataclasses.field(default_factory=dict)
    space: dict[str, int] = dataclasses.field(default_factory=dict)
    memory: int | None = None
    token: _token.Claims | None = None
    has_token: bool = False
    now: float = 0.0
    ipv6: list[str] = dataclasses.field(default_factory=list)
    users: dict[int, str] = dataclasses.field(default_factory=dict)
    redirect_is_ours: bool = False

    def need(self, name: str) -> t.Any:
        """A part that a check cannot do without. Raises FactMissing."""
        found = getattr(self, name)
        if found is None:
            raise FactMissing(name)
        return found

    @property
    def mesh(self) -> bool:
        """Whether our proxy runs here already."""
        return bool(self.container)

    @property
    def ours(self) -> set[int]:
        """The processes of our own container."""
        return set((self.container or {}).get("pids") or [])


def read(options: t.Mapping[str, t.Any]) -> VmFacts:
    """Everything at once; the slow parts (connections) beside each other."""
    facts = VmFacts(options, root=os.geteuid() == 0, now=time.time())
    facts.python, facts.arch, facts.kernel = sys.version_info[:2], platform.machine(), platform.release()
    facts.systemd = pathlib.Path("/run/systemd/system").is_dir()
    facts.programs = {name: shutil.which(name, path=PATH) or "" for name in PROGRAMS}
    facts.skew = facts.now - options["controller_time"] if options["controller_time"] else None
    _engine(facts)
    _filter(facts)
    facts.listeners, facts.processes = _sockets(), _processes()
    facts.ssh = sorted({int(words[3]) for words in [ssh_connection()] if words} | set(options["ssh_ports"]))
    facts.security = _security()
    facts.space = _space([options["path"], str((facts.engine or {}).get("root") or "/var/lib/docker")])
    facts.memory = _memory()
    facts.ipv6 = _ipv6()
    facts.users = _users()
    facts.redirect_is_ours = pathlib.Path(options["redirect_state_dir"]).is_dir()
    _identity(facts)
    _network(facts)
    return facts


def _engine(facts: VmFacts) -> None:
    engine = Engine(facts.options["engine_socket"] or "", timeout=10)
    try:
        info, version = engine.get("/info") or {}, engine.get("/version") or {}
        found = engine.container(facts.options["name"])
    except MigrationError as error:
        facts.engine_error = f"{error.what}: {error.why}"
        return
    facts.engine = {
        "path": engine.path,
        "name": engine.name(version),
        "version": str(version.get("Version") or info.get("ServerVersion") or ""),
        "root": str(info.get("DockerRootDir") or ""),
        "driver": str(info.get("Driver") or ""),
        "boots": engine.boots(),
    }
    state = (found or {}).get("State") or {}
    if found and state.get("Running"):
        pids = descendants(int(state["Pid"])) if state.get("Pid") else []
        labels = (found.get("Config") or {}).get("Labels") or {}
        made = any(key.startswith("servicemesh.migration/") for key in labels)
        facts.container = {"name": facts.options["name"], "pids": pids, "made": made}


def _filter(facts: VmFacts) -> None:
    """Both back ends of iptables, and what the kernel can do."""
    done = command("iptables", "--version")
    if done.returncode != 0:
        return
    facts.backend = "nft" if "nf_tables" in done.stdout else "legacy"
    if not facts.root:
        return
    tables = {}
    for tool in tools(facts.backend):
        found = read_tables(tool) or {}
        if any(specs for chains in found.values() for specs in chains.values()):
            name = "ip6tables" if tool.family == 6 else "iptables"
            tables[f"{name}-{tool.backend}"] = sorted({chain for chains in found.values() for chain in chains})
    facts.tables = tables
    if not facts.programs["unshare"]:
        return
    names_of = {name: words for name, words in TRIALS.items() if name != "TPROXY" or facts.options["mode"] == "TPROXY"}
    trials = {}
    for program in ("iptables", "ip6tables") if facts.options["ipv6"] else ("iptables",):
        for name, words in names_of.items():
            done = command("unshare", "--net", "--", program, *words.split())
            trials[f"{program} {name}"] = "" if done.returncode == 0 else done.stderr.strip().split("\n")[0] or "it failed"
    facts.trials = trials


def _sockets() -> list[Listener] | None:
    owners = _owners()
    found = []
    for file, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = pathlib.Path(f"/proc/net/{file}").read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                pid, program = owners.get(fields[9], (0, ""))
                found.append(Listener(int(port, 16), _address(address, family), pid, program))
    return sorted(found, key=lambda one: (one.port, one.address)) if found else None


def _address(text: str, family: int) -> str:
    """Words of four bytes, each in the machine's own order."""
    data = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return socket.inet_ntop(family, data)


def _owners() -> dict[str, tuple[int, str]]:
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            program = _text(f"{folder}/comm")  # 15 bytes, perhaps the last one in the middle of a letter
            for link in (folder / "fd").iterdir():
                match = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
                if match:
                    found[match[1]] = (int(folder.name), program)
        except OSError:
            continue
    return found


def _processes() -> list[Process]:
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            found.append(Process(int(folder.name), folder.stat().st_uid, _text(f"{folder}/comm")))
        except OSError:
            continue
    return found


def _security() -> dict[str, str]:
    found = {}
    enforce = _text("/sys/fs/selinux/enforce")
    if enforce:
        found["selinux"] = "enforcing" if enforce == "1" else "permissive"
    if _text("/sys/module/apparmor/parameters/enabled") == "Y":
        found["apparmor"] = "enabled"
    return found


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _space(paths: t.Sequence[str]) -> dict[str, int]:
    """Free MiB where each path is, or will be."""
    found = {}
    for path in dict.fromkeys(paths):
        place = pathlib.Path(path)
        while not place.exists():
            place = place.parent
        found[path] = shutil.disk_usage(place).free >> 20
    return found


def _memory() -> int | None:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.M)
    return int(match[1]) >> 10 if match else None


def _ipv6() -> list[str]:
    """Addresses that others can reach."""
    rows = [line.split() for line in _text("/proc/net/if_inet6").splitlines()]
    return [_plain6(row[0]) for row in rows if row[3] == "00"]


def _plain6(text: str) -> str:
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(text))


def _users() -> dict[int, str]:
    rows = [line.split(":") for line in _text("/etc/passwd").splitlines()]
    return {int(row[2]): row[0] for row in rows if len(row) > 3 and row[2].isdigit()}


def _identity(facts: VmFacts) -> None:
    try:
        text = (pathlib.Path(facts.options["path"]) / "certs" / "istio-token").read_bytes()
    except OSError:
        return
    facts.has_token, facts.token = True, _token.read(text.decode(errors="replace"))


# -- ways --------------------------------------------------------------------------------------------------------


def _network(facts: VmFacts) -> None:
    istiod, port = facts.options["istiod_host"], facts.options["istiod_port"]
    facts.names = {istiod: resolve(istiod)} if istiod else {}
    addresses = list(dict.fromkeys([*facts.options["istiod_addresses"], *facts.names.get(istiod, [])]))
    targets = [f"{address}:{port}" for address in addresses]
    facts.ways = values(each(targets, way))
    facts.reach = values(each(list(facts.options["reach"]), connect))
    open_ones = [address for address, one in zip(addresses, facts.ways) if not one.error]  # noqa: B905 - not in Python 3.9
    facts.tls = {address: handshake(address, port, istiod, facts.options["path"]) for address in open_ones}
    facts.istiod_version = next((found for found in map(version_of, open_ones[:1]) if found), "")


def resolve(name: str) -> list[str]:
    try:
        return sorted({str(row[4][0]) for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):  # no name at all
        return []


def _split(target: str) -> tuple[str, int]:
    host, _colon, port = target.rpartition(":")
    return host.strip("[]"), int(port)


def connect(target: str) -> Way:
    made = Way(target)
    try:
        with socket.create_connection(_split(target), timeout=5):
            pass
    except (OSError, ValueError, OverflowError) as error:  # the latter two: it is no host:port
        made.error = getattr(error, "strerror", "") or str(error) or type(error).__name__
    return made


def way(target: str) -> Way:
    """A connection, and the largest packet on this way."""
    made, (host, port) = connect(target), _split(target)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DO)
            probe.connect((host, port))
            made.mtu = probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP) and not made.error:
            made.error = error.strerror or str(error)
    if made.mtu and ":" not in host and not made.error and _ping(host, 0):
        made.fits = _ping(host, made.mtu - 28)
    return made


def _ping(host: str, size: int) -> bool:
    return command("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(size), host, timeout=5).returncode == 0


def handshake(address: str, port: int, name: str, path: str) -> str:
    """Why istiod's certificate is not good for this VM, or nothing. Without the root certificate only TLS itself is tried."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    root = pathlib.Path(path) / "certs" / "root-cert.pem"
    try:
        if root.exists():
            context.load_verify_locations(cafile=str(root))
        else:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection((address, port), timeout=5)
        with plain, context.wrap_socket(plain, server_hostname=name or address):
            return ""
    except (OSError, ssl.SSLError) as error:
        return str(error)


def version_of(address: str) -> str:
    """istiod's version, from its monitoring port where that can be reached."""
    host = f"[{address}]" if ":" in address else address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:15014/version", timeout=2) as answer:
            text = answer.read(200).decode(errors="replace").strip()
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    match = re.match(r"\d+\.\d+(\.\d+)?\S*", text)
    return match[0] if match else ""
