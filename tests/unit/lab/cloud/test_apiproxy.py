# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API fault proxy between a client, an API server made of paste, and the cloud's rules."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from lab.cloud.apiproxy import ApiProxy, names_of, status_object

from .conftest import Endpoint, Loop


class Paste:
    """An API server that remembers what it was asked and can stream."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, str]] = []
        self.watches = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        self.seen.append((request.method, request.path_qs, request.headers.get("Authorization", ""), body))
        if request.query.get("watch") != "true":
            return web.json_response({"path": request.path_qs, "type": request.headers.get("Content-Type")}, status=201)
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        self.watches += 1
        try:
            for n in range(3 if request.path != "/quiet" else 1):
                await answer.write(json.dumps({"n": n}).encode() + b"\n")
                await asyncio.sleep(0.15 if request.path != "/quiet" else 30)
        finally:
            self.watches -= 1
        return answer


class Through:
    def __init__(self, paste: Paste, port: int) -> None:
        self.paste = paste
        self.port = port

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, Any, dict[str, str]]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": "Bearer t", "Content-Type": "application/merge-patch+json"}
        link.request(method, path, body.encode() or None, headers)
        answer = link.getresponse()
        return answer.status, json.loads(answer.read()), dict(answer.headers)


@pytest.fixture
def through(loop: Loop, cloud: Endpoint) -> Iterator[Through]:
    paste = Paste()
    behind = web.Application()
    behind.router.add_route("*", "/{path:.*}", paste.handle)
    runner, port = loop.serve(behind, handler_cancellation=True)
    proxy = ApiProxy(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{cloud.port}/_lab/faults", "ack", True)
    loop.run(proxy.__aenter__())
    front = web.Application()
    front.router.add_route("*", "/{path:.*}", proxy.handle)
    front_runner, front_port = loop.serve(front, handler_cancellation=True)
    yield Through(paste, front_port)
    loop.run(front_runner.cleanup())
    loop.run(proxy.__aexit__())
    loop.run(runner.cleanup())


@pytest.mark.parametrize(
    ("method", "query", "verbs"),
    [
        ("GET", {}, {"GET", "get", "list"}),
        ("GET", {"watch": "true"}, {"GET", "watch"}),
        ("GET", {"watch": "1"}, {"GET", "watch"}),
        ("PATCH", {}, {"PATCH", "patch"}),
        ("PUT", {}, {"PUT", "update"}),
        ("POST", {}, {"POST", "create"}),
        ("DELETE", {}, {"DELETE", "delete"}),
    ],
)
def test_the_names_of_a_request(method: str, query: dict[str, str], verbs: set[str]) -> None:
    assert {n.partition(" ")[0] for n in names_of(method, "/api/v1/pods", query)} == verbs


def test_a_request_passes_as_it_is(through: Through) -> None:
    path = "/api/v1/namespaces/a%2Fb/services/x?fieldManager=m&dryRun=All"
    status, body, _ = through.ask("PATCH", path, '{"a": "ä"}')
    assert (status, body) == (201, {"path": path, "type": "application/merge-patch+json"})
    assert through.paste.seen == [("PATCH", path, "Bearer t", '{"a": "ä"}')]


def test_a_watch_is_streamed(through: Through, loop: Loop) -> None:
    """The first event is there before the last one was sent."""
    link = http.client.HTTPConnection("127.0.0.1", through.port, timeout=10)
    link.request("GET", "/api/v1/services?watch=true")
    answer = link.getresponse()
    assert json.loads(answer.readline()) == {"n": 0}
    assert not answer.isclosed()
    assert [json.loads(line)["n"] for line in answer.read().splitlines()] == [1, 2]


def test_a_watch_ends_upstream_when_its_client_goes(through: Through) -> None:
    link = http.client.HTTPConnection("127.0.0.1", through.port, timeout=10)
    link.request("GET", "/quiet?watch=true")
    answer = link.getresponse()
    assert json.loads(answer.readline()) == {"n": 0}
    assert through.paste.watches == 1
    answer.close()
    link.close()
    deadline = time.monotonic() + 5
    while through.paste.watches:
        assert time.monotonic() < deadline, "the watch lives on without a client"
        time.sleep(0.02)


def test_a_rule_gives_a_status_object(through: Through, cloud: Endpoint) -> None:
    rule = {"target": "ack", "action": "PATCH /api/v1/namespaces/*/services/*", "times": 1, "effect": {"status": 429}}
    cloud.lab("POST", "/_lab/faults", rule)
    assert through.ask("GET", "/api/v1/namespaces/a/services/x")[0] == 201
    status, body, headers = through.ask("PATCH", "/api/v1/namespaces/a/services/x", "{}")
    assert (status, body["kind"], body["reason"], body["code"], headers["Retry-After"]) == (
        429,
        "Status",
        "TooManyRequests",
        429,
        "1",
    )
    assert through.ask("PATCH", "/api/v1/namespaces/a/services/x", "{}")[0] == 201
    assert [s[0] for s in through.paste.seen] == ["GET", "PATCH"]
    (seen,) = cloud.lab("GET", "/_lab/faults")["rules"]
    assert (seen["seen"], seen["hits"]) == (2, 1)


def test_rules_of_others_are_not_for_this_proxy(through: Through, cloud: Endpoint) -> None:
    cloud.lab("POST", "/_lab/faults", [{"target": t, "effect": {"status": 500}} for t in ("asm", "slb")])
    assert through.ask("GET", "/api/v1/pods")[0] == 201


def test_kubernetes_verbs_and_resets(through: Through, cloud: Endpoint) -> None:
    cloud.lab("POST", "/_lab/faults", {"target": "ack", "action": "update *", "effect": {"reset": True}})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        through.ask("PUT", "/api/v1/namespaces/a/services/x", "{}")
    assert through.paste.seen == []


def test_an_answer_lost_after_the_deed(through: Through, cloud: Endpoint) -> None:
    cloud.lab("POST", "/_lab/faults", {"target": "ack", "action": "POST *", "effect": {"status": 500, "after": True}})
    assert through.ask("POST", "/api/v1/namespaces", "{}")[0] == 500
    assert [s[0] for s in through.paste.seen] == ["POST"]


def test_without_the_cloud_there_are_no_faults(loop: Loop) -> None:
    async def ask() -> object:
        async with ApiProxy("http://127.0.0.1:1", "http://127.0.0.1:1/_lab/faults", "ack", True) as proxy:
            from aiohttp.test_utils import make_mocked_request

            return await proxy._effect(make_mocked_request("GET", "/api"))

    assert loop.run(ask()) is None


def test_an_api_server_that_is_away_is_a_503() -> None:
    status, body, headers = status_object({"status": 503, "message": "upstream: gone"})
    assert (status, body["reason"], body["message"], headers) == (
        503,
        "ServiceUnavailable",
        "upstream: gone",
        {"Retry-After": "1"},
    )
