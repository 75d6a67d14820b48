# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A probe: requests at a bounded rate, and whether enough of the newest ones were answered as expected.

Open loop: a request is due every ``interval`` seconds whether the ones before are answered or not, with at most ``concurrency``
under way. When all are busy the slot is left out and counted (``skipped``), so a slow server never gets a burst. Redirects are
not followed, proxies of the environment are not used: the probe asks the address that it is told, under the host's name.
"""

from __future__ import annotations

import collections
import dataclasses
import http.client
import random
import socket
import ssl
import threading
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, INCONCLUSIVE, PASS, Verdict
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._probe_options import ProbeOptions

# More of an answer than this is not read: the gate judges that answers come, not how big they are.
_BODY = 1 << 20


class Window:
    """The answers of the newest ``window`` seconds. Pure: times are given, nothing is asked."""

    def __init__(self, options: ProbeOptions) -> None:
        self._options = options
        self._seen: collections.deque[tuple[float, bool, str, float]] = collections.deque()
        self._row = 0
        self._last_problem = ""
        self.total = 0
        self.failed = 0

    def add(self, at: float, ok: bool, kind: str, seconds: float) -> None:
        """One answer: when it was complete, whether it was as expected, its status or its error, how long it took."""
        self._seen.append((at, ok, kind, seconds))
        self.total += 1
        self._row = 0 if ok else self._row + 1
        if not ok:
            self.failed += 1
            self._last_problem = kind

    def verdict(self, now: float) -> Verdict:
        """Fail as soon as it is certain, pass only on enough answers."""
        while self._seen and self._seen[0][0] < now - self._options.window:
            self._seen.popleft()
        wanted, count = self._options, len(self._seen)
        good = sum(1 for _at, ok, _kind, _seconds in self._seen if ok)
        ratio = 100.0 * good / count if count else None
        numbers = self._numbers(count, good, ratio)
        said = f"{good} of {count} answers as expected ({ratio:.4g} %)" if ratio is not None else "no answer yet"
        if wanted.consecutive_failures and self._row >= wanted.consecutive_failures:
            return Verdict(FAIL, f"{self._row} requests in a row failed (last: {self._last_problem})", numbers)
        if count < wanted.min_requests or ratio is None:
            return Verdict(INCONCLUSIVE, f"{said}, {wanted.min_requests} are needed", numbers)
        if ratio < wanted.min_success:
            return Verdict(FAIL, f"{said}, below {wanted.min_success:g} % (last problem: {self._last_problem})", numbers)
        return Verdict(PASS, said, numbers)

    def _numbers(self, count: int, good: int, ratio: float | None) -> dict[str, t.Any]:
        times = sorted(seconds for _at, _ok, _kind, seconds in self._seen)
        return {
            "requests": count,
            "ok": good,
            "failed": count - good,
            "success": None if ratio is None else round(ratio, 3),
            "consecutive_failures": self._row,
            "answers": dict(collections.Counter(kind for _at, _ok, kind, _seconds in self._seen)),
            "median_ms": _quantile_ms(times, 0.5),
            "p95_ms": _quantile_ms(times, 0.95),
            "total": self.total,
            "total_failed": self.failed,
            "last_problem": self._last_problem,
        }


def _quantile_ms(times: t.Sequence[float], part: float) -> float | None:
    return round(1000 * times[min(len(times) - 1, int(part * len(times)))], 1) if times else None


class Probe:
    """The gate of kind ``probe``."""

    def __init__(self, options: ProbeOptions) -> None:
        self.name = options.name
        self._options = options
        self._context = options.tls_context()
        self._lock = threading.Lock()
        self._window = Window(options)
        self._skipped = 0
        self._due = 0.0
        self._under_way: dict[int, _UnderWay] = {}
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._serial = 0

    # -- the gate ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        with self._lock:
            self._window = Window(self._options)
            self._skipped = 0
        if self._threads:
            return
        # A new event each time: a thread of before that still hangs in a request must not come back to work.
        self._ended = threading.Event()
        self._due = time.monotonic()
        self._threads = [
            threading.Thread(target=self._work, args=(self._ended,), name=f"probe {self.name} {number}", daemon=True)
            for number in range(self._options.concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def verdict(self) -> Verdict:
        now = time.monotonic()
        self._cut_off(now)
        with self._lock:
            verdict = self._window.verdict(now)
            return dataclasses.replace(verdict, numbers={**verdict.numbers, "skipped": self._skipped})

    def stop(self) -> None:
        self._ended.set()
        with self._lock:
            for request in self._under_way.values():
                request.cut()
        until = time.monotonic() + 1.0
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._threads = []

    # -- requests ------------------------------------------------------------------------------------------------

    def _work(self, ended: threading.Event) -> None:
        kept: _Connection | None = None
        while not ended.wait(self._next_slot()):
            request = _UnderWay(time.monotonic())
            with self._lock:
                # Asked again under the lock: what stop() does not find under way, it cannot cut off.
                if ended.is_set():
                    break
                self._serial += 1
                serial = self._serial
                self._under_way[serial] = request
            ok, kind, kept = self._ask(request, kept)
            now = time.monotonic()
            with self._lock:
                # A request that was cut off has been counted as a timeout already.
                if self._under_way.pop(serial, None) is not None and not ended.is_set():
                    self._window.add(now, ok, kind, now - request.started)
        if kept is not None:
            kept.close()

    def _next_slot(self) -> float:
        """Take the next moment at which a request is due; the seconds until then."""
        with self._lock:
            now = time.monotonic()
            late = int((now - self._due) / self._options.interval)
            if late > 0:
                self._due += late * self._options.interval
                self._skipped += late
            wait = self._due - now
            self._due += self._options.interval
            # Not at a beat: a load balancer deals out connections in turn, and a probe in step with it always meets the same
            # backend, and leaves the others to the users.
            return max(0.0, wait) + random.uniform(0.0, 0.9 * self._options.interval)

    def _cut_off(self, now: float) -> None:
        """End what is older than the timeout. The timeouts of a socket do not: a server that sends a byte a second, a name
        that does not resolve."""
        with self._lock:
            for serial, request in list(self._under_way.items()):
                if now - request.started > self._options.timeout + 0.05:
                    del self._under_way[serial]
                    request.cut()
                    self._window.add(now, False, "timeout", now - request.started)

    def _ask(self, request: _UnderWay, kept: _Connection | None) -> tuple[bool, str, _Connection | None]:
        """One request: as expected or not, status or error, and the connection to keep."""
        connection = kept
        try:
            if connection is not None:
                try:
                    return self._exchange(request, connection)
                except (ConnectionError, http.client.RemoteDisconnected):
                    # The server closed an idle connection, which it may at any time: clients open a new one.
                    connection.close()
                    if request.was_cut:
                        raise
            connection = _Connection(self._options, self._context, request)
            return self._exchange(request, connection)
        except Exception as error:  # whatever goes wrong with a request is an answer of the probe
            if connection is not None:
                connection.close()
            return False, problem(error), None

    def _exchange(self, request: _UnderWay, connection: _Connection) -> tuple[bool, str, _Connection | None]:
        wanted = self._options
        request.attach(connection.sock)
        connection.limit(request.started + wanted.timeout)
        connection.putrequest(wanted.method, wanted.target, skip_host=True, skip_accept_encoding=True)
        names = {name.lower() for name in wanted.headers}
        if "host" not in names:
            connection.putheader("Host", wanted.host_header)
        if "user-agent" not in names:
            connection.putheader("User-Agent", "servicemesh.migration probe")
        if wanted.new_connection and "connection" not in names:
            connection.putheader("Connection", "close")
        for name, value in wanted.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        size = 0
        while size < _BODY:
            connection.limit(request.started + wanted.timeout)
            part = answer.read(65536)
            if not part:
                break
            size += len(part)
        if answer.length and size < _BODY:
            raise http.client.IncompleteRead(b"", answer.length)
        keep = not wanted.new_connection and not answer.will_close and answer.isclosed()
        if not keep:
            connection.close()
        return wanted.expects(answer.status), str(answer.status), connection if keep else None


class _UnderWay:
    """A request that has no answer yet, with the means to end it from another thread."""

    def __init__(self, started: float) -> None:
        self.started = started
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.was_cut = False

    def attach(self, sock: socket.socket | None) -> None:
        """The socket of now. Of a request that was cut off before it had one, or that tries once more, it is ended at once."""
        with self._lock:
            self._socket = sock
            cut = self.was_cut
        if cut:
            self._end(sock)

    def cut(self) -> None:
        with self._lock:
            self.was_cut = True
            sock = self._socket
        self._end(sock)

    @staticmethod
    def _end(sock: socket.socket | None) -> None:
        if sock is not None:
            try:
                # Not SSLSocket.shutdown: it would take the TLS state away below the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass


class _Connection(http.client.HTTPConnection):
    """To the connect address, with the host's name in TLS."""

    def __init__(self, options: ProbeOptions, context: ssl.SSLContext | None, request: _UnderWay) -> None:
        super().__init__(options.address, options.port, timeout=options.timeout)
        self._options = options
        self._context = context
        self._request = request

    def connect(self) -> None:
        until = self._request.started + self._options.timeout
        sock = socket.create_connection((self.host, self.port), max(0.001, until - time.monotonic()))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            # The handshake comes after the socket is known, so that it can be cut off too.
            secure = self._context.wrap_socket(sock, server_hostname=self._options.sni, do_handshake_on_connect=False)
            self.sock = secure
            self._request.attach(secure)
            secure.do_handshake()
        else:
            self.sock = sock
            self._request.attach(sock)

    def limit(self, until: float) -> None:
        """No single wait of the socket is longer than what is left of the request's time."""
        if self.sock is not None:
            self.sock.settimeout(max(0.001, until - time.monotonic()))


def problem(error: BaseException) -> str:
    """One word or two for what went wrong, so that equal problems are counted together."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    for kind, word in (
        (socket.gaierror, "name not resolved"),
        (socket.timeout, "timeout"),
        (ConnectionRefusedError, "refused"),
        (http.client.RemoteDisconnected, "closed without an answer"),
        (ConnectionResetError, "reset"),
        (BrokenPipeError, "reset"),
        (http.client.IncompleteRead, "answer cut short"),
        (http.client.HTTPException, "no HTTP"),
    ):
        if isinstance(error, kind):
            return word
    return getattr(error, "strerror", None) or type(error).__name__
