# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud server of the lab for the suite: API and admin on a free loopback port, no data plane."""

from __future__ import annotations

import json
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.ccm.cloud import RpcCloud
from tests.integration.ccm.implementation import KEY, REGION
from tests.integration.ccm.plane import Process, free_port

_READS = ("Describe", "List")
SUITE_KEY = "suite"


class SuiteRpc(RpcCloud):
    """Marks the suite's own calls, so that they are not taken for the controller's."""

    def call(self, product: str, action: str, **params: Any) -> dict[str, Any]:
        return super().call(product, action, **params, Suite="1")


@dataclass(frozen=True)
class Call:
    action: str
    parameters: dict[str, str]

    @property
    def writes(self) -> bool:
        return not self.action.startswith(_READS)


class CloudServer:
    """`rpc` is the suite's own client; its calls are not in calls()."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self.rpc = SuiteRpc(self.endpoint, REGION, SUITE_KEY, SUITE_KEY)
        self._folder = folder
        self._process: Process | None = None

    def start(self) -> CloudServer:
        argv = [sys.executable, "-m", "lab.cloud", "--state", str(self._folder / "cloud"), "--port", str(self.port)]
        self._process = Process(argv, self._folder / "cloud.log", {"PYTHONPATH": str(Path(__file__).parents[3])})
        self._process.wait_ready(self._ready, 20.0)
        self._admin("PUT", "keys", {key: {"secret": key} for key in (KEY, SUITE_KEY)})
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(grace=1.0)

    def _ready(self) -> bool:
        try:
            self._admin("GET", "calls")
            return True
        except OSError:
            return False

    def _admin(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.endpoint}/_lab/{path}", data=data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def instances(self, known: dict[str, dict[str, str]]) -> None:
        """Instance id -> {"ip", "pod_cidr"}: what ECS knows. An address in a pod_cidr has a network interface."""
        self._admin("PUT", "instances", known)

    def mark(self) -> int:
        """The number of the latest call: calls() after it are those made since."""
        return int(self._admin("GET", f"calls?since={sys.maxsize}")["next"])  # and not the whole record

    def calls(self, since: int) -> list[Call]:
        """Those of the controller, in the order in which they were answered."""
        found = self._admin("GET", f"calls?since={since}")["calls"]
        return [Call(item["action"], item["parameters"]) for item in found if "Suite" not in item["parameters"]]

    def fault(self, action: str, status: int, code: str, message: str, times: int | None = None) -> None:
        """Calls of `action` (a glob) answer an error, `times` of them (None: all) until clear_faults()."""
        rule: dict[str, Any] = {"target": "*", "action": action, "effect": {"status": status, "code": code, "message": message}}
        if times is not None:
            rule["times"] = times
        self._admin("POST", "faults", rule)

    def clear_faults(self) -> None:
        self._admin("DELETE", "faults")
