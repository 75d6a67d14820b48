# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""HTTP to one API server, by urllib3: whole answers, answers that come bit by bit, and one exception for all that goes wrong."""

from __future__ import annotations

import contextlib
import socket
import typing as t


class WireError(Exception):
    """No whole answer; the text says why."""


class QuietError(WireError):
    """Nothing came for as long as a watch waits."""


class Answer:
    """An answer whose body is read in pieces. ``close`` may be called from another thread, and ends the reading."""

    def __init__(self, answer: t.Any) -> None:
        self.status, self._answer = int(answer.status), answer
        self._sock = getattr(answer.connection, "sock", None)

    def stream(self) -> t.Iterator[bytes]:
        """The body as it comes. Raises WireError, QuietError."""
        try:
            with _told():
                yield from self._answer.stream(1 << 16, decode_content=True)
        finally:
            self._answer.close()

    def close(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


class Wire:
    """Calls to one server, for many threads at once.

    :arg host: like ``https://10.0.0.1:6443``, perhaps with a path, which stands before all others.
    :arg pool: urllib3's PoolManager or ProxyManager, set up by the kubernetes library or as plainly as the kubeconfig is.
    """

    def __init__(self, host: str, pool: t.Any) -> None:
        self._host, self._pool = host.rstrip("/"), pool
        self._near: tuple[t.Any, str] | None = None

    def request(
        self, method: str, target: str, headers: t.Mapping[str, str], body: bytes | None, timeout: float
    ) -> tuple[int, bytes]:
        """Status and body. Raises WireError. ``timeout``: seconds without anything coming."""
        with _told():
            if self._near is None:
                self._near = self._found()
            call, prefix = self._near
            answer = call(
                method,
                prefix + target,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=True,
                enforce_content_length=True,  # urllib3 1 would take a cut answer for a whole one
            )
        return int(answer.status), answer.data

    def _found(self) -> tuple[t.Any, str]:
        """What sends a request, and what goes before its path. The way to the one server of a plain https pool is looked up
        once, which saves a fifth of a call; proxies, and what has no TLS, are looked at anew for each call."""
        if not self._host.startswith("https://") or getattr(self._pool, "proxy", None) is not None:
            return self._pool.request, self._host
        slash, path = self._host.removeprefix("https://").partition("/")[1:]
        return self._pool.connection_from_url(self._host).request, slash + path

    def watch(self, target: str, headers: t.Mapping[str, str], timeout: float, quiet: float | None) -> Answer:
        """An answer that comes bit by bit. Raises WireError, QuietError when nothing came for ``quiet`` seconds."""
        import urllib3  # pylint: disable=import-outside-toplevel

        times = urllib3.Timeout(connect=timeout, read=quiet)
        with _told():
            return Answer(
                self._pool.request(
                    "GET", self._host + target, headers=headers, timeout=times, retries=False, preload_content=False
                )
            )


@contextlib.contextmanager
def _told() -> t.Iterator[None]:
    import urllib3  # pylint: disable=import-outside-toplevel

    try:
        yield
    except urllib3.exceptions.ReadTimeoutError as error:
        raise QuietError("nothing came in time") from error
    except urllib3.exceptions.HTTPError as error:
        text = str(error)
        raise WireError(text.split(">: ", 1)[-1] if ">: " in text else text or type(error).__name__) from error
