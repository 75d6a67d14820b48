# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a probe asks and what it expects: the options, checked before anything runs."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import re
import ssl
import typing as t
import urllib.parse

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError

_LABEL = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}$")
_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

PROBE_SPEC: dict[str, t.Any] = {
    "url": {"type": "str", "required": True},
    "connect": {"type": "str"},
    "host": {"type": "str"},
    "method": {"type": "str", "default": "GET"},
    "headers": {"type": "dict", "default": {}},
    "ca_cert": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "status": {"type": "list", "elements": "str", "default": ["200-399"]},
    "new_connection": {"type": "bool", "default": True},
    "interval": {"type": "float", "default": 0.1},
    "concurrency": {"type": "int", "default": 8},
    "timeout": {"type": "float", "default": 2},
    "window": {"type": "float", "default": 10},
    "min_requests": {"type": "int", "default": 50},
    "min_success": {"type": "float", "default": 99},
    "consecutive_failures": {"type": "int", "default": 5},
}


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """Checked options of one probe. Seconds, and percent for ``min_success``."""

    name: str
    url: str
    address: str
    port: int
    sni: str
    host_header: str
    target: str
    tls: bool
    method: str
    headers: t.Mapping[str, str]
    ca_cert: str | None
    validate_certs: bool
    statuses: tuple[tuple[int, int], ...]
    new_connection: bool
    interval: float
    concurrency: int
    timeout: float
    window: float
    min_requests: int
    min_success: float
    consecutive_failures: int

    def expects(self, status: int) -> bool:
        return any(low <= status <= high for low, high in self.statuses)

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS settings; a CA file that cannot be used is found here, before anything runs."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_cert)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"The CA file of the gate {self.name} cannot be used",
                where=str(self.ca_cert),
                why=str(error),
                todo="give the path of a readable PEM file in ca_cert, on the host where this module runs",
            ) from error
        if not self.validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def probe_options(name: str, params: t.Mapping[str, t.Any]) -> ProbeOptions:
    """Read and check what AnsibleModule gave for PROBE_SPEC. Raises InputError, with all that is wrong named in order."""
    check = _Check(name)
    scheme, host, port, target = check.url(str(params["url"]))
    address, connect_port = check.connect(params.get("connect"), host, port)
    named = params.get("host") or host
    check.that(_is_host(named), f"host {named!r} is no host name", "a name like echo.example.com, without scheme and port")
    default_port = port == (443 if scheme == "https" else 80)
    method = str(params["method"]).upper()
    check.that(bool(_TOKEN.match(method)), f"method {params['method']!r} is no HTTP method", "GET or HEAD, for example")
    numbers = {key: params[key] for key in ("interval", "timeout", "window", "min_success")}
    for key, low, high in (
        ("interval", 0.005, 3600),
        ("timeout", 0.01, 300),
        ("window", 0.1, 86400),
        ("min_success", 0, 100),
        ("concurrency", 1, 64),
        ("min_requests", 1, 1_000_000),
        ("consecutive_failures", 0, 1_000_000),
    ):
        check.that(low <= params[key] <= high, f"{key} is {params[key]:g}", f"a number from {low:g} to {high:g}")
    reachable = params["window"] / params["interval"]
    check.that(
        reachable >= params["min_requests"],
        f"it could never pass: its window of {params['window']:g} s never holds {params['min_requests']} requests "
        f"at one each {params['interval']:g} s",
        "a longer window, a shorter interval or a smaller min_requests",
    )
    options = ProbeOptions(
        name=name,
        url=str(params["url"]),
        address=address,
        port=connect_port,
        sni=named,
        host_header=_bracket(named) if default_port else f"{_bracket(named)}:{port}",
        target=target,
        tls=scheme == "https",
        method=method,
        headers=check.headers(params.get("headers") or {}),
        ca_cert=params.get("ca_cert"),
        validate_certs=bool(params["validate_certs"]),
        statuses=check.statuses(params["status"]),
        new_connection=bool(params["new_connection"]),
        concurrency=int(params["concurrency"]),
        min_requests=int(params["min_requests"]),
        consecutive_failures=int(params["consecutive_failures"]),
        **{key: float(value) for key, value in numbers.items()},
    )
    if options.ca_cert and not pathlib.Path(options.ca_cert).is_file():
        check.that(False, f"ca_cert {options.ca_cert} is no file here", "the path of a PEM file where this module runs")
    options.tls_context()
    return options


class _Check:
    """Says what is wrong with an option of this gate."""

    def __init__(self, name: str) -> None:
        self._name = name

    def that(self, right: bool, what: str, wanted: str) -> None:
        if not right:
            raise InputError(f"The gate {self._name} cannot be used: {what}", todo=f"give {wanted}")

    def url(self, text: str) -> tuple[str, str, int, str]:
        """Scheme, host, port, and what comes after them."""
        wanted = "a URL like https://echo.example.com/healthz"
        try:
            parts = urllib.parse.urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InputError(f"The gate {self._name} cannot be used: url {text!r}: {error}", todo=f"give {wanted}") from error
        self.that(parts.scheme in ("http", "https"), f"url {text!r} has no scheme http or https", wanted)
        self.that(bool(parts.hostname) and _is_host(str(parts.hostname)), f"url {text!r} has no host", wanted)
        self.that(parts.username is None, "its url holds a user or a password", "these as a header, and no_log on the task")
        self.that(_is_clean(text), f"url {text!r} has spaces or control characters", wanted)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return parts.scheme, str(parts.hostname), port or (443 if parts.scheme == "https" else 80), target

    def connect(self, text: str | None, host: str, port: int) -> tuple[str, int]:
        """The address and port to connect to: ``address``, ``address:port``, ``[v6]:port`` or a bare IPv6 address."""
        if not text:
            return host, port
        wanted = "an address like 198.51.100.10 or 198.51.100.10:8443"
        try:
            return str(ipaddress.ip_address(text.strip("[]"))), port
        except ValueError:
            pass
        try:
            parts = urllib.parse.urlsplit(f"//{text}")
            own = parts.port
        except ValueError as error:
            raise InputError(f"The gate {self._name} cannot be used: connect {text!r}: {error}", todo=f"give {wanted}") from error
        right = bool(parts.hostname) and _is_host(str(parts.hostname)) and not parts.path and parts.username is None
        self.that(right, f"connect {text!r} is no address", wanted)
        return str(parts.hostname), own or port

    def headers(self, given: t.Mapping[str, t.Any]) -> dict[str, str]:
        found = {}
        for name, value in given.items():
            right = bool(_TOKEN.match(str(name))) and _is_clean(str(value), spaces=True)
            # The value is left out of the message: it may be a token.
            self.that(right, f"the header {name!r} cannot be sent", "a header's name and a value in one line of plain characters")
            found[str(name)] = str(value)
        return found

    def statuses(self, given: t.Sequence[t.Any]) -> tuple[tuple[int, int], ...]:
        """``200``, ``200-299`` or ``2xx``."""
        found = []
        for item in given:
            text = re.sub(r"^([1-5])xx$", r"\g<1>00-\g<1>99", str(item).strip().lower())
            match = re.match(r"^([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?$", text)
            self.that(match is not None, f"status {item!r} is no HTTP status", "statuses like 200, 200-299 or 2xx")
            low, high = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
            self.that(low <= high, f"status {item!r} runs backwards", "the lower status first")
            found.append((low, high))
        self.that(bool(found), "status is empty", "at least one status that is expected")
        return tuple(found)


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        return len(text) < 254 and all(_LABEL.match(part) for part in text.rstrip(".").split("."))


def _is_clean(text: str, spaces: bool = False) -> bool:
    return all(33 <= ord(char) < 127 or (spaces and char in " \t") for char in text)


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
