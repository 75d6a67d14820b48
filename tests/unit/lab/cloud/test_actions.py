# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of calls in the older SDK's style, and what the cloud answers and remembers."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from lab.cloud.call import ACTIONS

from .conftest import CallFailed, Endpoint

A = {"serverId": "i-0", "port": 30080, "weight": 30, "type": "ecs", "description": "k8s/30080/svc/ns/c1"}
B = {"ServerId": "i-1", "Port": "30080", "Weight": "3"}

WANTED = (
    "CreateLoadBalancer",
    "DeleteLoadBalancer",
    "DescribeLoadBalancers",
    "DescribeLoadBalancerAttribute",
    "SetLoadBalancerName",
    "SetLoadBalancerDeleteProtection",
    "SetLoadBalancerModificationProtection",
    "ModifyLoadBalancerInstanceSpec",
    "ModifyLoadBalancerInternetSpec",
    "ModifyLoadBalancerInstanceChargeType",
    "TagResources",
    "UntagResources",
    "ListTagResources",
    "CreateVServerGroup",
    "DeleteVServerGroup",
    "DescribeVServerGroups",
    "DescribeVServerGroupAttribute",
    "SetVServerGroupAttribute",
    "AddVServerGroupBackendServers",
    "RemoveVServerGroupBackendServers",
    "ModifyVServerGroupBackendServers",
    "AddTags",
    "RemoveTags",
    "StartLoadBalancerListener",
    "StopLoadBalancerListener",
    "DeleteLoadBalancerListener",
    "DescribeLoadBalancerListeners",
    "DescribeHealthStatus",
)


def rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer["BackendServers"]["BackendServer"]
    return found


def listener(cloud: Endpoint, lb: str, group: str, port: int = 80, kind: str = "TCP", **more: object) -> None:
    cloud.rpc(
        f"CreateLoadBalancer{kind}Listener", LoadBalancerId=lb, ListenerPort=port, Bandwidth=-1, VServerGroupId=group, **more
    )


def test_every_action_that_the_ccm_and_the_collection_call_is_there() -> None:
    wanted = list(WANTED)
    wanted += [f"{verb}LoadBalancer{p}Listener{end}" for p in ("TCP", "UDP", "HTTP", "HTTPS")
               for verb, end in (("Create", ""), ("Set", "Attribute"), ("Describe", "Attribute"))]  # fmt: skip
    assert {("slb", a) for a in wanted} <= set(ACTIONS)
    assert {("ecs", "DescribeInstances"), ("ecs", "DescribeNetworkInterfaces"), ("vpc", "DescribeVpcAttribute")} <= set(ACTIONS)


def test_a_load_balancer_from_birth_to_death(cloud: Endpoint) -> None:
    lb = cloud.balancer(
        LoadBalancerName="a1", DeleteProtection="on", InstanceChargeType="PayByCLCU",
        ModificationProtectionStatus="ConsoleProtection",
        ModificationProtectionReason="managed.by.ack", Tag__1__Key="ack.aliyun.com", Tag__1__Value="c1", ClientToken="t",
    )  # fmt: skip
    assert lb.startswith("lb-")
    assert cloud.balancer(ClientToken="t") == lb, "a repeated ClientToken makes nothing new"
    seen = cloud.rpc("DescribeLoadBalancerAttribute", LoadBalancerId=lb)
    assert (seen["Address"], seen["AddressType"], seen["LoadBalancerStatus"]) == ("198.51.100.10", "internet", "active")
    assert seen["ModificationProtectionReason"] == "managed.by.ack" and seen["InternetChargeType"] == "paybytraffic"
    assert seen["Tags"]["Tag"] == [{"TagKey": "ack.aliyun.com", "TagValue": "c1"}]
    with pytest.raises(CallFailed, match=r"400 OperationDenied\.DeleteProtectionIsOn"):
        cloud.rpc("DeleteLoadBalancer", LoadBalancerId=lb)
    with pytest.raises(CallFailed, match=r"OperationDenied\.PayByCLCU"):
        cloud.rpc("ModifyLoadBalancerInstanceSpec", LoadBalancerId=lb, LoadBalancerSpec="slb.s1.small")
    group = cloud.group(lb, A)
    listener(cloud, lb, group)
    # ConsoleProtection binds the console only: the API changes and deletes.
    cloud.rpc("SetLoadBalancerName", LoadBalancerId=lb, LoadBalancerName="a2")
    cloud.rpc("SetLoadBalancerDeleteProtection", LoadBalancerId=lb, DeleteProtection="off")
    cloud.rpc("DeleteLoadBalancer", LoadBalancerId=lb)
    state = cloud.lab("GET", "/_lab/state")
    assert state["load_balancers"] == {} and state["groups"] == {}
    with pytest.raises(CallFailed, match=r"404 InvalidLoadBalancerId\.NotFound: The specified LoadBalancerId does not exist"):
        cloud.rpc("DescribeLoadBalancerAttribute", LoadBalancerId=lb)


def test_load_balancers_are_found_by_each_filter(cloud: Endpoint) -> None:
    first = cloud.balancer(LoadBalancerName="one", Tag__1__Key="k", Tag__1__Value="v", Tag__2__Key="k2", Tag__2__Value="w")
    second = cloud.balancer(LoadBalancerName="two", Tag__1__Key="k", Tag__1__Value="other", AddressType="intranet")
    group = cloud.group(second, A)

    def find(**parameters: object) -> list[str]:
        answer = cloud.rpc("DescribeLoadBalancers", **parameters)
        assert answer["TotalCount"] >= len(answer["LoadBalancers"]["LoadBalancer"])
        return [x["LoadBalancerId"] for x in answer["LoadBalancers"]["LoadBalancer"]]

    def tags(**wanted: str | None) -> str:
        return json.dumps([{"TagKey": k} if v is None else {"TagValue": v, "TagKey": k} for k, v in wanted.items()])

    assert find() == [first, second]
    assert find(LoadBalancerId=f"{second},{first}") == [first, second]
    assert find(LoadBalancerName="two") == [second] and find(LoadBalancerName="tw") == []
    assert find(Tags=tags(k="v", k2="w")) == [first]
    assert find(Tags=tags(k="v", k2="x")) == []
    assert find(Tags=tags(k=None)) == [first, second]
    assert find(Tag__1__Key="k", Tag__1__Value="other") == [second]
    assert find(Address="198.51.100.10") == [first] and find(Address="198.51.100.99") == []
    assert find(AddressType="intranet") == [second]
    assert find(ServerId="i-0") == [second] and group
    assert find(PageSize=1, PageNumber=2) == [second] and find(PageSize=1, PageNumber=3) == []
    assert find(RegionId="cn-beijing") == []


def test_addresses_are_given_again_after_deletion(cloud: Endpoint) -> None:
    first, second = cloud.balancer(), cloud.balancer()
    cloud.rpc("DeleteLoadBalancer", LoadBalancerId=first)
    assert cloud.rpc("CreateLoadBalancer")["Address"] == "198.51.100.10"
    assert cloud.rpc("CreateLoadBalancer")["Address"] == "198.51.100.12"
    with pytest.raises(CallFailed, match="IpNotAvailable"):
        cloud.balancer(Address="198.51.100.11")
    assert second


def test_tags(cloud: Endpoint) -> None:
    lb = cloud.balancer()

    def listed(**more: object) -> dict[str, str]:
        found = cloud.rpc("ListTagResources", ResourceType="instance", ResourceId__1=lb, **more)["TagResources"]["TagResource"]
        return {t["TagKey"]: t["TagValue"] for t in found}

    change = {"ResourceType": "instance", "ResourceId__1": lb}
    cloud.rpc("TagResources", **change, Tag__1__Key="a", Tag__1__Value="1", Tag__2__Key="b", Tag__2__Value="")
    cloud.rpc("AddTags", LoadBalancerId=lb, Tags='[{"TagKey":"c","TagValue":"3"}]')
    assert listed() == {"a": "1", "b": "", "c": "3"}
    assert listed(Tag__1__Key="a", Tag__1__Value="2") == {}
    cloud.rpc("UntagResources", **change, TagKey__1="a", TagKey__2="not there")
    assert listed() == {"b": "", "c": "3"}
    cloud.rpc("RemoveTags", LoadBalancerId=lb, Tags='[{"TagKey":"b"}]')
    assert listed() == {"c": "3"}
    cloud.rpc("UntagResources", **change)
    assert listed() == {}, "without TagKey all tags go (documented)"
    with pytest.raises(CallFailed, match=r"400 TagCountLimit"):
        cloud.rpc("TagResources", **change, **{f"Tag__{n}__Key": f"k{n}" for n in range(1, 22)})
    with pytest.raises(CallFailed, match=r"404 InvalidResourceId\.NotFound"):
        cloud.rpc("TagResources", ResourceType="instance", ResourceId__1="lb-none", Tag__1__Key="a")


def test_backends_in_both_casings(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    group = cloud.group(lb, A, B, name="k8s/30080/svc/ns/c1")
    seen = cloud.rpc("DescribeVServerGroupAttribute", VServerGroupId=group)
    assert seen["VServerGroupName"] == "k8s/30080/svc/ns/c1" and seen["LoadBalancerId"] == lb
    assert rows(seen) == [
        {"ServerId": "i-0", "Port": 30080, "Weight": 30, "Type": "ecs", "ServerIp": "", "Description": "k8s/30080/svc/ns/c1"},
        {"ServerId": "i-1", "Port": 30080, "Weight": 3, "Type": "ecs", "ServerIp": "", "Description": ""},
    ]
    eni = {"serverId": "eni-0", "serverIp": "10.21.0.5", "port": 8080, "type": "eni"}
    added = rows(
        cloud.rpc("AddVServerGroupBackendServers", VServerGroupId=group, BackendServers=json.dumps([eni, A | {"weight": 9}]))
    )
    assert [r["Weight"] for r in added] == [30, 3, 100], "one that is there stays as it is"
    assert "ServerIp" not in added[2]
    removed = rows(cloud.rpc("RemoveVServerGroupBackendServers", VServerGroupId=group, BackendServers=json.dumps([eni, B])))
    assert [r["ServerId"] for r in removed] == ["i-0"]
    changed = cloud.rpc(
        "ModifyVServerGroupBackendServers",
        VServerGroupId=group,
        OldBackendServers=json.dumps([A]),
        NewBackendServers=json.dumps([B]),
    )
    assert [r["ServerId"] for r in rows(changed)] == ["i-1"]


def test_set_attribute_changes_only_what_is_there(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    group = cloud.group(lb, A)
    wanted = [{"serverId": "i-0", "port": 30080, "weight": 7}, {"serverId": "i-1", "port": 30080, "weight": 7}, A | {"port": 1}]
    answer = cloud.rpc("SetVServerGroupAttribute", VServerGroupId=group, BackendServers=json.dumps(wanted))
    assert [(r["ServerId"], r["Port"], r["Weight"], r["Description"]) for r in rows(answer)] == [
        ("i-0", 30080, 7, "k8s/30080/svc/ns/c1")
    ]
    answer = cloud.rpc("SetVServerGroupAttribute", VServerGroupId=group, VServerGroupName="shared-80")
    assert answer["VServerGroupName"] == "shared-80" and rows(answer)[0]["Weight"] == 7


@pytest.mark.parametrize(
    ("backends", "code"),
    [
        ("nonsense", "InvalidParameter"),
        ('{"ServerId": "i-0"}', "InvalidParameter"),
        ('[{"Port": 80}]', "InvalidParameter"),
        ('[{"ServerId": "i-0", "Port": 0}]', "InvalidParameter"),
        ('[{"ServerId": "i-0", "Port": 80, "Weight": 101}]', "InvalidParameter"),
        ('[{"ServerId": "i-0", "Port": 80, "Weight": -1}]', "InvalidParameter"),
        ('[{"ServerId": "i-0", "Port": 80, "Weight": "ten"}]', "InvalidParameter"),
        ('[{"ServerId": "i-0", "Port": 80, "Type": "vm"}]', "InvalidParameter"),
        ('[{"ServerId": "i-none", "Port": 80}]', "ObtainIpFail"),
        ('[{"ServerId": "eni-0", "Port": 80, "Type": "eni"}]', "InvalidParameter"),
        (json.dumps([{"ServerId": "i-0", "Port": 80 + n} for n in range(41)]), "TooManyBackendServers"),
    ],
)
def test_bad_backends_change_nothing(cloud: Endpoint, backends: str, code: str) -> None:
    lb = cloud.balancer()
    group = cloud.group(lb, A)
    before = cloud.lab("GET", "/_lab/state")
    with pytest.raises(CallFailed) as caught:
        cloud.rpc("AddVServerGroupBackendServers", VServerGroupId=group, BackendServers=backends)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert set(caught.value.body) >= {"Code", "Message", "RequestId", "HostId"}
    assert cloud.lab("GET", "/_lab/state") == before


def test_the_documented_batch_limit_can_be_set(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    cloud.lab("PUT", "/_lab/settings", {"batch_limit": 20})
    cloud.group(lb, *({"ServerId": "i-0", "Port": 80 + n} for n in range(20)))
    with pytest.raises(CallFailed, match="exceeds max supported number: 20"):
        cloud.group(lb, *({"ServerId": "i-0", "Port": 80 + n} for n in range(21)))


def test_a_group_in_use_cannot_be_deleted(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    group, other = cloud.group(lb, A), cloud.group(lb, name="other")
    listener(cloud, lb, group)
    with pytest.raises(CallFailed, match=r"400 RspoolVipExist: there are vips associating with this vServer group\."):
        cloud.rpc("DeleteVServerGroup", VServerGroupId=group)
    found = cloud.rpc("DescribeVServerGroups", LoadBalancerId=lb, IncludeListener="true")["VServerGroups"]["VServerGroup"]
    assert [g["AssociatedObjects"]["Listeners"]["Listener"] for g in found] == [[{"Port": 80, "Protocol": "tcp"}], []]
    cloud.rpc("SetLoadBalancerTCPListenerAttribute", LoadBalancerId=lb, ListenerPort=80, VServerGroup="on", VServerGroupId=other)
    cloud.rpc("DeleteVServerGroup", VServerGroupId=group)
    with pytest.raises(CallFailed, match="404 InvalidParameter: The specified VServerGroupId does not exist"):
        cloud.rpc("DescribeVServerGroupAttribute", VServerGroupId=group)


def test_listeners_of_every_protocol(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    group = cloud.group(lb, A)
    listener(cloud, lb, group, 80, "TCP", Scheduler="rr", Description="k8s/80/svc/ns/c1", PersistenceTimeout=10)
    listener(cloud, lb, group, 80, "UDP")
    listener(
        cloud, lb, group, 81, "HTTP", StickySession="on", StickySessionType="insert", XForwardedFor_proto="on", HealthCheck="on"
    )
    listener(cloud, lb, group, 443, "HTTPS", ServerCertificateId="cert-1")
    found = cloud.rpc("DescribeLoadBalancerListeners", LoadBalancerId__1=lb)["Listeners"]
    assert [(ln["ListenerPort"], ln["ListenerProtocol"], ln["Status"], ln["Scheduler"]) for ln in found] == [
        (80, "tcp", "stopped", "rr"), (80, "udp", "stopped", "wrr"),
        (81, "http", "stopped", "wrr"), (443, "https", "stopped", "wrr"),
    ]  # fmt: skip
    assert found[0]["TCPListenerConfig"]["PersistenceTimeout"] == 10 and found[0]["Description"] == "k8s/80/svc/ns/c1"
    assert found[2]["HTTPListenerConfig"]["XForwardedFor_proto"] == "on"
    assert found[3]["HTTPSListenerConfig"]["ServerCertificateId"] == "cert-1"
    for ln in found:
        where = {"LoadBalancerId": lb, "ListenerPort": ln["ListenerPort"], "ListenerProtocol": ln["ListenerProtocol"]}
        cloud.rpc("StartLoadBalancerListener", **where)
        one = cloud.rpc(f"DescribeLoadBalancer{ln['ListenerProtocol'].upper()}ListenerAttribute", **where)
        assert one["Status"] == "running" and one["VServerGroupId"] == group
    cloud.rpc("StopLoadBalancerListener", LoadBalancerId=lb, ListenerPort=81)
    cloud.rpc("DeleteLoadBalancerListener", LoadBalancerId=lb, ListenerPort=80, ListenerProtocol="udp")
    ports = cloud.rpc("DescribeLoadBalancerAttribute", LoadBalancerId=lb)["ListenerPortsAndProtocol"]["ListenerPortAndProtocol"]
    assert [(p["ListenerPort"], p["ListenerProtocol"]) for p in ports] == [(80, "tcp"), (81, "http"), (443, "https")]


def test_a_set_call_changes_only_what_it_brings(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    group = cloud.group(lb, A)
    listener(cloud, lb, group, 80, "TCP", Scheduler="rr", Description="mine", PersistenceTimeout=10, healthCheckInterval=5)
    where = {"LoadBalancerId": lb, "ListenerPort": 80}
    before = cloud.rpc("DescribeLoadBalancerTCPListenerAttribute", **where)
    assert before["HealthCheckInterval"] == 5, "the SDK's odd casing is understood"
    cloud.rpc("SetLoadBalancerTCPListenerAttribute", **where, Scheduler="wrr")
    after = cloud.rpc("DescribeLoadBalancerTCPListenerAttribute", **where)
    changed = {k for k in before if before[k] != after[k]} - {"RequestId"}
    assert changed == {"Scheduler"}


@pytest.mark.parametrize(
    ("action", "parameters", "error"),
    [
        ("CreateLoadBalancerTCPListener", {"ListenerPort": 80, "VServerGroupId": "GROUP"}, "400 ListenerAlreadyExists"),
        ("CreateLoadBalancerHTTPListener", {"ListenerPort": 80, "VServerGroupId": "GROUP"}, "400 ListenerAlreadyExists"),
        ("CreateLoadBalancerTCPListener", {"ListenerPort": 81}, "400 MissingBackendServerPort"),
        ("CreateLoadBalancerTCPListener", {"VServerGroupId": "GROUP"}, "400 MissingListenerPort"),
        ("CreateLoadBalancerTCPListener", {"ListenerPort": 70000, "VServerGroupId": "GROUP"}, "400 InvalidParameter"),
        ("CreateLoadBalancerTCPListener", {"ListenerPort": 81, "VServerGroupId": "rsp-none"}, "404 InvalidParameter"),
        ("CreateLoadBalancerTCPListener", {"ListenerPort": 81, "VServerGroupId": "OTHER"}, "404 InvalidParameter"),
        ("CreateLoadBalancerHTTPSListener", {"ListenerPort": 81, "VServerGroupId": "GROUP"}, "400 MissingServerCertificateId"),
        ("SetLoadBalancerTCPListenerAttribute", {"ListenerPort": 80, "Scheduler": "fast"}, "400 InvalidParameter"),
        ("SetLoadBalancerTCPListenerAttribute", {"ListenerPort": 80, "PersistenceTimeout": 4000}, "400 InvalidParameter"),
        (
            "SetLoadBalancerTCPListenerAttribute",
            {"ListenerPort": 82},
            "400 InvalidParameter: The specified resource does not exist",
        ),
        (
            "SetLoadBalancerUDPListenerAttribute",
            {"ListenerPort": 80},
            "400 InvalidParameter: The specified resource does not exist",
        ),
        ("StartLoadBalancerListener", {"ListenerPort": 82}, "400 InvalidParameter: The specified resource does not exist"),
        ("DescribeHealthStatus", {"ListenerPort": 82}, "404 ListenerNotFound"),
        ("DescribeLoadBalancerListeners", {"LoadBalancerId.1": "lb-none"}, "404 InvalidLoadBalancerId"),
        ("DescribeLoadBalancerListeners", {"NextToken": "x"}, "400 InvalidParameter"),
        ("SetLoadBalancerStatus", {"LoadBalancerStatus": "gone"}, "400 InvalidParameter"),
        ("SetLoadBalancerModificationProtection", {"ModificationProtectionStatus": "on"}, "400 InvalidParameter"),
        ("SetLoadBalancerDeleteProtection", {}, "400 MissingDeleteProtection"),
        ("SetLoadBalancerName", {"LoadBalancerId": ""}, "400 MissingLoadBalancerId"),
        ("DescribeLoadBalancerAttribute", {"RegionId": "mars-1"}, "404 InvalidRegionId"),
        ("DescribeLoadBalancerAttribute", {"RegionId": "cn-beijing"}, "404 InvalidLoadBalancerId"),
        ("DescribeLoadBalancers", {"Tags": "x"}, "400 InvalidParameter"),
        ("DescribeLoadBalancers", {"PageSize": 101}, "400 InvalidParameter"),
        ("CreateRules", {}, "404 InvalidAction"),
    ],
)
def test_errors_have_the_documented_codes_and_change_nothing(
    cloud: Endpoint, action: str, parameters: dict[str, object], error: str
) -> None:
    lb, foreign = cloud.balancer(), cloud.balancer()
    names = {"GROUP": cloud.group(lb, A), "OTHER": cloud.group(foreign)}
    listener(cloud, lb, names["GROUP"])
    before = cloud.lab("GET", "/_lab/state")
    first = {} if "LoadBalancerId.1" in parameters else {"LoadBalancerId": lb}
    with pytest.raises(CallFailed, match=f"^{error}"):
        cloud.rpc(action, **{**first, **{k: names.get(str(v), v) for k, v in parameters.items()}})
    assert cloud.lab("GET", "/_lab/state") == before


def test_what_the_ccm_reads_for_https_listeners(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    found = cloud.rpc("DescribeServerCertificates", ServerCertificateId="cert-1")["ServerCertificates"]["ServerCertificate"]
    assert [c["ServerCertificateId"] for c in found] == ["cert-1"]
    assert cloud.rpc("DescribeDomainExtensions", LoadBalancerId=lb, ListenerPort=443)["DomainExtensions"]["DomainExtension"] == []
    assert cloud.rpc("DescribeAccessControlLists")["TotalCount"] == 0


def test_the_instance_metadata_of_the_ccm(cloud: Endpoint) -> None:
    def read(path: str, method: str = "GET") -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{cloud.port}/latest/{path}", method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())

    assert read("api/token", "PUT")
    assert (read("meta-data/region-id"), read("meta-data/vpc-id")) == ("cn-hangzhou", "vpc-lab")
    role = read("meta-data/ram/security-credentials/")
    assert json.loads(read(f"meta-data/ram/security-credentials/{role}"))["AccessKeyId"] == "full"


def test_listeners_come_in_pages(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    group = cloud.group(lb, A)
    for port in range(1, 8):
        listener(cloud, lb, group, port)
    seen, token = [], ""
    for _ in range(3):
        answer = cloud.rpc("DescribeLoadBalancerListeners", LoadBalancerId__1=lb, MaxResults=3, NextToken=token)
        seen += [ln["ListenerPort"] for ln in answer["Listeners"]]
        token = answer["NextToken"]
    assert seen == [1, 2, 3, 4, 5, 6, 7] and token == ""


def test_health_without_a_data_plane(cloud: Endpoint) -> None:
    lb = cloud.balancer()
    group = cloud.group(lb, A, {"ServerId": "eni-1", "Type": "eni", "ServerIp": "10.21.1.9", "Port": 8080})
    listener(cloud, lb, group)
    before = rows(cloud.rpc("DescribeHealthStatus", LoadBalancerId=lb))
    assert {r["ServerHealthStatus"] for r in before} == {"unavailable"}
    cloud.rpc("StartLoadBalancerListener", LoadBalancerId=lb, ListenerPort=80)
    found = rows(cloud.rpc("DescribeHealthStatus", LoadBalancerId=lb, ListenerPort=80))
    assert [(r["ServerId"], r["ServerIp"], r["Port"], r["ServerHealthStatus"]) for r in found] == [
        ("i-0", "10.10.1.10", 30080, "normal"), ("eni-1", "10.21.1.9", 8080, "normal"),
    ]  # fmt: skip


def test_ecs_and_vpc(cloud: Endpoint) -> None:
    ecs = {"version": "2014-05-26"}
    found = cloud.rpc("DescribeInstances", **ecs, InstanceIds='["i-0","i-9"]', MaxResults=100)
    assert [i["VpcAttributes"]["PrivateIpAddress"]["IpAddress"] for i in found["Instances"]["Instance"]] == [["10.10.1.10"]]
    eni = cloud.rpc(
        "DescribeNetworkInterfaces", version="2014-05-26", VpcId="vpc-lab", Status="InUse", MaxResults=100,
        PrivateIpAddress__1="10.21.1.7", PrivateIpAddress__2="10.21.2.8", PrivateIpAddress__3="10.99.0.1",
    )["NetworkInterfaceSets"]["NetworkInterfaceSet"]  # fmt: skip
    held = {p["PrivateIpAddress"]: e["NetworkInterfaceId"] for e in eni for p in e["PrivateIpSets"]["PrivateIpSet"]}
    assert (held["10.21.1.7"], held["10.21.2.8"], "10.99.0.1" in held) == ("eni-1", "eni-2", False)
    assert cloud.rpc("DescribeVpcAttribute", version="2016-04-28", VpcId="vpc-lab")["CidrBlock"] == "10.0.0.0/8"
    with pytest.raises(CallFailed, match="404 InvalidVpcID"):
        cloud.rpc("DescribeVpcAttribute", version="2016-04-28", VpcId="vpc-none")


def test_state_is_written_before_the_answer_and_read_by_the_next_server(start: Callable[[], Endpoint]) -> None:
    first = start()
    lb = first.balancer(Tag__1__Key="a", Tag__1__Value="1")
    group = first.group(lb, A, B)
    listener(first, lb, group, 80, "TCP", Scheduler="rr")
    written = json.loads((first.folder / "cloud.json").read_text())
    assert written == first.lab("GET", "/_lab/state")
    second = start()
    assert second.lab("GET", "/_lab/state") == written
    assert second.rpc("DescribeVServerGroupAttribute", VServerGroupId=group)["VServerGroupName"] == "group"
