# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A proxy on this VM, asked by itself: is it ready, who is it, is it in step with istiod, who is still connected to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import typing as t
import urllib.parse

Object = dict[str, t.Any]
# Of Envoy's hundreds of numbers those that tell whether it hears istiod, and whether it took what it heard.
_STATS = r"^(listener_manager\.lds|cluster_manager\.cds)\.(update_rejected|version_text)"
_LISTENING, _ESTABLISHED = "0A", "01"


def ask(port: int, path: str, method: str = "GET", timeout: float = 5) -> tuple[int, bytes]:
    """Status and body from this VM's loopback; status 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def ready(port: int) -> bool:
    """What the agent says: Envoy has its first configuration and listens."""
    return ask(port, "/healthz/ready")[0] == 200


def proof(admin: int) -> Object:
    """What the proxy says of itself. Keys are missing when it did not say them."""
    found: Object = {}
    status, body = ask(admin, "/server_info")
    if status == 200:
        info = _json(body)
        found["version"], found["state"] = str(info.get("version") or ""), str(info.get("state") or "")
        found["uptime"] = str(info.get("uptime_current_epoch") or "")
    status, body = ask(admin, "/certs")
    if status == 200:
        found.update(identity(_json(body)))
    status, body = ask(admin, "/stats?filter=" + urllib.parse.quote(_STATS))
    if status == 200:
        found.update(numbers(body.decode(errors="replace")))
    return found


def identity(certs: Object) -> Object:
    """The SPIFFE id of its own certificate, and until when it is valid."""
    for one in certs.get("certificates") or []:
        for cert in one.get("cert_chain") or []:
            for name in cert.get("subject_alt_names") or []:
                if str(name.get("uri") or "").startswith("spiffe://"):
                    return {"spiffe": str(name["uri"]), "certificate_expires": str(cert.get("expiration_time") or "")}
    return {}


def numbers(text: str) -> Object:
    """The lines of /stats as what they mean."""
    found: Object = {"rejected": 0}
    for line in text.splitlines():
        name, _colon, value = line.partition(": ")
        if name.endswith("update_rejected"):
            found["rejected"] += int(value) if value.isdigit() else 0
        elif name.endswith("version_text"):
            found["listeners" if ".lds." in name else "clusters"] = value.strip('"')
    return found


def connections(ports: t.Collection[int], pids: t.Collection[int], proc: str = "/proc") -> int:
    """How many connections to these ports the processes hold. Those of another proxy on the same ports do not count."""
    own = _inodes(pids, proc)
    return sum(1 for one in _sockets(proc) if one.port in ports and one.state != _LISTENING and one.inode in own)


def connected(remote_port: int, pids: t.Collection[int], proc: str = "/proc") -> bool:
    """Whether the processes have a connection to such a port: the agent's to istiod. Envoy itself only knows the agent."""
    own = _inodes(pids, proc)
    return any(one.remote == remote_port and one.state == _ESTABLISHED and one.inode in own for one in _sockets(proc))


def holds(ports: t.Collection[int], pids: t.Collection[int], proc: str = "/proc") -> bool:
    """Whether these processes themselves listen on each of the ports."""
    own = _inodes(pids, proc)
    return {port for port, inodes in listeners(ports, proc).items() if inodes & own} == set(ports)


def _inodes(pids: t.Collection[int], proc: str) -> set[str]:
    """Inodes of the sockets that the processes have open."""
    own = set()
    for pid in pids:
        try:
            names = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(f"{proc}/{pid}/fd/{name}")
            except OSError:
                continue
            if match := re.fullmatch(r"socket:\[(\d+)\]", target):
                own.add(match[1])
    return own


def listeners(ports: t.Collection[int], proc: str = "/proc") -> dict[int, set[str]]:
    """Inodes of listening sockets by port."""
    found: dict[int, set[str]] = {}
    for one in _sockets(proc):
        if one.port in ports and one.state == _LISTENING:
            found.setdefault(one.port, set()).add(one.inode)
    return found


class _Socket(t.NamedTuple):
    port: int
    remote: int
    state: str
    inode: str


def _sockets(proc: str) -> t.Iterator[_Socket]:
    """All TCP sockets of this network."""
    for file in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{file}", encoding="ascii", errors="replace") as stream:
                next(stream, None)
                for line in stream:
                    fields = line.split()
                    local, remote = (int(word.rsplit(":", 1)[1], 16) for word in fields[1:3])
                    yield _Socket(local, remote, fields[3], fields[9])
        except OSError:
            continue


def descendants(pid: int, proc: str = "/proc") -> list[int]:
    """A process and all that it started: the agent's Envoy among them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                with open(f"{proc}/{name}/stat", encoding="utf-8", errors="replace") as stream:
                    text = stream.read()
            except OSError:
                continue
            children.setdefault(int(text[text.rindex(")") + 2 :].split()[1]), []).append(int(name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        todo.extend(children.get(one, []))
    return found


def _json(body: bytes) -> Object:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
