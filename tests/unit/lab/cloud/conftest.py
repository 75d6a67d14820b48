# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud without a data plane, on a free port of loopback, spoken to in both SDK styles."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import pytest
from aiohttp import web
from alibabacloud_slb20140515.client import Client
from alibabacloud_tea_openapi.utils_models import Config

from lab.cloud.auth import Keys
from lab.cloud.dataplane import NoDataPlane
from lab.cloud.server import Cloud, application
from lab.cloud.store import Store

SECRET = "not-a-secret"
KEYS = {
    "full": {"secret": SECRET},
    "reader": {"secret": SECRET, "readonly": True},
    "no-untag": {"secret": SECRET, "deny": ["slb:Untag*"]},
    "sts": {"secret": SECRET, "tokens": {"good": "valid", "old": "expired"}},
}
INSTANCES = {f"i-{n}": {"ip": f"10.10.1.{10 + n}", "pod_cidr": f"10.21.{n}.0/24"} for n in range(3)}


class Loop:
    """An event loop in a thread: coroutines are given to it from outside."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def serve(self, app: web.Application, **options: Any) -> tuple[web.AppRunner, int]:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **options)
        self.run(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self.run(site.start())
        return runner, int(cast(Any, runner.addresses[0])[1])

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


class CallFailed(Exception):
    """An answer of 400 or more: status, code, message and the whole body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body.get('Code')}: {body.get('Message')}")
        self.status, self.code, self.message, self.body = status, body.get("Code", ""), body.get("Message", ""), body


@dataclass
class Endpoint:
    port: int
    folder: Path
    cloud: Cloud

    def rpc(
        self, action: str, *, key: str = "full", secret: str = SECRET, version: str = "2014-05-15", **parameters: Any
    ) -> dict[str, Any]:
        """The older SDK: POST /, everything in the query, HMAC-SHA1. ``a__b`` stands for ``a.b``."""
        query = {"Action": action, "Version": version, "RegionId": "cn-hangzhou", "Format": "JSON", "AccessKeyId": key}
        query |= {"SignatureMethod": "HMAC-SHA1", "SignatureVersion": "1.0", "SignatureNonce": os.urandom(8).hex()}
        query |= {"Timestamp": "2026-01-01T00:00:00Z"} | {k.replace("__", "."): str(v) for k, v in parameters.items()}
        canonical = "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query.items()))
        text = f"POST&%2F&{quote(canonical, safe='~')}"
        query["Signature"] = base64.b64encode(hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()).decode()
        return self.http("POST", f"/?{urlencode(query)}", b"")

    def http(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return cast(dict[str, Any], json.load(answer))
        except urllib.error.HTTPError as error:
            raise CallFailed(error.code, json.load(error)) from error

    def lab(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        return self.http(method, path, None if body is None else json.dumps(body).encode())

    def client(self, key: str = "full", secret: str = SECRET, token: str | None = None, seconds: float = 10) -> Client:
        """The vendor's Python SDK, pointed here."""
        config = Config(
            access_key_id=key,
            access_key_secret=secret,
            security_token=token,
            region_id="cn-hangzhou",
            endpoint=f"127.0.0.1:{self.port}",
            protocol="http",
            read_timeout=int(seconds * 1000),
        )
        return Client(config)

    def balancer(self, **parameters: Any) -> str:
        return str(self.rpc("CreateLoadBalancer", **parameters)["LoadBalancerId"])

    def group(self, lb: str, *backends: Mapping[str, object], name: str = "group") -> str:
        made = self.rpc("CreateVServerGroup", LoadBalancerId=lb, VServerGroupName=name, BackendServers=json.dumps(backends))
        return str(made["VServerGroupId"])


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def start(loop: Loop, tmp_path: Path) -> Iterator[Callable[[], Endpoint]]:
    """Start a cloud on the folder of the test; a second call starts another one on the same state."""
    runners = []

    def begin() -> Endpoint:
        cloud = Cloud(Store(tmp_path), NoDataPlane(), Keys(KEYS))
        runner, port = loop.serve(application(cloud))
        runners.append(runner)
        endpoint = Endpoint(port, tmp_path, cloud)
        endpoint.lab("PUT", "/_lab/instances", INSTANCES)
        return endpoint

    yield begin
    for runner in runners:
        loop.run(runner.cleanup())


@pytest.fixture
def cloud(start: Callable[[], Endpoint]) -> Endpoint:
    return start()
