# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What to ask a gateway's pods, and whether two gateways answer alike. Pure functions.

The questions come from the Gateways and VirtualServices that the source gateway serves: each open port with each of its hosts.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import gateways_of

Object = dict[str, t.Any]

# The label that stands for the asterisk of a wildcard host.
_ANY = "servicemesh-migration-proof"
# Protocols of a server behind which HTTP can be asked once TLS, if any, is done. Others only show their certificate.
_HTTP = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS"})
# TLS modes in which a client without a certificate gets an HTTP answer.
_OPEN_TLS = frozenset({"SIMPLE", "OPTIONAL_MUTUAL"})


@dataclasses.dataclass(frozen=True, order=True)
class Question:
    """One request. ``scheme``: http, https, or tls (only the handshake). ``port``: of the Service."""

    port: int
    scheme: str
    host: str
    path: str = "/"
    method: str = "HEAD"

    def __str__(self) -> str:
        if self.scheme == "tls":
            return f"TLS handshake for {self.host} on port {self.port}"
        return f"{self.method} {self.scheme}://{self.host}:{self.port}{self.path}"


@dataclasses.dataclass(frozen=True, order=True)
class Reply:
    """What a pod answered. ``certificate``: SHA-256 of the leaf, in hex; ``problem``: why there is no answer, or empty."""

    status: int | None = None
    certificate: str = ""
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        parts = [str(self.status)] if self.status is not None else []
        return " with ".join([*parts, *([f"certificate {self.certificate[:16]}…"] if self.certificate else [])]) or "connected"

    def as_dict(self) -> dict[str, t.Any]:
        return dataclasses.asdict(self)


def questions(
    gateways: t.Sequence[Object], routes: t.Sequence[Object], ports: t.Collection[int], limit: int
) -> tuple[list[Question], list[str]]:
    """What to ask, and what is not asked with the reason. Both sorted.

    :arg gateways: Gateways that select the source gateway's pods. :arg routes: all VirtualServices.
    :arg ports: of the gateway's Service. :arg limit: so many at most, spread over the ports.
    """
    asked: dict[int, set[Question]] = {}
    unasked: set[str] = set()
    for gateway in gateways:
        meta = gateway["metadata"]
        name = f"{meta.get('namespace', '')}/{meta['name']}"
        mine = [(route.get("spec") or {}).get("hosts") or [] for route in routes if name in gateways_of(route)]
        hosts = sorted({str(host) for names in mine for host in names})
        for server in (gateway.get("spec") or {}).get("servers") or []:
            number = int((server.get("port") or {}).get("number") or 0)
            if number not in ports:
                unasked.add(f"{name}: port {number} is not a port of the gateway's Service")
                continue
            scheme = _scheme(server)
            if not scheme:
                unasked.add(f"{name}: port {number} is plain TCP, to which there is no question")
                continue
            for host in _hosts(server, hosts):
                asked.setdefault(number, set()).add(Question(number, scheme, host))
    found: list[Question] = []
    turns = [sorted(asked[port]) for port in sorted(asked)]
    for index in range(max(map(len, turns), default=0)):
        found += [turn[index] for turn in turns if index < len(turn)]
    if len(found) > limit:
        unasked.add(f"{len(found) - limit} of {len(found)} hosts: {limit} are asked at most")
    return sorted(found[:limit]), sorted(unasked)


def _scheme(server: Object) -> str:
    protocol = str((server.get("port") or {}).get("protocol") or "").upper()
    tls = server.get("tls") or {}
    if protocol in ("HTTPS", "TLS"):
        open_http = protocol == "HTTPS" and tls.get("mode", "SIMPLE") in _OPEN_TLS
        return "https" if open_http else "tls"
    return "http" if protocol in _HTTP else ""


def _hosts(server: Object, routed: t.Sequence[str]) -> list[str]:
    """Names to ask for: the hosts of a server; for wildcards those of the routes that they cover, and one made up."""
    found: set[str] = set()
    for text in server.get("hosts") or []:
        host = str(text).rpartition("/")[2]
        if not host.startswith("*"):
            found.add(host)
            continue
        suffix = host[1:]
        covered = [item for item in routed if item.endswith(suffix) and not item.startswith("*")]
        found |= set(covered) or {f"{_ANY}{suffix or '.invalid'}"}
    return sorted(found)


def target_port(service: Object, pod: Object, port: int) -> int | None:
    """The port of the pod behind a port of the Service; None when the Service or the pod does not have it."""
    for item in (service.get("spec") or {}).get("ports") or []:
        if int(item["port"]) != port:
            continue
        wanted = item.get("targetPort", port)
        if not isinstance(wanted, str) or wanted.isdigit():
            return int(wanted)
        for container in pod["spec"].get("containers") or []:
            for opened in container.get("ports") or []:
                if opened.get("name") == wanted:
                    return int(opened["containerPort"])
    return None


def ready(pods: t.Sequence[Object]) -> list[Object]:
    """The pods that get traffic: ready, and not being deleted."""

    def is_ready(pod: Object) -> bool:
        conditions = (pod.get("status") or {}).get("conditions") or []
        return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)

    return [pod for pod in pods if is_ready(pod) and not pod["metadata"].get("deletionTimestamp")]


def judge(reference: t.Sequence[Reply] | None, reply: Reply) -> str:
    """Why an answer of the target is not as good as the source's, or empty.

    :arg reference: what the source's pods answered; None when there is no source any more.
    """
    if reference is None:
        bad = reply.problem or (reply.status is not None and reply.status >= 500)
        return f"answers {reply}" if bad else ""
    if reply in [item for item in reference if not item.problem]:
        return ""
    wanted = " or ".join(sorted({str(item) for item in reference if not item.problem}))
    return f"answers {reply}, the source's {wanted}"


def comparable(reference: t.Sequence[Reply] | None) -> str:
    """Why the source's answers are no measure, or empty."""
    if reference is None or any(not item.problem for item in reference):
        return ""
    return f"the source's pods do not answer it either ({reference[0] if reference else 'there is none'})"
