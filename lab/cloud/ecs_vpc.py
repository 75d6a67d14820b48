# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ECS 2014-05-26 and VPC 2016-04-28: as few read actions as the CCM and this collection ask for, and the regions.

Source: CCM ecs.go and vpc.go. An instance's ENI is ``eni-<instance id without i->``; it has the instance's own address
and every address of its pod CIDR, whether a pod uses it or not.
"""

from __future__ import annotations

from typing import Any

from .call import Call, Context, action, page, token_page
from .errors import ApiError
from .model import Instance

REGIONS = ("cn-hangzhou", "cn-shanghai", "cn-beijing", "cn-shenzhen", "cn-hongkong", "ap-southeast-1", "eu-central-1")


@action("slb", "DescribeRegions")
@action("ecs", "DescribeRegions")
@action("vpc", "DescribeRegions")
def regions(ctx: Context, call: Call) -> dict[str, Any]:
    rows = [{"RegionId": r, "LocalName": r, "RegionEndpoint": f"{call.service}.{r}.aliyuncs.com"} for r in REGIONS]
    return {"Regions": {"Region": rows}}


def _instance(ctx: Context, instance: Instance) -> dict[str, Any]:
    world = ctx.world
    return {
        "InstanceId": instance.id,
        "InstanceName": instance.id,
        "HostName": instance.id,
        "RegionId": world.region_id,
        "ZoneId": instance.zone_id,
        "InstanceType": "ecs.g7.large",
        "InstanceChargeType": "PostPaid",
        "SpotStrategy": "NoSpot",
        "Status": "Running",
        "InstanceNetworkType": "vpc",
        "VpcAttributes": {
            "VpcId": world.vpc_id,
            "VSwitchId": world.vswitch_id,
            "PrivateIpAddress": {"IpAddress": [instance.ip]},
        },
        "PublicIpAddress": {"IpAddress": []},
        "InnerIpAddress": {"IpAddress": []},
        "EipAddress": {"IpAddress": "", "AllocationId": ""},
        "NetworkInterfaces": {
            "NetworkInterface": [
                {"NetworkInterfaceId": instance.eni(), "PrimaryIpAddress": instance.ip, "Type": "Primary"},
            ]
        },
        "Tags": {"Tag": [{"TagKey": k, "TagValue": v} for k, v in instance.tags.items()]},
    }


@action("ecs", "DescribeInstances")
def instances(ctx: Context, call: Call) -> dict[str, Any]:
    ids, ips = call.json_list("InstanceIds"), call.json_list("PrivateIpAddresses")
    found = [i for i in ctx.world.instances.values() if (not ids or i.id in ids) and (not ips or i.ip in ips)]
    if call.region and call.region != ctx.world.region_id:
        found = []
    if call.has("MaxResults"):
        part, following, size = token_page(call, found, 10, 100)
        number = 1
    else:
        part, number, size = page(call, found, 10)
        following = ""
    return {
        "Instances": {"Instance": [_instance(ctx, i) for i in part]},
        "TotalCount": len(found),
        "PageNumber": number,
        "PageSize": size,
        "NextToken": following,
    }


@action("ecs", "DescribeNetworkInterfaces")
def network_interfaces(ctx: Context, call: Call) -> dict[str, Any]:
    world = ctx.world
    addresses, ids, vpc = call.items("PrivateIpAddress"), call.items("NetworkInterfaceId"), call.get("VpcId")
    rows = []
    for instance in world.instances.values():
        held = [a for a in addresses if instance.has(a)]
        if (addresses and not held) or (ids and instance.eni() not in ids) or (vpc and vpc != world.vpc_id):
            continue
        private = [instance.ip, *[a for a in held if a != instance.ip]]
        rows.append(
            {
                "NetworkInterfaceId": instance.eni(),
                "InstanceId": instance.id,
                "PrivateIpAddress": instance.ip,
                "Status": "InUse",
                "Type": "Primary",
                "VpcId": world.vpc_id,
                "VSwitchId": world.vswitch_id,
                "ZoneId": instance.zone_id,
                "SourceDestCheck": True,
                "PrivateIpSets": {"PrivateIpSet": [{"PrivateIpAddress": a, "Primary": a == instance.ip} for a in private]},
                "Ipv6Sets": {"Ipv6Set": []},
            }
        )
    part, following, size = token_page(call, rows, 50, 500)
    return {
        "NetworkInterfaceSets": {"NetworkInterfaceSet": part},
        "NextToken": following,
        "PageSize": size,
        "PageNumber": 1,
        "TotalCount": len(rows),
    }


@action("vpc", "DescribeVpcAttribute")
def vpc_attribute(ctx: Context, call: Call) -> dict[str, Any]:
    world = ctx.world
    if call.need("VpcId") != world.vpc_id:
        raise ApiError("InvalidVpcID.NotFound", "The specified vpc does not exist.", 404)
    return _vpc(ctx)


def _vpc(ctx: Context) -> dict[str, Any]:
    world = ctx.world
    return {
        "VpcId": world.vpc_id,
        "VpcName": world.vpc_id,
        "RegionId": world.region_id,
        "Status": "Available",
        "CidrBlock": world.vpc_cidr,
        "SecondaryCidrBlocks": {"SecondaryCidrBlock": []},
        "Ipv6CidrBlock": "",
        "Ipv6CidrBlocks": {"Ipv6CidrBlock": []},
        "VSwitchIds": {"VSwitchId": [world.vswitch_id]},
    }


@action("vpc", "DescribeVpcs")
def vpcs(ctx: Context, call: Call) -> dict[str, Any]:
    wanted = call.get("VpcId")
    found = [_vpc(ctx)] if not wanted or ctx.world.vpc_id in wanted.split(",") else []
    part, number, size = page(call, found, 10)
    return {"Vpcs": {"Vpc": part}, "TotalCount": len(found), "PageNumber": number, "PageSize": size}


def _vswitch(ctx: Context) -> dict[str, Any]:
    world = ctx.world
    return {
        "VSwitchId": world.vswitch_id,
        "VSwitchName": world.vswitch_id,
        "VpcId": world.vpc_id,
        "ZoneId": f"{world.region_id}-h",
        "CidrBlock": "10.10.0.0/16",
        "Status": "Available",
        "AvailableIpAddressCount": 65000,
    }


@action("vpc", "DescribeVSwitches")
def vswitches(ctx: Context, call: Call) -> dict[str, Any]:
    wanted, vpc = call.get("VSwitchId"), call.get("VpcId")
    known = (not wanted or ctx.world.vswitch_id in wanted.split(",")) and (not vpc or vpc == ctx.world.vpc_id)
    found = [_vswitch(ctx)] if known else []
    part, number, size = page(call, found, 10)
    return {"VSwitches": {"VSwitch": part}, "TotalCount": len(found), "PageNumber": number, "PageSize": size}


@action("vpc", "DescribeVSwitchAttributes")
def vswitch_attributes(ctx: Context, call: Call) -> dict[str, Any]:
    if call.need("VSwitchId") != ctx.world.vswitch_id:
        raise ApiError("InvalidVSwitchId.NotFound", "The specified vswitch does not exist.", 404)
    return _vswitch(ctx)


@action("vpc", "DescribeEipAddresses")
def eips(ctx: Context, call: Call) -> dict[str, Any]:
    return {"EipAddresses": {"EipAddress": []}, "TotalCount": 0, "PageNumber": 1, "PageSize": 10}
