# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole sync against a cloud in memory: what the conformance suite cannot provoke, and failures in the middle."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.ccm import names
from lab.ccm.backends import Endpoint
from lab.ccm.clb import Config, parallel
from lab.ccm.cloud import RpcCloud, flat
from lab.ccm.controller import _pause
from lab.ccm.names import CcmError
from lab.ccm.sync import Syncer, SyncError
from lab.ccm.versions import VERSIONS
from tests.unit.lab.ccm.memory_cloud import MemoryCloud

PREFIX = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-"


class Cluster:
    """Nodes and pods for a Syncer, and a Service that keeps the labels that a reconcile would write."""

    def __init__(self, version: str) -> None:
        self.cloud = MemoryCloud()
        self.config = Config("c1", VERSIONS[version])
        self.syncer = Syncer(self.cloud, self.config, self)
        self.events: list[tuple[str, str, str]] = []
        ports = [{"name": f"p{port}", "port": port, "targetPort": 8080, "nodePort": 30000 + port} for port in (80, 443)]
        meta: dict[str, Any] = {"name": "gw", "namespace": "ns", "uid": "0-1", "annotations": {}, "labels": {}}
        self.svc: dict[str, Any] = {"metadata": meta, "spec": {"type": "LoadBalancer", "ports": ports}, "status": {}}

    def nodes(self) -> list[dict[str, Any]]:
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        return [{"metadata": {"name": name}, "spec": {"providerID": f"r.i-{name}"}, "status": status} for name in ("a", "b")]

    def endpoints(self, svc: dict[str, Any], port: dict[str, Any]) -> list[Endpoint]:
        return [Endpoint("10.0.0.1", 8080, "a")]

    def sync(self) -> str:
        done = self.syncer.sync(self.svc, lambda *event: self.events.append(event))
        self.svc["metadata"]["labels"][names.LABEL_HASH] = names.service_hash(self.svc, self.config.quirks)
        return done.lb.id if done.lb else ""


@pytest.fixture(params=sorted(VERSIONS))
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Cluster(request.param)


def test_second_sync_writes_nothing(cluster: Cluster) -> None:
    lb_id = cluster.sync()
    assert sorted(cluster.cloud.lbs[lb_id]["listeners"]) == [80, 443]
    cluster.cloud.calls.clear()
    assert cluster.sync() == lb_id
    cluster.svc["metadata"]["annotations"]["any"] = "thing"
    assert cluster.sync() == lb_id
    assert [action for action in cluster.cloud.actions() if not action.startswith(("Describe", "List"))] == []


@pytest.mark.parametrize(
    "action",
    [
        "DescribeLoadBalancers",
        "CreateLoadBalancer",
        "CreateVServerGroup",
        "AddVServerGroupBackendServers",
        "CreateLoadBalancerTCPListener",
    ],
)
def test_failure_in_the_middle_is_finished_later(cluster: Cluster, action: str) -> None:
    """Whatever fails, the next try ends in the same state and makes no second load balancer."""
    if action == "CreateLoadBalancerTCPListener":  # listeners are handled apart in the memory cloud: fail the start instead
        action = "StartLoadBalancerListener"
    cluster.cloud.failures[action] = "Throttling"
    with pytest.raises(SyncError, match=f"The {action} failed"):
        cluster.sync()
    cluster.cloud.failures.clear()
    if action == "StartLoadBalancerListener":
        for lb in cluster.cloud.lbs.values():
            assert {item["Status"] for item in lb["listeners"].values()} == {"stopped"}
    lb_id = cluster.sync()
    assert list(cluster.cloud.lbs) == [lb_id]
    assert {item["Status"] for item in cluster.cloud.lbs[lb_id]["listeners"].values()} == {"running"}
    assert sorted(len(group["backends"]) for group in cluster.cloud.groups.values()) == [2, 2]


def test_throttled_delete_is_tried_again(cluster: Cluster) -> None:
    cluster.sync()
    cluster.svc["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.cloud.failures["DeleteLoadBalancer"] = "Throttling"
    with pytest.raises(SyncError):
        cluster.sync()
    cluster.cloud.failures.clear()
    assert cluster.sync() == ""
    assert cluster.cloud.lbs == {}


def test_two_load_balancers_with_one_tag(cluster: Cluster) -> None:
    first = cluster.sync()
    cluster.cloud.lbs["lb-x"] = json.loads(json.dumps(cluster.cloud.lbs[first]))
    with pytest.raises(SyncError, match="find multiple loadbalances by tag"):
        cluster.sync()


def test_group_that_cannot_be_read(cluster: Cluster) -> None:
    """Counts as empty from v2.9 on: its backends are added once more; v2.8 fails."""
    cluster.sync()
    cluster.cloud.failures["DescribeVServerGroupAttribute"] = "ServiceUnavailable"
    cluster.cloud.calls.clear()
    if cluster.config.quirks.parallel_groups:
        cluster.sync()
        assert cluster.cloud.actions().count("AddVServerGroupBackendServers") == 2
    else:
        with pytest.raises(SyncError, match="DescribeVServerGroups error"):
            cluster.sync()


def test_address_type_cannot_change(cluster: Cluster) -> None:
    cluster.sync()
    cluster.svc["metadata"]["annotations"][PREFIX + "address-type"] = "intranet"
    with pytest.raises(SyncError, match="can not change LoadBalancer AddressType once created"):
        cluster.sync()


def test_extra_tags_follow(cluster: Cluster) -> None:
    cluster.svc["metadata"]["annotations"][PREFIX + "additional-resource-tags"] = "team=a"
    lb_id = cluster.sync()
    assert cluster.cloud.lbs[lb_id]["tags"]["team"] == "a"
    cluster.svc["metadata"]["annotations"][PREFIX + "additional-resource-tags"] = "team=b"
    cluster.sync()
    assert cluster.cloud.lbs[lb_id]["tags"]["team"] == ("b" if cluster.config.quirks.sync_extra_tags else "a")


def test_parallel_runs_all_and_keeps_order() -> None:
    seen: list[int] = []

    def task(number: int) -> None:
        if number % 2:
            raise CcmError(str(number))
        seen.append(number)

    errors = parallel([lambda number=number: task(number) for number in range(25)], 4)  # type: ignore[misc]
    assert sorted(seen) == list(range(0, 25, 2))
    assert [str(error) for error in errors if error] == [str(number) for number in range(1, 25, 2)]


def test_flat_parameters() -> None:
    sent = flat({"A": ["x", "y"], "Tag": [{"Key": "k", "Value": ""}], "None": None, "Empty": "", "Zero": 0})
    assert sent == {"A.1": "x", "A.2": "y", "Tag.1.Key": "k", "Tag.1.Value": "", "Zero": "0"}


def test_signature_of_the_vendors_example() -> None:
    """The example of the vendor's page "V2 RPC signature" (DescribeRegions, key testid / testsecret)."""
    query = {
        "Timestamp": "2016-02-23T12:46:24Z",
        "Format": "XML",
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "Version": "2014-05-26",
        "SignatureVersion": "1.0",
    }
    cloud = RpcCloud("127.0.0.1:1", "cn-hangzhou", "testid", "testsecret")
    assert cloud._signature(query, method="GET") == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


def test_pauses_grow_but_not_after_a_throttled_call() -> None:
    throttled = CcmError("apply model error: Message: Request was denied due to request throttling.")
    assert [_pause(n, CcmError("no")) for n in (1, 2, 3, 9)] == [5.0, 10.0, 20.0, 300.0]
    assert [_pause(n, throttled) for n in (1, 2, 9)] == [5.0, 5.0, 5.0]
