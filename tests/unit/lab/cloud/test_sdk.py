# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vendor's Python SDK against the cloud: a round trip, credentials, and errors as the SDK raises them."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from alibabacloud_slb20140515 import models
from alibabacloud_tea_openapi.exceptions import ClientException
from darabonba.exceptions import UnretryableException

from .conftest import SECRET, CallFailed, Endpoint

REGION = "cn-hangzhou"


def test_round_trip(cloud: Endpoint) -> None:
    client = cloud.client()
    made = client.create_load_balancer(
        models.CreateLoadBalancerRequest(
            region_id=REGION,
            load_balancer_name="ä name with / & = + ~ *",
            tag=[models.CreateLoadBalancerRequestTag(key="k/1", value="a b+c")],
        )
    ).body
    lb = made.load_balancer_id
    seen = client.describe_load_balancer_attribute(
        models.DescribeLoadBalancerAttributeRequest(region_id=REGION, load_balancer_id=lb)
    ).body
    assert seen.load_balancer_name == "ä name with / & = + ~ *"
    assert [(t.tag_key, t.tag_value) for t in seen.tags.tag] == [("k/1", "a b+c")]
    backends = [
        {"ServerId": "i-0", "Port": "30080", "Weight": "30", "Type": "ecs"},
        {"ServerId": "i-1", "Port": 30080, "Weight": 3},
    ]
    group = client.create_vserver_group(
        models.CreateVServerGroupRequest(
            region_id=REGION, load_balancer_id=lb, vserver_group_name="k8s/30080/a/b/c", backend_servers=json.dumps(backends)
        )
    ).body
    assert [(b.server_id, b.port, b.weight) for b in group.backend_servers.backend_server] == [
        ("i-0", 30080, 30),
        ("i-1", 30080, 3),
    ]
    client.create_load_balancer_tcplistener(
        models.CreateLoadBalancerTCPListenerRequest(
            region_id=REGION,
            load_balancer_id=lb,
            listener_port=80,
            bandwidth=-1,
            vserver_group_id=group.vserver_group_id,
            health_check_interval=7,
        )
    )
    client.start_load_balancer_listener(
        models.StartLoadBalancerListenerRequest(region_id=REGION, load_balancer_id=lb, listener_port=80)
    )
    client.set_load_balancer_tcplistener_attribute(
        models.SetLoadBalancerTCPListenerAttributeRequest(region_id=REGION, load_balancer_id=lb, listener_port=80, scheduler="rr")
    )
    found = client.describe_load_balancer_listeners(
        models.DescribeLoadBalancerListenersRequest(region_id=REGION, load_balancer_id=[lb], max_results=50)
    ).body
    (listener,) = found.listeners
    assert (listener.listener_port, listener.scheduler, listener.status) == (80, "rr", "running")
    assert listener.tcplistener_config.health_check_interval == 7
    groups = client.describe_vserver_groups(
        models.DescribeVServerGroupsRequest(region_id=REGION, load_balancer_id=lb, include_listener=True)
    ).body.vserver_groups.vserver_group
    assert [(x.port, x.protocol) for x in groups[0].associated_objects.listeners.listener] == [(80, "tcp")]
    client.untag_resources(
        models.UntagResourcesRequest(region_id=REGION, resource_type="instance", resource_id=[lb], tag_key=["k/1"])
    )
    tags = client.list_tag_resources(
        models.ListTagResourcesRequest(region_id=REGION, resource_type="instance", resource_id=[lb])
    ).body
    assert tags.tag_resources.tag_resource == []
    health = client.describe_health_status(models.DescribeHealthStatusRequest(region_id=REGION, load_balancer_id=lb)).body
    assert [b.server_health_status for b in health.backend_servers.backend_server] == ["normal", "normal"]
    assert {c["style"] for c in cloud.lab("GET", "/_lab/calls")["calls"]} == {"header"}


def describe(client: Any) -> Any:
    return client.describe_load_balancers(models.DescribeLoadBalancersRequest(region_id=REGION))


@pytest.mark.parametrize(
    ("key", "secret", "token", "status", "code"),
    [
        ("nobody", SECRET, None, 404, "InvalidAccessKeyId.NotFound"),
        ("full", "wrong", None, 400, "SignatureDoesNotMatch"),
        ("sts", SECRET, "old", 400, "InvalidSecurityToken.Expired"),
        ("sts", SECRET, "forged", 400, "InvalidSecurityToken.Malformed"),
        ("sts", SECRET, None, 400, "InvalidSecurityToken.Malformed"),
    ],
)
def test_credentials_that_are_refused(cloud: Endpoint, key: str, secret: str, token: str | None, status: int, code: str) -> None:
    with pytest.raises(ClientException) as caught:
        describe(cloud.client(key, secret, token))
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_a_valid_token_is_taken(cloud: Endpoint) -> None:
    assert describe(cloud.client("sts", SECRET, "good")).body.total_count == 0


def test_read_only_and_denied_keys(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    assert describe(cloud.client("reader")).body.total_count == 1
    with pytest.raises(ClientException) as caught:
        cloud.client("reader").delete_load_balancer(models.DeleteLoadBalancerRequest(region_id=REGION, load_balancer_id=lb))
    assert (caught.value.status_code, caught.value.code) == (403, "Forbidden.RAM")
    with pytest.raises(CallFailed, match=r"403 Forbidden\.RAM"):
        cloud.rpc("UntagResources", key="no-untag", ResourceType="instance", ResourceId__1=lb, TagKey__1="a")
    cloud.rpc("TagResources", key="no-untag", ResourceType="instance", ResourceId__1=lb, Tag__1__Key="a")
    assert describe(cloud.client()).body.total_count == 1


def test_the_older_signature_is_checked_too(cloud: Endpoint) -> None:
    cloud.rpc("DescribeLoadBalancers", LoadBalancerName="a b/ü~*+")
    with pytest.raises(CallFailed, match="400 SignatureDoesNotMatch"):
        cloud.rpc("DescribeLoadBalancers", secret="wrong")
    with pytest.raises(CallFailed, match="400 MissingAccessKeyId"):
        cloud.http("POST", "/?Action=DescribeLoadBalancers&Version=2014-05-15", b"")


def test_no_secret_is_in_the_record_of_calls(cloud: Endpoint) -> None:
    describe(cloud.client("sts", SECRET, "good"))
    cloud.rpc("DescribeLoadBalancers")
    text = json.dumps(cloud.lab("GET", "/_lab/calls"))
    assert SECRET not in text and "good" not in text and "Signature" not in text


def test_an_answer_is_one_write(cloud: Endpoint) -> None:
    """Header and body together: apart, a client with delayed ACK waits 40 ms for each call."""
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=5) as sock:
        for _ in range(5):
            path = b"/?Action=DescribeRegions&Version=2014-05-15&AccessKeyId=full"
            sock.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            first = sock.recv(1 << 20)
            assert first.startswith(b"HTTP/1.1 200") and b"RequestId" in first


def test_an_unreachable_cloud_is_no_error_of_the_cloud(cloud: Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = Endpoint(port, cloud.folder, cloud.cloud).client()
    with pytest.raises(UnretryableException):
        describe(client)
