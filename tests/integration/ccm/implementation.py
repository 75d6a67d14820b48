# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller under test: ours, or the real one when LAB_CCM names its binary (LAB_CCM_VERSION says which version it is)."""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.integration.ccm.plane import Process, free_port

CLUSTER = "c0a1b2c3d4e5f60718293a4b5c6d7e8f9"
REGION = "cn-hangzhou"
VPC = "vpc-lab"
KEY = "ccm"  # access key and its secret
ALL = ("v2.8.0", "v2.11.2", "v2.14.0")


def versions() -> list[str]:
    """Those to be tested: all three with ours, the one of LAB_CCM_VERSION with the real one."""
    if os.environ.get("LAB_CCM"):
        return [os.environ.get("LAB_CCM_VERSION", "v2.14.0")]
    only = os.environ.get("LAB_CCM_VERSION")
    return [only] if only else list(ALL)


class Ccm:
    """start(), stop(), restart(). One at a time against one API server."""

    def __init__(self, version: str, folder: Path, kubeconfig: Path, cloud: str) -> None:
        self.version = version
        self.real = os.environ.get("LAB_CCM", "")
        self._folder = folder
        self._kubeconfig = kubeconfig
        self._cloud = cloud
        self._process: Process | None = None

    @property
    def log(self) -> Path:
        return self._folder / f"ccm-{self.version}.log"

    def start(self) -> None:
        port = free_port()
        argv, env = self._real(port) if self.real else self._ours(port)
        self._process = Process(argv, self.log, env)
        self._process.wait_ready(lambda: _healthy(port), 30.0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(grace=1.0)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def _ours(self, port: int) -> tuple[list[str], dict[str, str]]:
        argv = [sys.executable, "-m", "lab.ccm", "--kubeconfig", str(self._kubeconfig), "--cloud-endpoint", self._cloud]
        argv += ["--cluster-id", CLUSTER, "--region", REGION, "--ccm-version", self.version, "--health-port", str(port)]
        env = {"ALIBABA_CLOUD_ACCESS_KEY_ID": KEY, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": KEY}
        return argv, {**env, "PYTHONPATH": str(Path(__file__).parents[3])}

    def _real(self, port: int) -> tuple[list[str], dict[str, str]]:
        """The flags and environment that facts about the real one give; keys in the file must be base64."""
        key = base64.b64encode(KEY.encode()).decode()
        config = {
            "clusterID": CLUSTER,
            "region": REGION,
            "vpcid": VPC,
            "vswitchid": ":vsw-lab",
            "accessKeyID": key,
            "accessKeySecret": key,
        }
        file = self._folder / "cloud.json"
        file.write_text(json.dumps({"Global": config}))
        argv = [self.real, f"--kubeconfig={self._kubeconfig}", f"--cloud-config={file}", "--configure-cloud-routes=false"]
        argv += ["--controllers=service", "--leader-elect=false", "--metrics-bind-addr=0", "--pprof-bind-addr=0"]
        argv += [f"--health-probe-bind-addr=127.0.0.1:{port}"]
        env = {f"{name}_ENDPOINT": self._cloud for name in ("SLB", "ECS", "VPC", "NLB")}
        env |= {"ALICLOUD_CLIENT_SCHEME": "HTTP", "METADATA_ENDPOINT": f"http://{self._cloud}"}
        env |= {"ACCESS_KEY_ID": key, "ACCESS_KEY_SECRET": key}
        return argv, env


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
