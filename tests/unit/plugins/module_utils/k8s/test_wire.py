# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls over kept connections: every way to say how long an answer is, and every way to cut one off."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._wire import QuietError, Wire, WireError

BODY = b'{"items": [' + b'{"name": "a"},' * 3000 + b"{}]}"
PACKED = gzip.compress(BODY)


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: x\r\n\r\n"


LENGTH, CHUNKED = f"Content-Length: {len(BODY)}", "transfer-encoding: Chunked"
WHOLE = {
    "length": head(LENGTH) + BODY,
    "chunks": head(CHUNKED) + chunked(BODY, 4096),
    "small-chunks": head(CHUNKED) + chunked(BODY, 7),
    "packed": head("Content-Encoding: gzip", f"Content-Length: {len(PACKED)}") + PACKED,
    "packed-chunks": head("Content-Encoding: gzip", CHUNKED) + chunked(PACKED, 100),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + head(LENGTH) + BODY,
    "to-the-end": head() + BODY,
    "old": head().replace(b"/1.1", b"/1.0") + BODY,
    "says-close": head(LENGTH, "Connection: close") + BODY,
}
CUT = {
    "length": head(LENGTH) + BODY[:-1],
    "chunk": head(CHUNKED) + chunked(BODY, 4096)[:-3000],
    "last-chunk": head(CHUNKED) + chunked(BODY, 4096).removesuffix(b"0\r\nTrailer: x\r\n\r\n"),
    "no-number": head(CHUNKED) + b"zz\r\n",
    "head": head(LENGTH)[:-3],
    "nothing": b"",
    "no-http": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "not-packed": head("Content-Encoding: gzip", LENGTH) + BODY,
}
CLOSES = {"to-the-end", "old", "says-close"}


def wire(server: str, tls: ssl.SSLContext) -> Wire:
    return Wire(server, urllib3.PoolManager(num_pools=4, maxsize=4, ssl_context=tls, cert_reqs="CERT_REQUIRED"))


class Server:
    """Answers with the bytes that belong to a path, in pieces of ``piece`` bytes; then it closes when ``closes`` says so."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")]), datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        made = made.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.certificate = folder / "server.pem"
        self.certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + text)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.certificate)
        self.answers: dict[str, bytes] = {}
        self.closes: set[str] = set()
        self.piece, self.connections, self.requests = 1 << 20, 0, 0
        self.heads: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def wire(self, prefix: str = "") -> Wire:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(self.certificate)
        return wire(f"https://127.0.0.1:{self.port}{prefix}", tls)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _address = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), self._tls.wrap_socket(plain, server_side=True) as sock:
            file = sock.makefile("rb")
            while line := file.readline():
                lines = [line, *iter(file.readline, b"\r\n")]
                self.heads.append(b"".join(lines))
                length = next((int(one.split(b":")[1]) for one in lines if one.startswith(b"Content-Length")), 0)
                sent = file.read(length)
                self.requests += 1
                path = line.split()[1].decode().strip("/")
                answer = self.answers.get(path, head(f"Content-Length: {len(sent)}") + sent)
                for i in range(0, len(answer), self.piece):
                    sock.sendall(answer[i : i + self.piece])
                if path in self.closes:
                    return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.close()


def get(wire: Wire, path: str, timeout: float = 5) -> tuple[int, bytes]:
    return wire.request("GET", f"/{path}", {"Accept": "x"}, None, timeout)


@pytest.mark.parametrize("piece", [1 << 20, 1000, 13])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_however_it_is_sent(server: Server, name: str, piece: int) -> None:
    server.answers, server.closes, server.piece = dict(WHOLE), set(CLOSES), piece
    wire = server.wire()
    for _turn in range(2):
        assert get(wire, name) == (200, BODY)
    assert server.connections == (2 if name in CLOSES else 1), "a connection is used again, unless the server ends it"


@pytest.mark.parametrize("name", CUT)
def test_cut_off_or_wrong_is_no_answer(server: Server, name: str) -> None:
    server.answers, server.closes = dict(CUT), set(CUT)
    wire = server.wire()
    with pytest.raises(WireError):
        get(wire, name)
    assert wire.request("POST", "/echo", {}, b"after it", 5) == (200, b"after it")


def test_a_connection_that_the_server_closed_meanwhile_is_not_used(server: Server) -> None:
    server.answers, server.closes = dict(WHOLE), {"length"}
    wire = server.wire()
    for _turn in range(3):
        assert get(wire, "length") == (200, BODY)
        time.sleep(0.05)
    assert (server.connections, server.requests) == (3, 3)


def test_more_than_was_asked_for_is_never_taken_for_the_next_answer(server: Server) -> None:
    server.answers = {"twice": head("Content-Length: 1") + b"a" + head("Content-Length: 1") + b"b"}
    wire = server.wire()
    assert get(wire, "twice") == (200, b"a")
    assert wire.request("POST", "/echo", {}, b"mine", 5) == (200, b"mine")


def test_each_thread_gets_its_own_answer(server: Server) -> None:
    wire = server.wire()

    def one(i: int) -> bool:
        body = str(i).encode() * (i % 50)
        return wire.request("POST", "/echo", {"Content-Type": "x"}, body, 10) == (200, body)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(400)))


def test_silence_is_told_and_the_connection_given_up(server: Server) -> None:
    server.answers = {"short": head("Content-Length: 5") + b"abc"}
    wire = server.wire()
    with pytest.raises(WireError):
        get(wire, "short", timeout=0.2)
    assert wire.request("POST", "/echo", {}, b"after it", 5) == (200, b"after it")


def test_what_is_sent(server: Server) -> None:
    server.wire("/k8s/clusters/c-1/").request("PUT", "/api/v1?a=b", {"X-One": "1"}, b"{}", 5)
    (sent,) = server.heads
    assert sent.startswith(b"PUT /k8s/clusters/c-1/api/v1?a=b HTTP/1.1\r\n")
    assert b"\r\nX-One: 1\r\n" in sent


class Pool:
    """Instead of urllib3's: writes down who is asked for what."""

    def __init__(self, proxy: str | None) -> None:
        self.proxy = proxy
        self.seen: list[str] = []

    def connection_from_url(self, url: str) -> SimpleNamespace:
        self.seen.append(f"look up {url}")
        return SimpleNamespace(request=self.near)

    def near(self, method: str, target: str, **_more: Any) -> SimpleNamespace:
        self.seen.append(f"near {method} {target}")
        return SimpleNamespace(status=200, data=b"")

    def request(self, method: str, target: str, **_more: Any) -> SimpleNamespace:
        self.seen.append(f"{method} {target}")
        return SimpleNamespace(status=200, data=b"")


def test_the_way_to_the_server_is_looked_up_once() -> None:
    pool = Pool(None)
    wire = Wire("https://a:6443/k8s/", pool)
    for _turn in range(3):
        get(wire, "api")
    assert pool.seen == ["look up https://a:6443/k8s", *["near GET /k8s/api"] * 3]


@pytest.mark.parametrize(
    ("host", "proxy"), [("https://a:6443", "http://proxy:3128"), ("http://a", "http://proxy:3128"), ("http://a", None)]
)
def test_a_proxy_is_asked_with_the_whole_address(host: str, proxy: str | None) -> None:
    pool = Pool(proxy)
    wire = Wire(host, pool)
    for _turn in range(2):
        get(wire, "api")
    assert pool.seen == [f"GET {host}/api"] * 2


def test_a_server_of_another_authority_and_none_at_all(server: Server) -> None:
    stranger = wire(f"https://127.0.0.1:{server.port}", ssl.create_default_context())
    with pytest.raises(WireError, match="certificate"):
        get(stranger, "length")
    server.close()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(WireError, match="refused"):
        get(wire(f"https://127.0.0.1:{port}", ssl.create_default_context()), "length")


def test_a_watch_is_quiet_goes_on_and_is_ended_from_outside(server: Server) -> None:
    server.answers = {"watch": head(CHUNKED) + b"3\r\none\r\n"}
    answer = server.wire().watch("/watch", {}, 5, 0.2)
    pieces = answer.stream()
    assert (answer.status, next(pieces)) == (200, b"one")
    with pytest.raises(QuietError):
        next(pieces)
    server.answers["silent"] = b""
    with pytest.raises(QuietError):
        server.wire().watch("/silent", {}, 5, 0.2)
    open_end = server.wire().watch("/watch", {}, 5, None)
    threading.Timer(0.1, open_end.close).start()
    with pytest.raises(WireError):
        list(open_end.stream())
