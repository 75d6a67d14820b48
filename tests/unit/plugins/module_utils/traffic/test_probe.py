# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe's requests against a real server on loopback, plain and with TLS."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import socket
import ssl
import struct
import threading
import time
import typing as t

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    Verdict,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._probe import Probe, _UnderWay
from tests.unit.plugins.module_utils.traffic.probe_defaults import HOST, options

# -- requests ----------------------------------------------------------------------------------------------------


class Behaviour:
    """How the server answers the n-th request."""

    def __init__(self) -> None:
        self.answer: t.Callable[[int], str] = lambda _number: "200"
        self.requests: list[dict[str, str]] = []
        self.connections = 0
        self.lock = threading.Lock()
        self.port = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    behaviour: Behaviour

    def setup(self) -> None:
        super().setup()
        with self.behaviour.lock:
            self.behaviour.connections += 1

    def do_GET(self) -> None:
        with self.behaviour.lock:
            self.behaviour.requests.append({"path": self.path, "method": self.command, **dict(self.headers.items())})
            number = len(self.behaviour.requests)
        word = self.behaviour.answer(number)
        if word == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if word == "hang":
            time.sleep(1.5)
            self.close_connection = True
            return
        if word == "drip":
            # A byte each 50 ms: no single wait of the client is long.
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 200:
                try:
                    self.connection.sendall(bytes([byte]))
                except OSError:
                    break
                time.sleep(0.05)
            self.close_connection = True
            return
        if word == "garbage":
            self.connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            self.close_connection = True
            return
        body = b"hello"
        self.send_response(int(word.rstrip("!")))
        self.send_header("Content-Length", str(len(body) + (100 if word.endswith("!") else 0)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if word.endswith("!"):
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_args: t.Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_args: t.Any) -> None:
        """Broken connections are what these tests are about."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> t.Iterator[Behaviour]:
    behaviour = Behaviour()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"behaviour": behaviour}))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    behaviour.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield behaviour
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server() -> t.Iterator[Behaviour]:
    with serving() as behaviour:
        yield behaviour


@contextlib.contextmanager
def probing(url: str, **more: t.Any) -> t.Iterator[Probe]:
    fast = {"interval": 0.01, "min_requests": 20, "window": 5, "timeout": 5, **more}
    probe = Probe(options(url, **fast))
    probe.start()
    try:
        yield probe
    finally:
        probe.stop()


def until(probe: Probe, done: t.Callable[[Verdict], bool], seconds: float = 5) -> Verdict:
    end = time.monotonic() + seconds
    while True:
        verdict = probe.verdict()
        if done(verdict) or time.monotonic() > end:
            return verdict
        time.sleep(0.01)


def probes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("probe ")]


def decided(verdict: Verdict) -> bool:
    return verdict.state != INCONCLUSIVE


def test_a_good_server_passes_and_the_rate_is_bounded(server: Behaviour) -> None:
    with probing(f"http://{HOST}/healthz?x=1", connect=f"127.0.0.1:{server.port}", interval=0.02) as probe:
        time.sleep(1.0)
        verdict = probe.verdict()
    assert verdict.state == PASS
    assert verdict.numbers["answers"] == {"200": verdict.numbers["requests"]}
    assert 20 <= len(server.requests) <= 55  # one each 20 ms for a second and a bit; a busy machine may do less
    assert server.connections == len(server.requests)  # a new connection each time
    first = server.requests[0]
    assert (first["path"], first["Host"], first["Connection"]) == ("/healthz?x=1", HOST, "close")


def test_kept_connections_and_own_headers(server: Behaviour) -> None:
    more = {"new_connection": False, "concurrency": 2, "headers": {"X-Probe": "1"}, "method": "head"}
    with probing(f"http://127.0.0.1:{server.port}/", host=HOST, **more) as probe:
        verdict = until(probe, decided)
    assert verdict.state == PASS
    assert server.connections <= 2
    assert (server.requests[0]["X-Probe"], server.requests[0]["method"]) == ("1", "HEAD")
    assert server.requests[0]["Host"] == f"{HOST}:{server.port}"


def test_an_idle_connection_that_the_server_closed_is_no_failure(server: Behaviour) -> None:
    server.answer = lambda number: "200" if number % 3 else "reset"
    # Of a kept connection: the reset comes instead of an answer; asked again on a new one, as clients do.
    with probing(f"http://127.0.0.1:{server.port}/", new_connection=False, concurrency=1) as probe:
        verdict = until(probe, decided)
    assert verdict.state == PASS


def test_503_after_n(server: Behaviour) -> None:
    server.answer = lambda number: "200" if number <= 40 else "503"
    with probing(f"http://127.0.0.1:{server.port}/") as probe:
        assert until(probe, decided).state == PASS
        verdict = until(probe, lambda found: found.state == FAIL)
    assert verdict.state == FAIL
    assert "503" in verdict.reason
    assert 1 <= verdict.numbers["answers"]["503"] <= 6  # at once, not when the window is full of them


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("503", "503"),
        ("reset", "reset"),
        ("garbage", "no HTTP"),
        ("200!", "answer cut short"),
        ("hang", "timeout"),
        ("drip", "timeout"),
    ],
)
def test_every_kind_of_failure_fails(server: Behaviour, word: str, kind: str) -> None:
    server.answer = lambda _number: word
    with probing(f"http://127.0.0.1:{server.port}/", timeout=0.3) as probe:
        verdict = until(probe, lambda found: found.state == FAIL)
    assert verdict.state == FAIL
    assert list(verdict.numbers["answers"]) == [kind]


def test_nothing_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with probing(f"http://127.0.0.1:{port}/") as probe:
        verdict = until(probe, decided)
    assert (verdict.state, list(verdict.numbers["answers"])) == (FAIL, ["refused"])


def test_a_slow_server_gets_no_burst(server: Behaviour) -> None:
    """With all slots busy requests are left out and counted, never piled up."""

    def slow(_number: int) -> str:
        time.sleep(0.2)
        return "200"

    server.answer = slow
    with probing(f"http://127.0.0.1:{server.port}/", concurrency=2) as probe:
        time.sleep(1.0)
        verdict = probe.verdict()
    assert len(server.requests) <= 2 * 6  # two at a time, each 0.2 s
    assert verdict.numbers["skipped"] > 50
    assert verdict.state == INCONCLUSIVE


def test_an_unexpected_redirect_is_not_followed(server: Behaviour) -> None:
    server.answer = lambda _number: "302"
    with probing(f"http://127.0.0.1:{server.port}/", status=["200"]) as probe:
        verdict = until(probe, decided)
    assert (verdict.state, list(verdict.numbers["answers"])) == (FAIL, ["302"])


def test_start_again_forgets_and_stop_ends_all(server: Behaviour) -> None:
    server.answer = lambda number: "503" if number <= 5 else "200"
    with probing(f"http://127.0.0.1:{server.port}/") as probe:
        assert until(probe, decided).state == FAIL
        probe.start()
        assert probe.verdict().state == INCONCLUSIVE
        assert until(probe, decided).state == PASS
    time.sleep(0.1)
    count = len(server.requests)
    assert not probes()
    time.sleep(0.2)
    assert len(server.requests) == count
    probe.start()
    assert until(probe, decided).state == PASS
    probe.stop()


def test_stop_does_not_wait_for_a_server_that_hangs(server: Behaviour) -> None:
    server.answer = lambda _number: "hang"
    with probing(f"http://127.0.0.1:{server.port}/", timeout=30) as probe:
        until(probe, lambda _found: bool(server.requests))
    assert not probe.verdict().numbers["answers"]  # cut, not waited for until they were late
    assert not probes()


def test_stop_cuts_a_kept_connection_and_does_not_ask_again(server: Behaviour) -> None:
    """A server may close a kept connection, and then the request is sent once more: not when it was stop() that ended it."""
    server.answer = lambda number: "200" if number == 1 else "hang"
    with probing(f"http://127.0.0.1:{server.port}/", timeout=30, new_connection=False, concurrency=1) as probe:
        until(probe, lambda _found: len(server.requests) == 2)
    assert not probes()
    assert (len(server.requests), server.connections) == (2, 1)


def test_a_request_that_was_cut_before_it_had_a_connection_gets_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = _UnderWay(time.monotonic())
        request.cut()
        request.attach(ours)
        theirs.settimeout(5)
        assert theirs.recv(1) == b""  # ended, though nothing was cut off when there was nothing to cut


def test_a_slot_that_comes_up_while_stop_looks_sends_nothing(server: Behaviour) -> None:
    class Late(threading.Event):
        """Set between the worker's waiting and its request."""

        def wait(self, timeout: float | None = None) -> bool:
            before = self.is_set()
            self.set()
            return before

    Probe(options(f"http://127.0.0.1:{server.port}/"))._work(Late())
    assert server.requests == []


# -- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An own CA, a certificate of it for the host, and another CA."""
    folder = tmp_path_factory.mktemp("pki")
    now = datetime.datetime.now(tz=datetime.UTC)
    day = datetime.timedelta(days=1)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def write(file: str, *parts: bytes) -> str:
        path = folder / file
        path.write_bytes(b"".join(parts))
        return str(path)

    found: dict[str, str] = {}
    keys = {}
    for ca in ("ca", "other"):
        key = keys[ca] = ec.generate_private_key(ec.SECP256R1())
        cert = (
            x509.CertificateBuilder()
            .subject_name(name(ca))
            .issuer_name(name(ca))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .sign(key, hashes.SHA256())
        )
        found[ca] = write(f"{ca}.pem", cert.public_bytes(serialization.Encoding.PEM))
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name(HOST))
        .issuer_name(name("ca"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["ca"].public_key()), critical=False)
        .sign(keys["ca"], hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    found["leaf"] = write("leaf.pem", key.private_bytes(*plain), leaf.public_bytes(serialization.Encoding.PEM))
    return found


@pytest.fixture
def tls_server(pki: dict[str, str]) -> t.Iterator[tuple[Behaviour, list[str | None]]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki["leaf"])
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with serving(context) as behaviour:
        yield behaviour, names


def test_tls_with_own_ca_and_the_host_as_sni(tls_server: tuple[Behaviour, list[str | None]], pki: dict[str, str]) -> None:
    server, names = tls_server
    with probing(f"https://{HOST}/", connect=f"127.0.0.1:{server.port}", ca_cert=pki["ca"], interval=0.02, timeout=2) as probe:
        verdict = until(probe, decided)
    assert verdict.state == PASS
    assert set(names) == {HOST}
    assert server.requests[0]["Host"] == HOST


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"ca": "other"}, "certificate: unable to get local issuer certificate"),
        ({}, "certificate: "),
        ({"ca": "ca", "host": "wrong.lab.test"}, "certificate: Hostname mismatch"),
    ],
    ids=["other CA", "no CA", "other name"],
)
def test_tls_that_cannot_be_trusted_fails(
    tls_server: tuple[Behaviour, list[str | None]], pki: dict[str, str], more: dict[str, str], kind: str
) -> None:
    server, _names = tls_server
    given: dict[str, t.Any] = {"ca_cert": pki[more["ca"]] if "ca" in more else None, "host": more.get("host")}
    with probing(f"https://{HOST}/", connect=f"127.0.0.1:{server.port}", interval=0.02, timeout=2, **given) as probe:
        verdict = until(probe, decided)
    assert verdict.state == FAIL
    assert next(iter(verdict.numbers["answers"])).startswith(kind)
    assert server.requests == []


def test_tls_unchecked_when_told_so(tls_server: tuple[Behaviour, list[str | None]]) -> None:
    server, _names = tls_server
    with probing(f"https://{HOST}/", connect=f"127.0.0.1:{server.port}", validate_certs=False, interval=0.02, timeout=2) as probe:
        assert until(probe, decided).state == PASS


def test_plain_http_where_tls_is_wanted(server: Behaviour) -> None:
    with probing(f"https://{HOST}/", connect=f"127.0.0.1:{server.port}", timeout=1) as probe:
        verdict = until(probe, decided)
    assert verdict.state == FAIL
    assert "TLS" in verdict.reason or "reset" in verdict.reason or "closed" in verdict.reason
