# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy obeys the vServer groups: shares, schedulers, health, and no connection lost in any reconfiguration."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Inside, ip, open_loop, wait_for

PORT = 30080


def servers(**weights: int) -> str:
    return json.dumps([{"serverId": f"i-{k}", "port": PORT, "weight": w, "type": "ecs"} for k, w in weights.items()])


class Balancer:
    """A load balancer with one group and a TCP listener on port 80."""

    def __init__(self, inside: Inside, scheduler: str = "wrr", **weights: int) -> None:
        self.inside = inside
        made = inside.call("CreateLoadBalancer", LoadBalancerName="test")
        self.id, self.address = made["LoadBalancerId"], made["Address"]
        self.group = self.new_group(**weights)
        self.listen(80, scheduler)

    def new_group(self, **weights: int) -> str:
        made = self.inside.call("CreateVServerGroup", LoadBalancerId=self.id, BackendServers=servers(**weights))
        group: str = made["VServerGroupId"]
        return group

    def call(self, action: str, **parameters: object) -> dict[str, Any]:
        answer = self.inside.call(action, LoadBalancerId=self.id, **parameters)
        assert "Code" not in answer, answer
        return answer

    def listen(self, port: int, scheduler: str = "wrr", **more: object) -> None:
        self.call(
            "CreateLoadBalancerTCPListener",
            ListenerPort=port,
            Scheduler=scheduler,
            VServerGroupId=self.group,
            Bandwidth=-1,
            **more,
        )
        self.call("StartLoadBalancerListener", ListenerPort=port, ListenerProtocol="tcp")

    def weights(self, **weights: int) -> None:
        answer = self.inside.call("SetVServerGroupAttribute", VServerGroupId=self.group, BackendServers=servers(**weights))
        assert "Code" not in answer, answer

    def add(self, **weights: int) -> None:
        self.inside.call("AddVServerGroupBackendServers", VServerGroupId=self.group, BackendServers=servers(**weights))

    def remove(self, *names: str) -> None:
        self.inside.call(
            "RemoveVServerGroupBackendServers", VServerGroupId=self.group, BackendServers=servers(**dict.fromkeys(names, 0))
        )

    def health(self, port: int = 80) -> dict[str, str]:
        rows = self.call("DescribeHealthStatus", ListenerPort=port)["BackendServers"]["BackendServer"]
        return {r["ServerId"].removeprefix("i-"): r["ServerHealthStatus"] for r in rows}

    def healthy(self, *names: str) -> None:
        wait_for(lambda: all(self.health().get(n) == "normal" for n in names))

    def delete(self) -> None:
        self.call("SetLoadBalancerDeleteProtection", DeleteProtection="off")
        self.call("DeleteLoadBalancer")


@pytest.fixture(scope="module", autouse=True)
def backends(inside: Inside) -> None:
    for n, name in enumerate("abcd"):
        inside.backend(f"10.10.1.{11 + n}", PORT, name)


@pytest.fixture
def clb(inside: Inside) -> Iterator[Balancer]:
    balancer = Balancer(inside, "wrr", a=30, b=3)
    balancer.healthy("a", "b")
    yield balancer
    balancer.delete()


def share_is(count: int, total: int, share: float) -> bool:
    """Within four standard errors of a coin with that share; round robin is far more even than a coin."""
    return abs(count / total - share) <= 4 * math.sqrt(share * (1 - share) / total) + 1 / total


def test_weights_are_obeyed_under_wrr(inside: Inside, clb: Balancer) -> None:
    seen = inside.load(clb.address, 80, 660, 400)
    assert not seen.errors
    assert share_is(seen.answers["b"], 660, 3 / 33), seen


def test_weight_zero_takes_none_and_takes_them_at_once(inside: Inside, clb: Balancer) -> None:
    clb.weights(b=0)
    seen = inside.load(clb.address, 80, 200, 400)
    assert seen.answers == {"a": 200}
    clb.weights(a=0, b=1)
    seen = inside.load(clb.address, 80, 200, 400)
    assert seen.answers == {"b": 200}


def test_rr_ignores_weights_but_not_zero(inside: Inside, clb: Balancer) -> None:
    clb.call("SetLoadBalancerTCPListenerAttribute", ListenerPort=80, Scheduler="rr")
    seen = inside.load(clb.address, 80, 400, 400)
    assert share_is(seen.answers["a"], 400, 0.5), seen
    clb.weights(b=0)
    assert inside.load(clb.address, 80, 100, 400).answers == {"a": 100}
    clb.call("SetLoadBalancerTCPListenerAttribute", ListenerPort=80, Scheduler="wrr")
    clb.weights(b=30)
    seen = inside.load(clb.address, 80, 400, 400)
    assert share_is(seen.answers["a"], 400, 0.5), seen


def test_two_listeners_of_one_group_each_by_their_own_scheduler(inside: Inside, clb: Balancer) -> None:
    clb.listen(81, "rr")
    wait_for(lambda: set(clb.health(81).values()) == {"normal"})
    assert share_is(inside.load(clb.address, 80, 330, 400).answers["b"], 330, 3 / 33)
    assert share_is(inside.load(clb.address, 81, 330, 400).answers["b"], 330, 0.5)


class Kept:
    """Connections that stay open and are used again and again."""

    def __init__(self, inside: Inside, address: str, port: int, number: int) -> None:
        self.inside = inside
        self.ends = [inside.in_loop(asyncio.open_connection(address, port)) for _ in range(number)]
        self.names = [inside.in_loop(r.readline()).decode().strip() for r, _ in self.ends]

    def alive(self) -> int:
        async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            try:
                writer.write(b"still there?\n")
                async with asyncio.timeout(5):
                    return await reader.readline() == b"still there?\n"
            except (OSError, TimeoutError):
                return False

        return sum(self.inside.in_loop(ask(r, w)) for r, w in self.ends)

    def close(self) -> None:
        async def close() -> None:
            for _, writer in self.ends:
                writer.close()

        self.inside.in_loop(close())


def test_kept_connections_survive_everything(inside: Inside, clb: Balancer) -> None:
    clb.weights(a=10, b=10)
    kept = Kept(inside, clb.address, 80, 20)
    assert set(kept.names) == {"a", "b"}
    for change in (
        lambda: clb.weights(a=0, b=100),
        lambda: clb.remove("a"),
        lambda: clb.listen(82),
        lambda: clb.add(c=5),
        lambda: clb.call("SetLoadBalancerTCPListenerAttribute", ListenerPort=80, EstablishedTimeout=300),
        lambda: clb.call("DeleteLoadBalancerListener", ListenerPort=82, ListenerProtocol="tcp"),
        lambda: clb.add(a=5),
    ):
        change()
        assert kept.alive() == 20
    kept.close()


def test_nobody_is_refused_while_everything_changes(inside: Inside, clb: Balancer) -> None:
    """300 connections a second for 12 s, while weights, backends and listeners change all the time."""
    running = inside.later(lambda: asyncio.run(open_loop(clb.address, 80, 3600, 300)))
    rounds = reloads = 0
    while not running.done() and rounds < 1000:
        clb.weights(a=1 + rounds % 30, b=rounds % 5)
        if rounds % 3 == 0:
            clb.add(c=10)
        if rounds % 3 == 2:
            clb.remove("c")
        if rounds % 4 == 0:
            clb.listen(83)
            reloads += 1
        if rounds % 4 == 2:
            clb.call("DeleteLoadBalancerListener", ListenerPort=83, ListenerProtocol="tcp")
            reloads += 1
        if rounds % 6 == 5:
            clb.call("SetLoadBalancerTCPListenerAttribute", ListenerPort=80, EstablishedTimeout=100 + rounds % 800)
            reloads += 1
        rounds += 1
        time.sleep(0.05)
    seen = running.result()
    assert rounds >= 20 and reloads >= 10, (rounds, reloads)
    assert not seen.errors, (seen.errors, rounds, reloads)
    assert sum(seen.answers.values()) == 3600


def test_a_dead_backend_is_seen_and_left_out(inside: Inside, clb: Balancer) -> None:
    server = inside.backend("10.10.1.14", PORT + 1, "e")
    extra = json.dumps([{"serverId": "i-d", "port": PORT + 1, "weight": 50}])
    inside.call("AddVServerGroupBackendServers", VServerGroupId=clb.group, BackendServers=extra)
    clb.healthy("a", "b", "d")
    assert inside.load(clb.address, 80, 100, 400).answers["e"] > 0

    async def close() -> None:
        server.close()

    inside.in_loop(close())
    wait_for(lambda: clb.health()["d"] == "abnormal")
    seen = inside.load(clb.address, 80, 100, 400)
    assert "e" not in seen.answers and not seen.errors


def test_a_backend_that_was_never_alive_gets_nobody(inside: Inside, clb: Balancer) -> None:
    dead = json.dumps([{"serverId": "i-d", "port": 39999, "weight": 100}])
    inside.call("AddVServerGroupBackendServers", VServerGroupId=clb.group, BackendServers=dead)
    assert not inside.load(clb.address, 80, 200, 400).errors
    clb.listen(84)  # a reload: the new worker has to learn about health without sending anybody there
    assert not inside.load(clb.address, 80, 200, 400).errors
    assert clb.health()["d"] == "abnormal"


def test_a_stopped_listener_refuses_and_a_started_one_answers(inside: Inside, clb: Balancer) -> None:
    clb.call("StopLoadBalancerListener", ListenerPort=80, ListenerProtocol="tcp")
    assert set(inside.load(clb.address, 80, 5, 100).errors) == {"ConnectionRefusedError"}
    assert set(clb.health().values()) == {"unavailable"}
    clb.call("StartLoadBalancerListener", ListenerPort=80, ListenerProtocol="tcp")
    clb.healthy("a", "b")
    assert not inside.load(clb.address, 80, 50, 200).errors


def test_session_persistence_keeps_a_client_at_its_backend(inside: Inside, clb: Balancer) -> None:
    clb.weights(a=10, b=10)
    clb.call("SetLoadBalancerTCPListenerAttribute", ListenerPort=80, PersistenceTimeout=60)
    clb.healthy("a", "b")
    assert len(inside.load(clb.address, 80, 60, 200).answers) == 1


def test_the_server_killed_traffic_goes_on_and_state_is_back(inside: Inside, clb: Balancer) -> None:
    before = inside.lab("GET", "/_lab/state")
    kept = Kept(inside, clb.address, 80, 5)
    assert inside.server is not None
    inside.end(signal.SIGKILL)
    seen = inside.load(clb.address, 80, 100, 200)
    assert not seen.errors and sum(seen.answers.values()) == 100
    running = inside.later(lambda: asyncio.run(open_loop(clb.address, 80, 400, 200)))
    inside.start()
    seen = running.result()
    assert not seen.errors, seen
    assert inside.lab("GET", "/_lab/state") == before
    assert kept.alive() == 5
    clb.weights(b=0)
    assert inside.load(clb.address, 80, 100, 400).answers == {"a": 100}
    kept.close()


def test_the_address_comes_and_goes_with_the_load_balancer(inside: Inside) -> None:
    def addresses() -> str:
        return ip("-n", inside.name, "-4", "addr", "show", "dev", "clb0").stdout

    balancer = Balancer(inside, a=1)
    assert f"{balancer.address}/32" in addresses()
    balancer.delete()
    assert balancer.address not in addresses()


@pytest.mark.parametrize("which", ["master", "worker"])
def test_haproxy_killed_is_started_again(inside: Inside, clb: Balancer, which: str) -> None:
    """Established connections end with the process that held them; new ones are served again within seconds."""
    pids = [int(p) for p in ip("netns", "pids", inside.name).stdout.split()]
    ours = {p for p in pids if Path(f"/proc/{p}/comm").read_text().strip() == "haproxy"}
    master = int((inside.folder / "haproxy" / "haproxy.pid").read_text().split()[0])
    os.kill(master if which == "master" else max(ours - {master}), signal.SIGKILL)
    wait_for(lambda: not inside.load(clb.address, 80, 20, 100).errors)
    clb.weights(a=0, b=1)
    clb.healthy("a", "b")
    assert inside.load(clb.address, 80, 100, 400).answers == {"b": 100}
    left = {int(p) for p in ip("netns", "pids", inside.name).stdout.split()}
    assert not ours & {p for p in left if Path(f"/proc/{p}/stat").read_text().split()[2] != "Z"}, "the old ones are gone"


def test_a_reload_that_fails_takes_nothing_away(inside: Inside, clb: Balancer) -> None:
    """Somebody else has the port: the call fails, the other listeners go on, and the next change works."""

    async def occupy() -> asyncio.Server:
        return await asyncio.start_server(lambda r, w: w.close(), clb.address, 85)

    foreign = inside.in_loop(occupy())
    where = {"LoadBalancerId": clb.id, "ListenerPort": 85, "ListenerProtocol": "tcp"}
    clb.call("CreateLoadBalancerTCPListener", ListenerPort=85, VServerGroupId=clb.group)
    answer = inside.call("StartLoadBalancerListener", **where)
    assert (answer.get("status"), answer.get("Code")) == (500, "InternalError"), answer
    assert inside.lab("GET", "/_lab/ready")["ready"] is False
    assert not inside.load(clb.address, 80, 50, 200).errors

    async def release() -> None:
        foreign.close()

    inside.in_loop(release())
    clb.call("DeleteLoadBalancerListener", ListenerPort=85, ListenerProtocol="tcp")
    assert inside.lab("GET", "/_lab/ready")["ready"] is True
    assert not inside.load(clb.address, 80, 50, 200).errors
    clb.weights(b=0)
    assert inside.load(clb.address, 80, 100, 400).answers == {"a": 100}
