# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network in between: `python -m lab.bench.relay PORT HOST:PORT SECONDS` passes TCP on, every byte SECONDS later, both ways.

It delays and does nothing else: no limit of bandwidth, no loss. netem would do it, but not every kernel has that.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from functools import partial


class End(asyncio.Protocol):
    """One side of a connection. What it hears is said by its peer `delay` seconds later, in the same order."""

    def __init__(self, delay: float) -> None:
        self._delay, self._loop = delay, asyncio.get_running_loop()
        # A real handshake of TCP takes a round trip, this one takes none: the first byte waits that much longer.
        self._first = self._loop.time() + 2 * delay
        self._waiting: deque[Callable[[], None]] = deque()
        self.transport: asyncio.Transport | None = None
        self.peer: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._later(partial(self._write, data))

    def eof_received(self) -> bool:
        self._later(self._end)
        return True  # the other direction stays open

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(self._close)

    def _later(self, action: Callable[[], None]) -> None:
        self._waiting.append(action)
        self._loop.call_at(max(self._loop.time(), self._first) + self._delay, self._next)

    def _next(self) -> None:
        self._waiting.popleft()()  # timers of one moment may come in any order, the queue does not

    def _write(self, data: bytes) -> None:
        if self.peer and self.peer.transport and not self.peer.transport.is_closing():
            self.peer.transport.write(data)

    def _end(self) -> None:
        if self.peer and self.peer.transport and not self.peer.transport.is_closing():
            self.peer.transport.write_eof()

    def _close(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.close()


class Front(End):
    """The side that clients connect to."""

    def __init__(self, delay: float, host: str, port: int) -> None:
        super().__init__(delay)
        self._where = host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._task = asyncio.ensure_future(self._connect(transport))

    async def _connect(self, transport: asyncio.Transport) -> None:
        try:
            _, back = await self._loop.create_connection(partial(End, self._delay), *self._where)
        except OSError:
            transport.abort()
            return
        self.peer, back.peer = back, self
        transport.resume_reading()


async def serve(port: int, host: str, there: int, delay: float) -> None:
    """Listen on loopback until cancelled."""
    server = await asyncio.get_running_loop().create_server(partial(Front, delay, host, there), "127.0.0.1", port, backlog=64)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    target_host, _, target_port = sys.argv[2].rpartition(":")
    asyncio.run(serve(int(sys.argv[1]), target_host, int(target_port), float(sys.argv[3])))
