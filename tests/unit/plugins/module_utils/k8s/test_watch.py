# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A watch that runs beside something else, against an API server that says what the test wants."""

from __future__ import annotations

import http.server
import json
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s import _watch
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._watch import Watch


def event(name: str, kind: str = "MODIFIED") -> bytes:
    return json.dumps({"type": kind, "object": {"metadata": {"name": name}}}).encode() + b"\n"


class Server:
    """Answers a watch with the lines of the moment, and ends it when it is told to."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.status, self.asked, self.open = 200, 0, True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                sent, end = 0, time.monotonic() + 10
                while time.monotonic() < end:
                    for line in outer.lines[sent:]:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                        self.wfile.flush()
                    sent = len(outer.lines)
                    if not outer.open:
                        break
                    time.sleep(0.01)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_words: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        self.cluster = Cluster("source", {"host": f"http://127.0.0.1:{self.http.server_port}"}, attempts=1)

    def watch(self) -> Watch:
        """One that is open."""
        asked, made, end = self.asked, Watch(self.cluster, SERVICE, "7"), time.monotonic() + 10
        while self.asked == asked and time.monotonic() < end:
            time.sleep(0.01)
        return made


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.open = False
    made.http.shutdown()
    made.http.server_close()


def names(events: list[dict[str, Any]]) -> list[str]:
    return [one["object"]["metadata"]["name"] for one in events]


def test_what_comes_meanwhile_is_there_and_half_an_event_is_not(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = threading.active_count()
    watch = server.watch()
    server.lines += [event("a"), event("b"), event("c")[:-5]]
    end = time.monotonic() + 10
    while watch._data.count(b"\n") < 2 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)
    slept: list[float] = []
    monkeypatch.setattr(_watch, "time", types.SimpleNamespace(monotonic=time.monotonic, sleep=slept.append))
    assert names(watch.events(0.2)) == ["a", "b"]
    assert slept == []  # it has run for long enough
    assert server.asked == 1
    end = time.monotonic() + 5
    while threading.active_count() > threads + 1 and time.monotonic() < end:
        time.sleep(0.02)
    assert threading.active_count() <= threads + 1  # the server's own is left


def test_one_that_was_asked_too_soon_waits(server: Server) -> None:
    server.lines.append(event("a"))
    began = time.monotonic()
    assert names(server.watch().events(0.4)) == ["a"]
    assert time.monotonic() - began >= 0.4


def test_one_that_the_server_ended_is_asked_again_from_the_beginning(server: Server) -> None:
    server.lines.append(event("a"))
    server.open = False
    watch = server.watch()
    time.sleep(0.2)
    server.lines.append(event("b"))
    assert names(watch.events(0.1)) == ["a", "b"]
    assert server.asked == 2


def test_an_api_server_that_forgot_or_forbids_is_told(server: Server) -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}
    server.lines.append(json.dumps(gone).encode() + b"\n")
    watch = server.watch()
    time.sleep(0.1)
    with pytest.raises(MigrationError) as told:
        watch.events(0.1)
    assert told.value.details["status"] == 410
    server.lines[:] = [json.dumps({"message": "may not watch"}).encode()]
    server.status, server.open = 403, False
    with pytest.raises(MigrationError, match="may not watch"):
        server.watch().events(0.1)


@pytest.mark.parametrize("body", [b'{"items": [{"metadata"', b"<html>Sign in</html>", b"[]", b"\xff\xfe", b""])
def test_an_answer_that_is_no_object_is_never_an_empty_list(server: Server, body: bytes) -> None:
    server.lines, server.open = [body] if body else [], False
    with pytest.raises(MigrationError, match="no JSON object") as caught:
        list(server.cluster.list_all(SERVICE))
    assert "cut answers off" in caught.value.todo
    assert server.cluster.text("/metrics") == body.decode(errors="replace")
