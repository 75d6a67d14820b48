# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network between contenders and API server: late, in order, and otherwise as it was."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from lab.demo.stage import ROOT
from lab.proc import wait_for

DELAY = 0.05


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)
        self.request.sendall(b"bye")


class Threads(socketserver.ThreadingTCPServer):
    daemon_threads = True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def port() -> Iterator[int]:
    with Threads(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        here = free_port()
        argv = [sys.executable, "-m", "lab.bench.relay", str(here), f"127.0.0.1:{server.server_address[1]}", str(DELAY)]
        relay = subprocess.Popen(argv, cwd=ROOT)
        try:
            wait_for(lambda: socket.create_connection(("127.0.0.1", here), 1).close() is None, 20, what="the relay")
            yield here
        finally:
            relay.kill()
            relay.wait()
            server.shutdown()


def read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := client.recv(1 << 16)):
        data += part
    return data


def test_every_byte_comes_later_in_order_and_the_end_too(port: int) -> None:
    began = time.monotonic()  # before the connection: the relay may have taken it before this thread goes on
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"first")
        assert read(client, 5) == b"first"
        assert time.monotonic() - began >= 4 * DELAY  # a handshake, and there and back
        began = time.monotonic()
        client.sendall(b"second")
        assert read(client, 6) == b"second"
        assert time.monotonic() - began >= 2 * DELAY  # there and back
        many = b"".join(b"%07d" % number for number in range(100_000))
        threading.Thread(target=lambda: (client.sendall(many), client.shutdown(socket.SHUT_WR))).start()
        assert read(client, len(many) + 3) == many + b"bye"
        assert client.recv(1) == b""
