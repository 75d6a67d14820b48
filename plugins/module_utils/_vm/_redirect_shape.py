# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The packet filter's rules of a VM in the mesh, in the shape that istio-iptables of the mesh's version gives them.

Pure: options in, rules out. What is not as istio-iptables makes it keeps the machine reachable:

- The ports of `guards` (sshd, and whatever Ansible came in by) are among the excluded inbound ports, they are never among the
  included ones, and a virtual interface does not swallow them.
- Connections that are there already stay as they are (`keep`). On a machine where nothing has tracked connections before, the
  kernel takes the next packet of each for the beginning of a new one, and would redirect it: every session would be cut, sshd's
  too. So only what begins with a SYN is redirected.

Without guards and keep, the rules are the very same.

Rules are written in the order in which iptables-save prints them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError

Version = t.Tuple[int, int]  # noqa: UP006 - a VM's Python may be older than the controller's

DNS_PORT = 15053  # where the agent answers names
TPROXY_OUTBOUND_MARK = "0x53a"  # 1338: from the proxy's outbound side to the application
OLD_CONNECTION = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"
BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
#: What istio-iptables of a version cannot do: option -> the first version that can.
SINCE: dict[str, Version] = {
    "exclude_interfaces": (1, 12),
    "dns_capture": (1, 12),
    "tproxy": (1, 12),
    "drop_invalid": (1, 13),
    "owner_groups": (1, 14),
    "loopback_cidr": (1, 21),
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user wants, complete and checked. `*` in a list means all."""

    version: Version = (1, 99)
    proxy_port: int = 15001
    inbound_port: int = 15006
    tunnel_port: int = 15008
    uids: tuple[str, ...] = ("1337",)
    gids: tuple[str, ...] = ("1337",)
    tproxy: bool = False
    tproxy_mark: int = 1337
    tproxy_table: int = 133
    inbound_ports: tuple[str, ...] = ("*",)
    inbound_exclude: tuple[str, ...] = ()
    outbound_cidrs: tuple[str, ...] = ("*",)
    outbound_exclude_cidrs: tuple[str, ...] = ()
    outbound_ports: tuple[str, ...] = ()
    outbound_exclude_ports: tuple[str, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    dns_capture: bool = False
    dns_all: bool = False
    dns_servers: tuple[str, ...] = ()
    drop_invalid: bool = False
    include_groups: tuple[str, ...] = ("*",)
    exclude_groups: tuple[str, ...] = ()
    loopback_cidr: str = "127.0.0.1/32"
    ipv6: bool = False
    guards: tuple[str, ...] = ("22",)
    keep: bool = True

    @property
    def families(self) -> tuple[int, ...]:
        return (4, 6) if self.ipv6 else (4,)

    def refuse(self) -> None:
        """Raise when the version cannot do what is wanted: its rules would be an invention of ours."""
        used = {
            "exclude_interfaces": bool(self.exclude_interfaces),
            "dns_capture": self.dns_capture,
            "tproxy": self.tproxy,
            "drop_invalid": self.drop_invalid,
            "owner_groups": self.include_groups != ("*",) or bool(self.exclude_groups),
            "loopback_cidr": self.loopback_cidr != "127.0.0.1/32",
        }
        late = [f"{name} (since {least[0]}.{least[1]})" for name, least in SINCE.items() if used[name] and self.version < least]
        if late:
            raise InputError(
                f"istio-iptables {self.version[0]}.{self.version[1]} has no rules for {', '.join(late)}",
                why="the redirect must be what the proxy of this version expects",
                todo="leave these options out, or give the version of the proxy that really runs",
            )

    def kept(self) -> list[str]:
        """Included inbound ports that are left out because they keep the machine reachable."""
        return [port for port in self.inbound_ports if port in self.guards]


class Rules:
    """Rules of one family: {table: {chain: [rule]}}. Of the kernel's own chains, what is to be at their top is kept apart."""

    def __init__(self) -> None:
        self.chains: dict[str, dict[str, list[str]]] = {}
        self.top: dict[str, dict[str, list[str]]] = {}

    def add(self, table: str, chain: str, *specs: str) -> None:
        for spec in specs:
            self.chains.setdefault(table, {}).setdefault(chain, []).append(spec)
            self._target(table, spec)

    def insert(self, table: str, chain: str, place: int, spec: str) -> None:
        where = self.top if chain in BUILTIN else self.chains
        where.setdefault(table, {}).setdefault(chain, []).insert(place - 1, spec)
        self._target(table, spec)

    def _target(self, table: str, spec: str) -> None:
        """A chain that is jumped to must be there, also when it is empty."""
        target = spec.split("-j ")[-1].split()[0]
        if target.startswith("ISTIO_"):
            self.chains.setdefault(table, {}).setdefault(target, [])

    def tables(self) -> list[str]:
        return sorted(set(self.chains) | set(self.top))


def build(wanted: Wanted, family: int) -> Rules:
    """All rules of a family (4 or 6)."""
    wanted.refuse()
    rules = Rules()
    if family == 6 and not wanted.ipv6:
        return rules
    if family == 6 and wanted.version < (1, 12):
        _old_ipv6(wanted, rules)
    else:
        _build(wanted, rules, family)
    if wanted.keep:
        for chain in ("ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"):
            rules.insert("nat", chain, 1, f"{OLD_CONNECTION} -j RETURN")
    _guard_interfaces(wanted, rules)
    return rules


def _guard_interfaces(wanted: Wanted, rules: Rules) -> None:
    """What comes in by a virtual interface goes to the proxy whole, unless it is for this machine's own guarded ports."""
    for interface in wanted.virtual_interfaces:
        for port in wanted.guards:
            spec = f"-i {interface} -p tcp -m tcp --dport {port} -m addrtype --dst-type LOCAL -j RETURN"
            rules.insert("nat", "PREROUTING", 1, spec)


def _build(wanted: Wanted, rules: Rules, family: int) -> None:
    version = wanted.version
    lo = wanted.loopback_cidr if family == 4 else "::1/128"
    passthrough = "127.0.0.6/32" if family == 4 else "::6/128"
    include, exclude, loops = _cidrs(wanted, family)
    servers = [server for server in wanted.dns_servers if ipaddress.ip_address(server).version == family]
    for table in ("nat", *(["mangle"] if wanted.tproxy else [])):
        for interface in wanted.exclude_interfaces:
            rules.add(table, "PREROUTING", f"-i {interface} -j RETURN")
            rules.add(table, "OUTPUT", f"-o {interface} -j RETURN")
    for interface in wanted.virtual_interfaces:
        rules.insert("nat", "PREROUTING", 1, f"-i {interface} -j RETURN")
    if wanted.drop_invalid:
        invalid = "-m conntrack --ctstate INVALID"
        rules.add("mangle", "PREROUTING", f"{invalid} -j {'ISTIO_DROP' if version >= (1, 24) else 'DROP'}")
        if version >= (1, 24):
            rules.add("mangle", "ISTIO_DROP", "-j DROP")
    _redirects(wanted, rules)
    _inbound(wanted, rules, lo)
    rules.add("nat", "OUTPUT", "-j ISTIO_OUTPUT" if version >= (1, 25) else "-p tcp -j ISTIO_OUTPUT")
    for port in wanted.outbound_exclude_ports:
        rules.add("nat", "ISTIO_OUTPUT", f"-p tcp -m tcp --dport {port} -j RETURN")
        if version >= (1, 25):
            rules.add("nat", "ISTIO_OUTPUT", f"-p udp -m udp --dport {port} -j RETURN")
    rules.add("nat", "ISTIO_OUTPUT", f"-s {passthrough} -o lo -j RETURN")
    _owners(wanted, rules, lo, loops)
    if version >= (1, 14):
        for spec in _groups(wanted):
            rules.add("nat", "ISTIO_OUTPUT", f"{spec}-j RETURN")
    if wanted.dns_capture:
        if version >= (1, 25):
            _dns(wanted, rules, servers)
        else:
            for match in _name_servers(wanted, servers):
                rules.add("nat", "ISTIO_OUTPUT", f"{match('-d')}-p tcp -m tcp --dport 53 -j REDIRECT --to-ports {DNS_PORT}")
    rules.add("nat", "ISTIO_OUTPUT", f"-d {lo} -j RETURN")
    for cidr in exclude:
        rules.add("nat", "ISTIO_OUTPUT", f"-d {cidr} -j RETURN")
    for port in wanted.outbound_ports:
        rules.add("nat", "ISTIO_OUTPUT", f"-p tcp -m tcp --dport {port} -j ISTIO_REDIRECT")
    _outbound(wanted, rules, include)
    if wanted.dns_capture and version < (1, 25):
        _old_dns(wanted, rules, servers)
    if wanted.tproxy:
        _tproxy_marks(wanted, rules, lo, passthrough)


def _redirects(wanted: Wanted, rules: Rules) -> None:
    rules.add("nat", "ISTIO_INBOUND", f"-p tcp -m tcp --dport {wanted.tunnel_port} -j RETURN")
    rules.add("nat", "ISTIO_REDIRECT", f"-p tcp -j REDIRECT --to-ports {wanted.proxy_port}")
    rules.add("nat", "ISTIO_IN_REDIRECT", f"-p tcp -j REDIRECT --to-ports {wanted.inbound_port}")


def _inbound(wanted: Wanted, rules: Rules, lo: str) -> None:
    ports = [port for port in wanted.inbound_ports if port not in wanted.guards]
    if not ports:
        return
    table = "mangle" if wanted.tproxy else "nat"
    established = "-m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT"
    if wanted.tproxy:
        mark = f"0x{wanted.tproxy_mark:x}"
        rules.add("mangle", "ISTIO_DIVERT", f"-j MARK --set-xmark {mark}/0xffffffff", "-j ACCEPT")
        target = f"-j TPROXY --on-port {wanted.inbound_port} --on-ip {_any(lo)} --tproxy-mark {mark}/0xffffffff"
        rules.add("mangle", "ISTIO_TPROXY", f"! -d {lo} -p tcp {target}")
    rules.add(table, "PREROUTING", "-p tcp -j ISTIO_INBOUND")
    if ports == ["*"]:
        always = ["22"] if wanted.version < (1, 13) else []  # since then sshd is the user's own affair, upstream
        guards = [port for port in wanted.guards if port not in (*always, *wanted.inbound_exclude)]
        for port in [*always, *guards, *wanted.inbound_exclude]:
            rules.add(table, "ISTIO_INBOUND", f"-p tcp -m tcp --dport {port} -j RETURN")
    for port in ports:
        match = "-p tcp" if port == "*" else f"-p tcp -m tcp --dport {port}"
        if wanted.tproxy:
            rules.add(table, "ISTIO_INBOUND", f"{match} {established}", f"{match} -j ISTIO_TPROXY")
        else:
            rules.add(table, "ISTIO_INBOUND", f"{match} -j ISTIO_IN_REDIRECT")


def _any(lo: str) -> str:
    return "::" if ":" in lo else "0.0.0.0"


def _cidrs(wanted: Wanted, family: int) -> tuple[list[str], list[str], bool]:
    """Included and excluded networks of a family, and whether a loopback address is among the included ones of any family."""

    def of_family(cidrs: t.Iterable[str]) -> list[str]:
        return [str(face.network) for face in map(ipaddress.ip_interface, cidrs) if face.version == family]

    if wanted.outbound_cidrs == ("*",):
        return ["*"], of_family(wanted.outbound_exclude_cidrs), False
    loops = any(ipaddress.ip_interface(cidr).ip.is_loopback for cidr in wanted.outbound_cidrs)
    return of_family(wanted.outbound_cidrs), of_family(wanted.outbound_exclude_cidrs), loops


def _owners(wanted: Wanted, rules: Rules, lo: str, loops: bool) -> None:
    """The proxy's own packets are not sent to the proxy again, except those for a service of this very machine."""
    for kind, owner in [*(("uid", uid) for uid in wanted.uids), *(("gid", gid) for gid in wanted.gids)]:
        dns = wanted.dns_capture and kind == "uid"
        tunnel = ""
        if wanted.version >= (1, 18):
            ports = f"-m multiport ! --dports 53,{wanted.tunnel_port}" if dns else f"-m tcp ! --dport {wanted.tunnel_port}"
            tunnel = f"-p tcp {ports} "
        elif dns:
            tunnel = "-p tcp -m tcp ! --dport 53 "
        rules.add("nat", "ISTIO_OUTPUT", f"! -d {lo} -o lo {tunnel}-m owner --{kind}-owner {owner} -j ISTIO_IN_REDIRECT")
        if not loops:
            # a name server on this machine is asked over TCP, too: that is to be captured
            names = "-p tcp -m tcp ! --dport 53 " if wanted.dns_capture else ""
            rules.add("nat", "ISTIO_OUTPUT", f"-o lo {names}-m owner ! --{kind}-owner {owner} -j RETURN")
        rules.add("nat", "ISTIO_OUTPUT", f"-m owner --{kind}-owner {owner} -j RETURN")


def _groups(wanted: Wanted) -> list[str]:
    """Matches of the groups whose packets stay as they are; an empty one matches all."""
    if wanted.include_groups == ("*",):
        return [f"-m owner --gid-owner {group} " for group in wanted.exclude_groups]
    return ["".join(f"-m owner ! --gid-owner {group} " for group in wanted.include_groups)]


def _outbound(wanted: Wanted, rules: Rules, include: list[str]) -> None:
    for cidr in include:
        match = "" if cidr == "*" else f"-d {cidr} "
        for interface in wanted.virtual_interfaces:
            destination = "" if cidr == "*" else f"-d {cidr} "
            rules.insert("nat", "PREROUTING", 1, f"{destination}-i {interface} -j ISTIO_REDIRECT")
        rules.add("nat", "ISTIO_OUTPUT", f"{match}-j ISTIO_REDIRECT")
    if include and include != ["*"] and wanted.version < (1, 23):
        rules.add("nat", "ISTIO_OUTPUT", "-j RETURN")


def _name_servers(wanted: Wanted, servers: list[str]) -> list[t.Callable[[str], str]]:
    """For each name server (or for all at once) how a rule names it: called with -s or -d."""
    if wanted.dns_all:
        return [lambda _side: ""]
    return [lambda side, server=server: f"{side} {_host(server)} " for server in servers]  # type: ignore[misc]


def _host(address: str) -> str:
    return str(ipaddress.ip_network(address))


def _dns(wanted: Wanted, rules: Rules, servers: list[str]) -> None:
    """DNS since 1.25: chains of its own. UDP is split over two conntrack zones, or the answers would be mixed up."""
    matches = _name_servers(wanted, servers)
    rules.add("raw", "OUTPUT", "-j ISTIO_OUTPUT_DNS")
    if matches:
        rules.add("nat", "ISTIO_OUTPUT", "-j ISTIO_OUTPUT_DNS")
    for protocol in ("tcp", "udp"):
        for match in matches:
            spec = f"{match('-d')}-p {protocol} -m {protocol} --dport 53 -j REDIRECT --to-ports {DNS_PORT}"
            rules.add("nat", "ISTIO_OUTPUT_DNS", spec)
    _zones(wanted, rules, "ISTIO_OUTPUT_DNS")
    if matches:
        rules.add("raw", "PREROUTING", "-j ISTIO_INBOUND")
    for match in matches:
        rules.add("raw", "ISTIO_OUTPUT_DNS", f"{match('-d')}-p udp -m udp --dport 53 -j CT --zone 2")
        rules.add("raw", "ISTIO_INBOUND", f"{match('-s')}-p udp -m udp --sport 53 -j CT --zone 1")


def _zones(wanted: Wanted, rules: Rules, chain: str) -> None:
    for kind, owner in [*(("uid", uid) for uid in wanted.uids), *(("gid", gid) for gid in wanted.gids)]:
        rules.add("raw", chain, f"-p udp -m udp --dport 53 -m owner --{kind}-owner {owner} -j CT --zone 1")
        rules.add("raw", chain, f"-p udp -m udp --sport {DNS_PORT} -m owner --{kind}-owner {owner} -j CT --zone 2")


def _old_dns(wanted: Wanted, rules: Rules, servers: list[str]) -> None:
    """DNS before 1.25: in the kernel's own chains until 1.22, in ISTIO_OUTPUT after."""
    chain = "OUTPUT"
    if wanted.version >= (1, 23):
        chain = "ISTIO_OUTPUT"
        rules.add("nat", "OUTPUT", "-p udp -j ISTIO_OUTPUT")
        rules.add("raw", "OUTPUT", "-p udp -j ISTIO_OUTPUT")
    asks = "-p udp -m udp --dport 53 "
    for kind, owner in [*(("uid", uid) for uid in wanted.uids), *(("gid", gid) for gid in wanted.gids)]:
        rules.add("nat", chain, f"{asks}-m owner --{kind}-owner {owner} -j RETURN")
    if wanted.version >= (1, 14):
        for spec in _groups(wanted):
            rules.add("nat", chain, f"{asks}{spec}-j RETURN")
    matches = _name_servers(wanted, servers)
    for match in matches:
        rules.add("nat", chain, f"{match('-d')}{asks}-j REDIRECT --to-ports {DNS_PORT}")
    _zones(wanted, rules, chain)
    side = "-s" if wanted.version >= (1, 20) else "-d"
    for match in matches:
        rules.add("raw", chain, f"{match('-d')}{asks}-j CT --zone 2")
        rules.add("raw", "PREROUTING", f"{match(side)}-p udp -m udp --sport 53 -j CT --zone 1")


def _tproxy_marks(wanted: Wanted, rules: Rules, lo: str, passthrough: str) -> None:
    mark = f"0x{wanted.tproxy_mark:x}"
    rest = "--nfmask 0xffffffff --ctmask 0xffffffff"
    rules.add("mangle", "PREROUTING", f"-p tcp -m mark --mark {mark} -j CONNMARK --save-mark {rest}")
    rules.add("mangle", "OUTPUT", f"-o lo -p tcp -m mark --mark {mark} -j RETURN")
    for kind, owner in [*(("uid", uid) for uid in wanted.uids), *(("gid", gid) for gid in wanted.gids)]:
        outbound = f"-j MARK --set-xmark {TPROXY_OUTBOUND_MARK}/0xffffffff"
        rules.add("mangle", "OUTPUT", f"! -d {lo} -o lo -p tcp -m owner --{kind}-owner {owner} {outbound}")
    rules.add("mangle", "OUTPUT", f"-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark {rest}")
    rules.insert("mangle", "ISTIO_INBOUND", 1, f"-p tcp -m mark --mark {mark} -j RETURN")
    rules.insert("mangle", "ISTIO_INBOUND", 2, f"-s {passthrough} -i lo -p tcp -j RETURN")
    rules.insert("mangle", "ISTIO_INBOUND", 3, f"-i lo -p tcp -m mark ! --mark {TPROXY_OUTBOUND_MARK} -j RETURN")


def _old_ipv6(wanted: Wanted, rules: Rules) -> None:
    """IPv6 until 1.11: a list of its own, a little behind that of IPv4."""
    include, exclude, _loops = _cidrs(wanted, 6)
    for interface in wanted.virtual_interfaces:
        rules.insert("nat", "PREROUTING", 1, f"-i {interface} -j RETURN")
    _redirects(wanted, rules)
    _inbound(wanted, rules, "::1/128")
    rules.add("nat", "OUTPUT", "-p tcp -j ISTIO_OUTPUT")
    for port in wanted.outbound_exclude_ports:
        rules.add("nat", "ISTIO_OUTPUT", f"-p tcp -m tcp --dport {port} -j RETURN")
    rules.add("nat", "ISTIO_OUTPUT", "-s ::6/128 -o lo -j RETURN")
    _owners(wanted, rules, "::1/128", loops=False)
    rules.add("nat", "ISTIO_OUTPUT", "-d ::1/128 -j RETURN")
    for cidr in exclude:
        rules.add("nat", "ISTIO_OUTPUT", f"-d {cidr} -j RETURN")
    if wanted.version >= (1, 11):
        for port in wanted.outbound_ports:
            rules.add("nat", "ISTIO_OUTPUT", f"-p tcp -m tcp --dport {port} -j ISTIO_REDIRECT")
    if include == ["*"]:
        rules.add("nat", "ISTIO_OUTPUT", "-j ISTIO_REDIRECT")
        for interface in wanted.virtual_interfaces:
            rules.insert("nat", "PREROUTING", 1, f"-i {interface} -j RETURN")
    else:
        _outbound(wanted, rules, include)
