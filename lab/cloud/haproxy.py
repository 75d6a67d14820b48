# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy has to serve for a given world, as plain data, and its configuration text. No process, no socket.

Each running TCP (or HTTP) listener of an active load balancer is one proxy of its own, with the servers of its vServer
group: a group used by two listeners can be scheduled in two ways. Schedulers: wrr = roundrobin with the weights; rr =
roundrobin with equal weights (assumed, not documented: weight 0 takes no traffic under rr either); wlc = leastconn;
sch, tch = consistent hash of the source address (tch would hash ports too: approximated).
A refused connection to a backend is not tried elsewhere: a layer 4 CLB does not do so either, and hiding it would make
the lab kinder than the cloud. HTTP listeners are balanced per request. UDP and HTTPS listeners have no data plane.
Runtime commands (weights, servers) need no reload; a reload is needed when a proxy itself comes, goes or changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .model import Listener, LoadBalancer, World

CHECK = "check inter 500ms fastinter 200ms fall 3 rise 1"
_BALANCE = {
    "wrr": "balance roundrobin",
    "rr": "balance roundrobin",
    "wlc": "balance leastconn",
    "sch": "balance source\n    hash-type consistent",
    "tch": "balance source\n    hash-type consistent",
}


@dataclass(frozen=True)
class Server:
    name: str
    address: str
    weight: int


@dataclass(frozen=True)
class Proxy:
    """``head`` is everything but the servers; two proxies with the same head differ by runtime commands only."""

    name: str
    head: str
    checked: bool
    servers: dict[str, Server] = field(default_factory=dict, hash=False)

    def line(self, server: Server) -> str:
        return f"{server.address} weight {server.weight}" + (f" {CHECK}" if self.checked else "")


@dataclass(frozen=True)
class View:
    addresses: frozenset[str] = frozenset()
    proxies: dict[str, Proxy] = field(default_factory=dict, hash=False)


def server_name(address: str) -> str:
    return "s" + re.sub(r"[^0-9A-Za-z]", "_", address)


def effective_weight(scheduler: str, weight: int) -> int:
    """The weight that HAProxy is told: under rr everyone with a weight above 0 counts the same."""
    if scheduler == "rr":
        return 1 if weight > 0 else 0
    return weight


def proxy_of(world: World, lb: LoadBalancer, listener: Listener) -> Proxy | None:
    if lb.status != "active" or listener.status != "running" or listener.protocol not in ("tcp", "http"):
        return None
    settings = listener.settings
    checked = settings.get("HealthCheck") == "on"
    lines = [f"bind {lb.address}:{listener.port}", f"mode {listener.protocol}", _BALANCE[listener.scheduler]]
    if listener.protocol == "tcp":
        timeout = int(settings.get("EstablishedTimeout") or 900)
        persistence = int(settings.get("PersistenceTimeout") or 0)
        if persistence:
            lines += [f"stick-table type ip size 100k expire {persistence}s", "stick on src"]
    else:
        timeout = int(settings.get("RequestTimeout") or 60)
        lines += ["option forwardfor", "option idle-close-on-response"]
        lines += [f"timeout http-keep-alive {int(settings.get('IdleTimeout') or 15)}s"]
    lines += [f"timeout client {timeout}s", f"timeout server {timeout}s"]
    servers: dict[str, Server] = {}
    group = world.groups.get(listener.vserver_group_id)
    for backend in group.backends if group else []:
        address = world.address_of(backend)
        if not address or ":" in address:
            continue
        target = f"{address}:{backend.port}"
        name = server_name(target)
        servers[name] = Server(name, target, effective_weight(listener.scheduler, backend.weight))
    name = f"{lb.id}.{listener.port}"
    return Proxy(name=name, head="\n    ".join(lines), checked=checked, servers=servers)


def view_of(world: World) -> View:
    proxies: dict[str, Proxy] = {}
    for lb in world.load_balancers.values():
        for listener in lb.listeners.values():
            proxy = proxy_of(world, lb, listener)
            if proxy is not None:
                proxies[proxy.name] = proxy
    return View(frozenset(lb.address for lb in world.load_balancers.values()), proxies)


def configuration(view: View, maxconn: int = 8000) -> str:
    """The configuration file. Relative socket paths: HAProxy runs in its own folder, whose path may be long."""
    parts = [
        "global",
        f"    maxconn {maxconn}",
        "    nbthread 1",
        "    stats socket unix@run.sock mode 600 level admin expose-fd listeners",
        "    server-state-file servers.state",
        "defaults",
        "    mode tcp",
        "    retries 0",
        "    timeout connect 10s",
        "    timeout client 900s",
        "    timeout server 900s",
        "    timeout check 2s",
        "    load-server-state-from-file global",
        # A proxy of its own keeps the configuration valid while there is no listener at all.
        "listen idle",
        "    bind unix@idle.sock",
    ]
    for proxy in sorted(view.proxies.values(), key=lambda p: p.name):
        parts += [f"listen {proxy.name}", f"    {proxy.head}"]
        parts += [f"    server {s.name} {proxy.line(s)}" for s in proxy.servers.values()]
    return "\n".join(parts) + "\n"


STATE_HEADER = (
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port\n"
)


@dataclass(frozen=True)
class Observed:
    """A server as ``show servers state`` tells of it."""

    proxy: str
    name: str
    address: str
    running: bool
    maintenance: bool
    weight: int
    fields: tuple[str, ...] = ()


def parse_state(text: str) -> list[Observed]:
    rows = []
    for line in text.splitlines():
        parts = line.split()
        if len(parts) < 20 or line.startswith("#"):
            continue
        rows.append(
            Observed(
                proxy=parts[1],
                name=parts[3],
                address=f"{parts[4]}:{parts[18]}",
                running=parts[5] in ("2", "1"),
                maintenance=int(parts[6]) != 0,
                weight=int(parts[7]),
                fields=tuple(parts),
            )
        )
    return rows


def state_file(view: View, observed: list[Observed]) -> str:
    """The state that a new worker starts from: what the old one knows of a server's health, with the weights wanted now.

    A server that the old worker did not know starts as down and is up after its first good check, so that nobody is
    sent to a backend that was never seen alive.
    """
    known = {(o.proxy, o.name): o for o in observed}
    lines = []
    for proxy in view.proxies.values():
        if not proxy.checked:
            continue
        for server in proxy.servers.values():
            seen = known.get((proxy.name, server.name))
            weight = str(server.weight)
            address, _, port = server.address.rpartition(":")
            if seen is not None:
                fields = list(seen.fields)
                fields[6], fields[7], fields[8] = "0", weight, weight
            else:
                fields = ["1", proxy.name, "1", server.name, address, "0", "0", weight, weight, "0", "1", "0", "0", "6"]
                fields += ["0", "0", "0", "-", port, "-", "0", "0", "-", "-", "0"]
            lines.append(" ".join(fields))
    return STATE_HEADER + "".join(f"{line}\n" for line in lines)
