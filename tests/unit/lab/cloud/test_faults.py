# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fault rules: which call they hit, what the client then sees, and what was done nevertheless."""

from __future__ import annotations

import http.client
import time
import urllib.error

import pytest
from alibabacloud_slb20140515 import models
from alibabacloud_tea_openapi.exceptions import ClientException, ServerException

from lab.cloud.faults import BadRule, Rules

from .conftest import CallFailed, Endpoint

CUT = (http.client.RemoteDisconnected, ConnectionError, urllib.error.URLError)


def hits(rule: dict[str, object], calls: int, name: str = "SetVServerGroupAttribute", target: str = "slb") -> list[int]:
    """The numbers (from 1) of the calls that a rule hits."""
    rules = Rules()
    rules.add(rule)
    return [n for n in range(1, calls + 1) if rules.decide(target, [name]) is not None]


E429 = {"status": 429, "code": "Throttling.User"}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"nth": 3}, [3]),
        ({"nth": 3, "times": 2}, [3, 4]),
        ({"times": 2}, [1, 2]),
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"rate": 0}, []),
        ({"rate": 1, "times": 4}, [1, 2, 3, 4]),
        ({"action": "Set*"}, [1, 2, 3, 4, 5, 6]),
        ({"action": "Describe*"}, []),
        ({"target": "slb"}, [1, 2, 3, 4, 5, 6]),
        ({"target": "ecs"}, []),
        ({"target": "*", "action": "*Group*"}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_which_calls_a_rule_hits(rule: dict[str, object], expected: list[int]) -> None:
    assert hits({"effect": E429, **rule}, 6) == expected


def test_a_rate_is_seeded_and_about_right() -> None:
    first = hits({"effect": E429, "rate": 0.1, "seed": 7}, 2000)
    assert first == hits({"effect": E429, "rate": 0.1, "seed": 7}, 2000)
    assert first != hits({"effect": E429, "rate": 0.1, "seed": 8}, 2000)
    assert 150 < len(first) < 250


def test_the_first_rule_that_fires_wins_and_all_count() -> None:
    rules = Rules()
    rules.add([{"id": "a", "effect": {"slow": 1}, "nth": 2}, {"id": "b", "effect": {"slow": 2}}])
    assert [rules.decide("slb", ["X"]) for _ in range(3)] == [{"slow": 2}, {"slow": 1}, {"slow": 2}]
    assert [(r.seen, r.hits) for r in rules.rules.values()] == [(3, 1), (3, 3)]
    assert rules.remove("a") == 1 and rules.remove() == 1 and rules.decide("slb", ["X"]) is None


@pytest.mark.parametrize(
    "rule",
    [
        "x",
        {},
        {"effect": {}},
        {"effect": {"status": 200}},
        {"effect": {"hang": -1}},
        {"effect": {"hang": "long"}},
        {"effect": {"explode": True}},
        {"effect": E429, "rate": 1.1},
        {"effect": E429, "rate": True},
        {"effect": E429, "nth": 0},
        {"effect": E429, "target": "moon"},
        {"effect": E429, "acton": "Describe*"},
    ],
)
def test_a_bad_rule_is_refused_and_none_of_its_list_is_taken(cloud: Endpoint, rule: object) -> None:
    with pytest.raises(BadRule):
        Rules().add(rule)
    with pytest.raises(CallFailed) as caught:
        cloud.lab("POST", "/_lab/faults", [{"effect": E429}, rule])
    assert caught.value.status == 400
    assert cloud.lab("GET", "/_lab/faults") == {"rules": []}


def test_throttled_then_served(cloud: Endpoint) -> None:
    cloud.lab("POST", "/_lab/faults", {"target": "slb", "action": "DescribeLoadBalancers", "times": 1, "effect": E429})
    ask = models.DescribeLoadBalancersRequest(region_id="cn-hangzhou")
    with pytest.raises(ClientException) as caught:
        cloud.client().describe_load_balancers(ask)
    assert (caught.value.status_code, caught.value.code) == (429, "Throttling.User")
    assert cloud.client().describe_load_balancers(ask).body.total_count == 0
    (rule,) = cloud.lab("GET", "/_lab/faults")["rules"]
    assert (rule["seen"], rule["hits"]) == (2, 1)


def test_a_server_error_comes_as_such(cloud: Endpoint) -> None:
    cloud.lab("POST", "/_lab/faults", {"effect": {"status": 503}})
    with pytest.raises(ServerException) as caught:
        cloud.client().describe_load_balancers(models.DescribeLoadBalancersRequest(region_id="cn-hangzhou"))
    assert (caught.value.status_code, caught.value.code) == (503, "ServiceUnavailable")
    assert cloud.lab("DELETE", "/_lab/faults") == {"removed": 1}


@pytest.mark.parametrize("effect", [{"reset": True}, {"hang": 0.2}])
def test_cut_before_the_deed(cloud: Endpoint, effect: dict[str, object]) -> None:
    cloud.lab("POST", "/_lab/faults", {"action": "Create*", "effect": effect})
    with pytest.raises(CUT):
        cloud.rpc("CreateLoadBalancer")
    assert cloud.lab("GET", "/_lab/state")["load_balancers"] == {}


@pytest.mark.parametrize("effect", [{"reset": True, "after": True}, {"status": 500, "after": True}])
def test_lost_after_the_deed(cloud: Endpoint, effect: dict[str, object]) -> None:
    cloud.lab("POST", "/_lab/faults", {"action": "Create*", "effect": effect})
    with pytest.raises((*CUT, CallFailed)):
        cloud.rpc("CreateLoadBalancer")
    assert len(cloud.lab("GET", "/_lab/state")["load_balancers"]) == 1


def test_slow_and_latency(cloud: Endpoint) -> None:
    def seconds() -> float:
        start = time.monotonic()
        cloud.rpc("DescribeLoadBalancers")
        return time.monotonic() - start

    cloud.lab("POST", "/_lab/faults", {"effect": {"slow": 0.2}, "times": 1})
    assert seconds() >= 0.2
    seconds()
    (rule,) = cloud.lab("GET", "/_lab/faults")["rules"]
    assert (rule["seen"], rule["hits"]) == (2, 1)  # the second one was not slowed down
    cloud.lab("PUT", "/_lab/latency", {"seconds": 0.1})
    assert seconds() >= 0.1


def test_every_call_is_on_record_failed_ones_too(cloud: Endpoint) -> None:
    start = cloud.lab("GET", "/_lab/calls")["next"]
    lb = cloud.balancer(LoadBalancerName="x")
    with pytest.raises(CallFailed):
        cloud.rpc("DescribeLoadBalancerAttribute", LoadBalancerId="lb-none")
    cloud.lab("POST", "/_lab/faults", {"effect": {"reset": True}, "times": 1})
    with pytest.raises(CUT):
        cloud.rpc("DeleteLoadBalancer", LoadBalancerId=lb)
    calls = cloud.lab("GET", f"/_lab/calls?since={start}")["calls"]
    assert [(c["action"], c["status"], c["code"]) for c in calls] == [
        ("CreateLoadBalancer", 200, ""),
        ("DescribeLoadBalancerAttribute", 404, "InvalidLoadBalancerId.NotFound"),
        ("DeleteLoadBalancer", 0, "reset"),
    ]
    assert calls[0]["parameters"] == {"LoadBalancerName": "x", "RegionId": "cn-hangzhou"}
    assert calls[0]["time"] <= calls[1]["time"] and calls[0]["style"] == "query"
