# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lab.kube against an API server of a few lines: paging, errors, watches that break or are too old, queue, retries."""

from __future__ import annotations

import base64
import http.server
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from lab.kube import Api, Controller, KubeError, Queue, Recorder, Watch, exponential, key_of, own_key, path_of


class Server:
    """One collection, /api/v1/things. Tests put objects in, and script what a watch answers."""

    def __init__(self) -> None:
        self.things: dict[str, dict[str, Any]] = {}
        self.version = 1
        self.watches: queue.Queue[list[dict[str, Any]] | int] = queue.Queue()
        self.requests: list[tuple[str, str, dict[str, list[str]], Any]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: object) -> None:
                pass

            def _answer(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _handle(self) -> None:
                url = urlsplit(self.path)
                params = parse_qs(url.query)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                server.requests.append((self.command, url.path, params, body))
                if url.path.endswith("/missing"):
                    self._answer(404, {"kind": "Status", "reason": "NotFound", "message": 'things "missing" not found'})
                elif url.path.endswith("/broken"):
                    self._answer(503, "no JSON object")
                elif "watch" in params:
                    self._watch()
                elif self.command == "GET":
                    self._list(params)
                else:
                    self._answer(200, body or {})

            def _list(self, params: dict[str, list[str]]) -> None:
                names = sorted(server.things)
                start = int(params.get("continue", ["0"])[0])
                limit = int(params["limit"][0])
                meta: dict[str, Any] = {"resourceVersion": str(server.version)}
                if start + limit < len(names):
                    meta["continue"] = str(start + limit)
                items = [server.things[name] for name in names[start : start + limit]]
                self._answer(200, {"apiVersion": "v1", "kind": "ThingList", "metadata": meta, "items": items})

            def _watch(self) -> None:
                script = server.watches.get()
                if isinstance(script, int):
                    self._answer(script, {"kind": "Status", "reason": "Expired", "message": "too old"})
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for event in script:
                    line = json.dumps(event).encode() + b"\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _handle

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def thing(self, name: str, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "resourceVersion": str(version)}}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def wait(test: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not test():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_paths() -> None:
    assert path_of("v1", "services", "ns", "gw", "status") == "/api/v1/namespaces/ns/services/gw/status"
    assert path_of("apps/v1", "deployments") == "/apis/apps/v1/deployments"
    assert key_of({"metadata": {"name": "n"}}) == "n"


def test_list_reads_pages(server: Server) -> None:
    server.things = {f"t{index}": server.thing(f"t{index}", index) for index in range(5)}
    found = Api(server.url).list("/api/v1/things", page=2)
    assert [item["metadata"]["name"] for item in found["items"]] == ["t0", "t1", "t2", "t3", "t4"]
    assert {(item["apiVersion"], item["kind"]) for item in found["items"]} == {("v1", "Thing")}
    assert len(server.requests) == 3


def test_errors(server: Server) -> None:
    api = Api(server.url)
    with pytest.raises(KubeError) as caught:
        api.get("/api/v1/things/missing")
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")
    assert api.find("/api/v1/things/missing") is None
    assert api.delete("/api/v1/things/missing") == {}
    with pytest.raises(KubeError, match="503 Error"):
        api.get("/api/v1/things/broken")
    with pytest.raises(KubeError) as caught:
        Api("http://127.0.0.1:1").get("/x")
    assert (caught.value.status, caught.value.reason) == (0, "Unreachable")


def test_kubeconfig(tmp_path: Path, server: Server) -> None:
    file = tmp_path / "config"
    config: dict[str, Any] = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
    }
    (tmp_path / "token").write_text("secret\n")
    file.write_text(json.dumps(config))
    assert Api.from_kubeconfig(file).list("/api/v1/things")["items"] == []
    with pytest.raises(KubeError, match="no context named 'other'"):
        Api.from_kubeconfig(file, "other")
    with pytest.raises(KubeError, match="BadKubeconfig"):
        Api.from_kubeconfig(tmp_path / "none")
    config["clusters"][0]["cluster"] = {
        "server": "https://127.0.0.1:1",
        "certificate-authority-data": base64.b64encode(b"x").decode(),
    }
    file.write_text(json.dumps(config))
    with pytest.raises(KubeError, match="BadKubeconfig"):
        Api.from_kubeconfig(file)


class Follower:
    """A controller over the server's things that notes what it is told."""

    seen: ClassVar[list[str]] = []

    def __init__(self, server: Server, reconcile: Callable[[str], float | None] = lambda key: None) -> None:
        self.events: list[tuple[str, str]] = []
        watch = Watch(Api(server.url), "/api/v1/things", self._keys)
        self.controller = Controller([watch], reconcile, backoff=exponential(0.05, 1.0))
        self.cache = watch.cache
        self.controller.start()

    def _keys(self, event: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[str]:
        self.events.append((event, key_of(new or old or {})))
        return own_key(event, old, new)


@pytest.mark.parametrize("gone", [410, "event"])
def test_watch_too_old_lists_again(server: Server, gone: int | str) -> None:
    """What happened in between is told once: an addition, a change and a removal."""
    server.things = {name: server.thing(name, 1) for name in ("kept", "changed", "removed")}
    follower = Follower(server)
    wait(lambda: len(follower.events) == 3)
    server.things = {"kept": server.thing("kept", 1), "changed": server.thing("changed", 2), "new": server.thing("new", 3)}
    error = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
    server.watches.put(410 if gone == 410 else [error])
    wait(lambda: len(follower.events) == 6)
    assert sorted(follower.events[3:]) == [("ADDED", "new"), ("DELETED", "removed"), ("MODIFIED", "changed")]
    assert sorted(follower.cache) == ["changed", "kept", "new"]
    server.watches.put([])
    follower.controller.stop()


def test_watch_goes_on_from_where_it_ended(server: Server) -> None:
    follower = Follower(server)
    server.watches.put([{"type": "ADDED", "object": server.thing("a", 7)}, {"type": "BOOKMARK", "object": server.thing("", 9)}])
    server.watches.put([{"type": "DELETED", "object": server.thing("a", 10)}])
    wait(lambda: len(follower.events) == 2)
    assert follower.events == [("ADDED", "a"), ("DELETED", "a")]
    watched = [params["resourceVersion"] for _, _, params, _ in server.requests if "watch" in params]
    assert watched[:2] == [["1"], ["9"]]
    server.watches.put([])
    follower.controller.stop()


def test_failures_are_retried_later_each_time(server: Server) -> None:
    times: list[float] = []

    def reconcile(key: str) -> None:
        times.append(time.monotonic())
        if len(times) < 4:
            raise KubeError(500, "x", "y")

    server.things = {"a": server.thing("a", 1)}
    follower = Follower(server, reconcile)
    wait(lambda: len(times) == 4)
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert gaps[0] >= 0.05
    assert gaps[1] >= 0.1
    assert gaps[2] >= 0.2
    server.watches.put([])
    follower.controller.stop()


def test_queue_has_no_key_twice() -> None:
    work = Queue()
    for key in ("a", "b", "a"):
        work.add(key)
    assert work.get() == "a"
    work.add("a")  # while it is worked on: comes again when that is done
    assert work.get() == "b"
    work.add("c", delay=0.05)
    work.done("a")
    assert work.get() == "a"
    assert work.get() == "c"
    work.close()
    assert work.get() is None


def test_queue_run_takes_waiting_retry_away() -> None:
    work = Queue()
    work.add("a", delay=0.05)
    work.add("a")
    assert work.get() == "a"
    work.done("a")
    threading.Timer(0.15, work.close).start()
    assert work.get() is None


def test_recorder_counts(server: Server) -> None:
    recorder = Recorder(Api(server.url), "me")
    svc = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gw", "namespace": "ns", "uid": "u"}}
    for _ in range(3):
        recorder.emit(svc, "Normal", "Ensured", "done")
    recorder.close()
    sent = [(method, body.get("count")) for method, _, _, body in server.requests]
    assert sent == [("POST", 1), ("PATCH", 2), ("PATCH", 3)]
    assert server.requests[0][3]["involvedObject"]["uid"] == "u"
