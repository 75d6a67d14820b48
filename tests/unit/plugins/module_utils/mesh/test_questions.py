# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway is asked, and when two gateways count as alike."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._questions import (
    Question,
    Reply,
    comparable,
    judge,
    questions,
    ready,
    target_port,
)

OK = Reply(200, "aa")


def gateway(*servers: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "front"}, "spec": {"servers": list(servers)}}


def server(number: int, protocol: str, *hosts: str, mode: str = "") -> dict[str, Any]:
    tls = {"tls": {"mode": mode}} if mode else {}
    return {"port": {"number": number, "protocol": protocol}, "hosts": list(hosts), **tls}


def route(*hosts: str, gateways: tuple[str, ...] = ("front",)) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "r"}, "spec": {"hosts": list(hosts), "gateways": list(gateways)}}


@pytest.mark.parametrize(
    ("one", "scheme"),
    [
        (server(80, "HTTP", "a.test"), "http"),
        (server(80, "http2", "a.test"), "http"),
        (server(443, "HTTPS", "a.test", mode="SIMPLE"), "https"),
        (server(443, "HTTPS", "a.test"), "https"),
        # A client without a certificate gets no answer, but the handshake shows the server's.
        (server(443, "HTTPS", "a.test", mode="MUTUAL"), "tls"),
        (server(443, "TLS", "a.test", mode="PASSTHROUGH"), "tls"),
        (server(443, "HTTPS", "a.test", mode="ISTIO_MUTUAL"), "tls"),
    ],
)
def test_the_protocol_says_how_to_ask(one: dict[str, Any], scheme: str) -> None:
    found, unasked = questions([gateway(one)], [], {80, 443}, 10)
    assert [item.scheme for item in found] == [scheme]
    assert not unasked


@pytest.mark.parametrize(
    ("hosts", "routes", "names"),
    [
        (["a.test", "other/b.test", "./c.test"], [], ["a.test", "b.test", "c.test"]),
        (["*.x.test"], [route("one.x.test", "two.y.test")], ["one.x.test"]),
        (["*"], [route("one.x.test", "*.y.test")], ["one.x.test"]),
        (["*"], [route("one.x.test", gateways=("another",))], ["servicemesh-migration-proof.invalid"]),
        (["*.x.test"], [], ["servicemesh-migration-proof.x.test"]),
        (["shop/*.x.test"], [route("deep.one.x.test", gateways=("shop/front",))], ["deep.one.x.test"]),
    ],
)
def test_hosts_come_from_the_servers_and_the_routes_that_they_cover(
    hosts: list[str], routes: list[dict[str, Any]], names: list[str]
) -> None:
    found, unasked = questions([gateway(server(80, "HTTP", *hosts))], routes, {80}, 10)
    assert sorted(item.host for item in found) == names
    assert not unasked


def test_what_cannot_be_asked_is_named() -> None:
    servers = [server(5432, "TCP", "*"), server(8888, "HTTP", "*"), *(server(80, "HTTP", f"h{n}.test") for n in range(9))]
    found, unasked = questions([gateway(*servers, server(443, "HTTPS", "s.test"))], [], {80, 443, 5432}, 4)
    # Every port is asked before any port is asked twice.
    assert [item.port for item in found] == [80, 80, 80, 443]
    assert unasked == [
        "6 of 10 hosts: 4 are asked at most",
        "shop/front: port 5432 is plain TCP, to which there is no question",
        "shop/front: port 8888 is not a port of the gateway's Service",
    ]


@pytest.mark.parametrize(
    ("reference", "reply", "trouble"),
    [
        ([OK], OK, ""),
        ([OK, Reply(503, "aa")], Reply(503, "aa"), ""),  # the source itself answers so
        ([OK], Reply(200, "bb"), "answers 200 with certificate bb…, the source's 200 with certificate aa…"),
        ([OK], Reply(404, "aa"), "answers 404 with certificate aa…, the source's 200 with certificate aa…"),
        ([OK, Reply(problem="x")], Reply(problem="x"), "answers x, the source's 200 with certificate aa…"),
        (None, Reply(404, "aa"), ""),
        (None, Reply(503, "aa"), "answers 503 with certificate aa…"),
        (None, Reply(problem="TLS: closed by the gateway"), "answers TLS: closed by the gateway"),
        (None, Reply(certificate="aa"), ""),
    ],
)
def test_the_source_is_the_measure(reference: list[Reply] | None, reply: Reply, trouble: str) -> None:
    assert judge(reference, reply) == trouble


def test_a_source_that_does_not_answer_is_no_measure() -> None:
    assert comparable([Reply(problem="no HTTP")]) == "the source's pods do not answer it either (no HTTP)"
    assert comparable([]) == "the source's pods do not answer it either (there is none)"
    assert not comparable([Reply(problem="no HTTP"), OK])
    assert not comparable(None)


@pytest.mark.parametrize(("wanted", "number"), [(None, 443), (8443, 8443), ("8443", 8443), ("https", 9443), ("missing", None)])
def test_the_port_of_the_pod(wanted: Any, number: int | None) -> None:
    port = {"port": 443, **({"targetPort": wanted} if wanted else {})}
    pod = {"spec": {"containers": [{"ports": [{"containerPort": 1}, {"name": "https", "containerPort": 9443}]}]}}
    assert target_port({"spec": {"ports": [{"port": 80}, port]}}, pod, 443) == number
    assert target_port({"spec": {"ports": [port]}}, pod, 81) is None


def test_only_pods_that_get_traffic_are_asked() -> None:
    def pod(name: str, status: str, **meta: str) -> dict[str, Any]:
        return {"metadata": {"name": name, **meta}, "status": {"conditions": [{"type": "Ready", "status": status}]}}

    pods = [pod("a", "True"), pod("b", "False"), pod("c", "True", deletionTimestamp="now"), {"metadata": {"name": "d"}}]
    assert [item["metadata"]["name"] for item in ready(pods)] == ["a"]


def test_a_question_says_itself() -> None:
    assert str(Question(443, "https", "a.test", "/x", "GET")) == "GET https://a.test:443/x"
    assert str(Question(443, "tls", "a.test")) == "TLS handshake for a.test on port 443"
