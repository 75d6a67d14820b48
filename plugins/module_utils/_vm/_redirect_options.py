# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""vm_redirect's options: their spec, and the plan's input made of them."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_host as host
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_probe as probe
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_shape import Wanted

Spec = t.Dict[str, t.Any]  # noqa: UP006 - a VM's Python may be older than the controller's

_PORTS = re.compile(r"[0-9]{1,5}(:[0-9]{1,5})?")
_INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}\+?")
_OWNER = re.compile(r"[0-9]+|[A-Za-z_][A-Za-z0-9_.-]*\$?")
STATE_DIR = "/var/lib/servicemesh-migration/redirect"
LEAST_SECONDS = 15


def redirect_spec() -> Spec:
    def words(*default: str) -> Spec:
        return {"type": "list", "elements": "str", "default": list(default)}

    def number(default: int) -> Spec:
        return {"type": "int", "default": default}

    def switch(default: bool = False) -> Spec:
        return {"type": "bool", "default": default}

    return {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "version": {"type": "str"},
        "mode": {"type": "str", "choices": ["REDIRECT", "TPROXY"], "default": "REDIRECT"},
        "proxy_port": number(15001),
        "inbound_port": number(15006),
        "tunnel_port": number(15008),
        "proxy_uids": words("1337"),
        "proxy_gids": {"type": "list", "elements": "str"},
        "inbound_ports": words("*"),
        "inbound_exclude_ports": words("15020", "15021", "15090"),
        "outbound_cidrs": words("*"),
        "outbound_exclude_cidrs": words(),
        "outbound_ports": words(),
        "outbound_exclude_ports": words(),
        "include_groups": words("*"),
        "exclude_groups": words(),
        "exclude_interfaces": words(),
        "virtual_interfaces": words(),
        "dns_capture": switch(),
        "dns_capture_all": switch(),
        "dns_servers": {"type": "list", "elements": "str"},
        "drop_invalid": switch(),
        "ipv6": switch(),
        "loopback_cidr": {"type": "str", "default": "127.0.0.1/32"},
        "tproxy_mark": number(1337),
        "tproxy_route_table": number(133),
        "ssh_ports": {"type": "list", "elements": "int", "default": []},
        "backend": {"type": "str", "choices": ["auto", "nft", "legacy"], "default": "auto"},
        "persist": switch(True),
        "revert_after": number(60),
        "probes": {
            "type": "list",
            "elements": "dict",
            "options": {
                "url": {"type": "str"},
                "tcp": {"type": "str"},
                "status": {"type": "list", "elements": "int", "default": [200]},
                "from": {"type": "str", "choices": ["vm", "controller"], "default": "vm"},
                "timeout": {"type": "float", "default": 3},
            },
        },
        "probe_timeout": {"type": "float", "default": 15},
        "state_dir": {"type": "path", "default": STATE_DIR},
        "confirm": {
            "type": "dict",
            "options": {"change": {"type": "str", "required": True}, "failure": {"type": "str", "default": ""}},
        },
    }


def _bad(option: str, value: t.Any, why: str) -> InputError:
    return InputError(f"{option} cannot be {value!r}", why=why, todo=f"correct the option {option}")


def _ports(option: str, values: t.Sequence[str], star: bool = False) -> tuple[str, ...]:
    if star and list(values) == ["*"]:
        return ("*",)
    for value in values:
        if not _PORTS.fullmatch(value) or not all(0 < int(port) < 65536 for port in value.split(":")):
            raise _bad(
                option, value, "a port is a number from 1 to 65535, or a range like 3000:3010" + (", or * alone" if star else "")
            )
    return tuple(values)


def _each(option: str, values: t.Sequence[str], pattern: re.Pattern[str], why: str, star: bool = False) -> tuple[str, ...]:
    if star and list(values) == ["*"]:
        return ("*",)
    for value in values:
        if not pattern.fullmatch(value):
            raise _bad(option, value, why)
    return tuple(values)


def _nets(option: str, values: t.Sequence[str], star: bool = False) -> tuple[str, ...]:
    if star and list(values) == ["*"]:
        return ("*",)
    for value in values:
        try:
            ipaddress.ip_interface(value)
        except ValueError as error:
            raise _bad(option, value, f"it is not a network like 10.0.0.0/8: {error}") from error
    return tuple(value if "/" in value else str(ipaddress.ip_network(value)) for value in values)


def _version(text: str | None) -> tuple[int, int]:
    if text is None:
        return (1, 99)  # only with state=absent
    found = re.match(r"v?(\d+)\.(\d+)(?:[.-]|$)", text)
    if found is None or (int(found.group(1)), int(found.group(2))) < (1, 8) or int(found.group(1)) > 1:
        raise _bad("version", text, "rules are known from Istio 1.8 on; a version is like 1.8.4 or 1.18.7-r2")
    return int(found.group(1)), int(found.group(2))


def wanted_of(params: Spec, guards: t.Sequence[str]) -> Wanted:
    """The plan's input. Reads /etc/resolv.conf when DNS is to be captured and no name server is given.

    :raises InputError: an option that iptables would take for something else, or that cannot be.
    """
    numbers = {name: params[name] for name in ("proxy_port", "inbound_port", "tunnel_port")}
    for name, value in [*numbers.items(), *(("ssh_ports", port) for port in params["ssh_ports"])]:
        if not 0 < value < 65536:
            raise _bad(name, value, "a port is a number from 1 to 65535")
    for name in ("tproxy_mark", "tproxy_route_table"):
        if not 0 < params[name] < 2**31:
            raise _bad(name, params[name], "it is a number above 0")
    if params["revert_after"] < LEAST_SECONDS:
        raise _bad("revert_after", params["revert_after"], f"a new connection and the probes need {LEAST_SECONDS} s at least")
    owner = "it is a number or the name of a user or group"
    uids = _each("proxy_uids", params["proxy_uids"], _OWNER, owner)
    if not uids:
        raise _bad("proxy_uids", [], "without it the proxy's own traffic would be sent to the proxy")
    gids = _each("proxy_gids", uids if params["proxy_gids"] is None else params["proxy_gids"], _OWNER, owner)
    loopback = _nets("loopback_cidr", [params["loopback_cidr"]])[0]
    if not ipaddress.ip_interface(loopback).ip.is_loopback or ":" in loopback or int(loopback.split("/")[1]) < 8:
        raise _bad("loopback_cidr", loopback, "it is a part of 127.0.0.0/8")
    groups = _each("include_groups", params["include_groups"], _OWNER, owner, star=True)
    if len(groups) > 64:
        raise _bad("include_groups", f"{len(groups)} groups", "one rule holds 64 at most")
    probes_of(params)
    wanted = Wanted(
        version=_version(params["version"]),
        uids=uids,
        gids=gids,
        tproxy=params["mode"] == "TPROXY",
        tproxy_mark=params["tproxy_mark"],
        tproxy_table=params["tproxy_route_table"],
        inbound_ports=_ports("inbound_ports", params["inbound_ports"], star=True),
        inbound_exclude=_ports("inbound_exclude_ports", params["inbound_exclude_ports"]),
        outbound_cidrs=_nets("outbound_cidrs", params["outbound_cidrs"], star=True),
        outbound_exclude_cidrs=_nets("outbound_exclude_cidrs", params["outbound_exclude_cidrs"]),
        outbound_ports=_ports("outbound_ports", params["outbound_ports"]),
        outbound_exclude_ports=_ports("outbound_exclude_ports", params["outbound_exclude_ports"]),
        include_groups=groups,
        exclude_groups=_each("exclude_groups", params["exclude_groups"], _OWNER, owner),
        exclude_interfaces=_each("exclude_interfaces", params["exclude_interfaces"], _INTERFACE, "it is an interface's name"),
        virtual_interfaces=_each("virtual_interfaces", params["virtual_interfaces"], _INTERFACE, "it is an interface's name"),
        dns_capture=params["dns_capture"],
        dns_all=params["dns_capture"] and params["dns_capture_all"],
        dns_servers=_servers(params),
        drop_invalid=params["drop_invalid"],
        loopback_cidr=loopback,
        ipv6=params["ipv6"],
        guards=tuple(guards),
        **numbers,
    )
    if params["state"] == "present":
        wanted.refuse()
    return wanted


def _servers(params: Spec) -> tuple[str, ...]:
    if not params["dns_capture"] or params["dns_capture_all"]:
        return ()
    given = host.name_servers() if params["dns_servers"] is None else params["dns_servers"]
    for server in given:
        try:
            ipaddress.ip_address(server)
        except ValueError as error:
            raise _bad("dns_servers", server, "a name server is given by its address") from error
    if not given and params["state"] == "present":
        raise InputError(
            "There is no name server whose questions could be captured",
            why="dns_servers is empty, and so is /etc/resolv.conf",
            todo="give dns_servers, or dns_capture_all",
        )
    return tuple(given)


def probes_of(params: Spec) -> list[dict[str, t.Any]]:
    """The probes, checked; the proxy's own readiness when none is given."""
    probes = [probe.READY] if params["probes"] is None else params["probes"]
    for one in probes:
        if why := probe.wrong(one):
            raise _bad("probes", {key: one.get(key) for key in ("url", "tcp")}, why)
    return list(probes)
