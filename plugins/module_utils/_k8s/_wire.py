# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""HTTP/1.1 to one API server over connections that stay open: what a call needs, and nothing else.

urllib3 and the email parser below it take 0.6 ms of CPU for a call, this 0.15 ms: a restore makes two calls for each object.
Where the kubernetes library decides how to get to the API server (proxies, plugins), it is urllib3 all the same (``Library``).
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import ssl
import typing as t
import urllib.parse
import weakref
import zlib

_PIECE = 1 << 16
_HEAD_LIMIT = 1 << 20
_TIMEOUT = socket.timeout  # in Python 3.9 it is no TimeoutError


class WireError(Exception):
    """No whole answer; the text says why."""


class QuietError(WireError):
    """Nothing came for as long as a watch waits."""


class Answer:
    """An answer whose body is read in pieces. ``close`` may be called from another thread, and ends the reading."""

    def __init__(self, status: int, pieces: t.Iterator[bytes], sock: t.Any) -> None:
        self.status, self._pieces, self._sock = status, pieces, sock

    def stream(self) -> t.Iterator[bytes]:
        """The body as it comes. Raises WireError, QuietError."""
        return self._pieces

    def close(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock, self.rest, self.keep = sock, bytearray(), True

    def dropped(self) -> bool:
        """Whether the server closed it, or said something that nobody asked for."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(self.rest or poll.poll(0))

    def _more(self) -> None:
        data = self.sock.recv(_PIECE)
        if not data:
            raise WireError("the connection was closed in the middle of an answer")
        self.rest += data

    def _line(self) -> bytes:
        """Up to the end of a line, which is taken away."""
        begin = 0
        while (end := self.rest.find(b"\r\n", begin)) < 0:
            begin = max(0, len(self.rest) - 1)
            if begin > _HEAD_LIMIT:
                raise WireError("a line of the answer has no end")
            self._more()
        line = bytes(self.rest[:end])
        del self.rest[: end + 2]
        return line

    def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Status and headers, their names in small letters."""
        status = 100
        headers: dict[bytes, bytes] = {}
        while 100 <= status < 200:
            begin = 0
            while (end := self.rest.find(b"\r\n\r\n", begin)) < 0:
                begin = max(0, len(self.rest) - 3)
                if begin > _HEAD_LIMIT:
                    raise WireError("the headers of the answer have no end")
                self._more()
            first, *lines = bytes(self.rest[:end]).split(b"\r\n")
            del self.rest[: end + 4]
            version, _blank, said = first.partition(b" ")
            if not version.startswith(b"HTTP/1.") or not said[:3].isdigit():
                raise WireError("the answer is not HTTP")
            status = int(said[:3])
            headers = {name.lower(): value.strip() for name, _colon, value in (line.partition(b":") for line in lines)}
        if headers.get(b"connection", b"").lower() == b"close" or version == b"HTTP/1.0":
            self.keep = False
        return status, headers

    def pieces(self, status: int, headers: t.Mapping[bytes, bytes]) -> t.Iterator[bytes]:
        """The body as it is sent."""
        if status in (204, 304):
            return
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            yield from self._chunks()
        elif b"content-length" in headers:
            left = _number(headers[b"content-length"], 10)
            while left:
                if not self.rest:
                    self._more()
                piece = bytes(self.rest[:left])
                del self.rest[:left]
                left -= len(piece)
                yield piece
        else:
            self.keep = False
            while True:
                piece = bytes(self.rest) or self.sock.recv(_PIECE)
                self.rest.clear()
                if not piece:
                    return
                yield piece

    def _chunks(self) -> t.Iterator[bytes]:
        while size := _number(self._line().partition(b";")[0], 16):
            while len(self.rest) < size + 2:
                self._more()
            yield bytes(self.rest[:size])
            del self.rest[: size + 2]
        while self._line():  # trailers
            pass


def _number(text: bytes, base: int) -> int:
    try:
        found = int(text, base)
    except ValueError:
        found = -1
    if found < 0:
        raise WireError("the answer does not say how long it is")
    return found


def _unpacked(pieces: t.Iterator[bytes], encoding: bytes) -> t.Iterator[bytes]:
    if not encoding or encoding == b"identity":
        yield from pieces
        return
    if encoding != b"gzip":
        raise WireError(f"the answer is packed with {encoding.decode(errors='replace')}")
    unpack = zlib.decompressobj(31)
    for piece in pieces:
        yield unpack.decompress(piece)
    yield unpack.flush()
    if not unpack.eof:
        raise WireError("a packed answer ends too soon")


class Wire:
    """Calls to one HTTPS server. For many threads at once; at most ``connections`` of them stay open when nobody calls.

    :arg server: like ``https://10.0.0.1:6443``, perhaps with a path, which stands before all others.
    """

    def __init__(self, server: str, tls: ssl.SSLContext, connections: int) -> None:
        parts = urllib.parse.urlsplit(server)
        self._place = parts.hostname or "", parts.port or 443
        self._netloc, self._prefix, self._tls = parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), tls
        self._idle: collections.deque[_Connection] = collections.deque()
        self._most = connections
        weakref.finalize(self, _close, self._idle)

    def request(
        self, method: str, target: str, headers: t.Mapping[str, str], body: bytes | None, timeout: float
    ) -> tuple[int, bytes]:
        """Status and body. Raises WireError. ``timeout``: seconds without anything coming."""
        connection = self._connection(timeout)
        done = False
        try:
            status, found = self._ask(connection, method, target, headers, body)
            data = b"".join(_unpacked(connection.pieces(status, found), found.get(b"content-encoding", b"").lower()))
            done = connection.keep and not connection.rest
        except _TIMEOUT as error:
            raise WireError(f"nothing came for {timeout:g} seconds") from error
        except (OSError, ValueError, zlib.error) as error:
            raise WireError(str(error) or type(error).__name__) from error
        finally:
            # an interrupt may have left it in the middle of something
            if done and len(self._idle) < self._most:
                self._idle.append(connection)
            else:
                connection.sock.close()
        return status, data

    def watch(self, target: str, headers: t.Mapping[str, str], timeout: float, quiet: float | None) -> Answer:
        """An answer that comes bit by bit, over a connection of its own. Raises WireError, QuietError."""
        connection = self._connection(timeout, fresh=True)
        connection.sock.settimeout(quiet)
        try:
            status, found = self._ask(connection, "GET", target, headers, None)
        except BaseException as error:
            connection.sock.close()
            if isinstance(error, _TIMEOUT):
                raise QuietError("nothing came") from error
            if isinstance(error, (OSError, ValueError)):
                raise WireError(str(error) or type(error).__name__) from error
            raise
        return Answer(status, _watched(connection, connection.pieces(status, found)), connection.sock)

    def _ask(
        self, connection: _Connection, method: str, target: str, headers: t.Mapping[str, str], body: bytes | None
    ) -> tuple[int, dict[bytes, bytes]]:
        lines = [f"{method} {self._prefix}{target} HTTP/1.1", f"Host: {self._netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if any("\r" in line or "\n" in line for line in lines):
            raise WireError("a header has a line break in it")
        connection.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        return connection.head()

    def _connection(self, timeout: float, fresh: bool = False) -> _Connection:
        while not fresh:
            try:
                found = self._idle.pop()  # the one that was used last
            except IndexError:
                break
            if not found.dropped():
                found.sock.settimeout(timeout)
                return found
            found.sock.close()
        try:
            plain = socket.create_connection(self._place, timeout)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Connection(self._tls.wrap_socket(plain, server_hostname=self._place[0]))
            except BaseException:
                plain.close()
                raise
        except _TIMEOUT as error:
            raise WireError(f"no connection within {timeout:g} seconds") from error
        except (OSError, ValueError) as error:
            raise WireError(str(error)) from error


def _watched(connection: _Connection, pieces: t.Iterator[bytes]) -> t.Iterator[bytes]:
    try:
        yield from pieces
    except _TIMEOUT as error:
        raise QuietError("nothing came") from error
    except (OSError, ValueError) as error:
        raise WireError(str(error) or type(error).__name__) from error
    finally:
        connection.sock.close()


def _close(idle: collections.deque[_Connection]) -> None:
    while idle:
        with contextlib.suppress(OSError):
            idle.pop().sock.close()


class Library:
    """The same over urllib3, as the kubernetes library set it up."""

    def __init__(self, host: str, pool: t.Any) -> None:
        self._host, self._pool = host, pool

    def request(
        self, method: str, target: str, headers: t.Mapping[str, str], body: bytes | None, timeout: float
    ) -> tuple[int, bytes]:
        """As Wire's."""
        import urllib3  # pylint: disable=import-outside-toplevel

        try:
            answer = self._pool.request(
                method, self._host + target, body=body, headers=headers, timeout=timeout, retries=False, preload_content=True
            )
        except urllib3.exceptions.HTTPError as error:
            raise WireError(_reason(error)) from error
        return answer.status, answer.data

    def watch(self, target: str, headers: t.Mapping[str, str], timeout: float, quiet: float | None) -> Answer:
        """As Wire's."""
        import urllib3  # pylint: disable=import-outside-toplevel

        times = urllib3.Timeout(connect=timeout, read=quiet)
        try:
            answer = self._pool.request(
                "GET", self._host + target, headers=headers, timeout=times, retries=False, preload_content=False
            )
        except urllib3.exceptions.ReadTimeoutError as error:
            raise QuietError("nothing came") from error
        except urllib3.exceptions.HTTPError as error:
            raise WireError(_reason(error)) from error

        def pieces() -> t.Iterator[bytes]:
            try:
                yield from answer.stream(1 << 16, decode_content=True)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise QuietError("nothing came") from error
            except urllib3.exceptions.HTTPError as error:
                raise WireError(_reason(error)) from error
            finally:
                answer.close()

        return Answer(answer.status, pieces(), getattr(answer.connection, "sock", None))


def _reason(error: BaseException) -> str:
    text = str(error)
    return text.split(">: ", 1)[-1] if ">: " in text else text or type(error).__name__
