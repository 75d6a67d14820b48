# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running HAProxy: started, adopted after a crash of the cloud server, and made to serve what the world asks for.

HAProxy runs in master-worker mode. Weights and servers are changed in the running worker by the runtime API; listeners
that come, go or change are done by a reload, in which the new worker takes over the listening sockets, so that none of
them is ever closed in between, and the old worker serves its established connections until they end.
A removed server is put into maintenance (no new connections), and deleted when its last connection has ended.
The cloud server killed: HAProxy lives on, and is adopted by the next one (master socket and pid file in its folder).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from .haproxy import Observed, Proxy, Server, View, configuration, parse_state, state_file

log = logging.getLogger("lab.cloud")

_BATCH = 40


class DataPlaneError(RuntimeError):
    """HAProxy could not be made to serve what was asked for."""


class DataPlane(Protocol):
    async def start(self, view: View) -> None: ...

    async def apply(self, view: View) -> None: ...

    async def health(self) -> dict[tuple[str, str], str]: ...

    async def stop(self) -> None: ...


class NoDataPlane:
    """The cloud without HAProxy: every checked backend counts as healthy."""

    def __init__(self) -> None:
        self.view = View()

    async def start(self, view: View) -> None:
        self.wanted = view
        self.view = view

    async def apply(self, view: View) -> None:
        self.view = view

    async def health(self) -> dict[tuple[str, str], str]:
        return {(p.name, s.address): "normal" for p in self.view.proxies.values() for s in p.servers.values()}

    async def stop(self) -> None:
        self.view = View()


class Addresses:
    """The load balancers' own addresses on the dummy interface; only those that this cloud added are ever removed."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self.held: set[str] = set()

    def present(self) -> set[str]:
        text = _ip("-o", "-4", "addr", "show", "dev", self.interface)
        words = [line.split() for line in text.splitlines()]
        return {w[w.index("inet") + 1].partition("/")[0] for w in words if "inet" in w}

    def add(self, wanted: frozenset[str]) -> None:
        for address in sorted(wanted - self.held):
            if address not in self.present():
                _ip("addr", "add", f"{address}/32", "dev", self.interface)
            self.held.add(address)

    def drop(self, wanted: frozenset[str]) -> None:
        for address in sorted(self.held - wanted):
            if address in self.present():
                _ip("addr", "del", f"{address}/32", "dev", self.interface)
            self.held.discard(address)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=10)
    if done.returncode != 0:
        raise DataPlaneError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class HAProxy:
    def __init__(self, directory: Path, interface: str, program: str = "haproxy") -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self.program = program
        self.comm = Path(program).name[:15]
        self.addresses = Addresses(interface)
        self.live: dict[str, Proxy] = {}
        self.wanted = View()
        self.leaving: set[tuple[str, str]] = set()
        self.process: subprocess.Popen[bytes] | None = None
        self.reloads = 0
        # Each connection takes two descriptors; HAProxy does not start if its maxconn does not fit the hard limit.
        self.maxconn = max(100, min(8000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500) // 2))
        self._lock = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    # Talking to HAProxy ------------------------------------------------------------------------------------------

    async def _ask(self, command: str, timeout: float = 5.0) -> str:
        """One line to the master's socket (``@1`` = the current worker), and all of the answer."""
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(timeout):
                    await loop.sock_connect(sock, f"/proc/self/fd/{handle}/master.sock")
                    await loop.sock_sendall(sock, command.encode() + b"\n")
                    sock.shutdown(socket.SHUT_WR)
                    answer = bytearray()
                    while data := await loop.sock_recv(sock, 65536):
                        answer += data
                return answer.decode()
        finally:
            os.close(handle)

    async def _tell(self, commands: list[str]) -> str:
        """Runtime commands for the current worker; returns what it had to say (empty if all went well)."""
        said = ""
        for start in range(0, len(commands), _BATCH):
            said += await self._ask(";".join(f"@1 {c}" for c in commands[start : start + _BATCH]))
        return said

    async def _worker(self) -> tuple[str, str]:
        """The current worker's pid, and the number of failed reloads, from the master's ``show proc``."""
        pid, failed, section = "", "0", ""
        for line in (await self._ask("show proc")).splitlines():
            if "failed:" in line:
                failed = line.partition("failed:")[2].strip().rstrip("]").partition("]")[0]
            if line.startswith("# "):
                section = line[2:].strip()
            elif section == "workers" and line.split():
                pid = line.split()[0]
        return pid, failed

    async def _observe(self) -> list[Observed]:
        return parse_state(await self._ask("@1 show servers state"))

    # Starting, reloading, stopping -------------------------------------------------------------------------------

    def _pid_file(self) -> Path:
        return self.directory / "haproxy.pid"

    async def _alive(self) -> bool:
        """A master runs in our folder, ours or that of an earlier cloud server, and has a worker, be it an old one that
        outlived a failed reload. A master that is only slow to answer is alive: it must not be killed for that."""
        try:
            lines = (await self._ask("show proc")).splitlines()
        except TimeoutError:
            return True
        except OSError:
            return False
        return any(line.split()[1:2] == ["worker"] for line in lines)

    async def start(self, view: View) -> None:
        self.wanted = view
        self.addresses.held = self.addresses.present() & self._remembered()
        self.addresses.add(view.addresses)
        if await self._alive():
            log.info("haproxy adopted")
            await self._reload(view)
        else:
            await self._launch(view)
        self.addresses.drop(view.addresses)
        self._remember(view)
        self._sweeper = asyncio.create_task(self._sweep())

    def _strays(self) -> list[int]:
        """HAProxy processes that run in our folder: a worker whose master was killed, say."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (entry / "comm").read_text().strip() == self.comm and (entry / "cwd").samefile(self.directory):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    async def _launch(self, view: View) -> None:
        """Start HAProxy from nothing. What is left of an earlier one would share its ports with it: it goes first."""
        if self.process is not None:
            self.process.poll()
        for pid in self._strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._write(view, [])
        with (self.directory / "haproxy.log").open("ab") as out:
            self.process = subprocess.Popen(
                [self.program, "-W", "-S", "unix@master.sock,mode,600", "-f", "haproxy.cfg", "-p", "haproxy.pid"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        await self._ready("")
        self.leaving.clear()
        self.live = dict(view.proxies)

    def _remembered(self) -> set[str]:
        path = self.directory / "addresses"
        return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()

    def _remember(self, view: View) -> None:
        (self.directory / "addresses").write_text("\n".join(sorted(view.addresses | self.addresses.held)), encoding="utf-8")

    async def _ready(self, old_worker: str, failed: str = "0") -> None:
        """Wait until a worker other than the old one is the current one."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError):
                worker, failures = await self._worker()
                if worker and worker != old_worker:
                    # The master answers for the new worker as soon as it is forked; it is ready when it answers itself.
                    if await self._ask("@1 show version"):
                        return
                elif failures != failed:
                    break
            if self.process is not None and self.process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        tail = (self.directory / "haproxy.log").read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        raise DataPlaneError("haproxy did not take the configuration: " + " | ".join(tail))

    def _write(self, view: View, observed: list[Observed]) -> None:
        for name, text in (("servers.state", state_file(view, observed)), ("haproxy.cfg", configuration(view, self.maxconn))):
            temporary = self.directory / f"{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.directory / name)

    async def _reload(self, view: View) -> None:
        worker, failed = await self._worker()
        self._write(view, await self._observe())
        with contextlib.suppress(OSError, TimeoutError):
            await self._ask("reload")
        await self._ready(worker, failed)
        self.reloads += 1
        self.leaving.clear()
        self.live = dict(view.proxies)

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        path = self._pid_file()
        if await self._alive():
            master = int(path.read_text(encoding="utf-8").split()[0])
            with contextlib.suppress(ProcessLookupError):
                os.kill(master, signal.SIGTERM)
            if self.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(self.process.wait, 3)
            else:
                for _ in range(100):
                    if not Path(f"/proc/{master}").exists():
                        break
                    await asyncio.sleep(0.02)
        with contextlib.suppress(DataPlaneError):
            self.addresses.drop(frozenset())
        for name in ("haproxy.pid", "master.sock", "run.sock", "idle.sock", "addresses"):
            (self.directory / name).unlink(missing_ok=True)

    # Changing ----------------------------------------------------------------------------------------------------

    async def apply(self, view: View) -> None:
        """Make HAProxy serve the view. When this returns, every connection made from now on obeys it."""
        async with self._lock:
            self.addresses.add(view.addresses)
            self._remember(view)
            self.wanted = view
            if not await self._alive():
                log.warning("haproxy is gone: starting it again")
                await self._launch(view)
            heads = {n: (p.head, p.checked) for n, p in view.proxies.items()}
            if heads != {n: (p.head, p.checked) for n, p in self.live.items()}:
                await self._reload(view)
            else:
                commands = self._difference(view)
                if commands:
                    said = (await self._tell(commands)).replace("New server registered.", "").strip()
                    self.live = dict(view.proxies)
                    if said:
                        # The worker knows less than we thought (it was restarted, say): one reload sets it right.
                        log.warning("haproxy said %r: reloading", said[:200])
                        await self._reload(view)
            self.addresses.drop(view.addresses)
            self._remember(view)

    def _difference(self, view: View) -> list[str]:
        """Runtime commands from what runs to what is wanted. Weights are raised and servers added before any is taken
        away, so that a proxy never stands without capacity in the middle."""
        first: list[str] = []
        last: list[str] = []
        for name, wanted in view.proxies.items():
            now = self.live[name].servers
            for key, server in wanted.servers.items():
                old = now.get(key)
                if old is None:
                    first += self._add(wanted, server)
                elif old.weight != server.weight:
                    (first if server.weight > old.weight else last).append(f"set server {name}/{key} weight {server.weight}")
            for key in now:
                if key not in wanted.servers:
                    last.append(f"set server {name}/{key} state maint")
                    self.leaving.add((name, key))
        return first + last

    def _add(self, proxy: Proxy, server: Server) -> list[str]:
        path = f"{proxy.name}/{server.name}"
        if (proxy.name, server.name) in self.leaving:
            self.leaving.discard((proxy.name, server.name))
            return [f"set server {path} weight {server.weight}", f"set server {path} state ready"]
        # Weight 0 until its health is known to be unknown: nobody is sent to it before the first good check.
        commands = [f"add server {path} {proxy.line(Server(server.name, server.address, 0))}"]
        if proxy.checked:
            commands += [f"enable health {path}", f"enable server {path}", f"set server {path} health down"]
        else:
            commands += [f"enable server {path}"]
        return [*commands, f"set server {path} weight {server.weight}"]

    async def _sweep(self) -> None:
        """Every second: start HAProxy again if it died; delete servers that were taken away and have no connection left."""
        while True:
            await asyncio.sleep(1)
            if self.process is not None and self.process.poll() is None and not self.leaving:
                continue
            if not self.leaving and await self._alive():
                continue
            with contextlib.suppress(DataPlaneError):
                await self.apply(self.wanted)
            async with self._lock:
                for proxy, name in sorted(self.leaving):
                    with contextlib.suppress(OSError, TimeoutError):
                        said = await self._tell([f"del server {proxy}/{name}"])
                        if "Server deleted" in said or "No such" in said:
                            self.leaving.discard((proxy, name))

    async def health(self) -> dict[tuple[str, str], str]:
        """(proxy, address:port) -> normal | abnormal."""
        seen: dict[tuple[str, str], str] = {}
        for row in await self._observe():
            if not row.maintenance:
                seen[(row.proxy, row.address)] = "normal" if row.running else "abnormal"
        return seen
