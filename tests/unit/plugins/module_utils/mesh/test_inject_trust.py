# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trust both ways: what the counters of proxies prove, and what they do not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _trust
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._trust import Counts, Reading
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._trust_gate import TrustGate
from tests.unit.plugins.module_utils.mesh.inject_world import Object, proxy

OLD, NEW = "10.0.0.1", "10.0.0.2"


def pod(name: str, address: str, new: bool, **labels: str) -> Object:
    status = {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}
    meta = {"name": name, "namespace": "shop", "labels": {"app": name, **labels}}
    return {"kind": "Pod", "metadata": meta, "spec": {"containers": [proxy(new), {"name": "app"}]}, "status": status}


PODS = [pod("old", OLD, False), pod("new", NEW, True)]
KNOWN = _trust.sides(PODS, Proxies())
STRICT: dict[str, bool | None] = {OLD: True, NEW: True}
QUIET: Reading = {OLD: {NEW: Counts(5)}, NEW: {OLD: Counts(7)}}


def grown(old: Counts = Counts(3), new: Counts = Counts(2)) -> Reading:  # noqa: B008 - frozen
    def plus(one: Counts, more: Counts) -> Counts:
        return Counts(one.success + more.success, one.error + more.error, one.refused + more.refused)

    return {OLD: {NEW: plus(QUIET[OLD][NEW], old)}, NEW: {OLD: plus(QUIET[NEW][OLD], new)}}


def states(after: Reading, strict: dict[str, bool | None] | None = None, before: Reading | None = None) -> list[str]:
    cells = _trust.matrix(KNOWN, QUIET if before is None else before, after, STRICT if strict is None else strict)
    assert [(cell.client, cell.server) for cell in cells] == [("source", "target"), ("target", "source")]
    return [cell.state for cell in cells]


def test_sides_leave_out_what_is_not_ready_and_gateways() -> None:
    ended, gateway = pod("x", "10.0.0.3", True), pod("gw", "10.0.0.4", True)
    ended["status"]["phase"] = "Succeeded"
    gateway["spec"]["containers"] = [proxy(True, router=True)]
    assert {where: side for where, (side, _pod) in _trust.sides([*PODS, ended, gateway], Proxies()).items()} == {
        OLD: "source",
        NEW: "target",
    }


@pytest.mark.parametrize(
    ("after", "strict", "wanted"),
    [
        (grown(), STRICT, ["proven", "proven"]),
        (QUIET, STRICT, ["unproven", "unproven"]),
        (grown(new=Counts()), STRICT, ["proven", "unproven"]),
        (grown(old=Counts(0, 4)), STRICT, ["failed", "proven"]),
        (grown(old=Counts(0, 1, 2)), STRICT, ["failed", "proven"]),
        (grown(old=Counts(0, 0, 2)), STRICT, ["unproven", "proven"]),
        (grown(old=Counts(9, 1)), STRICT, ["proven", "proven"]),
        (grown(), {OLD: True, NEW: False}, ["unproven", "proven"]),
        (grown(), {OLD: None, NEW: True}, ["proven", "unproven"]),
        (grown(), {}, ["unproven", "unproven"]),
        ({OLD: {"10.9.9.9": Counts(50)}, NEW: {NEW: Counts(50)}}, STRICT, ["unproven", "unproven"]),
    ],
)
def test_the_matrix(after: Reading, strict: dict[str, bool | None], wanted: list[str]) -> None:
    assert states(after, strict) == wanted


def test_a_proxy_that_was_not_read_before_or_forgot_proves_nothing() -> None:
    assert states(grown(), before={}) == ["unproven", "unproven"]
    assert states({OLD: {NEW: Counts(1)}, NEW: {OLD: Counts(1)}}) == ["unproven", "unproven"]


def test_counters_are_added_over_the_clusters_of_a_pod() -> None:
    def status(name: str, success: str, error: str) -> Object:
        stats = [{"name": "rq_success", "value": success}, {"name": "rq_error", "value": error}, {"name": "cx_connect_fail"}]
        host = {"address": {"socket_address": {"address": NEW, "port_value": 8080}}, "stats": stats}
        return {"name": name, "host_statuses": [host, {"address": {"pipe": {"path": "x"}}}]}

    several = [status("outbound|80||a", "3", "1"), status("outbound|81||a", "4", "0"), status("inbound|80||", "9", "9")]
    assert _trust.read_counts(json.dumps({"cluster_statuses": several}).encode()) == {NEW: Counts(7, 1)}
    assert _trust.read_counts(b"nothing") == {}


def chain(required: bool | None, port: int | None = None) -> Object:
    match = {"destination_port": port} if port else {}
    if required is None:
        return {"filter_chain_match": match}
    return {"filter_chain_match": match, "transport_socket": {"typed_config": {"require_client_certificate": required}}}


@pytest.mark.parametrize(
    ("chains", "strict"),
    [
        ([chain(None, 15006), chain(True), chain(True, 8080)], True),
        ([chain(True), chain(None, 8080)], False),
        ([chain(True), chain(False)], False),
        ([chain(None, 15006)], None),
        ([], None),
    ],
)
def test_strict_is_read_off_the_listener(chains: list[Object], strict: bool | None) -> None:
    dump = {"configs": [{"active_state": {"listener": {"filter_chains": chains}}}]}
    assert _trust.read_strict(json.dumps(dump).encode()) is strict
    assert _trust.read_strict(b"") is None


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("HTTP/1.1 200 OK\r\nserver: envoy\r\n", "proven"),
        ("  HTTP/1.1 404 Not Found\n  x-envoy-upstream-service-time: 1\n", "proven"),
        ("HTTP/1.1 503 Service Unavailable\r\nserver: envoy\r\n", "failed"),
        ("HTTP/1.1 503 Service Unavailable\r\nx-envoy-upstream-service-time: 3\r\n", "proven"),
        ("curl: (56) Recv failure: Connection reset by peer", "failed"),
        ("", "failed"),
    ],
)
def test_what_curl_saw(text: str, state: str) -> None:
    assert _trust.judge_reply(text)[0] == state


def test_only_services_of_one_side_are_asked() -> None:
    def service(name: str, port: str = "http-web", **selector: str) -> Object:
        spec = {"selector": selector, "ports": [{"name": port, "port": 80}]}
        return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}

    both = _trust.sides([pod("old", OLD, False, tier="x"), pod("new", NEW, True, tier="x")], Proxies())
    services = [service("a", app="old"), service("b", app="new"), service("mixed", tier="x"), service("t", "tcp", app="new")]
    found = {(one.client, one.pod, one.container, one.url) for one in _trust.questions(both, services, 5)}
    assert found == {("source", "old", "app", "http://b.shop:80/"), ("target", "new", "app", "http://a.shop:80/")}


class Asked:
    def __init__(self, pods: list[Object]) -> None:
        self._pods = pods
        self.readings: list[Any] = []
        self.servers_asked = 0

    def pods(self) -> list[Object]:
        return self._pods

    def clients(self, _pods: Any) -> Reading:
        found = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def servers(self, pods: Any) -> dict[str, bool | None]:
        self.servers_asked += len(pods)
        return {one["status"]["podIP"]: STRICT[one["status"]["podIP"]] for one in pods}


@pytest.mark.parametrize(
    ("pods", "readings", "state", "reason"),
    [
        (PODS, [QUIET, grown()], "pass", "3 requests source to target"),
        (PODS, [QUIET], "inconclusive", "no request"),
        (PODS, [QUIET, grown(old=Counts(0, 4))], "fail", "shop/old got only errors from that side (4)"),
        (PODS[:1], [QUIET], "pass", "one side"),
        (PODS, [MigrationError("no right")], "inconclusive", "no right"),
        (PODS, [QUIET, grown(), MigrationError("no answer")], "inconclusive", "cannot be read any more: no answer"),
    ],
)
def test_the_gate(pods: list[Object], readings: list[Any], state: str, reason: str) -> None:
    for require in (True, False):
        asked = Asked(pods)
        asked.readings = list(readings)
        gate = TrustGate(asked, Proxies(), 5, require=require, interval=0.01)
        gate.start()
        until = time.monotonic() + 10
        while reason not in gate.verdict().reason and time.monotonic() < until:
            time.sleep(0.01)
        found = gate.verdict()
        gate.stop()
        assert asked.servers_asked <= 2
        assert reason in found.reason and found.state == (state if require else "pass")


def test_a_gate_that_only_tells_waits_a_moment_for_its_numbers() -> None:
    asked = Asked(PODS)
    asked.readings = [QUIET, QUIET, grown()]
    gate = TrustGate(asked, Proxies(), 5, require=False, interval=0.05, patience=10)
    gate.start()
    assert (gate.verdict().state, gate.verdict().reason) == ("inconclusive", "the proxies are being read")
    until = time.monotonic() + 5
    while gate.verdict().state != "pass" and time.monotonic() < until:
        time.sleep(0.01)
    assert gate.verdict().numbers["matrix"]
    gate.stop()
    slow = TrustGate(Asked(PODS), Proxies(), 5, require=False, interval=60, patience=0.1)
    slow.start()
    time.sleep(0.15)
    assert slow.verdict().state == "pass"
    slow.stop()
