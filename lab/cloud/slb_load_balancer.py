# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SLB 2014-05-15: load balancers, their protection and their tags.

Source: request and response models of alibabacloud_slb20140515 3.3.31; calls of the CCM v2.8.0, v2.11.2 and v2.14.0
(loadbalancer.go). Deleting a load balancer takes its listeners, vServer groups and tags with it; deletion protection
refuses it; ConsoleProtection binds only the console, so it refuses nothing here.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from .call import Call, Context, action, page, tag_list, tags_match, token_page
from .errors import ApiError, delete_protection_on, invalid, load_balancer_not_found, missing
from .model import LoadBalancer, new_id

MAX_TAGS = 20


def find(ctx: Context, call: Call) -> LoadBalancer:
    lb = ctx.world.load_balancers.get(call.need("LoadBalancerId"))
    if lb is None or (call.region and call.region != lb.region_id):
        raise load_balancer_not_found()
    return lb


def _free_address(ctx: Context, internet: bool) -> str:
    used = {lb.address for lb in ctx.world.load_balancers.values()}
    pool = ipaddress.ip_network(ctx.address_pool if internet else ctx.intranet_pool)
    for address in list(pool.hosts())[9:]:
        if str(address) not in used:
            return str(address)
    raise ApiError("InsufficientCapacity", "There is insufficient capacity available for the requested instance.", 400)


def _wanted_address(ctx: Context, call: Call, internet: bool) -> str:
    wanted = call.get("Address")
    if not wanted:
        return _free_address(ctx, internet)
    try:
        ipaddress.IPv4Address(wanted)
    except ValueError as error:
        raise invalid("Address") from error
    if any(lb.address == wanted for lb in ctx.world.load_balancers.values()):
        raise ApiError("IpNotAvailable", "The specified Address is not available.", 400)
    return wanted


@action("slb", "CreateLoadBalancer", writes=True)
def create(ctx: Context, call: Call) -> dict[str, Any]:
    world = ctx.world
    token = call.get("ClientToken")
    if token and world.client_tokens.get(token) in world.load_balancers:
        return _created(world.load_balancers[world.client_tokens[token]])
    address_type = call.get("AddressType", "internet").lower()
    if address_type not in ("internet", "intranet"):
        raise invalid("AddressType")
    protection = call.get("DeleteProtection", "off")
    status = call.get("ModificationProtectionStatus", "NonProtection")
    if protection not in ("on", "off"):
        raise invalid("DeleteProtection")
    if status not in ("NonProtection", "ConsoleProtection"):
        raise invalid("ModificationProtectionStatus")
    tags = call.tags()
    _check_tags(tags)
    vswitch = call.get("VSwitchId")
    lb_id = new_id("lb")
    lb = LoadBalancer(
        id=lb_id,
        name=call.get("LoadBalancerName") or lb_id,
        address=_wanted_address(ctx, call, address_type == "internet"),
        region_id=call.region or world.region_id,
        address_type=address_type,
        address_ip_version=call.get("AddressIPVersion", "ipv4"),
        network_type="vpc" if vswitch or address_type == "intranet" else "classic",
        vpc_id=call.get("VpcId") or (world.vpc_id if address_type == "intranet" else ""),
        vswitch_id=vswitch,
        master_zone_id=call.get("MasterZoneId") or f"{world.region_id}-h",
        slave_zone_id=call.get("SlaveZoneId") or f"{world.region_id}-g",
        internet_charge_type=call.get("InternetChargeType", "paybytraffic"),
        instance_charge_type=call.get("InstanceChargeType", "PayBySpec"),
        spec=call.get("LoadBalancerSpec"),
        bandwidth=call.integer("Bandwidth", 5120),
        resource_group_id=call.get("ResourceGroupId", "rg-lab"),
        delete_protection=protection,
        modification_protection_status=status,
        modification_protection_reason=call.get("ModificationProtectionReason") if status == "ConsoleProtection" else "",
        tags={k: v or "" for k, v in tags},
    )
    world.load_balancers[lb.id] = lb
    if token:
        world.client_tokens[token] = lb.id
    return _created(lb)


def _created(lb: LoadBalancer) -> dict[str, Any]:
    return {
        "LoadBalancerId": lb.id,
        "LoadBalancerName": lb.name,
        "Address": lb.address,
        "AddressIPVersion": lb.address_ip_version,
        "NetworkType": lb.network_type,
        "VpcId": lb.vpc_id,
        "VSwitchId": lb.vswitch_id,
        "ResourceGroupId": lb.resource_group_id,
        "OrderId": 0,
    }


@action("slb", "DeleteLoadBalancer", writes=True)
def delete(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    if lb.delete_protection == "on":
        raise delete_protection_on()
    for group in ctx.world.groups_of(lb.id):
        del ctx.world.groups[group.id]
    del ctx.world.load_balancers[lb.id]
    return {}


def _common(lb: LoadBalancer) -> dict[str, Any]:
    return {
        "LoadBalancerId": lb.id,
        "LoadBalancerName": lb.name,
        "LoadBalancerStatus": lb.status,
        "Address": lb.address,
        "AddressType": lb.address_type,
        "AddressIPVersion": lb.address_ip_version,
        "NetworkType": lb.network_type,
        "VpcId": lb.vpc_id,
        "VSwitchId": lb.vswitch_id,
        "RegionId": lb.region_id,
        "RegionIdAlias": lb.region_id,
        "MasterZoneId": lb.master_zone_id,
        "SlaveZoneId": lb.slave_zone_id,
        "InternetChargeType": lb.internet_charge_type,
        "InstanceChargeType": lb.instance_charge_type,
        "PayType": "PayOnDemand",
        "LoadBalancerSpec": lb.spec,
        "Bandwidth": lb.bandwidth,
        "ResourceGroupId": lb.resource_group_id,
        "DeleteProtection": lb.delete_protection,
        "ModificationProtectionStatus": lb.modification_protection_status,
        "ModificationProtectionReason": lb.modification_protection_reason,
        "CreateTime": lb.created,
        "CreateTimeStamp": lb.created_ms,
        "Tags": tag_list(lb.tags),
    }


_FILTERS = {
    "AddressType": "address_type",
    "AddressIPVersion": "address_ip_version",
    "NetworkType": "network_type",
    "VpcId": "vpc_id",
    "VSwitchId": "vswitch_id",
    "LoadBalancerStatus": "status",
    "ResourceGroupId": "resource_group_id",
    "InternetChargeType": "internet_charge_type",
    "Address": "address",
    "MasterZoneId": "master_zone_id",
    "SlaveZoneId": "slave_zone_id",
}


@action("slb", "DescribeLoadBalancers")
def describe_all(ctx: Context, call: Call) -> dict[str, Any]:
    world = ctx.world
    ids = call.json_list("LoadBalancerId")
    names = call.json_list("LoadBalancerName")
    tags = call.json_tags() + call.tags()
    server = call.get("ServerId")
    found = []
    for lb in world.load_balancers.values():
        if (call.region and lb.region_id != call.region) or (ids and lb.id not in ids) or (names and lb.name not in names):
            continue
        if not tags_match(lb.tags, tags) or any(call.get(p) and call.get(p) != getattr(lb, a) for p, a in _FILTERS.items()):
            continue
        if server and not any(b.server_id == server for g in world.groups_of(lb.id) for b in g.backends):
            continue
        found.append(lb)
    part, number, size = page(call, found)
    # In this list the charge type is the number-like old word, and its alias the one that clients read (CCM loadResponse).
    rows = [{**_common(lb), "InternetChargeTypeAlias": lb.internet_charge_type} for lb in part]
    return {"LoadBalancers": {"LoadBalancer": rows}, "PageNumber": number, "PageSize": size, "TotalCount": len(found)}


@action("slb", "DescribeLoadBalancerAttribute")
def describe(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    listeners = sorted(lb.listeners.values(), key=lambda ln: ln.port)
    ports = [
        {
            "ListenerPort": ln.port,
            "ListenerProtocol": ln.protocol,
            "Description": ln.description,
            "ListenerForward": ln.settings.get("ListenerForward", "off"),
            "ForwardPort": ln.settings.get("ForwardPort", 0),
        }
        for ln in listeners
    ]
    return {
        **_common(lb),
        "EndTime": "2999-09-08T16:00Z",
        "EndTimeStamp": 32493801600000,
        "ListenerPorts": {"ListenerPort": [ln.port for ln in listeners]},
        "ListenerPortsAndProtocol": {"ListenerPortAndProtocol": ports},
        "ListenerPortsAndProtocal": {
            "ListenerPortAndProtocal": [{"ListenerPort": ln.port, "ListenerProtocal": ln.protocol} for ln in listeners]
        },
        "BackendServers": {"BackendServer": []},
    }


@action("slb", "SetLoadBalancerName", writes=True)
def set_name(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    lb.name = call.need("LoadBalancerName")
    return {}


@action("slb", "SetLoadBalancerStatus", writes=True)
def set_status(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    status = call.need("LoadBalancerStatus")
    if status not in ("active", "inactive"):
        raise invalid("LoadBalancerStatus")
    lb.status = status
    return {}


@action("slb", "SetLoadBalancerDeleteProtection", writes=True)
def set_delete_protection(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    flag = call.need("DeleteProtection")
    if flag not in ("on", "off"):
        raise invalid("DeleteProtection")
    lb.delete_protection = flag
    return {}


@action("slb", "SetLoadBalancerModificationProtection", writes=True)
def set_modification_protection(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    status = call.need("ModificationProtectionStatus")
    if status not in ("NonProtection", "ConsoleProtection"):
        raise invalid("ModificationProtectionStatus")
    lb.modification_protection_status = status
    lb.modification_protection_reason = call.get("ModificationProtectionReason") if status == "ConsoleProtection" else ""
    return {}


@action("slb", "ModifyLoadBalancerInstanceSpec", writes=True)
def modify_spec(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    _refuse_clcu(lb)
    lb.spec = call.need("LoadBalancerSpec")
    return {"OrderId": 0}


@action("slb", "ModifyLoadBalancerInternetSpec", writes=True)
def modify_internet_spec(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    _refuse_clcu(lb)
    bandwidth = call.integer("Bandwidth", lb.bandwidth)
    lb.internet_charge_type = call.get("InternetChargeType") or lb.internet_charge_type
    lb.bandwidth = bandwidth
    return {"OrderId": 0}


@action("slb", "ModifyLoadBalancerInstanceChargeType", writes=True)
def modify_charge_type(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    lb.instance_charge_type = call.need("InstanceChargeType")
    lb.spec = call.get("LoadBalancerSpec") or ("" if lb.instance_charge_type == "PayByCLCU" else lb.spec)
    return {}


def _refuse_clcu(lb: LoadBalancer) -> None:
    if lb.instance_charge_type == "PayByCLCU":
        raise ApiError(
            "OperationDenied.PayByCLCU",
            "The operation is not allowed because the instanceChargeType of loadbalancer is PayByCLCU.",
            400,
        )


# Tags -------------------------------------------------------------------------------------------------------------


def _check_tags(tags: list[tuple[str, str | None]]) -> None:
    if len(tags) > MAX_TAGS:
        raise ApiError("TagCountLimit", "Tags count limit exceeded.", 400)
    for key, value in tags:
        if len(key) > 128 or len(value or "") > 128 or key.startswith(("aliyun", "acs:")):
            raise invalid("Tag")


def _tagged(ctx: Context, call: Call, kind: str, resource: str) -> dict[str, str]:
    """The tags of a resource, to be read or changed."""
    if kind == "instance":
        lb = ctx.world.load_balancers.get(resource)
        if lb is not None and (not call.region or call.region == lb.region_id):
            return lb.tags
    elif kind == "vservergroup":
        group = ctx.world.groups.get(resource)
        if group is not None:
            return group.tags
    elif kind == "listener":
        lb_id, _, rest = resource.partition("_")
        lb = ctx.world.load_balancers.get(lb_id)
        protocol, _, port = rest.partition("_")
        if lb is not None and port.isdigit():
            for ln in lb.listeners.values():
                if ln.protocol == protocol and ln.port == int(port):
                    return ln.tags
    else:
        raise invalid("ResourceType")
    raise ApiError("InvalidResourceId.NotFound", "The specified ResourceId is not found in our records.", 404)


def _resources(call: Call) -> tuple[str, list[str]]:
    kind = call.need("ResourceType").lower()
    ids = call.items("ResourceId")
    if len(ids) > 50:
        raise invalid("ResourceId", "Too many.")
    return kind, ids


@action("slb", "TagResources", writes=True)
def tag_resources(ctx: Context, call: Call) -> dict[str, Any]:
    kind, ids = _resources(call)
    tags = call.tags()
    if not ids:
        raise missing("ResourceId")
    if not tags:
        raise missing("Tag")
    _check_tags(tags)
    stores = [_tagged(ctx, call, kind, i) for i in ids]
    if any(len({**s, **dict(tags)}) > MAX_TAGS for s in stores):
        raise ApiError("TagCountLimit", "Tags count limit exceeded.", 400)
    for store in stores:
        store.update({k: v or "" for k, v in tags})
    return {}


@action("slb", "UntagResources", writes=True)
def untag_resources(ctx: Context, call: Call) -> dict[str, Any]:
    kind, ids = _resources(call)
    keys = call.items("TagKey")
    if not ids:
        raise missing("ResourceId")
    for store in [_tagged(ctx, call, kind, i) for i in ids]:
        # Documented and dangerous: without TagKey (or with All) every tag goes.
        for key in keys or list(store):
            store.pop(key, None)
    return {}


@action("slb", "ListTagResources")
def list_tag_resources(ctx: Context, call: Call) -> dict[str, Any]:
    kind, ids = _resources(call)
    wanted = call.tags()
    if not ids and not wanted:
        raise missing("ResourceId")
    if not ids and kind == "instance":
        ids = [lb.id for lb in ctx.world.load_balancers.values() if tags_match(lb.tags, wanted)]
    rows = []
    for resource in ids:
        try:
            tags = _tagged(ctx, call, kind, resource)
        except ApiError as error:
            if error.status != 404:
                raise
            continue
        if tags_match(tags, wanted):
            rows += [{"ResourceId": resource, "ResourceType": kind, "TagKey": k, "TagValue": v} for k, v in tags.items()]
    part, following, _ = token_page(call, rows, 50, 100)
    return {"TagResources": {"TagResource": part}, "NextToken": following}


@action("slb", "AddTags", writes=True)
def add_tags(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    tags = call.json_tags()
    _check_tags(tags + [(k, v) for k, v in lb.tags.items() if k not in dict(tags)])
    lb.tags.update({k: v or "" for k, v in tags})
    return {}


@action("slb", "RemoveTags", writes=True)
def remove_tags(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find(ctx, call)
    for key, _ in call.json_tags():
        lb.tags.pop(key, None)
    return {}


@action("slb", "DescribeTags")
def describe_tags(ctx: Context, call: Call) -> dict[str, Any]:
    lb_id = call.get("LoadBalancerId")
    count: dict[tuple[str, str], int] = {}
    for lb in ctx.world.load_balancers.values():
        if not lb_id or lb.id == lb_id:
            for tag in lb.tags.items():
                count[tag] = count.get(tag, 0) + 1
    part, number, size = page(call, sorted(count))
    rows = [{"TagKey": k, "TagValue": v, "InstanceCount": count[(k, v)]} for k, v in part]
    return {"TagSets": {"TagSet": rows}, "PageNumber": number, "PageSize": size, "TotalCount": len(count)}
