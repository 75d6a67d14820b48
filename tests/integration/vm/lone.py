# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine with sshd, an application and a small proxy in Envoy's place: enough to redirect, to be locked out and to reboot.

No cluster is needed for what vm_redirect promises; the mesh's own proxy behind the same rules is in the tests of the whole way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from lab import machine, net
from lab.machine import Machine
from lab.state import Lab, write_atomic

ADDRESS = "10.10.30.10"
STATE = "/var/lib/servicemesh-migration/redirect"
APP_PORT = 8080
# What Envoy is to these rules: it runs as 1337, takes what is redirected to 15001 and 15006, and passes it on to where it was
# meant to go. Each connection is a line in its log, so that a test sees what came through it.
PROXY = r"""
import asyncio, os, socket, struct

def meant(sock):
    raw = sock.getsockopt(socket.SOL_IP, 80, 16)
    return socket.inet_ntoa(raw[4:8]), struct.unpack("!H", raw[2:4])[0]

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

def passer(own):
    async def handle(reader, writer):
        host, port = meant(writer.get_extra_info("socket"))
        print(own, host, port, flush=True)
        if port == own:
            return writer.close()
        try:
            # by its source Istio's rules know what comes from the proxy's inbound side
            source = ("127.0.0.6", 0) if own == 15006 else None
            there, back = await asyncio.open_connection(host, port, local_addr=source)
        except OSError:
            return writer.close()
        await asyncio.gather(pump(reader, back), pump(there, writer))
    return handle

async def ready(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await writer.drain()
    writer.close()

async def main():
    for port in (15001, 15006):
        await asyncio.start_server(passer(port), "0.0.0.0", port)
    await asyncio.start_server(ready, "0.0.0.0", 15021)
    await asyncio.Event().wait()

os.setgroups([])
os.setgid(1337)
os.setuid(1337)
asyncio.run(main())
"""
UNIT = "[Unit]\nAfter=network.target\n[Service]\nUser={user}\nExecStart={run}\nRestart=always\nRestartSec=1\n"
# What Docker does to the nat table when it starts; slowly, so that an order that is not asked for would be seen.
DOCKER = """[Unit]
After=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'sleep 1; iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER'
"""
# A machine of the lab gets its network, with the kernel's rules in it, from outside: a real one boots with none.
EMPTY = """[Unit]
DefaultDependencies=no
Before=basic.target
[Service]
Type=oneshot
ExecStart=/usr/sbin/nft flush ruleset
[Install]
WantedBy=basic.target
"""
APP = "import http.server as h; h.ThreadingHTTPServer(('0.0.0.0', {port}), h.SimpleHTTPRequestHandler).serve_forever()"


class Lone:
    """The machine, and Ansible that comes to it over ssh from the cloud's side."""

    def __init__(self, name: str) -> None:
        self.lab = Lab(name)
        self.lab.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lab.logs.mkdir(exist_ok=True)
        proxy = UNIT.format(user="root", run="/usr/bin/python3 /opt/lab/proxy.py") + "StandardOutput=append:/tmp/proxy.log\n"
        self.machine = Machine(
            self.lab,
            "solo",
            ADDRESS,
            files={"/opt/lab/proxy.py": PROXY, "/opt/lab/app.py": APP.format(port=APP_PORT)},
            units={
                "proxy.service": proxy,
                "docker.service": DOCKER,
                "empty.service": EMPTY,
                "app.service": UNIT.format(user="nobody", run="/usr/bin/python3 /opt/lab/app.py"),
            },
        )

    def up(self) -> None:
        net.up(self.lab)
        self.machine.start()
        self.machine.wait(60)
        key = (self.machine.dir / "ssh_host_ed25519_key.pub").read_text().rsplit(" ", 1)[0]
        write_atomic(self.lab.dir / "known_hosts", f"{ADDRESS} {key}\n")
        common = f"-o UserKnownHostsFile={self.lab.dir}/known_hosts -o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=4"
        variables = {
            "ansible_host": ADDRESS,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.lab.dir / "ssh" / "id_ed25519"),
            "ansible_ssh_common_args": f"{common} -o StrictHostKeyChecking=yes -o ControlPersist=20s",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        write_atomic(self.lab.dir / "inventory.yml", yaml.safe_dump({"all": {"hosts": {"solo": variables}}}))
        self.until_reachable(20)

    def down(self) -> None:
        machine.down(self.lab)
        net.down(self.lab)
        shutil.rmtree(self.lab.dir, ignore_errors=True)

    def inside(self, *argv: str, check: bool = True) -> str:
        return self.machine.run(["sh", "-c", " ".join(argv)], check=check).stdout

    def cloud(self, *argv: str) -> list[str]:
        """argv as it runs on the controller's side of the network."""
        return ["nsenter", f"--net={net.path(self.lab, 'cloud')}", "--", *argv]

    def ssh(self, timeout: float = 5) -> bool:
        """Whether a new ssh connection comes through."""
        words = ["-i", str(self.lab.dir / "ssh" / "id_ed25519"), "-o", f"UserKnownHostsFile={self.lab.dir}/known_hosts"]
        words += [
            "-o",
            "ControlMaster=no",
            "-o",
            "ControlPath=none",
            "-o",
            "BatchMode=yes",
            "-o",
            f"ConnectTimeout={timeout:.0f}",
        ]
        argv = self.cloud("ssh", "-F", "/dev/null", *words, f"root@{ADDRESS}", "true")
        try:
            return (
                subprocess.run(argv, capture_output=True, timeout=timeout + 5, check=False, stdin=subprocess.DEVNULL).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            return False

    def until_reachable(self, seconds: float) -> float:
        began = time.monotonic()
        while not self.ssh(2):
            assert time.monotonic() - began < seconds, f"the machine cannot be reached since {seconds} s"
            time.sleep(0.2)
        return time.monotonic() - began

    def argv(self, *words: str, **options: Any) -> list[str]:
        """A play with one task, vm_redirect with these options."""
        task = {"servicemesh.migration.vm_redirect": options, "register": "answer"}
        play = [{"hosts": "all", "gather_facts": False, "tasks": [task]}]
        path = self.lab.dir / "play.yml"
        path.write_text(yaml.safe_dump(play))
        return self.cloud("ansible-playbook", "-i", str(self.lab.dir / "inventory.yml"), str(path), *words)

    def environment(self) -> dict[str, str]:
        """Control sockets of one's own, so that no master connection outlives this machine; answers as JSON."""
        return {
            **os.environ,
            "ANSIBLE_STDOUT_CALLBACK": "default",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.lab.dir / "cp"),
            "ANSIBLE_LOCAL_TEMP": str(self.lab.dir / "tmp"),
        }

    def redirect(self, *words: str, timeout: float = 180, **options: Any) -> dict[str, Any]:
        """The task's result."""
        argv = self.argv("-v", *words, **{"version": "1.31.0", **options})
        env = self.environment()
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
        for line in done.stdout.splitlines():
            for mark in ("=> ", "! => "):
                if line.startswith(("ok:", "changed:", "fatal:", "failed:")) and mark in line:
                    with_braces = line.split(mark, 1)[1]
                    try:
                        return dict(json.loads(with_braces))
                    except ValueError:
                        continue
        raise AssertionError(f"no result:\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}")

    def rules(self, tool: str = "iptables") -> str:
        """What iptables-save says, without times and counters, and without tables that hold nothing."""
        kept: list[str] = []
        table: list[str] = []
        for line in self.inside(f"{tool}-save").splitlines():
            if line.startswith("*"):
                table = [line]
            elif line == "COMMIT":
                if any(not one.startswith("*") and not (one.startswith(":") and " ACCEPT " in one) for one in table):
                    kept += [one.split(" [")[0] for one in table]
            elif not line.startswith("#"):
                table.append(line)
        return "\n".join(kept)

    def record(self, name: str) -> dict[str, Any] | None:
        text = self.inside(f"cat {STATE}/{name}.json 2>/dev/null || true")
        return dict(json.loads(text)) if text.strip() else None


def name() -> str:
    """A name of this process; what an earlier one that was killed left is taken down."""
    from lab.state import state_root

    for folder in state_root().glob("vmr-*"):
        pid = folder.name.partition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            Lone(folder.name).down()
    return f"vmr-{os.getpid()}"
