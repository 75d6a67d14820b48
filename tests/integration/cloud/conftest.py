# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network namespace of its own with the cloud server, HAProxy and small backends in it; nothing of the shared lab.

Code that must be inside the namespace runs in a thread that has entered it: a socket belongs to the namespace of the
thread that makes it.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import ctypes
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import pytest

from tests.integration.ccm.plane import with_us

ROOT = Path(__file__).resolve().parents[3]
T = TypeVar("T")
CLONE_NEWNET = 0x40000000
INSTANCES = {f"i-{x}": {"ip": f"10.10.1.{11 + n}", "pod_cidr": f"10.21.{n}.0/24"} for n, x in enumerate("abcd")}


def enter(namespace: str) -> None:
    """Move this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=10)


@dataclass
class Load:
    """What a client saw: answers per backend name, and everything that was no answer."""

    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)


class Inside:
    """The namespace, with a pool of threads in it and an event loop for the backends."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        self.pool = ThreadPoolExecutor(8, initializer=enter, initargs=(name,))
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, daemon=True)
        self._thread.start()

    def _run_loop(self) -> None:
        enter(self.name)
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        return self.pool.submit(function, *arguments).result(timeout=120)

    def later(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        return self.pool.submit(function, *arguments)

    def in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    # The cloud server --------------------------------------------------------------------------------------------

    def start(self) -> None:
        file = self.folder / "instances.json"
        file.write_text(json.dumps(INSTANCES))
        words = [sys.executable, "-m", "lab.cloud", "--state", str(self.folder / "state"), "--instances", str(file)]
        words += ["--haproxy-dir", str(self.folder / "haproxy")]
        with (self.folder / "cloud.log").open("ab") as out:
            self.server = subprocess.Popen(with_us(["ip", "netns", "exec", self.name, *words]), cwd=ROOT, stdout=out, stderr=out)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self.lab("GET", "/_lab/ready")
                return
            except OSError:
                assert self.server.poll() is None, (self.folder / "cloud.log").read_text()
                time.sleep(0.05)
        raise AssertionError("the cloud did not start: " + (self.folder / "cloud.log").read_text())

    def end(self, number: int) -> None:
        assert self.server is not None
        self.server.send_signal(number)
        self.server.wait(timeout=10)

    def lab(self, method: str, path: str, body: object = None) -> Any:
        def ask() -> Any:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"http://127.0.0.1:8100{path}", data=data, method=method)
            with urllib.request.urlopen(request, timeout=15) as answer:
                return json.load(answer)

        return self.run(ask)

    def call(self, action: str, **parameters: object) -> dict[str, Any]:
        """One call in the style of the older SDK, signed."""
        return self.run(rpc, action, {k.replace("__", "."): str(v) for k, v in parameters.items()})

    # Backends and clients ----------------------------------------------------------------------------------------

    def backend(self, address: str, port: int, name: str) -> asyncio.Server:
        """Says its name to whoever connects, then gives back every line."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(f"{name}\n".encode())
                while line := await reader.readline():
                    writer.write(line)
                    await writer.drain()
            except ConnectionError:
                pass
            finally:
                writer.close()

        return self.in_loop(asyncio.start_server(talk, address, port, backlog=1024))

    def load(self, address: str, port: int, number: int, per_second: float) -> Load:
        """``number`` connections at a constant rate, not waiting for one another."""
        return self.run(lambda: asyncio.run(open_loop(address, port, number, per_second)))


def rpc(
    action: str, parameters: dict[str, str], key: str = "lab-access-key", secret: str = "lab-access-key-secret"
) -> dict[str, Any]:
    query = {"Action": action, "Version": "2014-05-15", "Format": "JSON", "RegionId": "cn-hangzhou", "AccessKeyId": key}
    query |= {"SignatureMethod": "HMAC-SHA1", "SignatureVersion": "1.0", "SignatureNonce": os.urandom(8).hex(), **parameters}
    canonical = "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query.items()))
    text = f"POST&%2F&{quote(canonical, safe='~')}"
    query["Signature"] = base64.b64encode(hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()).decode()
    request = urllib.request.Request(f"http://127.0.0.1:8100/?{urlencode(query)}", data=b"", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        found = {"status": error.code, **json.load(error)}
    return found


async def open_loop(address: str, port: int, number: int, per_second: float) -> Load:
    result = Load()

    async def one() -> None:
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(address, port)
                name = (await reader.readline()).decode().strip()
                writer.close()
                if name:
                    result.answers[name] += 1
                else:
                    result.errors["closed without a word"] += 1
        except (OSError, TimeoutError) as error:
            result.errors[type(error).__name__] += 1

    start = time.monotonic()
    tasks = []
    for n in range(number):
        await asyncio.sleep(max(0.0, start + n / per_second - time.monotonic()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return result


def wait_for(question: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    if os.geteuid() != 0 or not shutil.which("haproxy") or not shutil.which("ip"):
        pytest.skip("needs root, iproute2 and haproxy")
    name = f"smlt-cloud-{os.getpid()}"
    assert ip("netns", "add", name).returncode == 0
    try:
        ip("-n", name, "link", "set", "lo", "up")
        if ip("-n", name, "link", "add", "clb0", "type", "dummy").returncode != 0:
            assert ip("-n", name, "link", "add", "clb0", "type", "bridge").returncode == 0
        ip("-n", name, "link", "set", "clb0", "up")
        for instance in INSTANCES.values():
            ip("-n", name, "addr", "add", f"{instance['ip']}/32", "dev", "lo")
        room = Inside(name, tmp_path_factory.mktemp("cloud"))
        room.start()
        try:
            yield room
        finally:
            room.end(signal.SIGTERM)
            room.pool.shutdown()
            room.loop.call_soon_threadsafe(room.loop.stop)
            left = ip("netns", "pids", name).stdout.split()
            assert left == [] or left == [str(os.getpid())], f"left behind: {left}"
            assert "198.51.100." not in ip("-n", name, "-4", "addr", "show", "dev", "clb0").stdout
    finally:
        ip("netns", "del", name)
