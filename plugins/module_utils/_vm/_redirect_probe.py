# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A question that only a working proxy answers, asked on the VM or on the controller."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import typing as t
import urllib.parse

READY = {"url": "http://127.0.0.1:15021/healthz/ready", "tcp": None, "status": [200], "from": "vm", "timeout": 3.0}


def name(probe: t.Mapping[str, t.Any]) -> str:
    """As the operator knows it; what a URL may hold after `?` or as user and password is left out."""
    if probe.get("tcp"):
        return f"TCP {probe['tcp']} from the {_place(probe)}"
    parts = urllib.parse.urlsplit(str(probe["url"]))
    host = parts.netloc.rsplit("@", 1)[-1]
    return f"GET {parts.scheme}://{host}{parts.path} from the {_place(probe)}"


def _place(probe: t.Mapping[str, t.Any]) -> str:
    return "controller" if probe.get("from") == "controller" else "VM"


def wrong(probe: t.Mapping[str, t.Any]) -> str:
    """What is wrong with a probe's options, or ""."""
    if bool(probe.get("url")) == bool(probe.get("tcp")):
        return "a probe has either url or tcp"
    if probe.get("tcp"):
        host, _dummy, port = str(probe["tcp"]).rpartition(":")
        return "" if host and port.isdigit() and 0 < int(port) < 65536 else f"{probe['tcp']!r} is not host:port"
    try:
        parts = urllib.parse.urlsplit(str(probe["url"]))
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    return "" if good else f"{probe['url']!r} is not a URL of http or https"


def ask(probe: t.Mapping[str, t.Any]) -> str:
    """Ask once; "" when the answer is right, else why it is not. No environment variable's web proxy is used."""
    timeout = float(probe.get("timeout") or 3)
    try:
        if probe.get("tcp"):
            host, _dummy, port = str(probe["tcp"]).rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout).close()
            return ""
        parts = urllib.parse.urlsplit(str(probe["url"]))
        kind: t.Any = http.client.HTTPConnection
        more: dict[str, t.Any] = {}
        if parts.scheme == "https":
            kind, more = http.client.HTTPSConnection, {"context": ssl.create_default_context()}
        connection = kind(parts.hostname, parts.port, timeout=timeout, **more)
        try:
            connection.request("GET", urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")))
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a name that no resolver can be asked for
        return f"{type(error).__name__}: {error}"
    allowed = [int(code) for code in probe.get("status") or [200]]
    return "" if status in allowed else f"the answer has status {status} instead of {' or '.join(map(str, allowed))}"


def prove(probes: t.Sequence[t.Mapping[str, t.Any]], seconds: float) -> list[dict[str, t.Any]]:
    """Ask all until each was right once or the time is over: {probe, ok, why, tries} of each."""
    end = time.monotonic() + seconds
    found = []
    for probe in probes:
        tries = 0
        while True:
            tries += 1
            why = ask(probe)
            if not why or time.monotonic() >= end:
                break
            time.sleep(0.3)
        found.append({"probe": name(probe), "ok": not why, "why": why, "tries": tries})
    return found
