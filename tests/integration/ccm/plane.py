# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd and kube-apiserver alone, on free loopback ports: all that a cloud controller needs (ready in about 3 s).

No kubelet, scheduler or controller-manager: the suite writes Node, EndpointSlice and Endpoints objects itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.kube import Api, KubeError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_us(argv: Sequence[str]) -> list[str]:
    """The command, ended by the kernel when the tests are killed.

    The signal comes when the *thread* ends that started the command: too early for any thread but the first.
    """
    first = threading.current_thread() is threading.main_thread()
    return ["setpriv", "--pdeathsig", "KILL", *argv] if first else [*argv]


class Process:
    """A child process with its log in a file. stop() is SIGTERM, then SIGKILL after `grace` seconds."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = list(argv)
        self.log = log
        self._file = log.open("ab")
        self._child = subprocess.Popen(
            with_us(self.argv),
            stdout=self._file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )

    def wait_ready(self, ready: Callable[[], bool], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._child.poll() is not None:
                raise RuntimeError(f"{self.argv[0]} ended with {self._child.returncode}: {self.tail()}")
            if ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.argv[0]} is not ready after {seconds} s: {self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self, grace: float = 2.0, sign: int = signal.SIGTERM) -> None:
        if self._child.poll() is None:
            self._child.send_signal(sign)
            try:
                self._child.wait(grace)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._file.close()


class Plane:
    """start() gives `.api` and `.kubeconfig` (token of a cluster admin)."""

    TOKEN = "lab-conformance"
    AUTHORIZATION = "AlwaysAllow"
    USERS = ""  # further lines of the token file

    def __init__(self, folder: Path, etcd: Path, apiserver: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._etcd_bin, self._apiserver_bin = etcd, apiserver
        self._processes: list[Process] = []

    def start(self) -> Plane:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        client, peer, secure = free_port(), free_port(), free_port()
        etcd_url = f"http://127.0.0.1:{client}"
        peer_url = f"http://127.0.0.1:{peer}"
        key = self.folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f"{self.TOKEN},admin,admin,system:masters\n{self.USERS}")
        self._write_kubeconfig(secure)
        etcd = Process(
            [
                str(self._etcd_bin), "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level", "error",
                "--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url,
                "--listen-peer-urls", peer_url,
                "--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}",
            ],
            self.folder / "etcd.log",
        )  # fmt: skip
        self._processes.append(etcd)
        server = Process(
            [
                str(self._apiserver_bin), "--etcd-servers", etcd_url, "--bind-address", "127.0.0.1",
                "--advertise-address", "127.0.0.1", "--secure-port", str(secure), "--cert-dir", str(self.folder / "tls"),
                "--token-auth-file", str(self.folder / "tokens.csv"),
                "--service-account-key-file", str(key), "--service-account-signing-key-file", str(key),
                "--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", "10.95.0.0/16",
                "--authorization-mode", self.AUTHORIZATION, "--disable-admission-plugins", "ServiceAccount,TaintNodesByCondition",
                "--endpoint-reconciler-type", "none", "--allow-privileged=true",
            ],
            self.folder / "apiserver.log",
        )  # fmt: skip
        self._processes.append(server)
        server.wait_ready((self.folder / "tls" / "apiserver.crt").exists, 60.0)
        self.api = Api.from_kubeconfig(self.kubeconfig)
        server.wait_ready(self._ready, 60.0)

    def _ready(self) -> bool:
        try:
            self.api.get("/readyz")
            return self.api.find("/api/v1/namespaces/default") is not None
        except KubeError:
            return False

    def _write_kubeconfig(self, port: int) -> None:
        # the server writes this file: its own certificate, and the authority that signed it
        authority = str(self.folder / "tls" / "apiserver.crt")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": authority}}],
            "users": [{"name": "u", "user": {"token": self.TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        self.kubeconfig.write_text(json.dumps(config))

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.stop(grace=0.5)
